//! Why each endpoint of a Service is where it is.

use crate::compile::{Backend, Choice, Forwarding};
use crate::{Endpoint, EndpointSlice, ServicePort};

/// One endpoint of a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its address and port.
    pub backend: Backend,
    /// The node that it is on, where the slice says so.
    pub node: Option<String>,
    /// The choices that it is in.
    pub chosen: Vec<Choice>,
    /// Why, in the state that the slice gives it.
    pub why: String,
}

/// Every endpoint of this port, in the order of the slices, on a node.
pub fn verdicts(forwarding: &Forwarding, port: &ServicePort, slices: &[EndpointSlice], node: &str) -> Vec<Verdict> {
    let mut all = Vec::new();
    for slice in slices {
        let mut ports = slice.ports.iter();
        let target = ports.find(|p| p.name == port.name && p.protocol == port.protocol);
        let Some(number) = target.and_then(|target| target.port) else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let Some(ip) = endpoint.addresses.first() else { continue };
            let backend = Backend { ip: *ip, port: number };
            let sets = forwarding.sets.iter().filter(|(set, backends)| {
                set.port == port.port && set.protocol == port.protocol && backends.contains(&backend)
            });
            let chosen: Vec<Choice> = sets.map(|(set, _)| set.choice).collect();
            all.push(Verdict {
                backend,
                node: endpoint.node_name.clone(),
                why: why(endpoint, !chosen.is_empty(), node),
                chosen,
            });
        }
    }
    all
}

fn why(endpoint: &Endpoint, chosen: bool, node: &str) -> String {
    let here = endpoint.node_name.as_deref() == Some(node);
    match (endpoint, chosen) {
        (Endpoint { ready: true, .. }, true) => "ready".into(),
        (_, true) => "terminating, but still serving, and none is ready (KEP-1669)".into(),
        (Endpoint { ready: true, .. }, false) if !endpoint.for_zones.is_empty() || !endpoint.for_nodes.is_empty() => {
            let for_whom: Vec<&str> = endpoint
                .for_nodes
                .iter()
                .chain(&endpoint.for_zones)
                .map(String::as_str)
                .collect();
            format!(
                "ready, but nearer ones are preferred: it is for {}",
                for_whom.join(", ")
            )
        }
        (Endpoint { ready: true, .. }, false) if !here => {
            "ready, but on another node, and the traffic policy is Local".into()
        }
        (Endpoint { ready: true, .. }, false) => "ready, but its address is none that a Service may lead to".into(),
        (
            Endpoint {
                terminating: true,
                serving: true,
                ..
            },
            false,
        ) => "terminating, and there are others".into(),
        (Endpoint { terminating: true, .. }, false) => "terminating, and no longer serving".into(),
        _ => "not ready".into(),
    }
}
