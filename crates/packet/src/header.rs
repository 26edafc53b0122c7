//! Headers, read at fixed places: Ethernet, IPv4 and IPv6.
//!
//! Each function reads its header with one bounds check, and says what the walk needs of it.

use crate::{Addr, Packet, Reason, checksum};

/// Length of an Ethernet header; the walk's packets start with one.
pub const ETHERNET: usize = 14;
/// Length of the headers up to the end of an IPv4 header without options.
pub const IPV4: usize = ETHERNET + 20;
/// Length of the headers up to the end of an IPv6 header.
pub const IPV6: usize = ETHERNET + 40;

/// What the walk needs to know of an Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Who says to have sent it.
    pub source: [u8; 6],
    /// What follows.
    pub kind: Kind,
}

/// What follows the Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 0x0800
    Ipv4,
    /// 0x86dd
    Ipv6,
    /// 0x0806
    Arp,
    /// Anything else.
    Other,
}

/// What the walk needs to know of an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// There are options that a router has to look at.
    pub options: bool,
    /// What follows: IPv4's protocol, IPv6's next header.
    pub protocol: u8,
}

/// Reads the `N` bytes that a packet starts with, asking the kernel for them if it keeps them elsewhere.
#[inline(always)]
pub(crate) fn start<const N: usize, P: Packet>(packet: &mut P) -> Result<&[u8; N], Reason> {
    if packet.bytes::<N>(0).is_none() {
        packet.pull(N);
    }
    packet.bytes::<N>(0).ok_or(Reason::Truncated)
}

/// Reads the Ethernet header.
#[inline(always)]
pub fn ethernet<P: Packet>(packet: &mut P) -> Result<Ethernet, Reason> {
    let h = start::<ETHERNET, P>(packet)?;
    Ok(Ethernet {
        source: six(h, 6),
        kind: match u16::from_be_bytes([h[12], h[13]]) {
            0x0800 => Kind::Ipv4,
            0x86dd => Kind::Ipv6,
            0x0806 => Kind::Arp,
            _ => Kind::Other,
        },
    })
}

/// Reads an IPv4 header (RFC 791).
#[inline(always)]
pub fn ipv4<P: Packet>(packet: &mut P) -> Result<Ip, Reason> {
    let h = start::<IPV4, P>(packet)?;
    let (version, words) = (h[14] >> 4, h[14] & 0xf);
    if version != 4 || words < 5 {
        return Err(Reason::Malformed);
    }
    Ok(Ip {
        source: Addr::from_v4_bytes([h[26], h[27], h[28], h[29]]),
        destination: Addr::from_v4_bytes([h[30], h[31], h[32], h[33]]),
        ttl: h[22],
        options: words > 5,
        protocol: h[23],
    })
}

/// Reads an IPv6 header (RFC 8200).
#[inline(always)]
pub fn ipv6<P: Packet>(packet: &mut P) -> Result<Ip, Reason> {
    let h = start::<IPV6, P>(packet)?;
    if h[14] >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    Ok(Ip {
        source: Addr::from_v6_bytes(sixteen(h, 22)),
        destination: Addr::from_v6_bytes(sixteen(h, 38)),
        ttl: h[21],
        // Next header 0: hop-by-hop options, the only ones that routers read.
        options: h[20] == 0,
        protocol: h[20],
    })
}

/// Does to an IPv4 packet what a router does: new Ethernet addresses, one less to live, the checksum to match.
#[inline(always)]
pub fn forward_ipv4<P: Packet>(packet: &mut P, to: [u8; 6], from: [u8; 6]) -> Result<(), Reason> {
    let h = packet.bytes_mut::<IPV4>(0).ok_or(Reason::Truncated)?;
    set_ethernet(h, to, from);
    // TTL and protocol are one word of what the checksum covers.
    let old = u16::from_be_bytes([h[22], h[23]]);
    let new = old.wrapping_sub(0x0100);
    let check = checksum::replace(u16::from_be_bytes([h[24], h[25]]), old, new).to_be_bytes();
    h[22] = new.to_be_bytes()[0];
    h[24] = check[0];
    h[25] = check[1];
    Ok(())
}

/// Does to an IPv6 packet what a router does: new Ethernet addresses, one hop less.
#[inline(always)]
pub fn forward_ipv6<P: Packet>(packet: &mut P, to: [u8; 6], from: [u8; 6]) -> Result<(), Reason> {
    let h = packet.bytes_mut::<IPV6>(0).ok_or(Reason::Truncated)?;
    set_ethernet(h, to, from);
    h[21] = h[21].wrapping_sub(1);
    Ok(())
}

/// Gives a packet that a router has dealt with its new Ethernet addresses.
#[inline(always)]
pub(crate) fn address<P: Packet>(packet: &mut P, to: [u8; 6], from: [u8; 6]) -> Result<(), Reason> {
    let [a, b, c, d, e, f] = to;
    let [g, h, i, j, k, l] = from;
    packet.store(0, &[a, b, c, d, e, f, g, h, i, j, k, l])
}

#[inline(always)]
fn set_ethernet<const N: usize>(header: &mut [u8; N], to: [u8; 6], from: [u8; 6]) {
    let mut i = 0;
    while i < 6 {
        header[i] = to[i];
        header[6 + i] = from[i];
        i += 1;
    }
}

/// Puts bytes into a header.
#[inline(always)]
pub(crate) fn put<const N: usize, const L: usize>(header: &mut [u8; N], at: usize, bytes: [u8; L]) {
    let mut i = 0;
    while i < L {
        header[at + i] = bytes[i];
        i += 1;
    }
}

/// The 14 bytes at a place inside a header: another header, of Ethernet.
#[inline(always)]
pub(crate) fn fourteen<const N: usize>(header: &[u8; N], at: usize) -> [u8; ETHERNET] {
    core::array::from_fn(|i| header[at + i])
}

/// The 6 bytes at a place inside a header: an Ethernet address.
#[inline(always)]
pub(crate) fn six<const N: usize>(header: &[u8; N], at: usize) -> [u8; 6] {
    core::array::from_fn(|i| header[at + i])
}

/// The 16 bytes at a place inside a header: an IPv6 address.
#[inline(always)]
pub(crate) fn sixteen<const N: usize>(header: &[u8; N], at: usize) -> [u8; 16] {
    core::array::from_fn(|i| header[at + i])
}
