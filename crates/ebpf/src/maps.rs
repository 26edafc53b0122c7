//! The maps, and how the walk looks things up in them. Names, keys and values are those of `weft_packet::layout`.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap};
use weft_packet::{
    Addr, Affinity, AffinityKey, BackendKey, Config, Flow, FragmentKey, Frontend, Interface, Maglev, Maps, MemberKey,
    PeerKey, Pod, Ports, Reason, Service, Set, SockAddr, Tuple,
};

/// Both addresses of 2,048 pods, and room to grow. Few, and on the way of every packet: allocated ahead.
#[map]
static PODS: HashMap<Addr, Pod> = HashMap::with_max_entries(8 << 10, 0);

/// As many as pods have interfaces; the same for each CPU but for what it counts.
#[map]
static INTERFACES: PerCpuHashMap<u32, Interface> = PerCpuHashMap::with_max_entries(8 << 10, BPF_F_NO_PREALLOC);

// What is large in large clusters only takes memory for what it holds.
#[map]
static FRONTENDS: HashMap<Frontend, Service> = HashMap::with_max_entries(64 << 10, BPF_F_NO_PREALLOC);

#[map]
static SETS: HashMap<u32, Set> = HashMap::with_max_entries(64 << 10, BPF_F_NO_PREALLOC);

#[map]
static BACKENDS: HashMap<BackendKey, SockAddr> = HashMap::with_max_entries(256 << 10, BPF_F_NO_PREALLOC);

#[map]
static MEMBERS: HashMap<MemberKey, u32> = HashMap::with_max_entries(256 << 10, BPF_F_NO_PREALLOC);

#[map]
static MAGLEV: HashMap<u32, Maglev> = HashMap::with_max_entries(16 << 10, BPF_F_NO_PREALLOC);

#[map]
static SOURCE_RANGES: LpmTrie<Scoped, u32> = LpmTrie::with_max_entries(16 << 10, 0);

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

#[map]
static NODE_ADDRESSES: HashMap<Addr, u32> = HashMap::with_max_entries(1 << 10, BPF_F_NO_PREALLOC);

#[map]
static INSIDE: LpmTrie<Scoped, u32> = LpmTrie::with_max_entries(16 << 10, 0);

#[map]
static SERVICE_RANGES: LpmTrie<Scoped, u32> = LpmTrie::with_max_entries(64, 0);

/// Flows end without telling, as far as UDP goes: the least recently used give way.
#[map]
static FLOWS: LruHashMap<Tuple, Flow> = LruHashMap::with_max_entries(64 << 10, 0);

#[map]
static FRAGMENTS: LruHashMap<FragmentKey, Ports> = LruHashMap::with_max_entries(4 << 10, 0);

#[map]
static AFFINITY: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(32 << 10, 0);

/// Sockets come and go without telling: the least recently used give way.
#[map]
static PEERS: LruHashMap<PeerKey, SockAddr> = LruHashMap::with_max_entries(64 << 10, 0);

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::ALL.len() as u32, 0);

/// What follows the length in a [`weft_packet::Prefix`]: a scope and an address.
type Scoped = [u8; 20];

/// The kernel's maps, as the walk sees them.
pub(crate) struct KernelMaps;

impl Maps for KernelMaps {
    #[inline(always)]
    fn pod(&self, addr: &Addr) -> Option<Pod> {
        // SAFETY: the value is copied at once; what another CPU may do meanwhile is replace it as a whole.
        unsafe { PODS.get(addr) }.copied()
    }

    #[inline(always)]
    fn mac(&self, ifindex: u32) -> Option<[u8; 6]> {
        // SAFETY: as in `pod`.
        unsafe { INTERFACES.get(&ifindex) }.map(|interface| interface.mac)
    }

    #[inline(always)]
    fn frontend(&self, frontend: &Frontend) -> Option<Service> {
        // SAFETY: as in `pod`.
        unsafe { FRONTENDS.get(frontend) }.copied()
    }

    #[inline(always)]
    fn set(&self, set: u32) -> Option<Set> {
        // SAFETY: as in `pod`.
        unsafe { SETS.get(&set) }.copied()
    }

    #[inline(always)]
    fn backend(&self, key: &BackendKey) -> Option<SockAddr> {
        // SAFETY: as in `pod`.
        unsafe { BACKENDS.get(key) }.copied()
    }

    #[inline(always)]
    fn peer(&self, key: &PeerKey) -> Option<SockAddr> {
        // SAFETY: as in `pod`.
        unsafe { PEERS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_peer(&self, key: &PeerKey, service: &SockAddr) -> bool {
        PEERS.insert(key, service, 0).is_ok()
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn count(&self, reason: Reason) {
        if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
            // SAFETY: a pointer into this CPU's own slot, which the verifier has seen checked.
            unsafe { *counter += 1 };
        }
    }

    #[inline(always)]
    fn count_drop(&self, ifindex: u32, reason: Reason) {
        if let Some(index) = reason.drop_index()
            && let Some(interface) = INTERFACES.get_ptr_mut(&ifindex)
        {
            // SAFETY: a pointer to this CPU's own value, which the verifier has seen checked; `drop_index` is within
            // the array.
            unsafe { *(&raw mut (*interface).drops).cast::<u64>().add(index) += 1 };
        }
    }
}
