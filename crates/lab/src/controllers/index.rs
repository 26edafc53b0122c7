//! By what else than its name an object is looked up, so that a change costs its own size and not the cluster's.

use serde_json::Value;

use super::kinds;
use super::object::{controller_of, label, list, namespace};
use crate::client::Res;

/// The entries under which an object is found.
pub(crate) type Rule = fn(&Value) -> Vec<String>;

/// How objects of a resource are indexed.
pub(crate) fn rule(res: &Res) -> Rule {
    if *res == kinds::PODS {
        pod
    } else if *res == kinds::SERVICES {
        service
    } else if *res == kinds::ENDPOINT_SLICES {
        slice
    } else {
        owned
    }
}

/// Objects controlled by the object with this uid.
pub(crate) fn by_controller(uid: &str) -> String {
    format!("owner {uid}")
}

/// Objects in a namespace that have this label (pods), or select by it first (services).
pub(crate) fn by_label(namespace: &str, key: &str, value: &str) -> String {
    format!("label {namespace} {key}={value}")
}

/// Pods on a node.
pub(crate) fn by_node(node: &str) -> String {
    format!("node {node}")
}

/// Slices of a service.
pub(crate) fn by_service(namespace: &str, service: &str) -> String {
    format!("service {namespace} {service}")
}

fn owned(object: &Value) -> Vec<String> {
    let owner = controller_of(object).and_then(|owner| owner["uid"].as_str());
    owner.map(by_controller).into_iter().collect()
}

fn pod(pod: &Value) -> Vec<String> {
    let mut entries = owned(pod);
    if let Some(node) = pod["spec"]["nodeName"].as_str() {
        entries.push(by_node(node));
    }
    let labels = pod["metadata"]["labels"].as_object();
    for (key, value) in labels.into_iter().flatten() {
        entries.push(by_label(namespace(pod), key, value.as_str().unwrap_or_default()));
    }
    entries
}

/// A service is found by one label that its pods must have: the first of its selector.
fn service(service: &Value) -> Vec<String> {
    let first = service["spec"]["selector"]
        .as_object()
        .and_then(|map| map.iter().next());
    let entry = first.map(|(key, value)| by_label(namespace(service), key, value.as_str().unwrap_or_default()));
    entry.into_iter().collect()
}

fn slice(slice: &Value) -> Vec<String> {
    let service = label(slice, "kubernetes.io/service-name");
    let owners = list(slice, "/metadata/ownerReferences").iter();
    let owner = owners.filter_map(|o| o["uid"].as_str()).map(by_controller);
    service
        .map(|s| by_service(namespace(slice), s))
        .into_iter()
        .chain(owner)
        .collect()
}
