//! The way of a socket call: a service address becomes a backend's, and on the way back a service's again.
//!
//! A connected socket is translated once, when it connects; none of its packets is touched later. What the socket
//! believes to talk to is noted per socket and backend, so that `getpeername` and `recvmsg` say the service address:
//! resolvers drop answers that come from anyone else.
//!
//! A socket that connects has no address yet, so `ClientIP` affinity is with its network namespace: a pod's, which has
//! one address of a family, or the node's. For the same want, load-balancers' addresses with source ranges are left to
//! the packet hooks where a pod asks.

use crate::choice::{self, Choice};
use crate::frontend::{self, Asker, Found};
use crate::layout::PeerKey;
use crate::{Addr, Config, Maps, MemberKey, Reason, Service, SockAddr};

/// What a socket call is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not a service, or one whose packets are dropped, which the packet hooks do: nothing changes.
    Untouched,
    /// Use this address instead.
    Use(SockAddr),
    /// Fail with "connection refused", for this reason.
    Refuse(Reason),
}

/// Who calls, asked for only where it is needed.
pub trait Caller {
    /// The kernel's cookie of the socket.
    fn socket(&self) -> u64;
    /// The kernel's cookie of its network namespace.
    fn netns(&self) -> u64;
}

/// A socket connects (TCP or UDP).
#[inline(always)]
pub fn connect<M: Maps>(maps: &M, to: &SockAddr, protocol: u8, caller: &impl Caller) -> Outcome {
    let chosen = find(maps, to, protocol, caller).and_then(|choice| choose(maps, &choice));
    tell(maps, chosen, |backend| {
        maps.set_peer(&PeerKey::new(caller.socket(), backend), to)
    })
}

/// A UDP socket sends to an address that it names. It keeps the backend that it has, as long as that is one.
#[inline(always)]
pub fn send<M: Maps>(maps: &M, to: &SockAddr, protocol: u8, caller: &impl Caller) -> Outcome {
    let choice = match find(maps, to, protocol, caller) {
        Ok(choice) => choice,
        Err(outcome) => return tell(maps, Err(outcome), |_| true),
    };
    let socket = caller.socket();
    let kept = PeerKey::choice(socket, to);
    if let Some(backend) = maps.peer(&kept)
        && maps.is_member(&MemberKey::new(choice.set, &backend))
    {
        return tell(maps, Ok(backend), |_| true);
    }
    tell(maps, choose(maps, &choice), |backend| {
        maps.set_peer(&kept, backend) & maps.set_peer(&PeerKey::new(socket, backend), to)
    })
}

/// The service address that `peer` stands for to this socket, if it was told one.
#[inline(always)]
pub fn source<M: Maps>(maps: &M, peer: &SockAddr, cookie: u64) -> Option<SockAddr> {
    maps.peer(&PeerKey::new(cookie, peer))
}

/// What a socket that is to reach this address has to choose from.
#[inline(always)]
fn find<M: Maps>(maps: &M, to: &SockAddr, protocol: u8, caller: &impl Caller) -> Result<Choice, Outcome> {
    let config = maps.config();
    // Asked by what needs it only: most calls are to exact addresses of services, or to none.
    let is_node = |netns: u64| config.is_some_and(|config| config.netns == netns);
    let asker = match is_node(caller.netns()) {
        true => Asker::Node,
        false => Asker::Other,
    };
    let service = match frontend::find(maps, to, protocol, asker) {
        Found::Service(service) => service,
        Found::UnknownPort => return Err(Outcome::Refuse(Reason::UnknownServicePort)),
        Found::Unallocated | Found::Other => return Err(Outcome::Untouched),
    };
    if service.has(Service::RANGES) {
        let own = config
            .filter(|_| asker == Asker::Node)
            .map(|config| own(config, to.addr));
        if !own.is_some_and(|own| frontend::admits(maps, &service, own)) {
            return Err(Outcome::Untouched);
        }
    }
    if service.has(Service::INSIDE_DROPS) && maps.set(service.inside).unwrap_or_default().count == 0 {
        return Err(Outcome::Untouched);
    }
    Ok(Choice {
        set: service.inside,
        affinity: service.affinity,
        client: Addr::of_netns(caller.netns()),
        hash: None,
    })
}

/// The node's own address of the same family.
#[inline(always)]
fn own(config: &Config, to: Addr) -> Addr {
    if to.is_v4() { config.v4 } else { config.v6 }
}

#[inline(always)]
fn choose<M: Maps>(maps: &M, choice: &Choice) -> Result<SockAddr, Outcome> {
    choice::choose(maps, choice).map_err(Outcome::Refuse)
}

/// Counts what a call comes to, and lets a backend be remembered.
#[inline(always)]
fn tell<M: Maps>(maps: &M, chosen: Result<SockAddr, Outcome>, remember: impl FnOnce(&SockAddr) -> bool) -> Outcome {
    match chosen {
        Ok(backend) => {
            if !remember(&backend) {
                maps.count(Reason::PeerLost);
            }
            maps.count(Reason::Translated);
            Outcome::Use(backend)
        }
        Err(outcome) => {
            if let Outcome::Refuse(reason) = outcome {
                maps.count(reason);
            }
            outcome
        }
    }
}

#[cfg(test)]
mod tests;
