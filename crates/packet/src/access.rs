//! The two traits that the walk is generic over: a packet, and the maps.

use crate::{
    Addr, Affinity, AffinityKey, BackendKey, Config, Flow, FragmentKey, Frontend, MemberKey, PeerKey, Pod, Ports,
    Reason, Service, Set, SockAddr, Tuple,
};

/// Where the node's routes lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// Out of this interface.
    Via(u32),
    /// To where it would be larger than this allows: the largest packet that the way takes, in bytes from the IP
    /// header on.
    TooBig(u32),
    /// Nowhere, or to this node itself.
    #[default]
    Nowhere,
}

/// What a transport checksum covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covered {
    /// Addresses, by the pseudo header. A sender who leaves the sum to its interface has summed up these alone.
    Addresses,
    /// The transport header and what follows.
    Payload,
}

/// A packet that starts with its Ethernet header.
pub trait Packet {
    /// Index of the interface whose hook runs: the host side of a pod's veth, an uplink, or a tunnel.
    fn ifindex(&self) -> u32;

    /// Whether it came with a VLAN tag, which the kernel keeps beside the packet.
    fn tagged(&self) -> bool;

    /// The `N` bytes at `offset`, or nothing where the readable part ends before.
    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// As [`Packet::bytes`], to write.
    fn bytes_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]>;

    /// Makes the first `len` bytes readable, where the packet has so many: the kernel may keep a packet in pieces.
    fn pull(&mut self, len: usize);

    /// A copy of the `N` bytes at `offset`, which may be computed and in any piece.
    fn load<const N: usize>(&self, offset: usize) -> Result<[u8; N], Reason>;

    /// Writes `N` bytes at `offset`, as [`Packet::load`] reads them.
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Reason>;

    /// Brings the transport checksum at `offset` up to date with a [`crate::checksum::Change`]. `optional`: zero says
    /// that there is none (RFC 768).
    fn update_checksum(&mut self, offset: usize, change: u32, covered: Covered, optional: bool) -> Result<(), Reason>;

    /// Length of the largest packet that goes on the wire, from the IP header on: with `headers` bytes of headers, where
    /// this one is many that share them.
    fn length(&self, headers: usize) -> u32;

    /// Cuts the packet after `end` bytes and makes room for `room` before it.
    fn reshape(&mut self, end: usize, room: usize) -> Result<(), Reason>;

    /// Where a packet of this length with these addresses would leave this node.
    fn route(&self, to: &Tuple, length: u32) -> Route;
}

/// What is known: the node's pods, the services, what sockets were told, and the flows under way.
pub trait Maps {
    /// The local pod that owns an address.
    fn pod(&self, addr: &Addr) -> Option<Pod>;

    /// The Ethernet address of the pod behind an interface.
    fn mac(&self, ifindex: u32) -> Option<[u8; 6]>;

    /// Where a service address leads.
    fn frontend(&self, frontend: &Frontend) -> Option<Service>;

    /// How many backends a set has.
    fn set(&self, set: u32) -> Option<Set>;

    /// One backend of a set.
    fn backend(&self, key: &BackendKey) -> Option<SockAddr>;

    /// Whether a backend is one of a set that says who its members are.
    fn is_member(&self, key: &MemberKey) -> bool;

    /// A slot of a set's table for consistent hashing: the `index`th, below [`crate::Maglev::SIZE`].
    fn maglev(&self, set: u32, index: u32) -> Option<u32>;

    /// The backend of a client.
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;

    /// Notes the backend of a client.
    fn set_affinity(&self, key: &AffinityKey, affinity: &Affinity);

    /// Whether a client may use a load-balancer's address; `set` is the frontend's outside set.
    fn in_source_ranges(&self, set: u32, client: Addr) -> bool;

    /// What the walk has to know of its node, once its agent has said so.
    fn config(&self) -> Option<&Config>;

    /// Whose an address of this node is: [`crate::layout::NODE_ADDRESS`], [`crate::layout::LOOPBACK_ADDRESS`].
    fn node_address(&self, addr: &Addr) -> Option<u32>;

    /// Whether an address is one of the cluster's pods'.
    fn is_inside(&self, addr: Addr) -> bool;

    /// Whether an address is in a range that services have theirs from.
    fn in_service_ranges(&self, addr: Addr) -> bool;

    /// The service address that a backend stands for to a socket.
    fn peer(&self, key: &PeerKey) -> Option<SockAddr>;

    /// Notes the service address that a backend stands for to a socket. False where there was no room.
    fn set_peer(&self, key: &PeerKey, service: &SockAddr) -> bool;

    /// Looks at, and perhaps changes, how packets with these addresses are rewritten.
    fn with_flow<T>(&self, key: &Tuple, look: impl FnOnce(&mut Flow) -> T) -> Option<T>;

    /// Notes how packets with these addresses are rewritten.
    fn set_flow(&self, key: &Tuple, flow: &Flow);

    /// As [`Maps::set_flow`], unless something is noted already: then false.
    fn add_flow(&self, key: &Tuple, flow: &Flow) -> bool;

    /// The ports of the datagram that a fragment is a part of.
    fn fragment(&self, key: &FragmentKey) -> Option<Ports>;

    /// Notes them.
    fn set_fragment(&self, key: &FragmentKey, ports: &Ports);

    /// Seconds since the node started.
    fn now(&self) -> u32;

    /// A random number, for choosing among backends.
    fn random(&self) -> u32;

    /// Counts one packet or call.
    fn count(&self, reason: Reason);

    /// Counts one packet that ended, for the pod behind the interface that it came from.
    fn count_drop(&self, ifindex: u32, reason: Reason);
}
