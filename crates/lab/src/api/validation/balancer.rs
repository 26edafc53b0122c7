//! Rules of Services that are about load balancers: who balances, for whom, and at which addresses.

use super::field::{Errors, Field};
use super::names;

const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const NOT_A_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

/// Checks what a Service says of its load balancer, and what that says of itself.
pub(super) fn validate(errors: &mut Errors, service: &Field<'_>, old: Option<&Field<'_>>) {
    source_ranges(errors, service);
    class(errors, service, old);
    status(errors, service);
    if let Some(old) = old {
        health_port(errors, &service.at("spec"), &old.at("spec"));
    }
}

fn is_balancer(service: &Field<'_>) -> bool {
    service.at("spec.type").text() == "LoadBalancer"
}

/// From the field, or where that is empty from the annotation that came before it.
fn source_ranges(errors: &mut Errors, service: &Field<'_>) {
    let ranges = service.at("spec.loadBalancerSourceRanges");
    if !ranges.is_empty() {
        if !is_balancer(service) {
            ranges.forbidden(errors, NOT_A_BALANCER);
        }
        for range in ranges.items() {
            range.invalid_if(errors, names::cidr(range.text().trim()));
        }
        return;
    }
    let annotations = service.at("metadata.annotations").entries();
    let Some((_, annotation)) = annotations.iter().find(|(key, _)| *key == SOURCE_RANGES) else {
        return;
    };
    if !is_balancer(service) {
        annotation.forbidden(errors, NOT_A_BALANCER);
    }
    let ranges = annotation.text().trim();
    for range in ranges.split(',').map(str::trim).filter(|_| !ranges.is_empty()) {
        if let Some(problem) = names::cidr(range) {
            annotation.invalid_part(errors, range, &problem);
        }
    }
}

fn class(errors: &mut Errors, service: &Field<'_>, old: Option<&Field<'_>>) {
    let class = service.at("spec.loadBalancerClass");
    if let Some(old) = old.filter(|old| is_balancer(old) && is_balancer(service))
        && old.at("spec.loadBalancerClass").value != class.value
    {
        class.invalid(errors, "may not change once set");
    }
    if class.is_missing() {
        return;
    }
    match is_balancer(service) {
        true => class.invalid_if(errors, names::qualified_name(class.text())),
        false => class.forbidden(errors, NOT_A_BALANCER),
    }
}

fn status(errors: &mut Errors, service: &Field<'_>) {
    let ingress = service.at("status.loadBalancer.ingress");
    if !is_balancer(service) && !ingress.is_empty() {
        ingress.forbidden(errors, "may only be used when `spec.type` is LoadBalancer");
        return;
    }
    for at in ingress.items() {
        let (ip, mode, name) = (at.at("ip"), at.at("ipMode"), at.at("hostname"));
        if !ip.is_empty() {
            ip.invalid_if(errors, names::ip(ip.text()));
        }
        match (ip.is_empty(), mode.is_missing()) {
            (false, true) => mode.required(errors, "must be specified when `ip` is set"),
            (true, false) => mode.forbidden(errors, "may not be specified when `ip` is not set"),
            _ => mode.one_of(errors, &["Proxy", "VIP"]),
        }
        if !name.is_empty() {
            name.invalid_if(errors, names::dns_subdomain(name.text()));
            if names::ip(name.text()).is_none() {
                name.invalid(errors, "must be a DNS name, not an IP address");
            }
        }
    }
}

/// The port that balancers ask at stays, as long as they have to ask.
fn health_port(errors: &mut Errors, new: &Field<'_>, old: &Field<'_>) {
    let asked = |spec: &Field<'_>| {
        spec.at("type").text() == "LoadBalancer" && spec.at("externalTrafficPolicy").text() == "Local"
    };
    let (before, after) = (old.at("healthCheckNodePort"), new.at("healthCheckNodePort"));
    if asked(old) && asked(new) && before.int().is_some_and(|port| port != 0) && before.value != after.value {
        let detail =
            "cannot change healthCheckNodePort on loadBalancer service with externalTraffic=Local during update";
        after.invalid(errors, detail);
    }
}
