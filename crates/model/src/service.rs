//! A Service as the network sees it: the part of its specification that decides where traffic goes.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::ObjectKey;

/// A range that addresses of Services come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// `metadata.name`.
    pub name: String,
    /// `spec.cidrs`.
    pub cidrs: Vec<IpNet>,
}

/// Transport protocol of a service port. The numbers are those of IANA (also in the kernel's maps).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// 6
    Tcp,
    /// 17
    Udp,
    /// 132
    Sctp,
}

impl Protocol {
    /// The IP protocol number (RFC 9293, RFC 768, RFC 9260).
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Reachable on its cluster addresses.
    #[default]
    ClusterIp,
    /// Also on a port of every node.
    NodePort,
    /// Also on the addresses a load balancer gave it.
    LoadBalancer,
    /// Only a name: a CNAME to `external_name`.
    ExternalName,
}

/// `spec.internalTrafficPolicy` and `spec.externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Any endpoint of the cluster.
    #[default]
    Cluster,
    /// Only endpoints on the node that the traffic arrives at.
    Local,
}

/// `spec.sessionAffinity` with its timeout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionAffinity {
    /// Every connection chooses anew.
    #[default]
    None,
    /// A client address keeps its endpoint until it has been silent for this long.
    ClientIp(Duration),
}

/// One entry of `status.loadBalancer.ingress` that has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancerIp {
    /// `ip`
    pub ip: IpAddr,
    /// `ipMode`
    pub mode: IpMode,
}

/// Who answers at the address of a load balancer (KEP-1860).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpMode {
    /// Packets arrive at a node with that address as their destination: every node answers.
    #[default]
    Vip,
    /// The load balancer sends to a node or a pod: the address is its own, also for those in the cluster.
    Proxy,
}

/// One entry of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Empty where the Service has a single unnamed port.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port on the service's addresses, host byte order.
    pub port: u16,
    /// Port on the nodes' addresses, host byte order. A LoadBalancer may do without
    /// (`allocateLoadBalancerNodePorts`); where there is one, it is in force.
    pub node_port: Option<u16>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `spec.type`.
    pub type_: ServiceType,
    /// `spec.clusterIPs`; empty for headless and ExternalName.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.clusterIP: None`.
    pub headless: bool,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`, as far as it has addresses.
    pub load_balancer_ips: Vec<LoadBalancerIp>,
    /// `spec.loadBalancerSourceRanges`: who may connect to those addresses; empty where everybody may.
    pub load_balancer_source_ranges: Vec<IpNet>,
    /// `spec.healthCheckNodePort`: where load balancers ask whether this node has endpoints.
    pub health_check_node_port: Option<u16>,
    /// `spec.externalName`, for `ServiceType::ExternalName`.
    pub external_name: Option<String>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: TrafficPolicy,
    /// `spec.sessionAffinity`.
    pub session_affinity: SessionAffinity,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `spec.trafficDistribution`, as written (`PreferSameZone`, `PreferSameNode`, `PreferClose`).
    pub traffic_distribution: Option<String>,
    /// Label `service.kubernetes.io/service-proxy-name` is set: another proxy's Service (KEP-2447).
    pub foreign: bool,
}

impl Service {
    /// A Service of this name that has no addresses and no ports.
    pub fn named(key: ObjectKey) -> Self {
        Self {
            key,
            type_: ServiceType::ClusterIp,
            cluster_ips: vec![],
            headless: false,
            external_ips: vec![],
            load_balancer_ips: vec![],
            load_balancer_source_ranges: vec![],
            health_check_node_port: None,
            external_name: None,
            ports: vec![],
            internal_traffic_policy: TrafficPolicy::Cluster,
            external_traffic_policy: TrafficPolicy::Cluster,
            session_affinity: SessionAffinity::None,
            publish_not_ready: false,
            traffic_distribution: None,
            foreign: false,
        }
    }

    /// Addresses that others than the cluster's own allocator gave to it.
    pub fn outside_ips(&self) -> impl Iterator<Item = IpAddr> {
        let balanced = self.load_balancer_ips.iter().map(|entry| entry.ip);
        self.external_ips.iter().copied().chain(balanced)
    }
}
