//! The legacy Endpoints object of a service, in its primary family, for those who still read it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::object::{annotation, label, list, name, namespace, text};
use super::Input;
use super::desired::{self, Family};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one Endpoints object, as in Kubernetes.
const FULL: usize = 1000;

/// Addresses that have the same ports.
#[derive(Default)]
struct Subset {
    ports: Vec<Value>,
    ready: Vec<Value>,
    unready: Vec<Value>,
}

/// Was the object made here?
pub(super) fn is_ours(endpoints: &Value) -> bool {
    label(endpoints, MANAGED_BY) == Some(MANAGER)
}

/// The Endpoints that follow from the pods.
pub(super) fn of(input: &Input<'_>) -> Value {
    let service = input.service;
    let family = Family::of(service)[0];
    let mut subsets: BTreeMap<String, Subset> = BTreeMap::new();
    let mut count = 0;
    for pod in input.pods.iter().filter(|pod| desired::belongs(pod)) {
        let Some(address) = desired::address(pod, family) else {
            continue;
        };
        let ports = desired::ports(service, pod);
        let slice = desired::endpoint(input, pod, address);
        if slice["conditions"]["terminating"] == true && slice["conditions"]["ready"] == false || count >= FULL {
            continue;
        }
        count += 1;
        let mut entry = json!({"ip": address, "targetRef": slice["targetRef"]});
        for field in ["nodeName", "hostname"] {
            if !slice[field].is_null() {
                entry[field] = slice[field].clone();
            }
        }
        let subset = subsets.entry(format!("{ports:?}")).or_default();
        subset.ports = ports;
        let list = if slice["conditions"]["ready"] == true {
            &mut subset.ready
        } else {
            &mut subset.unready
        };
        list.push(entry);
    }
    let subsets: Vec<Value> = subsets.into_values().map(subset).collect();
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if service["spec"]["clusterIP"] == "None" {
        labels.insert("service.kubernetes.io/headless".into(), "".into());
    }
    let mut endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": name(service), "namespace": namespace(service), "labels": labels},
    });
    if !subsets.is_empty() {
        endpoints["subsets"] = subsets.into();
    }
    if count >= FULL {
        endpoints["metadata"]["annotations"][CAPACITY] = "truncated".into();
    }
    endpoints
}

fn subset(mut parts: Subset) -> Value {
    let mut subset = json!({});
    let ports: Vec<Value> = parts.ports.into_iter().map(unnamed).collect();
    for (field, list) in [
        ("addresses", &mut parts.ready),
        ("notReadyAddresses", &mut parts.unready),
    ] {
        if !list.is_empty() {
            list.sort_by(|a, b| text(a, "/ip").cmp(text(b, "/ip")));
            subset[field] = std::mem::take(list).into();
        }
    }
    if !ports.is_empty() {
        subset["ports"] = ports.into();
    }
    subset
}

/// Endpoints leave an empty port name out.
fn unnamed(mut port: Value) -> Value {
    if let Some(fields) = port.as_object_mut().filter(|fields| fields["name"] == "") {
        fields.remove("name");
    }
    port
}

/// `present` as it should be, if it is not.
pub(super) fn changed(present: &Value, wish: &Value) -> Option<Value> {
    let same = list(present, "/subsets") == list(wish, "/subsets")
        && present["metadata"]["labels"] == wish["metadata"]["labels"]
        && annotation(present, CAPACITY) == annotation(wish, CAPACITY);
    if same {
        return None;
    }
    let mut changed = present.clone();
    changed["metadata"]["labels"] = wish["metadata"]["labels"].clone();
    if let Some(fields) = changed.as_object_mut() {
        fields.remove("subsets");
    }
    if !wish["subsets"].is_null() {
        changed["subsets"] = wish["subsets"].clone();
    }
    match annotation(wish, CAPACITY) {
        Some(over) => changed["metadata"]["annotations"][CAPACITY] = over.into(),
        None => {
            if let Some(annotations) = changed["metadata"]["annotations"].as_object_mut() {
                annotations.remove(CAPACITY);
            }
        }
    }
    Some(changed)
}
