//! Rules of Nodes, ServiceCIDRs, Leases and Events.

use std::collections::HashSet;

use ipnet::IpNet;

use super::field::{Errors, Field};
use super::names;

/// Checks a Node.
pub(super) fn validate_node(errors: &mut Errors, node: &Field<'_>, old: Option<&Field<'_>>) {
    let cidrs = node.at("spec.podCIDRs");
    let all = cidrs.items();
    for cidr in &all {
        cidr.invalid_if(errors, names::cidr(cidr.text()));
    }
    let v6 = all.iter().filter(|cidr| cidr.text().contains(':')).count();
    if all.len() > 2 || (all.len() == 2 && v6 != 1) {
        cidrs.invalid(errors, "may specify no more than one CIDR for each IP family");
    }
    taints(errors, &node.at("spec.taints"));
    for address in node.at("status.addresses").items() {
        if address.at("type").text().ends_with("IP") {
            address
                .at("address")
                .invalid_if(errors, names::ip(address.at("address").text()));
        }
    }
    if let Some(old) = old {
        let before = old.at("spec.podCIDRs");
        if !before.is_empty() && before.value != cidrs.value {
            cidrs.forbidden(errors, "node updates may not change podCIDR except from \"\" to valid");
        }
        let before = old.at("spec.providerID");
        if !before.is_empty() && before.value != node.at("spec.providerID").value {
            node.at("spec.providerID").forbidden(
                errors,
                "node updates may not change providerID except from \"\" to valid",
            );
        }
    }
}

fn taints(errors: &mut Errors, taints: &Field<'_>) {
    let mut seen = HashSet::new();
    for taint in taints.items() {
        let (key, value, effect) = (taint.at("key"), taint.at("value"), taint.at("effect"));
        key.invalid_if(errors, names::qualified_name(key.text()));
        value.invalid_if(errors, names::label_value(value.text()));
        if effect.is_empty() {
            effect.required(errors, "");
        } else {
            effect.one_of(errors, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        }
        if !seen.insert((key.text(), effect.text())) {
            taint.duplicate(errors);
        }
    }
}

/// Checks a ServiceCIDR.
pub(super) fn validate_service_cidr(errors: &mut Errors, object: &Field<'_>, old: Option<&Field<'_>>) {
    let cidrs = object.at("spec.cidrs");
    if let Some(old) = old {
        let before = old.at("spec.cidrs");
        // A cluster may become dual stack: one of the other family is added behind.
        let grown = before.items().len() == 1
            && cidrs.items().first().map(Field::text) == before.items().first().map(Field::text);
        if !grown {
            cidrs.immutable(errors, before.value);
        }
    }
    let all = cidrs.items();
    if all.is_empty() {
        cidrs.required(errors, "at least one CIDR required");
    }
    if all.len() > 2 {
        cidrs.invalid(errors, "may only hold up to 2 values");
    }
    let mut families = HashSet::new();
    for cidr in &all {
        match cidr.text().parse::<IpNet>() {
            Err(_) => cidr.invalid_if(errors, names::cidr(cidr.text())),
            Ok(net) if net != net.trunc() => cidr.invalid(errors, "must not have bits set beyond the prefix length"),
            Ok(net) if !families.insert(net.addr().is_ipv4()) => {
                cidr.invalid(
                    errors,
                    "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
                );
            }
            Ok(_) => {}
        }
    }
}

/// Checks a Lease.
pub(super) fn validate_lease(errors: &mut Errors, lease: &Field<'_>, _: Option<&Field<'_>>) {
    lease.at("spec.leaseDurationSeconds").positive(errors);
    lease.at("spec.leaseTransitions").not_negative(errors);
}

/// Checks an Event, in the form of either of its two groups.
pub(super) fn validate_event(errors: &mut Errors, event: &Field<'_>, old: Option<&Field<'_>>) {
    if old.is_some() {
        return;
    }
    let object = if event.at("regarding").is_missing() {
        event.at("involvedObject")
    } else {
        event.at("regarding")
    };
    let (about, own) = (object.at("namespace"), event.at("metadata.namespace").text());
    if !(about.text() == own || about.is_empty() && own == "default") {
        about.invalid(errors, "does not match event.namespace");
    }
}
