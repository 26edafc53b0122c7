//! A Node as the network sees it: its addresses and the ranges its pods live in.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::selector::Labels;

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// `status.addresses` of type InternalIP, at most one per family in use.
    pub internal_ips: Vec<IpAddr>,
    /// `spec.podCIDRs`; empty until a controller assigned them.
    pub pod_cidrs: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// The node is being deleted, or is about to be scaled away (taint `ToBeDeletedByClusterAutoscaler`): load
    /// balancers are to send no new connections (KEP-3836). The state keeps only the local node's.
    pub leaving: bool,
    /// `metadata.labels`; the state keeps only the local node's.
    pub labels: Labels,
}
