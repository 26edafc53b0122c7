//! What a Service asks for and does not get, in words for its owner. Everything else of the Service is in force.

use std::fmt;
use std::net::IpAddr;

use super::Untrusted;
use crate::Protocol;

/// Something about one Service that its owner should correct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Endpoints of a slice are not used.
    Endpoint {
        /// Name of the slice, in the Service's namespace.
        slice: String,
        /// The first of them.
        ip: IpAddr,
        /// What speaks against it.
        why: Untrusted,
        /// How many others of the slice are not used.
        more: usize,
    },
    /// An address of the Service is not served.
    Address {
        /// Where the address is written.
        field: AddressField,
        /// The address.
        ip: IpAddr,
        /// What speaks against it.
        why: Untrusted,
    },
    /// Two ports of the Service are the same: the first is in force.
    SamePort {
        /// Their number.
        number: u16,
        /// Their protocol.
        protocol: Protocol,
        /// True where it is their `nodePort`.
        on_nodes: bool,
    },
    /// `loadBalancerSourceRanges` name no network of this address's family, so they do not restrict it.
    Unrestricted(IpAddr),
}

/// Where a Service writes an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressField {
    /// `spec.clusterIPs`
    ClusterIps,
    /// `spec.externalIPs`
    ExternalIps,
    /// `status.loadBalancer.ingress`
    Ingress,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Endpoint { slice, ip, why, more } => {
                write!(f, "EndpointSlice {slice}: endpoint {ip} {why}")?;
                if *more > 0 {
                    write!(f, " ({more} more endpoints are no better)")?;
                }
                f.write_str(": nothing is sent there; correct who writes the slice")
            }
            Problem::Address { field, ip, why } => {
                let field = match field {
                    AddressField::ClusterIps => "spec.clusterIPs",
                    AddressField::ExternalIps => "spec.externalIPs",
                    AddressField::Ingress => "status.loadBalancer.ingress",
                };
                write!(f, "{field}: {ip} {why}: it is not served; remove it")
            }
            Problem::SamePort {
                number,
                protocol,
                on_nodes,
            } => {
                let what = if *on_nodes { "node port" } else { "port" };
                write!(
                    f,
                    "spec.ports: {what} {number}/{protocol} is there twice: the first is in force; remove the other"
                )
            }
            Problem::Unrestricted(ip) => {
                let family = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
                write!(
                    f,
                    "spec.loadBalancerSourceRanges has no {family} network: {ip} is open to everybody, as with \
                     kube-proxy; add one"
                )
            }
        }
    }
}
