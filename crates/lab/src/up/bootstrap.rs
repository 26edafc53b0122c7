//! The objects a new lab begins with: the DNS Service with each node's own resolver behind it, and the demo.

use std::time::Duration;

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::spec::NodeSpec;
use super::{Error, Spec};
use crate::client::{Client, Patch, Res, meta};

const DEMO: &str = include_str!("demo.yaml");

/// Where the demo lives.
pub(super) const DEMO_NAMESPACE: &str = "demo";

/// Creates what the cluster needs before anything else: definitions of the network's own kinds, and DNS.
pub(super) async fn cluster(client: &Client, spec: &Spec, definitions: &[Value]) -> Result<(), Error> {
    for object in definitions.iter().chain(&[dns_service(spec), dns_endpoints(spec)]) {
        ensure(client, object).await?;
    }
    Ok(())
}

/// Points the DNS Service at the nodes that there are now.
pub(super) async fn update_names(client: &Client, spec: &Spec) -> Result<(), Error> {
    let slice = dns_endpoints(spec);
    let patch = Patch::Merge(json!({"endpoints": slice["endpoints"]}));
    let (namespace, name) = (meta(&slice, "namespace"), meta(&slice, "name"));
    let patched = client.patch(&resource(&slice), namespace, name, None, &patch).await;
    patched
        .map(drop)
        .map_err(Error::api("cannot update the endpoints of kube-system/kube-dns"))
}

/// Deploys the demo, without what would need more nodes than there are.
pub(super) async fn demo(client: &Client, spec: &Spec) -> Result<(), Error> {
    for document in serde_yaml_ng::Deserializer::from_str(DEMO) {
        let object = Value::deserialize(document).unwrap_or_default();
        let needs = object["metadata"]["annotations"]["weft.dev/nodes"]
            .as_str()
            .and_then(|n| n.parse().ok());
        if needs.unwrap_or(1) <= spec.nodes.len() {
            ensure(client, &object).await?;
        }
    }
    Ok(())
}

/// Names answered under the address that every pod's resolv.conf has, by the node's own process where it can.
fn dns_service(spec: &Spec) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "clusterIP": spec.cluster_dns(), "trafficDistribution": "PreferSameNode",
            "ports": [
                {"name": "dns", "protocol": "UDP", "port": 53},
                {"name": "dns-tcp", "protocol": "TCP", "port": 53},
            ],
        },
    })
}

fn dns_endpoints(spec: &Spec) -> Value {
    let endpoint = |node: &NodeSpec| {
        json!({
            // Of the Service's family, the primary one.
            "addresses": node.ips().first().into_iter().collect::<Vec<_>>(), "nodeName": node.name,
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "hints": {"forNodes": [{"name": node.name}]},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "addressType": spec.families.primary("IPv4", "IPv6"),
        "metadata": {
            "name": "kube-dns-weft", "namespace": "kube-system",
            "labels": {
                "kubernetes.io/service-name": "kube-dns",
                "endpointslice.kubernetes.io/managed-by": "weft-lab",
            },
        },
        "ports": [{"name": "dns", "protocol": "UDP", "port": 53}, {"name": "dns-tcp", "protocol": "TCP", "port": 53}],
        "endpoints": spec.nodes.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// Creates an object unless it exists. The controllers make a namespace's ServiceAccount a moment after the
/// namespace; a pod that is refused until then is tried again.
async fn ensure(client: &Client, object: &Value) -> Result<(), Error> {
    let (kind, name) = (object["kind"].as_str().unwrap_or_default(), meta(object, "name"));
    let res = resource(object);
    let mut tries = 0;
    loop {
        match client.create(&res, meta(object, "namespace"), object).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() => return Ok(()),
            Err(error) if matches!(error.code(), Some(403 | 404)) && tries < 500 => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => return Err(Error::api(format!("cannot create {kind} {name}"))(error)),
        }
    }
}

/// The collection that an object of the bootstrap belongs to.
fn resource(object: &Value) -> Res {
    let (group, version) = match object["apiVersion"].as_str().unwrap_or_default().split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", "v1"),
    };
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    Res::dynamic(group, version, &format!("{kind}s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_demo_object_is_one() {
        let documents: Vec<Value> = serde_yaml_ng::Deserializer::from_str(DEMO)
            .map(|document| Value::deserialize(document).expect("valid YAML"))
            .collect();
        assert_eq!(documents.len(), 6);
        for object in documents {
            assert!(!meta(&object, "name").is_empty(), "{object}");
            assert!(resource(&object).path("", None, None).contains("/v1/"), "{object}");
        }
    }
}
