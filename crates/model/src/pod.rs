//! A Pod as the network sees it: its addresses and the names it goes by; and what is said of it before it has any.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::ObjectKey;

/// A Pod that has been bound to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.nodeName`.
    pub node_name: String,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
}

/// What a node knows of a pod that is bound to it before the pod is on the network: its metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodMeta {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The UID that the kubelet knows the pod by: of a static pod's mirror, that of the static pod.
    pub uid: String,
    /// `metadata.uid`, by which the API server knows it.
    pub object_uid: String,
    /// Its annotations below `weft.dev/`.
    pub annotations: BTreeMap<String, String>,
}
