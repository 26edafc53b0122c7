//! The few things that a create or update does differently for one kind than for another.

use serde_json::{Value, json};

use super::kinds::Resource;
use super::{fields, meta};

/// Which part of an object a request writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Everything but `status`, where that is a subresource.
    Main,
    /// `status`.
    Status,
    /// `spec.finalizers` of a Namespace.
    Finalize,
    /// The node of a Pod, and what its status says about it.
    Binding,
}

impl Part {
    /// The subresource in `managedFields`.
    pub(super) fn subresource(self) -> &'static str {
        match self {
            Part::Main | Part::Finalize | Part::Binding => "",
            Part::Status => "status",
        }
    }
}

/// Objects of this kind count changes of their spec in `metadata.generation`.
fn has_generation(resource: &Resource) -> bool {
    let groups = [
        "apps",
        "batch",
        "networking.k8s.io",
        "discovery.k8s.io",
        "apiextensions.k8s.io",
    ];
    resource.custom.is_some() || groups.contains(&resource.storage_group.as_str())
}

/// An update must say which version of the object it was made from.
pub(super) fn needs_version(resource: &Resource) -> bool {
    resource.custom.is_some() || matches!(resource.plural.as_str(), "leases" | "customresourcedefinitions")
}

/// Gives a new object what the server decides.
pub(super) fn prepare_create(resource: &Resource, object: &mut Value) {
    let metadata = meta::of(object);
    for field in [
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
    ] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".to_owned(), meta::now().into());
    metadata.remove("generation");
    if has_generation(resource) {
        metadata.insert("generation".to_owned(), 1.into());
    }
    let status = match resource.kind.as_str() {
        _ if !resource.has_status || resource.kind == "Node" => return,
        "Pod" => Some(json!({"phase": "Pending"})),
        "Namespace" => Some(json!({"phase": "Active"})),
        "Service" | "Ingress" => Some(json!({"loadBalancer": {}})),
        _ if resource.custom.is_some() => None,
        _ => Some(json!({})),
    };
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
        fields.extend(status.map(|status| ("status".to_owned(), status)));
    }
    if resource.kind == "Namespace" {
        let name = meta::text(object, "name").to_owned();
        object["spec"] = json!({"finalizers": ["kubernetes"]});
        fields::set(
            meta::entry(meta::of(object), "labels"),
            "kubernetes.io/metadata.name",
            name,
        );
    }
}

/// Keeps of `old` what this request may not change, and counts the change.
pub(super) fn prepare_update(resource: &Resource, part: Part, old: &Value, new: &mut Value) {
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        meta::carry(old, new, field);
    }
    meta::carry(old, new, "generation");
    meta::of(new).remove("selfLink");
    match part {
        Part::Main => {
            if resource.has_status {
                copy(old, new, "status");
            }
            // A Service that is no load balancer any more has none of its addresses.
            if resource.kind == "Service" && new["spec"]["type"] != "LoadBalancer" && new["status"].is_object() {
                new["status"]["loadBalancer"] = json!({});
            }
            if resource.kind == "Namespace" {
                copy(old, new, "spec");
            }
            meta::bump_generation(old, new);
        }
        Part::Binding => {}
        Part::Status => keep_all_but_status(resource, old, new),
        Part::Finalize => {
            let finalizers = new["spec"]["finalizers"].clone();
            *new = old.clone();
            new["spec"] = if finalizers.is_array() {
                json!({ "finalizers": finalizers })
            } else {
                json!({})
            };
        }
    }
}

fn keep_all_but_status(resource: &Resource, old: &Value, new: &mut Value) {
    let status = new.get("status").cloned();
    let metadata = new["metadata"].clone();
    *new = old.clone();
    if let Some(fields) = new.as_object_mut() {
        match status {
            Some(status) => fields.insert("status".to_owned(), status),
            None => fields.remove("status"),
        };
    }
    let sent = json!({ "metadata": metadata });
    meta::carry(&sent, new, "managedFields");
    if resource.custom.is_none() {
        for field in ["labels", "annotations", "finalizers"] {
            meta::carry(&sent, new, field);
        }
    }
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    let Some(fields) = to.as_object_mut() else { return };
    match from.get(field) {
        Some(value) => fields.insert(field.to_owned(), value.clone()),
        None => fields.remove(field),
    };
}
