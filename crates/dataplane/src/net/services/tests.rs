//! How much a change costs, which needs no kernel to know.

use std::sync::Arc;

use weft_model::compile::{Choice, Source, Target, WhenEmpty};
use weft_model::{ObjectKey, Protocol};

use super::*;

fn service(number: u32, endpoints: u32) -> Vec<Step> {
    let [_, a, b, c] = number.to_be_bytes();
    let key = SetKey {
        service: Arc::new(ObjectKey::new("default", format!("s{number}"))),
        port: 80,
        protocol: Protocol::Tcp,
        ipv6: false,
        choice: Choice::Cluster,
    };
    let backend = |n: u32| Backend {
        ip: IpAddr::from([10, a ^ 64, b ^ (n as u8), c]),
        port: 8080,
    };
    let target = |source| Target {
        set: key.clone(),
        when_empty: WhenEmpty::Refuse,
        source,
    };
    let rule = |kind| Rule {
        inside: target(Source::Keep),
        outside: target(Source::Masquerade),
        affinity: None,
        source_ranges: None,
        kind,
    };
    let at = |first, kind| {
        let ip = IpAddr::from([first, a, b, c]);
        let protocol = Protocol::Tcp;
        Step::Put(Frontend { ip, port: 80, protocol }, rule(kind))
    };
    vec![
        Step::Set(key.clone(), (0..endpoints).map(backend).collect()),
        at(100, FrontendKind::ClusterIp),
        at(200, FrontendKind::ExternalIp),
    ]
}

/// Messages and elements of one more, one fewer and one other endpoint, and of one more Service, among so many.
fn costs(services: u32) -> Vec<(usize, usize)> {
    let mut known = Services::default();
    for number in 0..services {
        known.take_in(&service(number, 10));
    }
    let contents = known.contents();
    (known.picks, known.live) = (contents.picks, contents.live);
    let mut other = service(7, 10);
    if let Step::Set(_, backends) = &mut other[0] {
        backends[3].ip = IpAddr::from([10, 1, 2, 3]);
    }
    let changes = [
        service(7, 11)[..1].to_vec(),
        service(7, 9)[..1].to_vec(),
        other,
        service(services, 10),
    ];
    let cost = |steps: &Vec<Step>| {
        let before = known.take_in(steps);
        let change = known.change(&before);
        let elements = change.old.elements.symmetric_difference(&change.new.elements).count();
        known.take_back(before);
        (change.batch.messages(), elements)
    };
    changes.iter().map(cost).collect()
}

#[test]
fn a_change_costs_the_same_among_100_services_and_among_10_000() {
    let costs = [100, 10_000].map(costs);
    assert_eq!(costs[0], costs[1]);
    // Begin and end, chains and rules for 11 or 9 of which there were none, and what goes and comes of two maps.
    let [more, fewer, other, service] = costs[0][..] else {
        panic!("{costs:?}");
    };
    assert_eq!((more.1, fewer.1, other.1, service.1), (3, 3, 2, 17), "{costs:?}");
    assert!(
        more.0 <= 8 && fewer.0 <= 8 && other.0 == 4 && service.0 <= 8,
        "{costs:?}"
    );
}
