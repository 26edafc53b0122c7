//! Rules of Services.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::balancer;
use super::container::port_or_name;
use super::field::{Errors, Field};
use super::meta;
use super::names;

/// Checks a Service.
pub(super) fn validate(errors: &mut Errors, service: &Field<'_>, old: Option<&Field<'_>>) {
    let spec = service.at("spec");
    let kind = spec.at("type").text();
    let headless = spec.at("clusterIP").text() == "None";
    spec.at("type")
        .one_of(errors, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    match kind {
        "ExternalName" => external_name(errors, &spec),
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            spec.at("clusterIPs")
                .items()
                .first()
                .unwrap_or(&spec.at("clusterIP"))
                .invalid(errors, &detail);
        }
        _ => {}
    }
    ports(errors, &spec, kind, headless);
    meta::labels(errors, &spec.at("selector"));
    addresses(errors, &spec);
    balancer::validate(errors, service, old);
    affinity(errors, &spec);
    policies(errors, &spec, kind);
    if let Some(old) = old {
        update(errors, &spec, &old.at("spec"));
    }
}

fn external_name(errors: &mut Errors, spec: &Field<'_>) {
    let name = spec.at("externalName");
    if name.must_exist(errors) {
        name.invalid_if(errors, names::dns_subdomain(name.text().trim_end_matches('.')));
    }
    let address = spec.at("clusterIP");
    if !address.is_empty() && address.text() != "None" {
        address.forbidden(errors, "may not be set for ExternalName services");
    }
}

fn ports(errors: &mut Errors, spec: &Field<'_>, kind: &str, headless: bool) {
    let ports = spec.at("ports");
    let all = ports.items();
    if all.is_empty() && !headless && kind != "ExternalName" {
        ports.required(errors, "");
    }
    let (mut seen_names, mut seen_ports, mut seen_node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for port in &all {
        let name = port.at("name");
        if all.len() > 1 && name.is_empty() {
            name.required(errors, "");
        } else if !name.is_empty() {
            name.invalid_if(errors, names::dns_label(name.text()));
            if !seen_names.insert(name.text()) {
                name.duplicate(errors);
            }
        }
        let (number, protocol, node_port) = (port.at("port"), port.at("protocol"), port.at("nodePort"));
        number.port(errors);
        protocol.one_of(errors, &["SCTP", "TCP", "UDP"]);
        let target = port.at("targetPort");
        if !target.is_missing() {
            port_or_name(errors, &target);
        }
        if !seen_ports.insert((protocol.text(), number.int())) {
            let value = json!({"protocol": protocol.text(), "port": number.value});
            Field {
                value: &value,
                path: port.path.clone(),
            }
            .duplicate(errors);
        }
        if node_port.int().is_none_or(|n| n == 0) {
            continue;
        }
        if kind == "ClusterIP" {
            node_port.forbidden(errors, "may not be used when `type` is 'ClusterIP'");
        } else if kind == "ExternalName" {
            node_port.forbidden(errors, "may not be used when `type` is 'ExternalName'");
        } else if !seen_node_ports.insert((protocol.text(), node_port.int())) {
            node_port.duplicate(errors);
        }
    }
}

fn addresses(errors: &mut Errors, spec: &Field<'_>) {
    for address in spec.at("clusterIPs").items() {
        if address.text() != "None" && !address.is_empty() {
            address.invalid_if(errors, names::ip(address.text()));
        }
    }
    let own = spec.at("clusterIP");
    if spec.at("clusterIPs").is_empty() && !own.is_empty() && own.text() != "None" {
        own.invalid_if(errors, names::ip(own.text()));
    }
    for address in spec.at("externalIPs").items() {
        let problem = names::ip(address.text()).or_else(|| names::endpoint_ip(address.text()));
        address.invalid_if(errors, problem);
    }
    for family in spec.at("ipFamilies").items() {
        family.one_of(errors, &["IPv4", "IPv6"]);
    }
    spec.at("ipFamilyPolicy")
        .one_of(errors, &["SingleStack", "PreferDualStack", "RequireDualStack"]);
}

fn affinity(errors: &mut Errors, spec: &Field<'_>) {
    let affinity = spec.at("sessionAffinity");
    affinity.one_of(errors, &["ClientIP", "None"]);
    let timeout = spec.at("sessionAffinityConfig.clientIP.timeoutSeconds");
    if affinity.text() == "ClientIP" && !timeout.int().is_some_and(|n| (1..=86_400).contains(&n)) {
        timeout.invalid(errors, "must be greater than 0 and less than 86400");
    }
}

fn policies(errors: &mut Errors, spec: &Field<'_>, kind: &str) {
    let external = spec.at("externalTrafficPolicy");
    let exposed = matches!(kind, "NodePort" | "LoadBalancer") || !spec.at("externalIPs").is_empty();
    if !external.is_empty() {
        if exposed {
            external.one_of(errors, &["Cluster", "Local"]);
        } else {
            external.invalid(errors, "may only be set for externally-accessible services");
        }
    }
    let internal = spec.at("internalTrafficPolicy");
    internal.one_of(errors, &["Cluster", "Local"]);
    spec.at("trafficDistribution")
        .one_of(errors, &["PreferClose", "PreferSameNode", "PreferSameZone"]);
    let health = spec.at("healthCheckNodePort");
    if health.int().is_some_and(|n| n != 0) {
        health.port(errors);
    }
}

/// Addresses stay what they were given as long as the Service has one.
fn update(errors: &mut Errors, new: &Field<'_>, old: &Field<'_>) {
    let external = |spec: &Field<'_>| spec.at("type").text() == "ExternalName";
    if external(new) || external(old) {
        return;
    }
    let (before, after) = (old.at("clusterIPs").items(), new.at("clusterIPs").items());
    if let (Some(before), Some(after)) = (before.first(), after.first())
        && before.value != after.value
    {
        let all: Value = new.at("clusterIPs").value.clone();
        Field {
            value: &all,
            path: after.path.clone(),
        }
        .invalid(errors, "may not change once set");
    }
}
