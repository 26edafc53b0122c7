//! The walk outside the kernel: a packet in a vector, maps in memory. For tests, the fuzzer, and explanations.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::vec::Vec;

use crate::{Addr, BackendKey, Frontend, Maps, Packet, PeerKey, Pod, Reason, Service, Set, SockAddr};

/// A packet, from its Ethernet header on, that came from the pod behind interface `ifindex`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPacket {
    /// Interface index of the host side of the pod's veth.
    pub ifindex: u32,
    /// It came with a VLAN tag.
    pub tagged: bool,
    /// The packet.
    pub data: Vec<u8>,
}

impl Packet for HostPacket {
    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn tagged(&self) -> bool {
        self.tagged
    }

    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.data.get(offset..)?.first_chunk()
    }

    fn bytes_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.data.get_mut(offset..)?.first_chunk_mut()
    }

    fn pull(&mut self, _len: usize) {}
}

/// The maps, with contents of one's own.
#[derive(Debug, Default)]
pub struct HostMaps {
    /// The node's pods.
    pub pods: HashMap<Addr, Pod>,
    /// Their Ethernet addresses, by interface.
    pub macs: HashMap<u32, [u8; 6]>,
    /// The services.
    pub frontends: HashMap<Frontend, Service>,
    /// Sets of backends.
    pub sets: HashMap<u32, Set>,
    /// Their backends.
    pub backends: HashMap<BackendKey, SockAddr>,
    /// What sockets were told.
    pub peers: RefCell<HashMap<PeerKey, SockAddr>>,
    /// The next random number; each one drawn changes it.
    pub seed: Cell<u32>,
    /// What was counted, by [`Reason`].
    pub counters: RefCell<HashMap<Reason, u64>>,
    /// What ended, by the interface that it came from.
    pub drops: RefCell<HashMap<(u32, Reason), u64>>,
}

impl Maps for HostMaps {
    fn pod(&self, addr: &Addr) -> Option<Pod> {
        self.pods.get(addr).copied()
    }

    fn mac(&self, ifindex: u32) -> Option<[u8; 6]> {
        self.macs.get(&ifindex).copied()
    }

    fn frontend(&self, frontend: &Frontend) -> Option<Service> {
        self.frontends.get(frontend).copied()
    }

    fn set(&self, set: u32) -> Option<Set> {
        self.sets.get(&set).copied()
    }

    fn backend(&self, key: &BackendKey) -> Option<SockAddr> {
        self.backends.get(key).copied()
    }

    fn peer(&self, key: &PeerKey) -> Option<SockAddr> {
        self.peers.borrow().get(key).copied()
    }

    fn set_peer(&self, key: &PeerKey, service: &SockAddr) -> bool {
        self.peers.borrow_mut().insert(*key, *service);
        true
    }

    fn random(&self) -> u32 {
        // A linear congruential generator (Knuth's numbers): all that a test needs.
        let next = self.seed.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.seed.set(next);
        next
    }

    fn count(&self, reason: Reason) {
        *self.counters.borrow_mut().entry(reason).or_default() += 1;
    }

    fn count_drop(&self, ifindex: u32, reason: Reason) {
        *self.drops.borrow_mut().entry((ifindex, reason)).or_default() += 1;
    }
}
