//! Whose an address is: a service's, this node's with a node port, or nobody's although it should be.

use crate::layout::{LOOPBACK_ADDRESS, NODE_ADDRESS};
use crate::{Addr, Frontend, Maps, Service, SockAddr};

/// What is known of an address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Service(Service),
    /// The address is a service's, and the port is none of its ports.
    UnknownPort,
    /// No service has the address, although it is from the range of services' addresses.
    Unallocated,
    /// It is no service's.
    Other,
}

/// Who asks: to pods, the node's loopback addresses are their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    Node,
    Other,
}

#[inline(always)]
pub(crate) fn find<M: Maps>(maps: &M, to: &SockAddr, protocol: u8, asker: Asker) -> Found {
    if let Some(service) = maps.frontend(&Frontend::new(to.addr, to.port, protocol)) {
        return Found::Service(service);
    }
    match maps.node_address(&to.addr) {
        Some(NODE_ADDRESS) => {}
        Some(LOOPBACK_ADDRESS) if asker == Asker::Node => {}
        Some(_) => return Found::Other,
        None => {
            return if maps.frontend(&Frontend::address(to.addr)).is_some() {
                Found::UnknownPort
            } else if maps.in_service_ranges(to.addr) {
                Found::Unallocated
            } else {
                Found::Other
            };
        }
    }
    match maps.frontend(&Frontend::new(to.addr.unspecified(), to.port, protocol)) {
        Some(service) => Found::Service(service),
        None => Found::Other,
    }
}

/// Whether a client may use a frontend: some load-balancers' addresses are for some ranges only. Who has the address
/// itself, as a node may, is one of them if the node is (kube-proxy has the same exception).
#[inline(always)]
pub(crate) fn admits<M: Maps>(maps: &M, service: &Service, client: Addr) -> bool {
    !service.has(Service::RANGES) || maps.in_source_ranges(service.outside, client)
}
