//! The maps, and how the walk looks things up in them. Names, keys and values are those of `weft_packet::layout`.

use core::ptr::from_ref;

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST, bpf_fib_lookup};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap};
use weft_packet::{
    Addr, Affinity, AffinityKey, BackendKey, Config, Flow, FragmentKey, Frontend, Interface, Limit, Maglev, Maps,
    MemberKey, PeerKey, Pod, Ports, Prefix, Reason, Scratch, Service, Set, SockAddr, Tuple, limit,
};

use crate::kernel::Word;

/// Both addresses of 2,048 pods, and room to grow. Few, and on the way of every packet: allocated ahead.
#[map]
static PODS: HashMap<Addr, Pod> = HashMap::with_max_entries(8 << 10, 0);

/// As many as pods have interfaces; the same for each CPU but for what it counts.
#[map]
static INTERFACES: PerCpuHashMap<u32, Interface> = PerCpuHashMap::with_max_entries(8 << 10, BPF_F_NO_PREALLOC);

/// As many as pods have limits of what they send.
#[map]
static LIMITS: HashMap<u32, Limit> = HashMap::with_max_entries(8 << 10, BPF_F_NO_PREALLOC);

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

/// Each CPU's place to work in.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// The place that the walk of this packet works in; there always is one, which only the verifier doubts.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: this CPU's own, and the kernel starts no other packet's program on it before this one ends. It starts as
    // zeroes, which its type has as a value, and only the walk writes to it.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

/// Each CPU's question to the node's routes: as the place to work in.
#[map]
static FIB: PerCpuArray<bpf_fib_lookup> = PerCpuArray::with_max_entries(1, 0);

/// The question's place.
#[inline(always)]
pub(crate) fn fib() -> Option<&'static mut bpf_fib_lookup> {
    // SAFETY: as in `scratch`; integers only.
    FIB.get_ptr_mut(0).map(|lookup| unsafe { &mut *lookup })
}

/// What follows the length in a [`weft_packet::Prefix`]: a scope and an address.
type Scoped = [u8; 20];

/// Whether a range in a map holds what this prefix does.
#[inline(always)]
fn holds(ranges: &LpmTrie<Scoped, u32>, prefix: &Prefix) -> bool {
    const { assert!(size_of::<Prefix>() == size_of::<Key<Scoped>>()) }
    // SAFETY: both start with the length and go on with as many bytes, none of them padding; the alignment that a
    // key asks for is the smallest there is.
    ranges
        .get(unsafe { &*from_ref(prefix).cast::<Key<Scoped>>() })
        .is_some()
}

/// Whether the pod behind an interface may send so many bytes now. One without a limit may.
#[inline(always)]
pub(crate) fn within_limit(ifindex: u32, bytes: u64) -> bool {
    let Some(found) = LIMITS.get_ptr_mut(&ifindex) else {
        return true;
    };
    // SAFETY: a pointer to a value, which the verifier has seen checked; the agent replaces it as a whole, and all that
    // any CPU writes to is `full_at`, and that in one step.
    let (rate, room, full_at) = unsafe { ((*found).rate, (*found).room, Word(&raw mut (*found).full_at)) };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    limit::take(&full_at, rate, room, bytes, now)
}

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
    fn is_member(&self, key: &MemberKey) -> bool {
        MEMBERS.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn maglev(&self, set: u32, index: u32) -> Option<u32> {
        let table = MAGLEV.get_ptr(&set)?;
        // SAFETY: a local variable. Volatile: the compiler knows that the index is within the table and would leave the
        // check out, which the verifier wants to see.
        let index = unsafe { (&raw const index).read_volatile() } as usize;
        if index < Maglev::SIZE {
            // SAFETY: a pointer that the verifier has seen checked, and an index within the table.
            Some(u32::from(unsafe {
                *(&raw const (*table).slots).cast::<u16>().add(index)
            }))
        } else {
            None
        }
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        // SAFETY: as in `pod`.
        unsafe { AFFINITY.get(key) }.copied()
    }

    #[inline(always)]
    fn set_affinity(&self, key: &AffinityKey, affinity: &Affinity) {
        // Without room, the client's next connection chooses anew.
        let _ = AFFINITY.insert(key, affinity, 0);
    }

    #[inline(always)]
    fn in_source_ranges(&self, set: u32, client: Addr) -> bool {
        holds(&SOURCE_RANGES, &Prefix::of(set, client))
    }

    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        CONFIG.get(0)
    }

    #[inline(always)]
    fn node_address(&self, addr: &Addr) -> Option<u32> {
        // SAFETY: as in `pod`.
        unsafe { NODE_ADDRESSES.get(addr) }.copied()
    }

    #[inline(always)]
    fn is_inside(&self, addr: Addr) -> bool {
        holds(&INSIDE, &Prefix::of(0, addr))
    }

    #[inline(always)]
    fn in_service_ranges(&self, addr: Addr) -> bool {
        holds(&SERVICE_RANGES, &Prefix::of(0, addr))
    }

    #[inline(always)]
    fn with_flow<T>(&self, key: &Tuple, look: impl FnOnce(&mut Flow) -> T) -> Option<T> {
        // SAFETY: a pointer that the verifier has seen checked. Another CPU may change the flow meanwhile: of its
        // fields, only the time and the flags ever change, and a lost change of those does no harm.
        FLOWS.get_ptr_mut(key).map(|flow| look(unsafe { &mut *flow }))
    }

    #[inline(always)]
    fn set_flow(&self, key: &Tuple, flow: &Flow) {
        // Without room, the next packet decides anew.
        let _ = FLOWS.insert(key, flow, 0);
    }

    #[inline(always)]
    fn add_flow(&self, key: &Tuple, flow: &Flow) -> bool {
        FLOWS.insert(key, flow, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<Ports> {
        // SAFETY: as in `pod`.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_fragment(&self, key: &FragmentKey, ports: &Ports) {
        // Without room, the fragments that follow go the way of packets that are no service's.
        let _ = FRAGMENTS.insert(key, ports, 0);
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: a helper without arguments.
        (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
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
