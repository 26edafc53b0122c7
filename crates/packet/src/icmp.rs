//! Errors about a service's packets (RFC 792, RFC 4443): those of others are turned back to whom they concern, those of
//! this node are made here. So path MTU discovery and `traceroute` work through a service.

use core::num::NonZeroU32;

use crate::access::{Covered, Packet};
use crate::checksum::{self, Change};
use crate::datagram::{self, Datagram, ICMP, ICMPV6, Part, SCTP, TCP, UDP};
use crate::header::{self, ETHERNET};
use crate::transit::{self, Hop, Next, Origin, Scratch};
use crate::{Addr, Flow, Maps, Port, Reason, Tuple, Verdict};

/// Length of the header of an error, which the packet in question follows.
const ICMP_HEADER: usize = 8;

/// Turns an error about a translated packet: who sent that packet gets the error as if about what it had sent.
/// Nothing: it is about another's packet.
///
/// Transport checksums inside are left as they are: the quote is cut short, so nobody can check them.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn translate<P: Packet, M: Maps>(
    packet: &mut P,
    maps: &M,
    scratch: &mut Scratch,
    origin: Origin,
) -> Result<Option<Verdict>, Reason> {
    let Scratch {
        datagram: error,
        flow,
        reply: Flow { to: outer, .. },
        key: inner,
        next,
        ..
    } = scratch;
    let quote = error.transport + ICMP_HEADER;
    let Some(ports) = quoted(packet, error, quote, inner)? else {
        return Ok(None);
    };
    if maps.with_flow(&inner.reversed(), |found| *flow = *found).is_none() {
        return Ok(None);
    }
    *outer = error.tuple;
    outer.destination = flow.to.destination;
    // The error comes from where the packet went to, or from a router on the way, which keeps its address.
    if error.tuple.source == inner.destination {
        outer.source = flow.to.source;
    }
    let hop = match origin {
        Origin::Node => Hop::Here,
        _ => transit::hop(packet, maps, outer, flow, ICMP_HEADER, next)?,
    };
    let hops = u8::from(hop != Hop::Here);
    if error.ttl <= hops {
        return Err(Reason::NoRoute);
    }

    let addresses = Change::default()
        .addr(error.tuple.source, outer.source)
        .addr(error.tuple.destination, outer.destination)
        .sum();
    error.rewrite_addresses(packet, outer, hops, addresses)?;
    let check = error.transport + 2;
    if error.v6 {
        packet.update_checksum(check, addresses, Covered::Addresses, false)?;
    }
    flow.to = flow.to.reversed();
    let change = requote(packet, error, quote, inner, &flow.to)?;
    packet.update_checksum(check, change, Covered::Payload, false)?;
    packet.store(ports, &datagram::port_bytes(&flow.to))?;
    transit::leave(packet, hop, next).map(Some)
}

/// Reads the addresses of the packet that an error quotes. Returns where its ports are.
#[inline(always)]
fn quoted<P: Packet>(packet: &P, error: &Datagram, at: usize, inner: &mut Tuple) -> Result<Option<usize>, Reason> {
    let transport = if error.v6 {
        let (Ok(source), Ok(destination), Ok([protocol])) =
            (packet.load(at + 8), packet.load(at + 24), packet.load(at + 6))
        else {
            return Ok(None);
        };
        inner.source = Addr::from_v6_bytes(source);
        inner.destination = Addr::from_v6_bytes(destination);
        inner.protocol = u32::from(protocol);
        at + 40
    } else {
        let Ok(h) = packet.load::<20>(at) else { return Ok(None) };
        // A later fragment has no ports; options hide them.
        if h[0] != 0x45 || u16::from_be_bytes([h[6], h[7]]) & 0x1fff != 0 {
            return Ok(None);
        }
        inner.source = Addr::from_v4_bytes([h[12], h[13], h[14], h[15]]);
        inner.destination = Addr::from_v4_bytes([h[16], h[17], h[18], h[19]]);
        inner.protocol = u32::from(h[9]);
        at + 20
    };
    if !matches!(inner.protocol, TCP | UDP | SCTP) {
        return Ok(None);
    }
    let Ok(h) = packet.load::<4>(transport) else {
        return Ok(None);
    };
    (inner.source_port, inner.destination_port) = datagram::ports(h);
    Ok(Some(transport))
}

/// Rewrites the IP header that an error quotes. Returns what the error's checksum changes by, ports included.
#[inline(always)]
fn requote<P: Packet>(packet: &mut P, error: &Datagram, at: usize, old: &Tuple, new: &Tuple) -> Result<u32, Reason> {
    let addresses = Change::default()
        .addr(old.source, new.source)
        .addr(old.destination, new.destination);
    let mut change = addresses
        .half(old.source_port.wire(), new.source_port.wire())
        .half(old.destination_port.wire(), new.destination_port.wire());
    if error.v6 {
        packet.store(at + 8, &new.source.bytes())?;
        packet.store(at + 24, &new.destination.bytes())?;
    } else {
        let check = u16::from_ne_bytes(packet.load::<2>(at + 10)?);
        let updated = checksum::update(check, addresses.sum());
        change = change.half(check, updated);
        packet.store(at + 10, &updated.to_ne_bytes())?;
        packet.store(at + 12, &new.source.v4_bytes())?;
        packet.store(at + 16, &new.destination.v4_bytes())?;
    }
    Ok(change.sum())
}

/// The largest packet that the way to a backend takes, in bytes; none: the packet has been under way for too long.
pub(crate) type TooBig = Option<NonZeroU32>;

/// Type, code and the word after the checksum of what this node has to say about a packet.
#[inline(always)]
const fn header(error: TooBig, v6: bool) -> ([u8; 2], u32) {
    match (error, v6) {
        (Some(mtu), false) => ([3, 4], mtu.get()),
        (Some(mtu), true) => ([2, 0], mtu.get()),
        (None, false) => ([11, 0], 0),
        (None, true) => ([3, 0], 0),
    }
}

/// Makes an error of the packet that it is about, and sends it back to where that came from. It quotes the packet's IP
/// header and the 8 bytes after it, which every receiver makes do with.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn answer<P: Packet, M: Maps>(
    packet: &mut P,
    maps: &M,
    about: &Datagram,
    next: &mut Next,
    error: TooBig,
) -> Result<Verdict, Reason> {
    // Nobody is told of fragments without ports (RFC 1122, 3.2.2).
    if about.part == Part::Later {
        return Err(Reason::ServiceTooBig);
    }
    let config = maps.config().ok_or(Reason::NoRoute)?;
    let own = if about.v6 { config.v6 } else { config.v4 };
    let tuple = Tuple {
        source: if own.is_unspecified_v6() {
            about.tuple.destination
        } else {
            own
        },
        destination: about.tuple.source,
        source_port: Port::from_host(0),
        destination_port: Port::from_host(0),
        protocol: if about.v6 { ICMPV6 } else { ICMP },
    };
    if about.v6 {
        answer_v6(packet, &tuple, error)?;
    } else {
        answer_v4(packet, &tuple, error)?;
    }
    let hop = match maps.pod(&tuple.destination) {
        Some(pod) => {
            next.pod = pod;
            Hop::Pod
        }
        None => {
            next.number = packet.ifindex();
            Hop::Out
        }
    };
    let reason = if error.is_some() {
        Reason::TooBig
    } else {
        Reason::TimeExceeded
    };
    Ok(match transit::leave(packet, hop, next)? {
        Verdict::Deliver(_, ifindex) => Verdict::Deliver(reason, ifindex),
        Verdict::Send(_, ifindex) => Verdict::Send(reason, ifindex),
        other => other,
    })
}

/// How long an answer's packets live.
const TTL: u8 = 64;

#[inline(always)]
fn answer_v4<P: Packet>(packet: &mut P, tuple: &Tuple, error: TooBig) -> Result<(), Reason> {
    const QUOTE: usize = 20 + 8;
    const ROOM: usize = 20 + ICMP_HEADER;
    const START: usize = ETHERNET + ROOM;
    let quoted = sum(header::start::<{ ETHERNET + QUOTE }, P>(packet)?, ETHERNET, QUOTE);
    packet.reshape(ETHERNET + QUOTE, ROOM)?;
    packet.pull(START);
    let h = packet.bytes_mut::<START>(0).ok_or(Reason::Truncated)?;
    header::put(h, 0, header::fourteen(h, ROOM));
    let ip = [
        0x45,
        0xc0,
        0,
        (ROOM + QUOTE) as u8,
        0,
        0,
        0x40,
        0,
        TTL,
        ICMP as u8,
        0,
        0,
    ];
    header::put(h, ETHERNET, ip);
    header::put(h, ETHERNET + 12, tuple.source.v4_bytes());
    header::put(h, ETHERNET + 16, tuple.destination.v4_bytes());
    let check = checksum::fold(sum(h, ETHERNET, 20));
    header::put(h, ETHERNET + 10, check.to_ne_bytes());
    message(h, ETHERNET + 20, header(error, false), quoted);
    Ok(())
}

#[inline(always)]
fn answer_v6<P: Packet>(packet: &mut P, tuple: &Tuple, error: TooBig) -> Result<(), Reason> {
    const QUOTE: usize = 40 + 8;
    const ROOM: usize = 40 + ICMP_HEADER;
    const START: usize = ETHERNET + ROOM;
    const LENGTH: u8 = (ICMP_HEADER + QUOTE) as u8;
    let quoted = sum(header::start::<{ ETHERNET + QUOTE }, P>(packet)?, ETHERNET, QUOTE);
    packet.reshape(ETHERNET + QUOTE, ROOM)?;
    packet.pull(START);
    let h = packet.bytes_mut::<START>(0).ok_or(Reason::Truncated)?;
    header::put(h, 0, header::fourteen(h, ROOM));
    header::put(h, ETHERNET, [0x60, 0, 0, 0, 0, LENGTH, ICMPV6 as u8, TTL]);
    header::put(h, ETHERNET + 8, tuple.source.bytes());
    header::put(h, ETHERNET + 24, tuple.destination.bytes());
    // The pseudo header: addresses, length and protocol (RFC 8200, 8.1).
    let words = u16::from(LENGTH) + ICMPV6 as u16;
    let pseudo = sum(h, ETHERNET + 8, 32) + u64::from(words.to_be());
    message(h, ETHERNET + 40, header(error, true), quoted + pseudo);
    Ok(())
}

/// Puts the header of an error to a place, with its checksum; `rest` is the sum of what else that covers.
#[inline(always)]
fn message<const N: usize>(h: &mut [u8; N], at: usize, (kind, word): ([u8; 2], u32), rest: u64) {
    header::put(h, at, kind);
    header::put(h, at + 2, [0, 0]);
    header::put(h, at + 4, word.to_be_bytes());
    let check = checksum::fold(sum(h, at, ICMP_HEADER) + rest);
    header::put(h, at + 2, check.to_ne_bytes());
}

/// The sum of the 16-bit words at a place, as they are in memory.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn sum<const N: usize>(bytes: &[u8; N], at: usize, length: usize) -> u64 {
    let mut sum = 0;
    let mut i = at;
    while i < at + length {
        sum += u64::from(u16::from_ne_bytes([bytes[i], bytes[i + 1]]));
        i += 2;
    }
    sum
}
