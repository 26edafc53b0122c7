//! Defaults of the remaining kinds: Secret, Namespace, Node, NetworkPolicy, Ingress and CustomResourceDefinition.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::api::fields::{at, default, has, is_empty, list, list_mut, make, set, text};

/// Fills in the type of a Secret and moves `stringData` into `data`.
pub(super) fn secret(secret: &mut Value) {
    default(secret, "type", "Opaque");
    let plain = secret.as_object_mut().and_then(|map| map.remove("stringData"));
    if let Some(Value::Object(plain)) = plain
        && !plain.is_empty()
        && let Some(data) = make(secret, "data")
    {
        for (key, value) in plain {
            set(data, &key, STANDARD.encode(value.as_str().unwrap_or_default()));
        }
    }
}

/// Gives a Namespace its finalizer, its phase and the label that selectors find it by.
pub(super) fn namespace(namespace: &mut Value) {
    let name = text(namespace, "metadata.name").to_owned();
    if !name.is_empty()
        && let Some(labels) = make(namespace, "metadata.labels")
    {
        set(labels, "kubernetes.io/metadata.name", name);
    }
    let deleting = has(namespace, "metadata.deletionTimestamp");
    if let Some(spec) = make(namespace, "spec")
        && !deleting
        && is_empty(at(spec, "finalizers"))
    {
        set(spec, "finalizers", json!(["kubernetes"]));
    }
    if let Some(status) = make(namespace, "status") {
        default(status, "phase", "Active");
    }
}

/// Keeps `podCIDR` the first of `podCIDRs`, and gives a bare Node the parts that readers expect.
pub(super) fn node(node: &mut Value) {
    make(node, "status");
    let Some(spec) = make(node, "spec") else { return };
    let first = list(spec, "podCIDRs").first().cloned();
    match first {
        Some(first) => default(spec, "podCIDR", first),
        None if has(spec, "podCIDR") => {
            let only = at(spec, "podCIDR").clone();
            set(spec, "podCIDRs", json!([only]));
        }
        None => {}
    }
}

/// A policy covers ingress, and egress if it has egress rules, unless it says otherwise.
pub(super) fn network_policy(policy: &mut Value) {
    let Some(spec) = make(policy, "spec") else { return };
    if !has(spec, "podSelector") {
        set(spec, "podSelector", json!({}));
    }
    if is_empty(at(spec, "policyTypes")) {
        let egress = !list(spec, "egress").is_empty();
        set(
            spec,
            "policyTypes",
            if egress {
                json!(["Ingress", "Egress"])
            } else {
                json!(["Ingress"])
            },
        );
    }
    for direction in ["ingress", "egress"] {
        for rule in list_mut(spec, direction) {
            for port in list_mut(rule, "ports") {
                default(port, "protocol", "TCP");
            }
        }
    }
}

/// An Ingress has a load balancer status from the start.
pub(super) fn ingress(ingress: &mut Value) {
    if let Some(status) = make(ingress, "status") {
        default(status, "loadBalancer", json!({}));
    }
}

/// Derives the names of a custom resource that its author left out.
pub(super) fn custom_resource_definition(crd: &mut Value) {
    let Some(spec) = make(crd, "spec") else { return };
    let kind = text(spec, "names.kind").to_owned();
    if !kind.is_empty()
        && let Some(names) = make(spec, "names")
    {
        default(names, "singular", kind.to_lowercase());
        default(names, "listKind", format!("{kind}List"));
    }
    if let Some(conversion) = make(spec, "conversion") {
        default(conversion, "strategy", "None");
    }
}
