//! The entry points, one for each hook.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_redirect_peer;
use aya_ebpf::macros::{cgroup_sock_addr, classifier};
use aya_ebpf::programs::{SockAddrContext, TcContext};
use weft_packet::{Verdict, pod, service};

use crate::kernel::{Call, Skb};
use crate::maps::KernelMaps;

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

/// tcx ingress on the host side of a pod's veth: what the pod sends.
#[classifier]
fn from_pod(context: TcContext) -> i32 {
    act(pod::from_pod(&mut Skb(context), &KernelMaps))
}

#[inline(always)]
fn act(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass(_) => TC_ACT_UNSPEC,
        // SAFETY: a helper that takes plain numbers.
        Verdict::Deliver(_, ifindex) => unsafe { bpf_redirect_peer(ifindex, 0) as i32 },
        Verdict::Drop(_) => TC_ACT_SHOT as i32,
    }
}

/// An IPv4 socket connects.
#[cgroup_sock_addr(connect4)]
fn connect4(context: SockAddrContext) -> i32 {
    let call = Call::new(&context);
    let outcome = service::connect(&KernelMaps, &call.address4(), call.protocol(), || call.cookie());
    call.finish(outcome, Call::set4)
}

/// An IPv6 socket connects, perhaps to a v4-mapped address.
#[cgroup_sock_addr(connect6)]
fn connect6(context: SockAddrContext) -> i32 {
    let call = Call::new(&context);
    let outcome = service::connect(&KernelMaps, &call.address6(), call.protocol(), || call.cookie());
    call.finish(outcome, Call::set6)
}

/// A UDP socket sends to an IPv4 address that it names.
#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(context: SockAddrContext) -> i32 {
    let call = Call::new(&context);
    let outcome = service::send(&KernelMaps, &call.address4(), call.protocol(), || call.cookie());
    call.finish(outcome, Call::set4)
}

/// A UDP socket sends to an IPv6 address that it names.
#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(context: SockAddrContext) -> i32 {
    let call = Call::new(&context);
    let outcome = service::send(&KernelMaps, &call.address6(), call.protocol(), || call.cookie());
    call.finish(outcome, Call::set6)
}

#[inline(always)]
fn source4(context: &SockAddrContext) -> i32 {
    let call = Call::new(context);
    if let Some(service) = service::source(&KernelMaps, &call.address4(), call.cookie()) {
        call.set4(&service);
    }
    1
}

#[inline(always)]
fn source6(context: &SockAddrContext) -> i32 {
    let call = Call::new(context);
    if let Some(service) = service::source(&KernelMaps, &call.address6(), call.cookie()) {
        call.set6(&service);
    }
    1
}

/// A UDP socket got a datagram over IPv4 and is told from whom.
#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(context: SockAddrContext) -> i32 {
    source4(&context)
}

/// A UDP socket got a datagram over IPv6 (or v4-mapped) and is told from whom.
#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(context: SockAddrContext) -> i32 {
    source6(&context)
}

/// A socket asks for its IPv4 peer.
#[cgroup_sock_addr(getpeername4)]
fn getpeername4(context: SockAddrContext) -> i32 {
    source4(&context)
}

/// A socket asks for its IPv6 (or v4-mapped) peer.
#[cgroup_sock_addr(getpeername6)]
fn getpeername6(context: SockAddrContext) -> i32 {
    source6(&context)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: never reached: the verifier refuses programs that could; the linker drops it.
    unsafe { core::hint::unreachable_unchecked() }
}
