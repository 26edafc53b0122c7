//! Rules of NetworkPolicies.

use ipnet::IpNet;
use serde_json::Value;

use super::field::{Errors, Field};
use super::meta;
use super::names;

/// Checks a NetworkPolicy.
pub(super) fn validate(errors: &mut Errors, policy: &Field<'_>, _: Option<&Field<'_>>) {
    let spec = policy.at("spec");
    meta::selector(errors, &spec.at("podSelector"));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.at(direction).items() {
            for port in rule.at("ports").items() {
                self::port(errors, &port);
            }
            for peer in rule.at(peers).items() {
                self::peer(errors, &peer);
            }
        }
    }
    let types = spec.at("policyTypes");
    if types.items().len() > 2 {
        types.invalid(errors, "may not specify more than two policyTypes");
        return;
    }
    for kind in types.items() {
        kind.one_of(errors, &["Egress", "Ingress"]);
    }
}

fn port(errors: &mut Errors, port: &Field<'_>) {
    port.at("protocol").one_of(errors, &["SCTP", "TCP", "UDP"]);
    let (number, end) = (port.at("port"), port.at("endPort"));
    match number.value {
        Value::Null if !end.is_missing() => end.invalid(errors, "may not be specified when `port` is not specified"),
        Value::Null => {}
        Value::String(name) => {
            number.invalid_if(errors, names::port_name(name));
            if !end.is_missing() {
                end.invalid(errors, "may not be specified when `port` is non-numeric");
            }
        }
        _ => {
            number.port(errors);
            if let (Some(first), Some(last)) = (number.int(), end.int()) {
                if last < first {
                    end.invalid(errors, "must be greater than or equal to `port`");
                } else {
                    end.port(errors);
                }
            }
        }
    }
}

fn peer(errors: &mut Errors, peer: &Field<'_>) {
    let (pods, namespaces, block) = (peer.at("podSelector"), peer.at("namespaceSelector"), peer.at("ipBlock"));
    meta::selector(errors, &pods);
    meta::selector(errors, &namespaces);
    let selects = !pods.is_missing() || !namespaces.is_missing();
    if !block.is_missing() {
        self::block(errors, &block);
        if selects {
            peer.forbidden(errors, "may not specify both ipBlock and another peer");
        }
    } else if !selects {
        peer.required(errors, "must specify a peer");
    }
}

fn block(errors: &mut Errors, block: &Field<'_>) {
    let cidr = block.at("cidr");
    if !cidr.must_exist(errors) {
        return;
    }
    let Ok(whole) = cidr.text().parse::<IpNet>() else {
        cidr.invalid_if(errors, names::cidr(cidr.text()));
        return;
    };
    for except in block.at("except").items() {
        match except.text().parse::<IpNet>() {
            Ok(part) if whole.contains(&part) && whole.prefix_len() < part.prefix_len() => {}
            Ok(_) => except.invalid(errors, "must be a strict subset of `cidr`"),
            Err(_) => except.invalid_if(errors, names::cidr(except.text())),
        }
    }
}
