//! Rules of Endpoints and EndpointSlices.

use std::collections::HashSet;

use super::field::{Errors, Field};
use super::names;

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 100;

/// Checks an Endpoints object.
pub(super) fn validate_endpoints(errors: &mut Errors, endpoints: &Field<'_>, _: Option<&Field<'_>>) {
    for subset in endpoints.at("subsets").items() {
        let (ready, unready) = (subset.at("addresses"), subset.at("notReadyAddresses"));
        if ready.is_empty() && unready.is_empty() {
            subset.required(errors, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in ready.items().into_iter().chain(unready.items()) {
            let ip = address.at("ip");
            ip.invalid_if(errors, names::ip(ip.text()).or_else(|| names::endpoint_ip(ip.text())));
        }
        let ports = subset.at("ports").items();
        for port in &ports {
            let name = port.at("name");
            if !name.is_empty() {
                name.invalid_if(errors, names::dns_label(name.text()));
            } else if ports.len() > 1 {
                name.required(errors, "");
            }
            port.at("port").port(errors);
            port.at("protocol").one_of(errors, &["SCTP", "TCP", "UDP"]);
        }
    }
}

/// Checks an EndpointSlice.
pub(super) fn validate_slice(errors: &mut Errors, slice: &Field<'_>, old: Option<&Field<'_>>) {
    let family = slice.at("addressType");
    if family.is_empty() {
        family.required(errors, "");
    } else {
        family.one_of(errors, &["FQDN", "IPv4", "IPv6"]);
    }
    if let Some(old) = old {
        family.immutable(errors, old.at("addressType").value);
    }
    let endpoints = slice.at("endpoints");
    let all = endpoints.items();
    if all.len() > MAX_ENDPOINTS {
        endpoints.too_many(errors, all.len(), MAX_ENDPOINTS);
        return;
    }
    for endpoint in &all {
        self::endpoint(errors, endpoint, family.text());
    }
    ports(errors, &slice.at("ports"));
}

fn endpoint(errors: &mut Errors, endpoint: &Field<'_>, family: &str) {
    let addresses = endpoint.at("addresses");
    let all = addresses.items();
    if all.is_empty() {
        addresses.required(errors, "must contain at least 1 address");
    } else if all.len() > MAX_ADDRESSES {
        addresses.too_many(errors, all.len(), MAX_ADDRESSES);
    }
    for address in &all {
        let text = address.text();
        let problem = match family {
            "IPv4" => names::ipv4(text).or_else(|| names::endpoint_ip(text)),
            "IPv6" => names::ipv6(text).or_else(|| names::endpoint_ip(text)),
            "FQDN" => names::dns_subdomain(text.trim_end_matches('.')),
            _ => None,
        };
        address.invalid_if(errors, problem);
    }
    let node = endpoint.at("nodeName");
    if !node.is_missing() {
        node.invalid_if(errors, names::dns_subdomain(node.text()));
    }
    let hostname = endpoint.at("hostname");
    if !hostname.is_missing() {
        hostname.invalid_if(errors, names::dns_label(hostname.text()));
    }
    for zone in endpoint.at("hints.forZones").items() {
        zone.at("name").must_exist(errors);
    }
    for node in endpoint.at("hints.forNodes").items() {
        let name = node.at("name");
        if name.must_exist(errors) {
            name.invalid_if(errors, names::dns_subdomain(name.text()));
        }
    }
}

fn ports(errors: &mut Errors, ports: &Field<'_>) {
    let all = ports.items();
    if all.len() > MAX_PORTS {
        ports.too_many(errors, all.len(), MAX_PORTS);
        return;
    }
    let mut seen = HashSet::new();
    for port in &all {
        let name = port.at("name");
        if !name.is_empty() {
            name.invalid_if(errors, names::dns_label(name.text()));
        }
        if !seen.insert(name.text()) {
            name.duplicate(errors);
        }
        let number = port.at("port");
        if !number.is_missing() {
            number.port(errors);
        }
        port.at("protocol").one_of(errors, &["SCTP", "TCP", "UDP"]);
    }
}
