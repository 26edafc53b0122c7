//! The walk outside the kernel: a packet in a vector, maps in memory. For tests, the fuzzer, and explanations.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::vec::Vec;

use crate::access::{Covered, Route};
use crate::{
    Addr, Affinity, AffinityKey, BackendKey, Config, Flow, FragmentKey, Frontend, Maps, MemberKey, Packet, PeerKey,
    Pod, Ports, Prefix, Reason, Service, Set, SockAddr, Tuple, checksum,
};

/// A packet, from its Ethernet header on, that came in by interface `ifindex`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPacket {
    /// Interface index of the host side of the pod's veth, of the uplink, or of the tunnel.
    pub ifindex: u32,
    /// It came with a VLAN tag.
    pub tagged: bool,
    /// The packet.
    pub data: Vec<u8>,
    /// Where the node's routes lead: interface and MTU, by destination.
    pub routes: HashMap<Addr, (u32, u32)>,
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

    fn load<const N: usize>(&self, offset: usize) -> Result<[u8; N], Reason> {
        self.bytes(offset).copied().ok_or(Reason::Truncated)
    }

    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Reason> {
        *self.bytes_mut(offset).ok_or(Reason::Truncated)? = *bytes;
        Ok(())
    }

    fn update_checksum(&mut self, offset: usize, change: u32, _covered: Covered, optional: bool) -> Result<(), Reason> {
        let field = self.bytes_mut::<2>(offset).ok_or(Reason::Truncated)?;
        let check = u16::from_ne_bytes(*field);
        if !(optional && check == 0) {
            let check = checksum::update(check, change);
            *field = if optional && check == 0 { u16::MAX } else { check }.to_ne_bytes();
        }
        Ok(())
    }

    fn length(&self, _headers: usize) -> u32 {
        self.data.len().saturating_sub(crate::header::ETHERNET) as u32
    }

    fn reshape(&mut self, end: usize, room: usize) -> Result<(), Reason> {
        self.data.truncate(end);
        self.data.splice(0..0, std::iter::repeat_n(0, room));
        Ok(())
    }

    fn route(&self, to: &Tuple, length: u32) -> Route {
        match self.routes.get(&to.destination) {
            Some((_, mtu)) if length > *mtu => Route::TooBig(*mtu),
            Some((ifindex, _)) => Route::Via(*ifindex),
            None => Route::Nowhere,
        }
    }
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
    /// Backends of sets that say who their members are.
    pub members: HashSet<MemberKey>,
    /// Tables for consistent hashing.
    pub maglev: HashMap<u32, Vec<u16>>,
    /// Who may use load-balancers' addresses.
    pub source_ranges: Vec<Prefix>,
    /// What the walk has to know of its node.
    pub config: Option<Config>,
    /// The node's own addresses.
    pub node_addresses: HashMap<Addr, u32>,
    /// Where the cluster's pods are.
    pub inside: Vec<Prefix>,
    /// Where the services' addresses are from.
    pub service_ranges: Vec<Prefix>,
    /// What sockets were told.
    pub peers: RefCell<HashMap<PeerKey, SockAddr>>,
    /// Flows under way.
    pub flows: RefCell<HashMap<Tuple, Flow>>,
    /// Their fragments.
    pub fragments: RefCell<HashMap<FragmentKey, Ports>>,
    /// Clients and their backends.
    pub affinity: RefCell<HashMap<AffinityKey, Affinity>>,
    /// Seconds since the node started.
    pub now: Cell<u32>,
    /// The next random number; each one drawn changes it.
    pub seed: Cell<u32>,
    /// What was counted, by [`Reason`].
    pub counters: RefCell<HashMap<Reason, u64>>,
    /// What ended, by the interface that it came from.
    pub drops: RefCell<HashMap<(u32, Reason), u64>>,
}

/// Whether one of these ranges holds an address, as a longest-prefix match finds out.
fn holds(ranges: &[Prefix], scope: u32, addr: Addr) -> bool {
    let bits = |prefix: &Prefix| {
        let [a, b, c, d] = prefix.scope.to_ne_bytes();
        let scope = u32::from_be_bytes([a, b, c, d]);
        (scope, u128::from_be_bytes(prefix.addr.bytes()))
    };
    let wanted = bits(&Prefix::of(scope, addr));
    ranges.iter().any(|range| {
        let (scope, addr) = bits(range);
        let shift = 160 - range.length.max(32);
        let same = |a: u128, b: u128| a.checked_shr(shift) == b.checked_shr(shift);
        scope == wanted.0 && same(addr, wanted.1)
    })
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

    fn is_member(&self, key: &MemberKey) -> bool {
        self.members.contains(key)
    }

    fn maglev(&self, set: u32, index: u32) -> Option<u32> {
        Some(u32::from(*self.maglev.get(&set)?.get(index as usize)?))
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.affinity.borrow().get(key).copied()
    }

    fn set_affinity(&self, key: &AffinityKey, affinity: &Affinity) {
        self.affinity.borrow_mut().insert(*key, *affinity);
    }

    fn in_source_ranges(&self, set: u32, client: Addr) -> bool {
        holds(&self.source_ranges, set, client)
    }

    fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    fn node_address(&self, addr: &Addr) -> Option<u32> {
        self.node_addresses.get(addr).copied()
    }

    fn is_inside(&self, addr: Addr) -> bool {
        holds(&self.inside, 0, addr)
    }

    fn in_service_ranges(&self, addr: Addr) -> bool {
        holds(&self.service_ranges, 0, addr)
    }

    fn peer(&self, key: &PeerKey) -> Option<SockAddr> {
        self.peers.borrow().get(key).copied()
    }

    fn set_peer(&self, key: &PeerKey, service: &SockAddr) -> bool {
        self.peers.borrow_mut().insert(*key, *service);
        true
    }

    fn with_flow<T>(&self, key: &Tuple, look: impl FnOnce(&mut Flow) -> T) -> Option<T> {
        self.flows.borrow_mut().get_mut(key).map(look)
    }

    fn set_flow(&self, key: &Tuple, flow: &Flow) {
        self.flows.borrow_mut().insert(*key, *flow);
    }

    fn add_flow(&self, key: &Tuple, flow: &Flow) -> bool {
        let new = !self.flows.borrow().contains_key(key);
        if new {
            self.set_flow(key, flow);
        }
        new
    }

    fn fragment(&self, key: &FragmentKey) -> Option<Ports> {
        self.fragments.borrow().get(key).copied()
    }

    fn set_fragment(&self, key: &FragmentKey, ports: &Ports) {
        self.fragments.borrow_mut().insert(*key, *ports);
    }

    fn now(&self) -> u32 {
        self.now.get()
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
