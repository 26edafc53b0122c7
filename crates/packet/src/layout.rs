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
        maps: &[name::PODS, name::INTERFACES, name::LIMITS],
        version: 4,
    };
    /// Services and their backends.
    pub const SERVICES: Self = Self {
        maps: &[
            name::FRONTENDS,
            name::SETS,
            name::BACKENDS,
            name::MEMBERS,
            name::MAGLEV,
            name::SOURCE_RANGES,
        ],
        version: 2,
    };
    /// Which addresses are whose, and what the walk has to know of its node.
    pub const NODE: Self = Self {
        maps: &[name::CONFIG, name::NODE_ADDRESSES, name::INSIDE, name::SERVICE_RANGES],
        version: 1,
    };
    /// What sockets were told. A new layout forgets it: a backend shows its own address to a socket from before.
    pub const PEERS: Self = Self {
        maps: &[name::PEERS],
        version: 2,
    };
    /// Packets under way: translated flows, their fragments, and which client has an affinity to which backend.
    /// A new layout forgets it: connections that go through a node from outside break.
    pub const FLOWS: Self = Self {
        maps: &[name::FLOWS, name::FRAGMENTS, name::AFFINITY],
        version: 1,
    };
    /// What was counted. A new layout counts anew.
    pub const COUNTERS: Self = Self {
        maps: &[name::COUNTERS],
        version: 4,
    };
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::PODS,
        Self::SERVICES,
        Self::NODE,
        Self::PEERS,
        Self::FLOWS,
        Self::COUNTERS,
    ];
}

/// Names of the maps, as the programs define them.
pub mod name {
    /// [`Addr`](crate::Addr) -> [`super::Pod`]: the pods of this node.
    pub const PODS: &str = "PODS";
    /// Interface index of the host side of a pod's veth -> [`super::Interface`].
    pub const INTERFACES: &str = "INTERFACES";
    /// The same index -> [`super::Limit`], of the pods that have one.
    pub const LIMITS: &str = "LIMITS";
    /// [`super::Frontend`] -> [`super::Service`].
    pub const FRONTENDS: &str = "FRONTENDS";
    /// Number of a set of backends -> [`super::Set`].
    pub const SETS: &str = "SETS";
    /// [`super::BackendKey`] -> [`super::SockAddr`].
    pub const BACKENDS: &str = "BACKENDS";
    /// [`super::MemberKey`] -> anything: the backends of sets that have [`super::Set::MEMBERS`].
    pub const MEMBERS: &str = "MEMBERS";
    /// Number of a set -> [`super::Maglev`], for sets that have [`super::Set::MAGLEV`].
    pub const MAGLEV: &str = "MAGLEV";
    /// LPM of [`super::Prefix`] with the frontend's outside set as scope -> anything: who may use a load-balancer's
    /// address, where the frontend has [`super::Service::RANGES`].
    pub const SOURCE_RANGES: &str = "SOURCE_RANGES";
    /// Index 0 -> [`super::Config`].
    pub const CONFIG: &str = "CONFIG";
    /// [`Addr`](crate::Addr) -> [`super::NODE_ADDRESS`] or [`super::LOOPBACK_ADDRESS`]: where node ports are reached.
    pub const NODE_ADDRESSES: &str = "NODE_ADDRESSES";
    /// LPM of [`super::Prefix`] with scope 0 -> anything: where the cluster's pods are.
    pub const INSIDE: &str = "INSIDE";
    /// LPM of [`super::Prefix`] with scope 0 -> anything: where the addresses of Services are taken from. What goes
    /// there and is no Service's is dropped.
    pub const SERVICE_RANGES: &str = "SERVICE_RANGES";
    /// [`super::PeerKey`] -> [`super::SockAddr`]: the service address that a socket's peer stands for, or the reverse.
    pub const PEERS: &str = "PEERS";
    /// [`super::Tuple`] -> [`super::Flow`]: how packets of translated flows are rewritten.
    pub const FLOWS: &str = "FLOWS";
    /// [`super::FragmentKey`] -> [`super::Ports`]: the ports of a datagram whose first fragment was translated.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// [`super::AffinityKey`] -> [`super::Affinity`].
    pub const AFFINITY: &str = "AFFINITY";
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
    Limit: 8 + 8 + 8,
    Frontend: 16 + 2 + 1 + 5,
    Service: 4 + 4 + 4 + 4,
    Set: 4 + 4,
    BackendKey: 4 + 4,
    MemberKey: 16 + 2 + 2 + 4,
    Maglev: 2 * (Maglev::SIZE + 1),
    Prefix: 4 + 4 + 16,
    Config: 8 + 16 + 16 + 4 + 2 + 2,
    SockAddr: 16 + 2 + 6,
    Tuple: 16 + 16 + 2 + 2 + 4,
    Flow: 40 + 4 + 4 + 4 + 4,
    FragmentKey: 16 + 16 + 4 + 4,
    Ports: 2 + 2,
    AffinityKey: 16 + 4 + 4,
    Affinity: 24 + 4 + 4,
    PeerKey: 8 + 16 + 2 + 2 + 4,
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

/// What a pod may send in a time. See [`crate::limit`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bytes per second.
    pub rate: u64,
    /// How long it takes to fill its bucket at that rate, in nanoseconds.
    pub room: u64,
    /// When its bucket will be full, in nanoseconds since the machine's start. The kernel writes this.
    pub full_at: u64,
}

/// Where a service is reached.
///
/// A node port has the address `0.0.0.0` (v4-mapped) or `::`, and is reached at every address in
/// [`name::NODE_ADDRESSES`]. Port 0 of protocol 0 says that the address is a Service's: other ports are refused.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frontend {
    /// Address of the service.
    pub addr: Addr,
    /// Port of the service, network byte order.
    pub port: Port,
    /// IP protocol number: 6, 17 or 132.
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

    /// What says that an address is a Service's.
    #[inline(always)]
    pub const fn address(addr: Addr) -> Self {
        Self::new(addr, Port::from_host(0), 0)
    }
}

/// Where a frontend leads: those inside (processes of this node, and pods) and those outside may have different sets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Number of the set of backends for those inside, host byte order.
    pub inside: u32,
    /// The same for those outside.
    pub outside: u32,
    /// For how many seconds after its last connection a client keeps its backend; 0: no affinity.
    pub affinity: u32,
    /// Bits, see the constants.
    pub flags: u32,
}

impl Service {
    /// While the set for those inside is empty, packets to the frontend are dropped; without, they are refused.
    pub const INSIDE_DROPS: u32 = 1;
    /// The same for those outside.
    pub const OUTSIDE_DROPS: u32 = 2;
    /// Backends see the addresses of clients outside; without, they see this node's.
    pub const KEEP_SOURCE: u32 = 4;
    /// Only those in [`name::SOURCE_RANGES`] may use the frontend.
    pub const RANGES: u32 = 8;

    /// Whether a flag is set.
    #[inline(always)]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// A set of backends: slots `0..count`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// How many backends it has, host byte order.
    pub count: u32,
    /// Bits, see the constants.
    pub flags: u32,
}

impl Set {
    /// It has a table for those outside in [`name::MAGLEV`].
    pub const MAGLEV: u32 = 1;
    /// Its backends are in [`name::MEMBERS`].
    pub const MEMBERS: u32 = 2;

    /// Whether a flag is set.
    #[inline(always)]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// One backend's place.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// Number of the set, host byte order.
    pub set: u32,
    /// Slot in the set, host byte order.
    pub slot: u32,
}

/// A backend as one of a set: still there?
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberKey {
    /// Address of the backend.
    pub addr: Addr,
    /// Port of the backend, network byte order.
    pub port: Port,
    /// Always zero.
    pub zero: u16,
    /// Number of the set, host byte order.
    pub set: u32,
}

impl MemberKey {
    /// A backend of a set.
    #[inline(always)]
    pub const fn new(set: u32, backend: &SockAddr) -> Self {
        Self {
            addr: backend.addr,
            port: backend.port,
            zero: 0,
            set,
        }
    }
}

/// A table of slots for consistent hashing: the same on all nodes, so that any of them chooses the same backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maglev {
    /// Slots of the set, host byte order.
    pub slots: [u16; Maglev::SIZE],
    /// Always zero.
    pub zero: u16,
}

impl Maglev {
    /// How many slots a table has: a prime, as the algorithm wants.
    pub const SIZE: usize = 1021;
}

/// A range of addresses, within a scope.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// How many bits count, from the scope's first on, host byte order.
    pub length: u32,
    /// What the range is for, see the maps' names. Host byte order.
    pub scope: u32,
    /// Its first address.
    pub addr: Addr,
}

impl Prefix {
    /// A range by the length that people write: of 32 bits for IPv4.
    #[inline(always)]
    pub const fn new(scope: u32, addr: Addr, length: u8) -> Self {
        Self {
            length: 32 + length as u32 + if addr.is_v4() { 96 } else { 0 },
            scope,
            addr,
        }
    }

    /// One address, to look up.
    #[inline(always)]
    pub const fn of(scope: u32, addr: Addr) -> Self {
        Self {
            length: 32 + 128,
            scope,
            addr,
        }
    }
}

/// In [`name::NODE_ADDRESSES`]: an address by which others reach this node.
pub const NODE_ADDRESS: u32 = 1;
/// In [`name::NODE_ADDRESSES`]: an address by which this node reaches itself; to a pod it is the pod's own.
pub const LOOPBACK_ADDRESS: u32 = 2;

/// The mark of packets that the node refuses, by a reset or "port unreachable": this rule is netfilter's, which has
/// the generators of both.
pub const REFUSE_MARK: u32 = 0x7765_6674;

/// What the walk has to know of its node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The kernel's cookie of the node's network namespace, host byte order.
    pub netns: u64,
    /// The IPv4 address that masqueraded packets come from. `::` where there is none.
    pub v4: Addr,
    /// The same for IPv6.
    pub v6: Addr,
    /// Interface index of the tunnel, host byte order; 0 where there is none.
    pub tunnel: u32,
    /// First port that masqueraded packets may come from, host byte order. Outside the kernel's ephemeral ports and
    /// the node ports.
    pub first_port: u16,
    /// How many such ports there are, host byte order.
    pub ports: u16,
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

/// One peer of one socket: a backend, for what it stands for, or what a UDP socket sends to, for its backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey {
    /// The kernel's cookie of the socket, host byte order; never used twice.
    pub cookie: u64,
    /// Address of the peer.
    pub addr: Addr,
    /// Port of the peer, network byte order.
    pub port: Port,
    /// 0: the peer is a backend. 1: it is a service.
    pub service: u16,
    /// Always zero.
    pub zero: [u16; 2],
}

impl PeerKey {
    /// The place of what `backend` stands for to the socket `cookie`.
    #[inline(always)]
    pub const fn new(cookie: u64, backend: &SockAddr) -> Self {
        Self {
            cookie,
            addr: backend.addr,
            port: backend.port,
            service: 0,
            zero: [0; 2],
        }
    }

    /// The place of the backend that the UDP socket `cookie` has of a service.
    #[inline(always)]
    pub const fn choice(cookie: u64, service: &SockAddr) -> Self {
        Self {
            service: 1,
            ..Self::new(cookie, service)
        }
    }
}

/// A packet's addresses as a hook sees them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Source port, network byte order.
    pub source_port: Port,
    /// Destination port, network byte order.
    pub destination_port: Port,
    /// IP protocol number, host byte order.
    pub protocol: u32,
}

/// How packets of one direction of a flow are rewritten.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The addresses and ports that they get.
    pub to: Tuple,
    /// The set that the backend was chosen from, host byte order.
    pub set: u32,
    /// Interface index that the flow's first packet came in by, host byte order: replies leave there.
    pub ifindex: u32,
    /// When its last packet passed, in seconds since the node started, host byte order.
    pub seen: u32,
    /// Bits: which way, and what has been seen of the connection.
    pub flags: u32,
}

impl Tuple {
    /// Nothing yet.
    pub const NONE: Self = Self {
        source: Addr::NONE,
        destination: Addr::NONE,
        source_port: Port::from_host(0),
        destination_port: Port::from_host(0),
        protocol: 0,
    };

    /// As the packets of the other direction have it.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }
}

impl Flow {
    /// Nothing yet.
    pub const NONE: Self = Self {
        to: Tuple::NONE,
        set: 0,
        ifindex: 0,
        seen: 0,
        flags: 0,
    };

    /// Packets to the client: the other direction has been there before.
    pub const REPLY: u32 = 1;
    /// A TCP sender has finished (RFC 9293).
    pub const FIN: u32 = 2;
    /// So has the other one.
    pub const PEER_FIN: u32 = 4;
    /// A TCP connection has been reset by either side.
    pub const RESET: u32 = 8;

    /// Whether a flag is set.
    #[inline(always)]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// Fragments of one datagram (RFC 791, RFC 8200).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FragmentKey {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Identification, as the packet has it.
    pub id: u32,
    /// IP protocol number, host byte order.
    pub protocol: u32,
}

/// The ports that only the first fragment has.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Source port, network byte order.
    pub source: Port,
    /// Destination port, network byte order.
    pub destination: Port,
}

/// A client of a set with affinity.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AffinityKey {
    /// The client's address; to socket hooks, which know none yet, a network namespace ([`Addr::of_netns`]).
    pub client: Addr,
    /// Number of the set, host byte order.
    pub set: u32,
    /// Always zero.
    pub zero: u32,
}

/// A client's backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Where its last connection went.
    pub backend: SockAddr,
    /// When, in seconds since the node started, host byte order.
    pub seen: u32,
    /// Always zero.
    pub zero: u32,
}
