//! What a Service makes a node do: addresses that clients connect to, and the sets of endpoints they lead to.
//!
//! Frontends that choose alike share a set, so that an endpoint's change is one change, however many addresses the
//! Service has. A frontend is reached from *inside* (a process of this node, or a pod's packet) or from *outside* (a
//! packet that comes from elsewhere), which may choose differently.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Problem;
use crate::{ObjectKey, Protocol};

/// What one Service makes this node do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// The sets that the frontends lead to, also empty ones. Backends are sorted and without repetition.
    pub sets: BTreeMap<SetKey, Vec<Backend>>,
    /// What happens at each address.
    pub frontends: BTreeMap<Frontend, Rule>,
    /// What could not be done as the objects ask for.
    pub problems: Vec<Problem>,
}

/// An address that clients of a Service connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Frontend {
    /// Address of the Service; unspecified (`0.0.0.0`, `::`) for a node port: any address of this node.
    pub ip: IpAddr,
    /// Port of the Service, host byte order.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip.is_unspecified() {
            true => write!(f, "node port {}/{}", self.port, self.protocol),
            false => write!(f, "{} port {}/{}", self.ip, self.port, self.protocol),
        }
    }
}

/// Where a connection to a frontend ends up: an endpoint's address with its target port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backend {
    /// Address of the endpoint.
    pub ip: IpAddr,
    /// Target port, host byte order.
    pub port: u16,
}

/// The name of one choice of endpoints, shared by all frontends that choose alike. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetKey {
    /// The Service.
    pub service: Arc<ObjectKey>,
    /// Its port, host byte order.
    pub port: u16,
    /// The protocol of that port.
    pub protocol: Protocol,
    /// The family of the endpoints.
    pub ipv6: bool,
    /// Which of them.
    pub choice: Choice,
}

/// Which endpoints of a port a set holds. In both, those that are going away are taken where no other is left
/// (KEP-1669).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Choice {
    /// Any of the cluster, near ones where their hints say so: traffic policy Cluster.
    Cluster,
    /// This node's only: traffic policy Local.
    Local,
}

/// What happens to a connection to a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it leads from this node and its pods.
    pub inside: Target,
    /// Where it leads from elsewhere.
    pub outside: Target,
    /// How long a silent client keeps its endpoint, in whole seconds; `None` where every connection chooses anew.
    pub affinity: Option<Duration>,
    /// Clients that may connect, from inside too; `None` where all may. Only addresses of load balancers have them.
    pub source_ranges: Option<Vec<IpNet>>,
    /// What kind of address it is.
    pub kind: FrontendKind,
}

/// Where a connection leads from one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The endpoints to choose from.
    pub set: SetKey,
    /// What happens while there is none.
    pub when_empty: WhenEmpty,
    /// Which source address the endpoint sees.
    pub source: Source,
}

/// What happens to a connection for which there is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhenEmpty {
    /// It is refused at once: the Service has no endpoint anywhere.
    Refuse,
    /// It gets no answer: the Service has endpoints, but the traffic policy allows none of them here. A load balancer
    /// in front is to try another node.
    Drop,
}

/// Which source address an endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The client's.
    Keep,
    /// This node's, so that the answer comes back through it.
    Masquerade,
}

/// What kind of address a frontend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrontendKind {
    /// `spec.clusterIPs`
    ClusterIp,
    /// `spec.ports[].nodePort`
    NodePort,
    /// `status.loadBalancer.ingress[].ip`
    LoadBalancer,
    /// `spec.externalIPs`
    ExternalIp,
}

/// One step from what a dataplane does for Services to what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the set hold these backends.
    Set(SetKey, Vec<Backend>),
    /// Do so at this address, whether or not it is known. Its sets are.
    Put(Frontend, Rule),
    /// Nothing is at this address any more.
    Remove(Frontend),
    /// Nothing leads to the set any more.
    Forget(SetKey),
}
