//! The entry points, one for each hook.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{bpf_redirect_neigh, bpf_redirect_peer};
use aya_ebpf::macros::{cgroup_sock_addr, classifier};
use aya_ebpf::programs::{SockAddrContext, TcContext};
use weft_packet::layout::REFUSE_MARK;
use weft_packet::service::{self, Caller};
use weft_packet::{Packet, Verdict, node, pod};

use crate::kernel::{Call, Skb};
use crate::maps::{self, KernelMaps, within_limit};

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

/// tcx ingress on the host side of a pod's veth: what the pod sends.
#[classifier]
fn from_pod(context: TcContext) -> i32 {
    let mut packet = Skb(context);
    let Some(scratch) = maps::scratch() else {
        return TC_ACT_SHOT as i32;
    };
    let verdict = pod::from_pod(&mut packet, &KernelMaps, scratch);
    act(&packet, verdict)
}

/// tcx ingress of an uplink, or of the tunnel: what other hosts send.
#[classifier]
fn from_outside(context: TcContext) -> i32 {
    let mut packet = Skb(context);
    let Some(scratch) = maps::scratch() else {
        return TC_ACT_SHOT as i32;
    };
    let verdict = node::from_outside(&mut packet, &KernelMaps, scratch);
    act(&packet, verdict)
}

/// tcx egress of an uplink, or of the tunnel: what other hosts get.
#[classifier]
fn to_outside(context: TcContext) -> i32 {
    let mut packet = Skb(context);
    let Some(scratch) = maps::scratch() else {
        return TC_ACT_SHOT as i32;
    };
    let verdict = node::to_outside(&mut packet, &KernelMaps, scratch);
    act(&packet, verdict)
}

/// In front of it, of a pod with a limit of what it sends.
#[classifier]
fn limit_pod(context: TcContext) -> i32 {
    let skb = Skb(context);
    if within_limit(skb.ifindex(), skb.on_wire()) {
        TC_ACT_UNSPEC
    } else {
        TC_ACT_SHOT as i32
    }
}

#[inline(always)]
fn act(packet: &Skb, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass(_) => TC_ACT_UNSPEC,
        // SAFETY: a helper that takes plain numbers.
        Verdict::Deliver(_, ifindex) => unsafe { bpf_redirect_peer(ifindex, 0) as i32 },
        // SAFETY: as above; without a neighbour, the kernel looks for one.
        Verdict::Send(_, ifindex) => unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 },
        Verdict::Refuse(_) => {
            packet.0.set_mark(REFUSE_MARK);
            TC_ACT_UNSPEC
        }
        Verdict::Drop(_) => TC_ACT_SHOT as i32,
    }
}

/// An IPv4 socket connects.
#[cgroup_sock_addr(connect4)]
fn connect4(context: SockAddrContext) -> i32 {
    let call = Call::new(&context);
    let outcome = service::connect(&KernelMaps, &call.address4(), call.protocol(), &call);
    call.finish(outcome, Call::set4)
}

/// An IPv6 socket connects, perhaps to a v4-mapped address.
#[cgroup_sock_addr(connect6)]
fn connect6(context: SockAddrContext) -> i32 {
    let call = Call::new(&context);
    let outcome = service::connect(&KernelMaps, &call.address6(), call.protocol(), &call);
    call.finish(outcome, Call::set6)
}

/// A UDP socket sends to an IPv4 address that it names.
#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(context: SockAddrContext) -> i32 {
    let call = Call::new(&context);
    let outcome = service::send(&KernelMaps, &call.address4(), call.protocol(), &call);
    call.finish(outcome, Call::set4)
}

/// A UDP socket sends to an IPv6 address that it names.
#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(context: SockAddrContext) -> i32 {
    let call = Call::new(&context);
    let outcome = service::send(&KernelMaps, &call.address6(), call.protocol(), &call);
    call.finish(outcome, Call::set6)
}

#[inline(always)]
fn source4(context: &SockAddrContext) -> i32 {
    let call = Call::new(context);
    if let Some(service) = service::source(&KernelMaps, &call.address4(), call.socket()) {
        call.set4(&service);
    }
    1
}

#[inline(always)]
fn source6(context: &SockAddrContext) -> i32 {
    let call = Call::new(context);
    if let Some(service) = service::source(&KernelMaps, &call.address6(), call.socket()) {
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
