//! The kernel's contexts as the walk sees them: packets of tc hooks, addresses of socket hooks.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::programs::{SockAddrContext, TcContext};
use weft_packet::service::Outcome;
use weft_packet::{Addr, Packet, Port, SockAddr};

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

    /// The number that the kernel gave this socket and gives no other.
    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: a helper that takes the context it was given.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
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
