//! The way of a service's packet: from whoever sends it to a backend, and back.
//!
//! A packet that a client sends to a service gets a backend's address, and where the backend could not answer to
//! the client by way of this node, this node's as its source. The first packet of a flow decides; see [`crate::flow`].

use core::num::NonZeroU32;

use crate::access::{Packet, Route};
use crate::choice::{self, Choice};
use crate::datagram::{Datagram, Part, SCTP};
use crate::flow::{self, PortRange};
use crate::frontend::{self, Asker, Found};
use crate::header::{self, Kind};
use crate::icmp;
use crate::layout::NODE_ADDRESS;
use crate::{Addr, Flow, FragmentKey, Maps, Pod, Ports, Reason, Service, SockAddr, Tuple, Verdict};

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A pod of this node.
    Pod,
    /// Another host.
    Outside,
    /// This node itself: it is on its way out.
    Node,
}

/// Where the walk keeps what it knows of a packet: the kernel's stack has 512 bytes.
#[derive(Debug)]
pub struct Scratch {
    pub(crate) datagram: Datagram,
    /// How the packet is rewritten.
    pub(crate) flow: Flow,
    /// How replies to it are, while both are decided; the addresses that an error gets.
    pub(crate) reply: Flow,
    /// The addresses that those replies come with, or that an error quotes.
    pub(crate) key: Tuple,
    fragment: FragmentKey,
    pub(crate) next: Next,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            datagram: Datagram::NONE,
            flow: Flow::NONE,
            reply: Flow::NONE,
            key: Tuple::NONE,
            fragment: Datagram::NONE.fragment_key(),
            next: Next {
                pod: Pod {
                    ifindex: 0,
                    mac: [0; 6],
                    host_mac: [0; 6],
                    limited: 0,
                },
                number: 0,
            },
        }
    }
}

/// What becomes of a packet of a service. Nothing: it is none.
#[inline(always)]
pub(crate) fn walk<P: Packet, M: Maps>(
    packet: &mut P,
    maps: &M,
    scratch: &mut Scratch,
    kind: Kind,
    origin: Origin,
) -> Result<Option<Verdict>, Reason> {
    if !scratch.datagram.read(packet, kind) {
        return Ok(None);
    }
    if scratch.datagram.is_error()
        && let Some(verdict) = icmp::translate(packet, maps, scratch, origin)?
    {
        return Ok(Some(verdict));
    }
    let Scratch {
        datagram,
        flow,
        key,
        fragment,
        ..
    } = scratch;
    if datagram.part == Part::Later {
        *fragment = datagram.fragment_key();
        // Those of a datagram that is no service's have no ports noted, nor do those that overtook their first.
        let Some(ports) = maps.fragment(fragment) else {
            return Ok(None);
        };
        (datagram.tuple.source_port, datagram.tuple.destination_port) = (ports.source, ports.destination);
    }
    let now = maps.now();
    let known = datagram.has_ports() && flow::known(maps, datagram, now, flow, key);
    if !known {
        match open(maps, scratch, packet.ifindex(), origin, now) {
            Reason::Forwarded => {}
            Reason::ToStack => return Ok(None),
            reason => return Err(reason),
        }
    }
    let Scratch { datagram, fragment, .. } = scratch;
    if datagram.part == Part::First {
        let ports = Ports {
            source: datagram.tuple.source_port,
            destination: datagram.tuple.destination_port,
        };
        *fragment = datagram.fragment_key();
        maps.set_fragment(fragment, &ports);
    }
    forward(packet, maps, scratch, origin).map(Some)
}

/// Decides about the first packet of a flow: it goes on as `scratch.flow` says ([`Reason::Forwarded`]), or it is not for
/// a service ([`Reason::ToStack`]), or it ends. One number: what a function of the kernel's may return.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn open<M: Maps>(maps: &M, scratch: &mut Scratch, ifindex: u32, origin: Origin, now: u32) -> Reason {
    decide(maps, scratch, ifindex, origin, now).unwrap_or_else(|reason| reason)
}

#[inline(always)]
fn decide<M: Maps>(maps: &M, scratch: &mut Scratch, ifindex: u32, origin: Origin, now: u32) -> Result<Reason, Reason> {
    let Scratch {
        datagram,
        flow,
        reply,
        key,
        ..
    } = scratch;
    let tuple = &datagram.tuple;
    // Most packets are from pod to pod: one lookup tells.
    if maps.pod(&tuple.destination).is_some() {
        return Ok(Reason::ToStack);
    }
    let to = SockAddr::new(tuple.destination, tuple.destination_port);
    let service = match frontend::find(maps, &to, tuple.protocol as u8, Asker::Other) {
        Found::Service(service) => service,
        Found::UnknownPort if origin == Origin::Node => return Err(Reason::Untranslated),
        Found::UnknownPort => return Err(Reason::UnknownServicePort),
        Found::Unallocated => return Err(Reason::UnallocatedServiceAddress),
        Found::Other => return Ok(Reason::ToStack),
    };
    if !frontend::admits(maps, &service, tuple.source) {
        return Err(Reason::SourceRange);
    }
    let inside = origin != Origin::Outside || maps.is_inside(tuple.source);
    let (set, drops) = match inside {
        true => (service.inside, service.has(Service::INSIDE_DROPS)),
        false => (service.outside, service.has(Service::OUTSIDE_DROPS)),
    };
    let choice = Choice {
        set,
        affinity: service.affinity,
        client: tuple.source,
        hash: match inside {
            true => None,
            false => Some(choice::hash(tuple, service.affinity != 0)),
        },
    };
    let backend = match choice::choose(maps, &choice) {
        Err(Reason::NoEndpoints) if drops => return Err(Reason::NoLocalEndpoints),
        result => result?,
    };
    if origin == Origin::Node {
        return Err(Reason::Untranslated);
    }
    flow.to = *tuple;
    flow.to.destination = backend.addr;
    flow.to.destination_port = backend.port;
    (flow.set, flow.ifindex, flow.seen, flow.flags) = (set, ifindex, now, 0);
    let mut ports = flow::CLIENTS;
    if masquerades(maps, &service, tuple.source, backend.addr, origin, inside) {
        ports = masquerade(maps, &mut flow.to)?;
    }
    flow::open(maps, tuple, ports, flow, reply, key)?;
    Ok(Reason::Forwarded)
}

/// Whether a backend has to see this node's address as the client's: where the service wants it so, and where the
/// backend's replies would not come back this way.
#[inline(always)]
fn masquerades<M: Maps>(
    maps: &M,
    service: &Service,
    client: Addr,
    backend: Addr,
    origin: Origin,
    inside: bool,
) -> bool {
    if client == backend {
        // It would answer itself.
        return true;
    }
    if maps.node_address(&backend) == Some(NODE_ADDRESS) {
        // A process of this node: its replies leave by the hook that turns them, and this node's stack takes no packet
        // from outside that bears its own address.
        return false;
    }
    match origin {
        // Pods have routes to the pods of other nodes, and back; where a pod's address is no good, others translate it.
        Origin::Pod => maps.pod(&backend).is_none() && !maps.is_inside(backend),
        _ if inside => maps.pod(&backend).is_none(),
        _ => !service.has(Service::KEEP_SOURCE),
    }
}

/// Gives a packet this node's address as its source. Returns the ports that it may come from.
#[inline(always)]
fn masquerade<M: Maps>(maps: &M, to: &mut Tuple) -> Result<PortRange, Reason> {
    let config = maps.config().ok_or(Reason::NoPort)?;
    to.source = if to.destination.is_v4() { config.v4 } else { config.v6 };
    let ports = PortRange {
        first: config.first_port,
        count: config.ports,
    };
    if to.source.is_unspecified_v6() || ports.count == 0 {
        return Err(Reason::NoPort);
    }
    // The checksum of SCTP covers its ports, and is not to be updated in place: the client's port is tried first.
    if to.protocol != SCTP {
        to.source_port = flow::random_port(maps, ports);
    }
    Ok(ports)
}

/// Where a packet goes once it is rewritten; [`Next`] has the details.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// To a pod of this node.
    Pod,
    /// Out of an interface.
    Out,
    /// To a process of this node.
    Here,
    /// Nowhere: it is too big.
    TooBig,
}

/// The details of a [`Hop`]. Not in it: the kernel's verifier does not take values that are only sometimes there.
#[derive(Debug)]
pub(crate) struct Next {
    pub(crate) pod: Pod,
    /// The interface, or the largest packet that the way takes.
    pub(crate) number: u32,
}

/// The way to a flow's new destination.
#[inline(always)]
pub(crate) fn hop<P: Packet, M: Maps>(
    packet: &P,
    maps: &M,
    to: &Tuple,
    flow: &Flow,
    headers: usize,
    next: &mut Next,
) -> Result<Hop, Reason> {
    if let Some(pod) = maps.pod(&to.destination) {
        next.pod = pod;
        return Ok(Hop::Pod);
    }
    if flow.has(Flow::REPLY) {
        next.number = flow.ifindex;
        return Ok(Hop::Out);
    }
    if maps.node_address(&to.destination) == Some(NODE_ADDRESS) {
        return Ok(Hop::Here);
    }
    match packet.route(to, packet.length(headers)) {
        Route::Via(ifindex) => {
            next.number = ifindex;
            Ok(Hop::Out)
        }
        Route::TooBig(mtu) => {
            next.number = mtu;
            Ok(Hop::TooBig)
        }
        Route::Nowhere => Err(Reason::NoRoute),
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn forward<P: Packet, M: Maps>(
    packet: &mut P,
    maps: &M,
    scratch: &mut Scratch,
    origin: Origin,
) -> Result<Verdict, Reason> {
    let Scratch {
        datagram, flow, next, ..
    } = scratch;
    let to = &flow.to;
    if origin == Origin::Node {
        datagram.rewrite(packet, to, 0)?;
        return Ok(Verdict::Pass(Reason::ServiceToStack));
    }
    let hop = hop(packet, maps, to, flow, datagram.headers(), next)?;
    let hops = u8::from(hop != Hop::Here);
    if hop == Hop::TooBig {
        let mtu = NonZeroU32::new(next.number);
        return icmp::answer(packet, maps, datagram, next, mtu);
    }
    if datagram.ttl <= hops {
        return icmp::answer(packet, maps, datagram, next, None);
    }
    datagram.rewrite(packet, to, hops)?;
    leave(packet, hop, next)
}

/// Puts a rewritten packet on its way.
#[inline(always)]
pub(crate) fn leave<P: Packet>(packet: &mut P, hop: Hop, next: &Next) -> Result<Verdict, Reason> {
    match hop {
        Hop::Pod if next.pod.limited != 0 => Ok(Verdict::Send(Reason::Forwarded, next.pod.ifindex)),
        Hop::Pod => {
            header::address(packet, next.pod.mac, next.pod.host_mac)?;
            Ok(Verdict::Deliver(Reason::Forwarded, next.pod.ifindex))
        }
        Hop::Out => Ok(Verdict::Send(Reason::Forwarded, next.number)),
        Hop::Here => Ok(Verdict::Pass(Reason::ServiceToStack)),
        Hop::TooBig => Err(Reason::ServiceTooBig),
    }
}
