//! The way of a socket call: a service address becomes a backend's, and on the way back a service's again.
//!
//! A connected socket is translated once, when it connects; none of its packets is touched later. What the socket
//! believes to talk to is noted per socket and backend, so that `getpeername` and `recvmsg` say the service address:
//! resolvers drop answers that come from anyone else.

use crate::{BackendKey, Frontend, Maps, PeerKey, Reason, Set, SockAddr};

/// How often a lookup starts again when the service changed between reading its size and reading a slot.
const TRIES: u32 = 3;

/// What a socket call is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not a service: nothing changes.
    Untouched,
    /// Use this address instead.
    Use(SockAddr),
    /// Fail with "connection refused", for this reason.
    Refuse(Reason),
}

/// A socket connects (TCP or UDP). `cookie` is asked for only where it is needed.
#[inline(always)]
pub fn connect<M: Maps>(maps: &M, to: &SockAddr, protocol: u8, cookie: impl FnOnce() -> u64) -> Outcome {
    translate(maps, to, protocol, |backend| {
        maps.set_peer(&PeerKey::new(cookie(), backend), to)
    })
}

/// A UDP socket sends to an address that it names.
#[inline(always)]
pub fn send<M: Maps>(maps: &M, to: &SockAddr, protocol: u8, cookie: impl FnOnce() -> u64) -> Outcome {
    translate(maps, to, protocol, |backend| {
        let key = PeerKey::new(cookie(), backend);
        // Usually it is known from the datagram before; reading is cheaper than writing.
        maps.peer(&key) == Some(*to) || maps.set_peer(&key, to)
    })
}

/// The service address that `peer` stands for to this socket, if it was told one.
#[inline(always)]
pub fn source<M: Maps>(maps: &M, peer: &SockAddr, cookie: u64) -> Option<SockAddr> {
    maps.peer(&PeerKey::new(cookie, peer))
}

#[inline(always)]
fn translate<M: Maps>(maps: &M, to: &SockAddr, protocol: u8, remember: impl FnOnce(&SockAddr) -> bool) -> Outcome {
    let frontend = Frontend::new(to.addr, to.port, protocol);
    let Some(service) = maps.frontend(&frontend) else {
        return Outcome::Untouched;
    };
    let mut tries = 0;
    while tries < TRIES {
        let count = match maps.set(service.inside) {
            None | Some(Set { count: 0, .. }) => {
                maps.count(Reason::NoEndpoints);
                return Outcome::Refuse(Reason::NoEndpoints);
            }
            Some(Set { count, .. }) => count,
        };
        if let Some(backend) = maps.backend(&pick(maps, service.inside, count)) {
            if !remember(&backend) {
                maps.count(Reason::PeerLost);
            }
            maps.count(Reason::Translated);
            return Outcome::Use(backend);
        }
        // The set shrank since we read its size: read it again.
        tries += 1;
    }
    maps.count(Reason::BackendMissing);
    Outcome::Refuse(Reason::BackendMissing)
}

/// A random slot: the high half of a product spreads a 32-bit random number evenly without a division.
#[inline(always)]
fn pick<M: Maps>(maps: &M, set: u32, count: u32) -> BackendKey {
    let slot = (u64::from(maps.random()) * u64::from(count)) >> 32;
    BackendKey { set, slot: slot as u32 }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashSet;

    use super::*;
    use crate::host::HostMaps;
    use crate::{Addr, Pod, Port, Service};

    fn at(last: u8, port: u16) -> SockAddr {
        SockAddr::new(Addr::from_v4_bytes([10, 0, 0, last]), Port::from_host(port))
    }

    fn service() -> SockAddr {
        at(96, 80)
    }

    fn maps(count: u32) -> HostMaps {
        let mut maps = HostMaps::default();
        maps.frontends.insert(
            Frontend::new(service().addr, service().port, 6),
            Service {
                inside: 5,
                outside: 6,
                ..Service::default()
            },
        );
        maps.sets.insert(5, Set { count, flags: 0 });
        for slot in 0..count {
            maps.backends
                .insert(BackendKey { set: 5, slot }, at(slot as u8 + 1, 8080));
        }
        maps
    }

    #[test]
    fn a_connection_goes_to_some_backend_and_back_to_the_service() {
        let maps = maps(3);
        let mut seen = HashSet::new();
        for cookie in 0..100 {
            let Outcome::Use(backend) = connect(&maps, &service(), 6, || cookie) else {
                panic!("not translated")
            };
            seen.insert(backend);
            assert_eq!(source(&maps, &backend, cookie), Some(service()));
            assert_eq!(source(&maps, &backend, 1000 + cookie), None);
        }
        assert_eq!(seen, HashSet::from([at(1, 8080), at(2, 8080), at(3, 8080)]));
        assert_eq!(maps.counters.borrow()[&Reason::Translated], 100);
    }

    #[test]
    fn other_addresses_ports_and_protocols_are_not_services() {
        let maps = maps(1);
        let never = || unreachable!("no cookie is needed");
        assert_eq!(connect(&maps, &at(1, 80), 6, never), Outcome::Untouched);
        assert_eq!(connect(&maps, &at(96, 81), 6, never), Outcome::Untouched);
        assert_eq!(send(&maps, &service(), 17, never), Outcome::Untouched);
        assert!(maps.counters.borrow().is_empty());
    }

    #[test]
    fn without_endpoints_a_connection_is_refused() {
        let maps = maps(0);
        assert_eq!(
            connect(&maps, &service(), 6, || 1),
            Outcome::Refuse(Reason::NoEndpoints)
        );
        assert_eq!(maps.counters.borrow()[&Reason::NoEndpoints], 1);
    }

    /// Maps in which a set shrinks from two backends to one between two reads.
    struct Shrinking<'a>(&'a HostMaps, Cell<u32>);

    impl Maps for Shrinking<'_> {
        fn pod(&self, addr: &Addr) -> Option<Pod> {
            self.0.pod(addr)
        }
        fn frontend(&self, frontend: &Frontend) -> Option<Service> {
            self.0.frontend(frontend)
        }
        fn set(&self, set: u32) -> Option<Set> {
            let reads = self.1.replace(self.1.get() + 1);
            self.0.set(set).map(|set| Set {
                count: if reads == 0 { 2 } else { 1 },
                ..set
            })
        }
        fn backend(&self, key: &BackendKey) -> Option<SockAddr> {
            self.0.backend(key)
        }
        fn peer(&self, key: &PeerKey) -> Option<SockAddr> {
            self.0.peer(key)
        }
        fn set_peer(&self, key: &PeerKey, service: &SockAddr) -> bool {
            self.0.set_peer(key, service)
        }
        fn random(&self) -> u32 {
            u32::MAX
        }
        fn mac(&self, ifindex: u32) -> Option<[u8; 6]> {
            self.0.mac(ifindex)
        }
        fn count_drop(&self, ifindex: u32, reason: Reason) {
            self.0.count_drop(ifindex, reason);
        }
        fn count(&self, reason: Reason) {
            self.0.count(reason);
        }
    }

    #[test]
    fn a_set_that_shrinks_under_the_lookup_still_gives_a_backend() {
        let maps = maps(1);
        let shrinking = Shrinking(&maps, Cell::new(0));
        assert_eq!(connect(&shrinking, &service(), 6, || 1), Outcome::Use(at(1, 8080)));
        assert_eq!(shrinking.1.get(), 2);
    }

    #[test]
    fn a_set_without_its_slots_refuses_in_the_end() {
        let mut maps = maps(1);
        maps.backends.clear();
        assert_eq!(
            connect(&maps, &service(), 6, || 1),
            Outcome::Refuse(Reason::BackendMissing)
        );
    }
}
