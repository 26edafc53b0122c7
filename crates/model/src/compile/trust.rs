//! Addresses that no object may send traffic to, whoever wrote it. The API refuses most of them; one that comes
//! nevertheless would lead to this node's own sockets, to everybody on the segment, or round in circles.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::State;

/// Why an address is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untrusted {
    /// `0.0.0.0`, `::`
    Unspecified,
    /// `127.0.0.0/8`, `::1`: whoever connects would reach itself.
    Loopback,
    /// `169.254.0.0/16`, `fe80::/10`: means somebody else on every segment, often a cloud's metadata service.
    LinkLocal,
    /// `224.0.0.0/4`, `ff00::/8`
    Multicast,
    /// `255.255.255.255`
    Broadcast,
    /// An IPv4 address written as an IPv6 one, which would be a second name for it (RFC 4291, 2.5.5.2).
    Mapped,
    /// One of a range of the cluster's Services.
    OfServices(IpNet),
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Untrusted::Unspecified => f.write_str("is the unspecified address"),
            Untrusted::Loopback => f.write_str("is a loopback address"),
            Untrusted::LinkLocal => f.write_str("is a link-local address"),
            Untrusted::Multicast => f.write_str("is a multicast address"),
            Untrusted::Broadcast => f.write_str("is the broadcast address"),
            Untrusted::Mapped => f.write_str("is an IPv4 address written as an IPv6 one"),
            Untrusted::OfServices(range) => write!(f, "is in the Services' range {range}"),
        }
    }
}

/// What speaks against an endpoint's address (as the API's `ValidateEndpointIP`).
pub(super) fn endpoint(state: &State, ip: IpAddr) -> Option<Untrusted> {
    never(ip).or_else(|| link_local(ip)).or_else(|| of_services(state, ip))
}

/// What speaks against an address that clients are to connect to, where nobody but the object's author chose it: an
/// external address or a load balancer's. One of the Services' range would take another Service's traffic.
pub(super) fn outside(state: &State, ip: IpAddr) -> Option<Untrusted> {
    never(ip).or_else(|| of_services(state, ip))
}

/// What speaks against any address at all.
pub(super) fn never(ip: IpAddr) -> Option<Untrusted> {
    let mapped = |ip| matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    match ip {
        ip if ip.is_unspecified() => Some(Untrusted::Unspecified),
        ip if ip.is_loopback() => Some(Untrusted::Loopback),
        ip if ip.is_multicast() => Some(Untrusted::Multicast),
        IpAddr::V4(ip) if ip.is_broadcast() => Some(Untrusted::Broadcast),
        ip if mapped(ip) => Some(Untrusted::Mapped),
        _ => None,
    }
}

fn link_local(ip: IpAddr) -> Option<Untrusted> {
    let found = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    found.then_some(Untrusted::LinkLocal)
}

fn of_services(state: &State, ip: IpAddr) -> Option<Untrusted> {
    let mut ranges = state.service_cidrs().flat_map(|cidr| &cidr.cidrs);
    ranges
        .find(|range| range.contains(&ip))
        .map(|range| Untrusted::OfServices(*range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Change;
    use crate::service::ServiceCidr;

    #[test]
    fn endpoints_are_trusted_less_than_load_balancers() {
        let mut state = State::new("n1");
        state.apply(Change::ServiceCidr(ServiceCidr {
            name: "kubernetes".into(),
            cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd96::/108".parse().unwrap()],
        }));
        let why = |ip: &str| {
            let text = |found: Option<Untrusted>| found.map_or("-".into(), |found| found.to_string());
            let ip = ip.parse().unwrap();
            (text(endpoint(&state, ip)), text(outside(&state, ip)))
        };
        for (ip, reason) in [
            ("0.0.0.0", "is the unspecified address"),
            ("::", "is the unspecified address"),
            ("127.8.0.1", "is a loopback address"),
            ("::1", "is a loopback address"),
            ("224.0.0.1", "is a multicast address"),
            ("ff02::1", "is a multicast address"),
            ("255.255.255.255", "is the broadcast address"),
            ("::ffff:10.0.0.1", "is an IPv4 address written as an IPv6 one"),
            ("10.96.7.1", "is in the Services' range 10.96.0.0/16"),
            ("fd96::7", "is in the Services' range fd96::/108"),
            ("10.244.0.1", "-"),
            ("fd00::1", "-"),
        ] {
            assert_eq!(why(ip), (reason.into(), reason.into()), "{ip}");
        }
        for ip in ["169.254.169.254", "fe80::1"] {
            assert_eq!(why(ip), ("is a link-local address".into(), "-".into()), "{ip}");
        }
    }
}
