//! What a pod may say about neighbours: ARP and neighbour discovery of its own address, and nothing for a router.
//!
//! Both ends of a pod's link know each other by entries that do not expire, so nothing here has to pass for the
//! network to work. What passes is what cannot mislead: claims of the pod's own addresses at its own Ethernet address.

use crate::header::{self, ETHERNET, IPV6, Ip};
use crate::sender::Sender;
use crate::{Addr, Maps, Packet, Reason};

/// Length of the headers up to the end of an ARP packet for IPv4 over Ethernet.
const ARP: usize = ETHERNET + 28;
/// Length of the headers up to the end of an ICMPv6 header (RFC 4443).
const ICMPV6: usize = IPV6 + 8;
/// Length of the headers up to the end of the target of a solicitation or an advertisement (RFC 4861, 4.3, 4.4).
const TARGET: usize = ICMPV6 + 16;
/// Length of an option that holds an Ethernet address (RFC 4861, 4.6.1), or a nonce (RFC 7527).
const OPTION: usize = 8;

/// Whether an ARP packet (RFC 826) speaks for its sender alone: a request or a reply from its own address, or a
/// request from 0.0.0.0 that asks whether its own address is taken (RFC 5227).
#[inline(always)]
pub(crate) fn arp<P: Packet, M: Maps>(packet: &mut P, maps: &M, sender: &Sender) -> Result<(), Reason> {
    let h = header::start::<ARP, P>(packet)?;
    // Ethernet, IPv4, the lengths of their addresses, and what it is: 1 asks, 2 answers.
    let asks = match [h[14], h[15], h[16], h[17], h[18], h[19], h[20], h[21]] {
        [0, 1, 0x08, 0, 6, 4, 0, 1] => true,
        [0, 1, 0x08, 0, 6, 4, 0, 2] => false,
        _ => return Err(Reason::Malformed),
    };
    let mac = header::six(h, 22);
    let claimed = match [h[28], h[29], h[30], h[31]] {
        [0, 0, 0, 0] if asks => [h[38], h[39], h[40], h[41]],
        claimed => claimed,
    };
    claim(maps, sender, &Addr::from_v4_bytes(claimed))?;
    same(mac, sender)
}

/// Whether an ICMPv6 packet is neighbour discovery (RFC 4861), which must speak for its sender alone.
#[inline(always)]
pub(crate) fn discovery<P: Packet, M: Maps>(
    packet: &mut P,
    maps: &M,
    sender: &Sender,
    ip: &Ip,
) -> Result<bool, Reason> {
    let h = header::start::<ICMPV6, P>(packet)?;
    let payload = usize::from(u16::from_be_bytes([h[18], h[19]]));
    match h[IPV6] {
        // A solicitation of routers.
        133 => {
            option::<{ ICMPV6 + OPTION }, P>(packet, payload, sender)?;
            speak(maps, sender, ip)?;
        }
        // A solicitation, and an advertisement, of neighbours.
        kind @ (135 | 136) => {
            let target = Addr::from_v6_bytes(header::sixteen(header::start::<TARGET, P>(packet)?, ICMPV6));
            option::<{ TARGET + OPTION }, P>(packet, payload, sender)?;
            speak(maps, sender, ip)?;
            // Who asks from nowhere wants the target for itself (RFC 4862, 5.4), and who advertises it has it.
            if kind == 136 || ip.source.is_unspecified_v6() {
                claim(maps, sender, &target)?;
            }
        }
        // An advertisement of a router, a redirect.
        134 | 137 => return Err(Reason::ForeignNeighbour),
        _ => return Ok(false),
    }
    Ok(true)
}

/// The source is the sender's own, or none.
#[inline(always)]
fn speak<M: Maps>(maps: &M, sender: &Sender, ip: &Ip) -> Result<(), Reason> {
    if ip.source.is_unspecified_v6() {
        sender.is_genuine(maps)
    } else {
        sender.owns(maps, &ip.source)
    }
}

/// An address that is announced is the sender's own.
#[inline(always)]
fn claim<M: Maps>(maps: &M, sender: &Sender, address: &Addr) -> Result<(), Reason> {
    sender.owns(maps, address).map_err(|reason| match reason {
        Reason::Spoofed => Reason::ForeignNeighbour,
        other => other,
    })
}

/// The message ends before its options, or with one that ends at `END` and gives, if any, the sender's own Ethernet
/// address. No kernel sends two.
#[inline(always)]
fn option<const END: usize, P: Packet>(packet: &mut P, payload: usize, sender: &Sender) -> Result<(), Reason> {
    if payload == END - OPTION - IPV6 {
        return Ok(());
    }
    if payload != END - IPV6 {
        return Err(Reason::ForeignNeighbour);
    }
    let h = header::start::<END, P>(packet)?;
    match h[END - OPTION] {
        1 | 2 => same(header::six(h, END - 6), sender),
        _ => Ok(()),
    }
}

#[inline(always)]
fn same(mac: [u8; 6], sender: &Sender) -> Result<(), Reason> {
    match mac == sender.mac {
        true => Ok(()),
        false => Err(Reason::ForeignNeighbour),
    }
}
