//! Keys and values of the maps: what the agent writes and the kernel programs read.
//!
//! Every type is `repr(C)`, has no padding and no invalid bit pattern (hence integers instead of `bool` and enums):
//! the kernel compares keys byte by byte, and any bytes may come back. The version of a [`Family`] changes whenever a
//! layout or the meaning of a field in it does.

use crate::{Addr, Port, Reason};

/// Maps whose entries refer to each other, and the version of what is in them. The version is part of the name that
/// they are pinned by, so that no agent reads what another layout means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Names of the maps.
    pub maps: &'static [&'static str],
    /// Version of their layouts.
    pub version: u32,
}

impl Family {
    /// The node's pods.
    pub const PODS: Self = Self {
        maps: &[name::PODS, name::INTERFACES],
        version: 3,
    };
    /// Services and their backends.
    pub const SERVICES: Self = Self {
        maps: &[name::FRONTENDS, name::BACKENDS],
        version: 1,
    };
    /// What sockets were told. A new layout forgets it: a backend shows its own address to a socket from before.
    pub const PEERS: Self = Self {
        maps: &[name::PEERS],
        version: 1,
    };
    /// What was counted. A new layout counts anew.
    pub const COUNTERS: Self = Self {
        maps: &[name::COUNTERS],
        version: 3,
    };
    /// All of them.
    pub const ALL: [Self; 4] = [Self::PODS, Self::SERVICES, Self::PEERS, Self::COUNTERS];
}

/// Names of the maps, as the programs define them.
pub mod name {
    /// [`Addr`](crate::Addr) -> [`super::Pod`]: the pods of this node.
    pub const PODS: &str = "PODS";
    /// Interface index of the host side of a pod's veth -> [`super::Interface`].
    pub const INTERFACES: &str = "INTERFACES";
    /// [`super::Frontend`] -> [`super::Service`].
    pub const FRONTENDS: &str = "FRONTENDS";
    /// [`super::BackendKey`] -> [`super::SockAddr`].
    pub const BACKENDS: &str = "BACKENDS";
    /// [`super::PeerKey`] -> [`super::SockAddr`]: the service address that a socket's peer stands for.
    pub const PEERS: &str = "PEERS";
    /// [`Reason`](crate::Reason) as index -> packets or calls, per CPU.
    pub const COUNTERS: &str = "COUNTERS";
}

/// Marks types that may be handed to the kernel and taken from it as bytes.
///
/// # Safety
/// The type is `repr(C)` or `repr(transparent)`, has no padding, and every bit pattern of its size is a value of it.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($type:ty: $size:expr),+ $(,)?) => {$(
        const _: () = assert!(size_of::<$type>() == $size, "the fields must fill the type: no padding");
        // SAFETY: repr(C) of integers only, and the assertion above compares its size with the sum of its fields'.
        unsafe impl Plain for $type {}
    )+};
}

plain! {
    Addr: 16,
    Pod: 4 + 6 + 6 + 4,
    Interface: 6 + 2 + 8 * Reason::DROPS.len(),
    Frontend: 16 + 2 + 1 + 5,
    Service: 4 + 4,
    BackendKey: 4 + 4,
    SockAddr: 16 + 2 + 6,
    PeerKey: 8 + 16 + 2 + 6,
    u32: 4,
    u64: 8,
}

/// A pod of this node, found by any of its addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Interface index of the host side of its veth, host byte order.
    pub ifindex: u32,
    /// Ethernet address of the pod's side.
    pub mac: [u8; 6],
    /// Ethernet address of the host's side: the pod's gateway.
    pub host_mac: [u8; 6],
    /// Not 0: what it receives is limited by the queue of the host's side, which direct delivery would go past.
    pub limited: u32,
}

/// The pod behind an interface: who it is on the link, and how often it sent what it must not.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Ethernet address of the pod's side.
    pub mac: [u8; 6],
    /// Always zero.
    pub zero: [u8; 2],
    /// Packets that ended at the hook, in the order of [`Reason::DROPS`]. The kernel counts, the agent reads.
    pub drops: [u64; Reason::DROPS.len()],
}

impl Interface {
    /// The interface of a pod that has sent nothing yet.
    pub const fn new(mac: [u8; 6]) -> Self {
        Self {
            mac,
            zero: [0; 2],
            drops: [0; Reason::DROPS.len()],
        }
    }
}

/// Where a service is reached: the key of its backends.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frontend {
    /// Address of the service.
    pub addr: Addr,
    /// Port of the service, network byte order.
    pub port: Port,
    /// IP protocol number: 6 or 17.
    pub protocol: u8,
    /// Always zero.
    pub zero: [u8; 5],
}

impl Frontend {
    /// A frontend.
    #[inline(always)]
    pub const fn new(addr: Addr, port: Port, protocol: u8) -> Self {
        Self {
            addr,
            port,
            protocol,
            zero: [0; 5],
        }
    }
}

/// The backends of a frontend: slots `0..count` of set `set`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Number of the backend set, host byte order; no two frontends share one.
    pub set: u32,
    /// How many backends it has, host byte order. None: connections are refused.
    pub count: u32,
}

/// One backend's place.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// [`Service::set`], host byte order.
    pub set: u32,
    /// Slot in the set, host byte order.
    pub slot: u32,
}

/// An address and a port: a backend, or what a socket believes to talk to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SockAddr {
    /// The address.
    pub addr: Addr,
    /// The port, network byte order.
    pub port: Port,
    /// Always zero.
    pub zero: [u16; 3],
}

impl SockAddr {
    /// An address and port.
    #[inline(always)]
    pub const fn new(addr: Addr, port: Port) -> Self {
        Self {
            addr,
            port,
            zero: [0; 3],
        }
    }
}

/// One peer of one socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey {
    /// The kernel's cookie of the socket, host byte order; never used twice.
    pub cookie: u64,
    /// Address of the backend.
    pub addr: Addr,
    /// Port of the backend, network byte order.
    pub port: Port,
    /// Always zero.
    pub zero: [u16; 3],
}

impl PeerKey {
    /// The place of what `backend` stands for to the socket `cookie`.
    #[inline(always)]
    pub const fn new(cookie: u64, backend: &SockAddr) -> Self {
        Self {
            cookie,
            addr: backend.addr,
            port: backend.port,
            zero: [0; 3],
        }
    }
}
