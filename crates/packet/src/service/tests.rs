//! What socket calls are told, case by case.

use std::collections::HashSet;

use super::*;
use crate::host::HostMaps;
use crate::layout::{LOOPBACK_ADDRESS, NODE_ADDRESS};
use crate::{BackendKey, Frontend, Port, Set};

/// A socket of network namespace 1.
struct Socket(u64);

impl Caller for Socket {
    fn socket(&self) -> u64 {
        self.0
    }
    fn netns(&self) -> u64 {
        1
    }
}

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
        let Outcome::Use(backend) = connect(&maps, &service(), 6, &Socket(cookie)) else {
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
    assert_eq!(connect(&maps, &at(1, 80), 6, &Socket(1)), Outcome::Untouched);
    assert_eq!(connect(&maps, &at(96, 81), 6, &Socket(1)), Outcome::Untouched);
    assert_eq!(send(&maps, &service(), 17, &Socket(1)), Outcome::Untouched);
    assert!(maps.counters.borrow().is_empty());
}

#[test]
fn without_endpoints_a_connection_is_refused() {
    let maps = maps(0);
    assert_eq!(
        connect(&maps, &service(), 6, &Socket(1)),
        Outcome::Refuse(Reason::NoEndpoints)
    );
    assert_eq!(maps.counters.borrow()[&Reason::NoEndpoints], 1);
}

/// The same, with the members of its set.
fn with_members(count: u32) -> HostMaps {
    let mut maps = maps(count);
    maps.members = maps
        .backends
        .values()
        .map(|backend| MemberKey::new(5, backend))
        .collect();
    maps
}

fn change(maps: &mut HostMaps, change: impl FnOnce(&mut Service)) {
    change(maps.frontends.values_mut().next().unwrap());
}

fn use_of(outcome: Outcome) -> SockAddr {
    match outcome {
        Outcome::Use(backend) => backend,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_set_without_its_slots_refuses_in_the_end() {
    let mut maps = maps(1);
    maps.backends.clear();
    assert_eq!(
        connect(&maps, &service(), 6, &Socket(1)),
        Outcome::Refuse(Reason::BackendMissing)
    );
}

#[test]
fn where_the_policy_says_drop_the_packet_hook_does() {
    let mut maps = maps(0);
    change(&mut maps, |service| service.flags = Service::INSIDE_DROPS);
    assert_eq!(connect(&maps, &service(), 6, &Socket(1)), Outcome::Untouched);
}

#[test]
fn the_unused_ports_of_a_services_address_refuse() {
    let mut maps = maps(1);
    maps.frontends
        .insert(Frontend::address(service().addr), Service::default());
    let outcome = connect(&maps, &at(96, 81), 6, &Socket(1));
    assert_eq!(outcome, Outcome::Refuse(Reason::UnknownServicePort));
}

#[test]
fn a_node_port_is_at_every_address_of_the_node_and_its_loopback_only_for_itself() {
    let mut maps = maps(1);
    let any = Frontend::new(Addr::from_v4_bytes([0; 4]), Port::from_host(30080), 6);
    let to = *maps.frontends.values().next().unwrap();
    maps.frontends.insert(any, to);
    maps.node_addresses = [
        (at(7, 0).addr, NODE_ADDRESS),
        (Addr::from_v4_bytes([127, 0, 0, 1]), LOOPBACK_ADDRESS),
    ]
    .into();
    let loopback = SockAddr::new(Addr::from_v4_bytes([127, 0, 0, 1]), Port::from_host(30080));
    let config = |netns| Config {
        netns,
        v4: at(7, 0).addr,
        v6: Addr::NONE,
        tunnel: 0,
        first_port: 10000,
        ports: 1000,
    };
    for (netns, reaches_loopback) in [(1, true), (2, false)] {
        maps.config = Some(config(netns));
        assert_eq!(connect(&maps, &at(7, 30080), 6, &Socket(1)), Outcome::Use(at(1, 8080)));
        assert_eq!(connect(&maps, &at(8, 30080), 6, &Socket(1)), Outcome::Untouched);
        let local = connect(&maps, &loopback, 6, &Socket(1));
        assert_eq!(local == Outcome::Use(at(1, 8080)), reaches_loopback, "{local:?}");
    }
}

#[test]
fn source_ranges_are_the_packet_hooks_to_check_for_pods() {
    let mut maps = maps(1);
    change(&mut maps, |service| service.flags = Service::RANGES);
    let mut config = Config {
        netns: 1,
        v4: at(7, 0).addr,
        v6: Addr::NONE,
        tunnel: 0,
        first_port: 10000,
        ports: 1000,
    };
    maps.config = Some(config);
    assert_eq!(connect(&maps, &service(), 6, &Socket(1)), Outcome::Untouched);
    maps.source_ranges = std::vec![crate::Prefix::new(6, at(7, 0).addr, 32)];
    assert_eq!(connect(&maps, &service(), 6, &Socket(1)), Outcome::Use(at(1, 8080)));
    config.netns = 2;
    maps.config = Some(config);
    assert_eq!(connect(&maps, &service(), 6, &Socket(1)), Outcome::Untouched);
}

#[test]
fn a_client_with_affinity_keeps_its_backend_while_others_come_and_go() {
    let mut maps = with_members(8);
    change(&mut maps, |service| service.affinity = 10);
    let first = use_of(connect(&maps, &service(), 6, &Socket(1)));
    for cookie in 2..50 {
        maps.now.set((cookie as u32 - 1) * 10);
        assert_eq!(connect(&maps, &service(), 6, &Socket(cookie)), Outcome::Use(first));
    }
    // Others go.
    maps.sets.insert(5, Set { count: 4, flags: 0 });
    assert_eq!(connect(&maps, &service(), 6, &Socket(1)), Outcome::Use(first));
    // Its time is over, or it goes itself: another one, in the end.
    let changes = |maps: &HostMaps| {
        (0..100).any(|n| {
            maps.now.set(maps.now.get() + n);
            use_of(connect(maps, &service(), 6, &Socket(1))) != first
        })
    };
    assert!(changes(&maps));
    let mut maps = with_members(8);
    change(&mut maps, |service| service.affinity = 1000);
    let first = use_of(connect(&maps, &service(), 6, &Socket(1)));
    maps.members.remove(&MemberKey::new(5, &first));
    let changes = (0..100).any(|_| use_of(connect(&maps, &service(), 6, &Socket(1))) != first);
    assert!(changes);
}

#[test]
fn a_udp_socket_keeps_its_backend_until_that_is_none() {
    let mut maps = with_members(8);
    let to = *maps.frontends.values().next().unwrap();
    let udp = Frontend::new(service().addr, service().port, 17);
    maps.frontends.insert(udp, to);
    let first = use_of(send(&maps, &service(), 17, &Socket(1)));
    for _ in 0..20 {
        assert_eq!(send(&maps, &service(), 17, &Socket(1)), Outcome::Use(first));
    }
    maps.members.remove(&MemberKey::new(5, &first));
    assert!((0..100).any(|_| send(&maps, &service(), 17, &Socket(1)) != Outcome::Use(first)));
    assert_eq!(source(&maps, &first, 1), Some(service()), "late answers");
}
