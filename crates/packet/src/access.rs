//! The two traits that the walk is generic over: a packet, and the maps.

use crate::{Addr, BackendKey, Frontend, PeerKey, Pod, Reason, Service, Set, SockAddr};

/// A packet that starts with its Ethernet header.
pub trait Packet {
    /// Index of the interface whose hook runs: the host side of a pod's veth.
    fn ifindex(&self) -> u32;

    /// Whether it came with a VLAN tag, which the kernel keeps beside the packet.
    fn tagged(&self) -> bool;

    /// The `N` bytes at `offset`, or nothing where the readable part ends before.
    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// As [`Packet::bytes`], to write.
    fn bytes_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]>;

    /// Makes the first `len` bytes readable, where the packet has so many: the kernel may keep a packet in pieces.
    fn pull(&mut self, len: usize);
}

/// What is known: the node's pods, the services, and what sockets were told.
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

    /// The service address that a backend stands for to a socket.
    fn peer(&self, key: &PeerKey) -> Option<SockAddr>;

    /// Notes the service address that a backend stands for to a socket. False where there was no room.
    fn set_peer(&self, key: &PeerKey, service: &SockAddr) -> bool;

    /// A random number, for choosing among backends.
    fn random(&self) -> u32;

    /// Counts one packet or call.
    fn count(&self, reason: Reason);

    /// Counts one packet that ended, for the pod behind the interface that it came from.
    fn count_drop(&self, ifindex: u32, reason: Reason);
}
