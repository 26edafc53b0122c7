//! EndpointSlices: where a Service's traffic can go (`discovery.k8s.io/v1`).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{ObjectKey, Protocol};

/// One EndpointSlice. A Service may have several; each holds one address family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Namespace and name of the slice.
    pub key: ObjectKey,
    /// Name of the Service (label `kubernetes.io/service-name`), in the slice's namespace.
    pub service: String,
    /// Ports that every endpoint of the slice serves.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// One port of a slice. It belongs to the service port of the same name and protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// Name of the service port; empty for the unnamed one.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port on the endpoint, host byte order; absent means every port (headless without ports).
    pub port: Option<u16>,
}

/// One endpoint: usually a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Addresses of one family; the first is the one that proxies use.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready` (absent means true).
    pub ready: bool,
    /// `conditions.serving` (absent means the same as ready).
    pub serving: bool,
    /// `conditions.terminating` (absent means false).
    pub terminating: bool,
    /// `hostname`: the endpoint's own name below a headless Service.
    pub hostname: Option<String>,
    /// `nodeName`.
    pub node_name: Option<String>,
    /// `zone`.
    pub zone: Option<String>,
    /// `hints.forNodes[].name` (KEP-3015).
    pub for_nodes: Vec<String>,
    /// `hints.forZones[].name` (KEP-2433).
    pub for_zones: Vec<String>,
    /// `targetRef`, where it is a pod.
    pub pod: Option<ObjectKey>,
}
