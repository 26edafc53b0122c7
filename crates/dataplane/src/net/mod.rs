//! The kernel's own network, over netlink: the pods' links, the node's routes, its switches under `/proc/sys/net`.
//!
//! ```text
//! pod namespace                                node namespace
//! eth0  10.244.0.5/32  <------ veth ------>    weft<hash>   no address
//! default via 169.254.1.1 (= host side's       10.244.0.5 dev weft<hash>, source: the node's address
//! Ethernet address, permanent neighbour)       10.244.2.0/23 via <other node>, protocol 87
//! ```
//!
//! Neighbours are permanent on both sides: no packet ever waits for ARP or neighbour discovery.

mod batch;
pub mod conntrack;
mod error;
pub mod hostport;
pub mod kube_proxy;
pub mod limit;
pub mod masquerade;
pub mod name;
mod netlink;
pub mod netns;
mod nft;
pub mod pod;
pub mod refuse;
mod removal;
mod request;
pub mod route;
pub mod routes;
mod rtnl;
mod rules;
pub mod services;
pub mod sockets;
pub mod sysctl;
pub mod tunnel;
pub mod uplink;
mod watch;

pub use error::NetError;
pub use netns::Namespace;
pub use pod::{BadMac, Mac, PodLink};
pub use route::Route;
pub use rtnl::{Link, Rtnl};
pub use watch::Watch;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::route::RouteProtocol;

/// Marks the routes that are ours (`proto 87` in `ip route`, 'W'), so that nobody else's are ever touched.
pub const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(87);

/// Every pod's IPv4 gateway: link-local, the same on every node, on no interface.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Every pod's IPv6 gateway.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The gateway of this address's family.
pub fn gateway_for(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => GATEWAY_V4.into(),
        IpAddr::V6(_) => GATEWAY_V6.into(),
    }
}

/// Everywhere, in this address's family.
pub fn default_of(ip: IpAddr) -> IpNet {
    match ip {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}
