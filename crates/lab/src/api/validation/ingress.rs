//! Rules of Ingresses and IngressClasses.

use super::field::{Errors, Field};
use super::names;

/// Checks an Ingress.
pub(super) fn validate(errors: &mut Errors, ingress: &Field<'_>, _: Option<&Field<'_>>) {
    let spec = ingress.at("spec");
    let (rules, backend) = (spec.at("rules"), spec.at("defaultBackend"));
    if rules.is_empty() && backend.is_missing() {
        spec.invalid(errors, "either `defaultBackend` or `rules` must be specified");
    }
    if !backend.is_missing() {
        self::backend(errors, &backend);
    }
    let class = spec.at("ingressClassName");
    if !class.is_missing() {
        class.invalid_if(errors, names::dns_subdomain(class.text()));
    }
    for tls in spec.at("tls").items() {
        for host in tls.at("hosts").items() {
            host.invalid_if(errors, names::wildcard_subdomain(host.text()));
        }
    }
    for rule in rules.items() {
        let host = rule.at("host");
        if host.text().parse::<std::net::IpAddr>().is_ok() {
            host.invalid(errors, "must be a DNS name, not an IP address");
        } else if !host.is_empty() {
            host.invalid_if(errors, names::wildcard_subdomain(host.text()));
        }
        let http = rule.at("http");
        if http.is_missing() {
            continue;
        }
        if http.at("paths").is_empty() {
            http.at("paths").required(errors, "");
        }
        for path in http.at("paths").items() {
            self::path(errors, &path);
        }
    }
}

fn path(errors: &mut Errors, entry: &Field<'_>) {
    let (kind, path) = (entry.at("pathType"), entry.at("path"));
    if kind.is_missing() {
        kind.required(errors, "pathType must be specified");
    } else {
        kind.one_of(errors, &["Exact", "ImplementationSpecific", "Prefix"]);
    }
    let strict = matches!(kind.text(), "Exact" | "Prefix");
    if !path.text().starts_with('/') && (strict || !path.is_empty()) {
        path.invalid_part(errors, path.text(), "must be an absolute path");
    }
    if strict {
        for part in ["//", "/./", "/../", "%2f", "%2F"] {
            if path.text().contains(part) {
                path.invalid(errors, &format!("must not contain '{part}'"));
            }
        }
        for end in ["/..", "/."] {
            if path.text().ends_with(end) {
                path.invalid(errors, &format!("cannot end with '{end}'"));
            }
        }
    }
    let backend = entry.at("backend");
    if backend.is_missing() {
        backend.required(errors, "");
    } else {
        self::backend(errors, &backend);
    }
}

fn backend(errors: &mut Errors, backend: &Field<'_>) {
    let (service, resource) = (backend.at("service"), backend.at("resource"));
    if !service.is_missing() && !resource.is_missing() {
        backend.invalid_part(errors, "", "cannot set both resource and service backends");
    } else if service.is_missing() && resource.is_missing() {
        backend.required(errors, "resource or service backend is required");
    }
    if service.is_missing() {
        return;
    }
    let name = service.at("name");
    if name.must_exist(errors) {
        name.invalid_if(errors, names::dns1035_label(name.text()));
    }
    let (port_name, number) = (service.at("port.name"), service.at("port.number"));
    match (port_name.is_empty(), number.int().unwrap_or_default()) {
        (true, 0) => service.required(errors, "port name or number is required"),
        (true, _) => number.port(errors),
        (false, 0) => port_name.invalid_if(errors, names::port_name(port_name.text())),
        (false, _) => service.invalid_part(errors, "", "cannot set both port name & port number"),
    }
}

/// Checks an IngressClass.
pub(super) fn validate_class(errors: &mut Errors, class: &Field<'_>, old: Option<&Field<'_>>) {
    let controller = class.at("spec.controller");
    if let Some(old) = old {
        controller.immutable(errors, old.at("spec.controller").value);
    }
    if !controller.must_exist(errors) {
        return;
    }
    match controller.text().split_once('/') {
        Some((domain, rest)) if !rest.is_empty() => controller.invalid_if(errors, names::dns_subdomain(domain)),
        _ => controller.invalid(errors, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
    let parameters = class.at("spec.parameters");
    if !parameters.is_missing() {
        parameters.at("kind").must_exist(errors);
        parameters.at("name").must_exist(errors);
    }
}
