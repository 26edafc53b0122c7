//! Defaults of Services, Endpoints and EndpointSlices. Addresses, families and node ports are given out at admission.

use serde_json::{Value, json};

use crate::api::fields::{at, default, has, list, list_mut, make, set, text};

/// Fills in the defaults of a Service.
pub(super) fn service(service: &mut Value) {
    let Some(spec) = make(service, "spec") else { return };
    default(spec, "type", "ClusterIP");
    default(spec, "sessionAffinity", "None");
    if text(spec, "sessionAffinity") == "None" {
        if let Some(map) = spec.as_object_mut() {
            map.remove("sessionAffinityConfig");
        }
    } else if text(spec, "sessionAffinity") == "ClientIP"
        && let Some(config) = make(spec, "sessionAffinityConfig.clientIP")
    {
        default(config, "timeoutSeconds", 10_800);
    }
    let kind = text(spec, "type").to_owned();
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
    if external || (kind == "ClusterIP" && !list(spec, "externalIPs").is_empty()) {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if external || kind == "ClusterIP" {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    for port in list_mut(spec, "ports") {
        default(port, "protocol", "TCP");
        let target = at(port, "targetPort");
        if (target.is_null() || target == &json!(0) || target == &json!("")) && has(port, "port") {
            let number = at(port, "port").clone();
            set(port, "targetPort", number);
        }
    }
    if let Some(status) = make(service, "status") {
        default(status, "loadBalancer", json!({}));
        let balancer = kind == "LoadBalancer";
        for ingress in list_mut(status, "loadBalancer.ingress").filter(|_| balancer) {
            if !text(ingress, "ip").is_empty() {
                default(ingress, "ipMode", "VIP");
            }
        }
    }
}

/// Fills in the defaults of an Endpoints object.
pub(super) fn endpoints(endpoints: &mut Value) {
    for subset in list_mut(endpoints, "subsets") {
        for port in list_mut(subset, "ports") {
            default(port, "protocol", "TCP");
        }
    }
}

/// Fills in the defaults of an EndpointSlice.
pub(super) fn endpoint_slice(slice: &mut Value) {
    for port in list_mut(slice, "ports") {
        if !has(port, "name") {
            set(port, "name", "");
        }
        default(port, "protocol", "TCP");
    }
}
