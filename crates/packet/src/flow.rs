//! Flows: what was decided for the first packet of a connection holds for the others, in both directions.
//!
//! Each direction has an entry under the addresses that its packets arrive with, so that one lookup at any hook says
//! how a packet is rewritten. A flow of TCP lives until its connection ends, whatever becomes of the backend; one of
//! UDP leaves a backend that is none any more at its next packet.

use crate::datagram::{Datagram, FIN, RST, SCTP, TCP, UDP};
use crate::{Flow, Maps, MemberKey, Port, Reason, SockAddr, Tuple};

/// How long, in seconds, a flow without packets is kept from others who want its port: TCP while it is open (as
/// kube-proxy's `--conntrack-tcp-timeout-established`) and after it has ended (twice a segment's life, RFC 9293);
/// what has no end (as the kernel's connection tracking does).
const OPEN: u32 = 24 * 60 * 60;
const ENDED: u32 = 120;
const ENDLESS: u32 = 180;

/// How many ports are tried for a masqueraded connection.
const PORTS: u32 = 8;

/// Puts what is decided for a packet's flow already into `flow`. False: nothing is.
#[inline(always)]
pub(crate) fn known<M: Maps>(maps: &M, datagram: &Datagram, now: u32, flow: &mut Flow, key: &mut Tuple) -> bool {
    let (opens, ends) = (datagram.opens(), end(datagram));
    let found = maps.with_flow(&datagram.tuple, |found| {
        if opens && ended(found) {
            return false;
        }
        found.seen = now;
        found.flags |= ends;
        *flow = *found;
        true
    });
    if found != Some(true) {
        return false;
    }
    *key = flow.to.reversed();
    if ends != 0 {
        let other = if ends & Flow::FIN != 0 { Flow::PEER_FIN } else { 0 } | ends & Flow::RESET;
        maps.with_flow(key, |flow| flow.flags |= other);
    }
    if datagram.tuple.protocol == UDP && !flow.has(Flow::REPLY) {
        let backend = SockAddr::new(flow.to.destination, flow.to.destination_port);
        return maps.is_member(&MemberKey::new(flow.set, &backend));
    }
    true
}

/// What a packet says about the end of its connection.
#[inline(always)]
fn end(datagram: &Datagram) -> u32 {
    if datagram.tuple.protocol != TCP {
        return 0;
    }
    let mut ends = 0;
    if datagram.flags & FIN != 0 {
        ends |= Flow::FIN;
    }
    if datagram.flags & RST != 0 {
        ends |= Flow::RESET;
    }
    ends
}

#[inline(always)]
fn ended(flow: &Flow) -> bool {
    flow.has(Flow::RESET) || flow.has(Flow::FIN) && flow.has(Flow::PEER_FIN)
}

#[inline(always)]
fn expired(flow: &Flow, protocol: u32, now: u32) -> bool {
    let life = match protocol {
        TCP | SCTP if !ended(flow) => OPEN,
        TCP => ENDED,
        _ => ENDLESS,
    };
    now.wrapping_sub(flow.seen) > life
}

/// Ports that a flow's packets may come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortRange {
    pub(crate) first: u16,
    pub(crate) count: u16,
}

/// Those of a client that has another flow to the same backend from the same port, by another address of a service.
pub(crate) const CLIENTS: PortRange = PortRange {
    first: 1024,
    count: u16::MAX - 1024,
};

/// Notes a new flow, in both directions: `flow` as its packets are rewritten, where the source port is the first to be
/// tried. It is replaced by a random one as long as the backend's replies could not be told from those of other flows.
#[inline(always)]
pub(crate) fn open<M: Maps>(
    maps: &M,
    tuple: &Tuple,
    ports: PortRange,
    flow: &mut Flow,
    reply: &mut Flow,
    key: &mut Tuple,
) -> Result<(), Reason> {
    *reply = *flow;
    reply.to = tuple.reversed();
    reply.flags = Flow::REPLY;
    let mut tries = 0;
    while tries < PORTS {
        *key = flow.to.reversed();
        if claim(maps, key, reply) {
            maps.set_flow(tuple, flow);
            return Ok(());
        }
        flow.to.source_port = random_port(maps, ports);
        tries += 1;
    }
    Err(Reason::NoPort)
}

/// Takes the place of a flow's replies. It may be taken: by the same flow from before, which is as good, or by one that
/// needs it no more.
#[inline(always)]
fn claim<M: Maps>(maps: &M, key: &Tuple, reply: &Flow) -> bool {
    if maps.add_flow(key, reply) {
        return true;
    }
    let take = |flow: &mut Flow| {
        let free = flow.to == reply.to || expired(flow, key.protocol, reply.seen);
        if free {
            *flow = *reply;
        }
        free
    };
    maps.with_flow(key, take).unwrap_or(false)
}

/// One of these ports.
#[inline(always)]
pub(crate) fn random_port<M: Maps>(maps: &M, ports: PortRange) -> Port {
    let offset = ((maps.random() & 0xffff) * u32::from(ports.count)) >> 16;
    Port::from_host(ports.first.wrapping_add(offset as u16))
}
