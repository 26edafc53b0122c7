//! What the way of a packet through services depends on: its addresses and ports, wherever its headers put them.

use crate::access::{Covered, Packet};
use crate::checksum::{self, Change};
use crate::header::{self, ETHERNET, IPV4, IPV6, Kind};
use crate::{Addr, FragmentKey, Port, Reason, Tuple};

pub(crate) const ICMP: u32 = 1;
pub(crate) const TCP: u32 = 6;
pub(crate) const UDP: u32 = 17;
pub(crate) const ICMPV6: u32 = 58;
pub(crate) const SCTP: u32 = 132;
/// The next header that says that a fragment header follows (RFC 8200, 4.5).
const FRAGMENT: u8 = 44;
const FRAGMENT_HEADER: usize = 8;

/// Which part of a datagram a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// The first fragment, which has the ports.
    First,
    /// Another fragment: it has none.
    Later,
}

/// A packet's addresses, and where they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram {
    /// Ports are zero where the packet has none.
    pub(crate) tuple: Tuple,
    pub(crate) v6: bool,
    pub(crate) part: Part,
    /// What its fragments have in common.
    id: u32,
    /// Where the transport header starts.
    pub(crate) transport: usize,
    pub(crate) ttl: u8,
    /// Flags of TCP (RFC 9293, 3.1); else the type, if it is ICMP.
    pub(crate) flags: u8,
}

/// TCP's flags.
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

impl Datagram {
    /// No packet's.
    pub(crate) const NONE: Self = Self {
        tuple: Tuple::NONE,
        v6: false,
        part: Part::Whole,
        id: 0,
        transport: 0,
        ttl: 0,
        flags: 0,
    };

    /// Reads the headers of a packet. False for what no service can have: other protocols than IP, a packet that ends
    /// before its headers do, and one whose IPv4 options hide the ports.
    #[inline(always)]
    pub(crate) fn read<P: Packet>(&mut self, packet: &mut P, kind: Kind) -> bool {
        self.try_read(packet, kind).unwrap_or(false)
    }

    #[inline(always)]
    fn try_read<P: Packet>(&mut self, packet: &mut P, kind: Kind) -> Result<bool, Reason> {
        match kind {
            Kind::Ipv4 => {
                let h = header::start::<IPV4, P>(packet)?;
                if h[14] != 0x45 {
                    return Ok(false);
                }
                let fragment = u16::from_be_bytes([h[20], h[21]]);
                *self = Self {
                    tuple: tuple(
                        Addr::from_v4_bytes([h[26], h[27], h[28], h[29]]),
                        Addr::from_v4_bytes([h[30], h[31], h[32], h[33]]),
                        h[23],
                    ),
                    v6: false,
                    part: part(fragment & 0x1fff, fragment & 0x2000 != 0),
                    id: u32::from(u16::from_be_bytes([h[18], h[19]])),
                    transport: IPV4,
                    ttl: h[22],
                    flags: 0,
                };
            }
            Kind::Ipv6 => {
                let h = header::start::<IPV6, P>(packet)?;
                let (version, next) = (h[14] >> 4, h[20]);
                *self = Self {
                    tuple: tuple(
                        Addr::from_v6_bytes(header::sixteen(h, 22)),
                        Addr::from_v6_bytes(header::sixteen(h, 38)),
                        next,
                    ),
                    v6: true,
                    part: Part::Whole,
                    id: 0,
                    transport: IPV6,
                    ttl: h[21],
                    flags: 0,
                };
                // ::ffff:0:0/96 is how maps hold IPv4; on the wire nobody has such an address (RFC 4291, 2.5.5.2).
                if version != 6 || self.tuple.source.is_v4() || self.tuple.destination.is_v4() {
                    return Ok(false);
                }
                if next == FRAGMENT {
                    let f = packet.load::<FRAGMENT_HEADER>(IPV6)?;
                    let fragment = u16::from_be_bytes([f[2], f[3]]);
                    self.tuple.protocol = u32::from(f[0]);
                    self.part = part(fragment >> 3, fragment & 1 != 0);
                    self.id = u32::from_be_bytes([f[4], f[5], f[6], f[7]]);
                    self.transport += FRAGMENT_HEADER;
                }
            }
            _ => return Ok(false),
        }
        self.read_ports(packet)?;
        Ok(true)
    }

    #[inline(always)]
    fn read_ports<P: Packet>(&mut self, packet: &P) -> Result<(), Reason> {
        if self.part == Part::Later {
            return Ok(());
        }
        let at = self.transport;
        match self.tuple.protocol {
            TCP => {
                let h = packet.load::<20>(at)?;
                self.flags = h[13];
                self.set_ports([h[0], h[1], h[2], h[3]]);
            }
            UDP => {
                let h = packet.load::<8>(at)?;
                self.set_ports([h[0], h[1], h[2], h[3]]);
            }
            SCTP => {
                let h = packet.load::<12>(at)?;
                self.set_ports([h[0], h[1], h[2], h[3]]);
            }
            ICMP | ICMPV6 => self.flags = packet.load::<8>(at)?[0],
            _ => {}
        }
        Ok(())
    }

    #[inline(always)]
    fn set_ports(&mut self, h: [u8; 4]) {
        (self.tuple.source_port, self.tuple.destination_port) = ports(h);
    }

    /// Whether a service can have such packets.
    #[inline(always)]
    pub(crate) fn has_ports(&self) -> bool {
        matches!(self.tuple.protocol, TCP | UDP | SCTP)
    }

    /// Whether it reports that another packet did not arrive (RFC 792, RFC 4443).
    #[inline(always)]
    pub(crate) fn is_error(&self) -> bool {
        self.part == Part::Whole
            && match self.tuple.protocol {
                ICMP if !self.v6 => matches!(self.flags, 3 | 11 | 12),
                ICMPV6 if self.v6 => matches!(self.flags, 1..=4),
                _ => false,
            }
    }

    /// Whether it opens a TCP connection.
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        self.tuple.protocol == TCP && self.flags & (SYN | ACK) == SYN
    }

    /// What the fragments of a datagram are known by.
    #[inline(always)]
    pub(crate) fn fragment_key(&self) -> FragmentKey {
        FragmentKey {
            source: self.tuple.source,
            destination: self.tuple.destination,
            id: self.id,
            protocol: self.tuple.protocol,
        }
    }

    /// Length of its headers, from the IP header on, as far as they are always there.
    #[inline(always)]
    pub(crate) fn headers(&self) -> usize {
        self.transport - ETHERNET + if self.tuple.protocol == TCP { 20 } else { 8 }
    }

    /// Gives the packet other addresses and ports, and `hops` less to live.
    #[inline(always)]
    pub(crate) fn rewrite<P: Packet>(&self, packet: &mut P, to: &Tuple, hops: u8) -> Result<(), Reason> {
        let from = &self.tuple;
        let addresses = Change::default()
            .addr(from.source, to.source)
            .addr(from.destination, to.destination)
            .sum();
        self.rewrite_addresses(packet, to, hops, addresses)?;
        if self.part == Part::Later {
            return Ok(());
        }
        let (check, optional) = match from.protocol {
            TCP => (16, false),
            UDP => (6, true),
            // CRC32c, over what follows the IP header only.
            SCTP if from.source_port == to.source_port && from.destination_port == to.destination_port => return Ok(()),
            _ => return Err(Reason::SctpPort),
        };
        let check = self.transport + check;
        packet.update_checksum(check, addresses, Covered::Addresses, optional)?;
        let change = Change::default()
            .half(from.source_port.wire(), to.source_port.wire())
            .half(from.destination_port.wire(), to.destination_port.wire());
        packet.update_checksum(check, change.sum(), Covered::Payload, optional)?;
        packet.store(self.transport, &port_bytes(to))
    }

    /// As [`Datagram::rewrite`], the IP header alone. `change` is what its addresses change by.
    #[inline(always)]
    pub(crate) fn rewrite_addresses<P: Packet>(
        &self,
        packet: &mut P,
        to: &Tuple,
        hops: u8,
        change: u32,
    ) -> Result<(), Reason> {
        if self.v6 {
            let h = packet.bytes_mut::<IPV6>(0).ok_or(Reason::Truncated)?;
            h[21] = self.ttl.wrapping_sub(hops);
            header::put(h, 22, to.source.bytes());
            header::put(h, 38, to.destination.bytes());
        } else {
            let h = packet.bytes_mut::<IPV4>(0).ok_or(Reason::Truncated)?;
            // TTL and protocol are one word of what the checksum covers.
            let old = u16::from_ne_bytes([h[22], h[23]]);
            h[22] = h[22].wrapping_sub(hops);
            let hop = Change::default().half(old, u16::from_ne_bytes([h[22], h[23]])).sum();
            let check = checksum::update(u16::from_ne_bytes([h[24], h[25]]), change);
            header::put(h, 24, checksum::update(check, hop).to_ne_bytes());
            header::put(h, 26, to.source.v4_bytes());
            header::put(h, 30, to.destination.v4_bytes());
        }
        Ok(())
    }
}

#[inline(always)]
fn tuple(source: Addr, destination: Addr, protocol: u8) -> Tuple {
    Tuple {
        source,
        destination,
        source_port: Port::from_host(0),
        destination_port: Port::from_host(0),
        protocol: u32::from(protocol),
    }
}

#[inline(always)]
fn part(offset: u16, more: bool) -> Part {
    match (offset, more) {
        (0, false) => Part::Whole,
        (0, true) => Part::First,
        _ => Part::Later,
    }
}

/// The ports that every transport header here starts with.
#[inline(always)]
pub(crate) fn ports([a, b, c, d]: [u8; 4]) -> (Port, Port) {
    (
        Port::from_wire(u16::from_ne_bytes([a, b])),
        Port::from_wire(u16::from_ne_bytes([c, d])),
    )
}

/// As [`ports`], to write.
#[inline(always)]
pub(crate) fn port_bytes(tuple: &Tuple) -> [u8; 4] {
    let ([a, b], [c, d]) = (
        tuple.source_port.wire().to_ne_bytes(),
        tuple.destination_port.wire().to_ne_bytes(),
    );
    [a, b, c, d]
}
