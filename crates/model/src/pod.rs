//! A Pod as the network sees it: its addresses and the names it goes by.

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
