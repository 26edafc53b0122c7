//! The kernel's contexts as the walk sees them: packets of tc hooks, addresses of socket hooks.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{
    BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_FIB_LKUP_RET_UNSUPP_LWT, BPF_FIB_LOOKUP_SKIP_NEIGH, bpf_fib_lookup as FibLookup, bpf_sock_addr,
};
use aya_ebpf::helpers::{
    bpf_fib_lookup, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_l4_csum_replace, bpf_set_retval,
    bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use aya_ebpf::programs::{SockAddrContext, TcContext};
use weft_packet::access::{Covered, Route};
use weft_packet::header::ETHERNET;
use weft_packet::limit::{self, Shared};
use weft_packet::service::{Caller, Outcome};
use weft_packet::{Addr, Maps, Packet, Port, Reason, SockAddr, Tuple};

use crate::maps::{self, KernelMaps};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `BPF_F_IPV6` of linux/bpf.h, since Linux 6.16: an IPv6 header has no checksum of its own, which counts where an
/// interface has summed up the whole packet.
const IPV6: u64 = 1 << 7;

const ECONNREFUSED: i32 = 111;

/// A packet at a tc hook.
pub(crate) struct Skb(pub(crate) TcContext);

impl Skb {
    /// Where `N` bytes at `offset` are, if the readable part holds them. The form of this check is what the verifier
    /// recognises: start and end read anew, one addition, one comparison.
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<*mut [u8; N]> {
        // SAFETY: the kernel hands the program a valid context, and lets it read these fields. Volatile: a word that the
        // compiler keeps and widens later is no end of a packet to the verifier any more.
        let (data, end) = unsafe {
            let skb = self.0.skb.skb;
            (
                (&raw const (*skb).data).read_volatile() as usize,
                (&raw const (*skb).data_end).read_volatile() as usize,
            )
        };
        let start = data + offset;
        if start + N > end {
            None
        } else {
            Some(start as *mut [u8; N])
        }
    }
}

impl Skb {
    /// Its bytes on a wire.
    #[inline(always)]
    pub(crate) fn on_wire(&self) -> u64 {
        // SAFETY: the kernel hands the program a valid context, and lets it read these fields.
        let (len, segments) = unsafe { ((*self.0.skb.skb).len, (*self.0.skb.skb).gso_segs) };
        limit::on_wire(len, segments)
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the kernel hands the program a valid context, and lets it read this field.
        unsafe { (*self.0.skb.skb).ifindex }
    }

    #[inline(always)]
    fn tagged(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.0.skb.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        // SAFETY: `at` has checked the bounds; `pull`, which moves packets, needs `&mut self`.
        self.at(offset).map(|p| unsafe { &*p })
    }

    #[inline(always)]
    fn bytes_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        // SAFETY: as in `bytes`, and nothing else borrows the packet.
        self.at(offset).map(|p| unsafe { &mut *p })
    }

    #[inline(always)]
    fn pull(&mut self, len: usize) {
        // A failure means that the packet is shorter, which the check that follows finds out.
        let _ = self.0.pull_data(len as u32);
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Result<[u8; N], Reason> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: a helper that writes `N` bytes, or fails and writes zeroes.
        match unsafe {
            bpf_skb_load_bytes(
                self.0.skb.skb.cast(),
                offset as u32,
                bytes.as_mut_ptr().cast(),
                N as u32,
            )
        } {
            // SAFETY: as above.
            0 => Ok(unsafe { bytes.assume_init() }),
            _ => Err(Reason::Truncated),
        }
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Reason> {
        // SAFETY: a helper that reads `N` bytes.
        let result = unsafe { bpf_skb_store_bytes(self.0.skb.skb, offset as u32, bytes.as_ptr().cast(), N as u32, 0) };
        succeeded(result)
    }

    #[inline(always)]
    fn update_checksum(&mut self, offset: usize, change: u32, covered: Covered, optional: bool) -> Result<(), Reason> {
        let pseudo = match covered {
            Covered::Addresses => u64::from(BPF_F_PSEUDO_HDR),
            Covered::Payload => 0,
        };
        let optional = if optional { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        // SAFETY: the kernel hands the program a valid context, and lets it read this field.
        let v6 = pseudo != 0 && unsafe { (*self.0.skb.skb).protocol } == u32::from(0x86dd_u16.to_be());
        // SAFETY: a helper that takes plain numbers.
        let replace = |flags| unsafe {
            bpf_l4_csum_replace(
                self.0.skb.skb,
                offset as u32,
                0,
                u64::from(change),
                pseudo | optional | flags,
            )
        };
        if v6 && replace(IPV6) == 0 {
            return Ok(());
        }
        succeeded(replace(0))
    }

    #[inline(always)]
    fn length(&self, headers: usize) -> u32 {
        // SAFETY: as in `ifindex`.
        let (segment, len) = unsafe { ((*self.0.skb.skb).gso_size, (*self.0.skb.skb).len) };
        match segment {
            0 => len.wrapping_sub(ETHERNET as u32),
            segment => segment.wrapping_add(headers as u32),
        }
    }

    #[inline(always)]
    fn reshape(&mut self, end: usize, room: usize) -> Result<(), Reason> {
        // SAFETY: helpers that take plain numbers.
        let result = unsafe {
            match bpf_skb_change_tail(self.0.skb.skb, end as u32, 0) {
                0 => bpf_skb_change_head(self.0.skb.skb, room as u32, 0),
                failed => failed,
            }
        };
        succeeded(result)
    }

    #[inline(always)]
    fn route(&self, to: &Tuple, length: u32) -> Route {
        let Some(lookup) = maps::fib() else {
            return Route::Nowhere;
        };
        // SAFETY: integers and arrays of them, for which zero is a value.
        *lookup = unsafe { MaybeUninit::zeroed().assume_init() };
        lookup.ifindex = self.ifindex();
        lookup.l4_protocol = to.protocol as u8;
        lookup.sport = to.source_port.wire();
        lookup.dport = to.destination_port.wire();
        lookup.__bindgen_anon_1.tot_len = length.min(u32::from(u16::MAX)) as u16;
        if to.destination.is_v4() {
            lookup.family = AF_INET;
            lookup.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(to.source.v4_bytes());
            lookup.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(to.destination.v4_bytes());
        } else {
            lookup.family = AF_INET6;
            lookup.__bindgen_anon_3.ipv6_src = to.source.v6_words();
            lookup.__bindgen_anon_4.ipv6_dst = to.destination.v6_words();
        }
        // SAFETY: a helper that reads and writes the structure, whose length it is told.
        let result = unsafe {
            bpf_fib_lookup(
                self.0.skb.skb.cast(),
                lookup,
                size_of::<FibLookup>() as i32,
                BPF_FIB_LOOKUP_SKIP_NEIGH,
            )
        };
        match u32::try_from(result) {
            Ok(BPF_FIB_LKUP_RET_SUCCESS) => Route::Via(lookup.ifindex),
            // SAFETY: both fields are of the same integer.
            Ok(BPF_FIB_LKUP_RET_FRAG_NEEDED) => Route::TooBig(u32::from(unsafe { lookup.__bindgen_anon_1.mtu_result })),
            // A route that says how to encapsulate is one into the tunnel.
            Ok(BPF_FIB_LKUP_RET_UNSUPP_LWT) => match KernelMaps.config() {
                Some(config) if config.tunnel != 0 => Route::Via(config.tunnel),
                _ => Route::Nowhere,
            },
            _ => Route::Nowhere,
        }
    }
}

#[inline(always)]
fn succeeded(result: i64) -> Result<(), Reason> {
    match result {
        0 => Ok(()),
        _ => Err(Reason::Truncated),
    }
}

/// A number in a map that all CPUs change.
pub(crate) struct Word(pub(crate) *mut u64);

impl Shared for Word {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: a pointer into a map's value, which the verifier has seen checked. Volatile: others write there.
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    fn replace(&self, old: u64, new: u64) -> bool {
        let mut found = old;
        // SAFETY: as in `load`. The compiler offers no such operation for this target, although the machine has it
        // (Linux 5.12, "BPF_CMPXCHG").
        unsafe {
            core::arch::asm!(
                "r0 = cmpxchg_64({at} + 0, r0, {new})",
                at = in(reg) self.0,
                new = in(reg) new,
                inout("r0") found,
            );
        }
        found == old
    }
}

/// A socket call at a cgroup hook: the address that it names.
pub(crate) struct Call(*mut bpf_sock_addr);

impl Call {
    #[inline(always)]
    pub(crate) fn new(context: &SockAddrContext) -> Self {
        Self(context.sock_addr)
    }

    /// TCP, UDP and so on, as IP numbers them.
    #[inline(always)]
    pub(crate) fn protocol(&self) -> u8 {
        // SAFETY: the kernel hands the program a valid context, and lets it read this field.
        unsafe { (*self.0).protocol as u8 }
    }

    #[inline(always)]
    fn port(&self) -> Port {
        // SAFETY: as in `protocol`. The low half holds the port, network byte order.
        Port::from_wire(unsafe { (*self.0).user_port as u16 })
    }

    /// The address of an IPv4 call.
    #[inline(always)]
    pub(crate) fn address4(&self) -> SockAddr {
        // SAFETY: as in `protocol`.
        SockAddr::new(
            Addr::from_v4_bytes(unsafe { (*self.0).user_ip4 }.to_ne_bytes()),
            self.port(),
        )
    }

    /// The address of an IPv6 call, which may be a v4-mapped one.
    #[inline(always)]
    pub(crate) fn address6(&self) -> SockAddr {
        // SAFETY: as in `protocol`. Volatile: the verifier wants each word read on its own.
        let word = |i: usize| unsafe { (&raw const (*self.0).user_ip6[i]).read_volatile() };
        SockAddr::new(Addr::from_v6_words([word(0), word(1), word(2), word(3)]), self.port())
    }

    /// Puts another address in the place of an IPv4 call's.
    #[inline(always)]
    pub(crate) fn set4(&self, to: &SockAddr) {
        // SAFETY: as in `protocol`, and these hooks may write the fields.
        unsafe {
            (&raw mut (*self.0).user_ip4).write_volatile(u32::from_ne_bytes(to.addr.v4_bytes()));
            (&raw mut (*self.0).user_port).write_volatile(u32::from(to.port.wire()));
        }
    }

    /// Puts another address in the place of an IPv6 call's.
    #[inline(always)]
    pub(crate) fn set6(&self, to: &SockAddr) {
        let words = to.addr.v6_words();
        // SAFETY: as in `set4`.
        unsafe {
            (&raw mut (*self.0).user_ip6[0]).write_volatile(words[0]);
            (&raw mut (*self.0).user_ip6[1]).write_volatile(words[1]);
            (&raw mut (*self.0).user_ip6[2]).write_volatile(words[2]);
            (&raw mut (*self.0).user_ip6[3]).write_volatile(words[3]);
            (&raw mut (*self.0).user_port).write_volatile(u32::from(to.port.wire()));
        }
    }

    /// Tells the kernel the outcome: 1 lets the call go on, 0 ends it with the error that was set.
    #[inline(always)]
    pub(crate) fn finish(&self, outcome: Outcome, set: impl FnOnce(&Self, &SockAddr)) -> i32 {
        match outcome {
            Outcome::Untouched => 1,
            Outcome::Use(backend) => {
                set(self, &backend);
                1
            }
            Outcome::Refuse(_) => {
                // SAFETY: a helper that takes a plain number.
                unsafe { bpf_set_retval(-ECONNREFUSED) };
                0
            }
        }
    }
}

impl Caller for Call {
    #[inline(always)]
    fn socket(&self) -> u64 {
        // SAFETY: a helper that takes the context it was given.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }

    #[inline(always)]
    fn netns(&self) -> u64 {
        // SAFETY: as in `socket`.
        unsafe { bpf_get_netns_cookie(self.0.cast()) }
    }
}
