//! A cluster of 10,000 Services with 100,000 endpoints: what a change costs, counted, and what all of it takes in memory.
#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

use std::net::{IpAddr, Ipv4Addr};

use weft_model::desired::{Step, Wanted};
use weft_model::*;

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;

fn key(number: u32) -> ObjectKey {
    ObjectKey::new(format!("namespace-{}", number % 100), format!("service-{number:05}"))
}

/// A load balancer with every kind of address, so that nothing is cheaper than it can be.
fn service(number: u32) -> Change {
    let at = |base: u32| IpAddr::from(Ipv4Addr::from(base + number));
    Change::Service(Service {
        type_: ServiceType::LoadBalancer,
        cluster_ips: vec![at(0x0a60_0000)],
        external_ips: vec![at(0xc633_0000)],
        load_balancer_ips: vec![LoadBalancerIp {
            ip: at(0xcb00_0000),
            mode: IpMode::Vip,
        }],
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30_000 + number as u16),
        }],
        external_traffic_policy: TrafficPolicy::Local,
        ..Service::named(key(number))
    })
}

fn slice(number: u32, endpoints: u32) -> EndpointSlice {
    let endpoint = |n: u32| Endpoint {
        addresses: vec![Ipv4Addr::from(0x0af4_0000 + number * ENDPOINTS + n).into()],
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node_name: Some(format!("node-{}", (number + n) % 50)),
        zone: Some(format!("zone-{}", n % 3)),
        for_nodes: vec![],
        for_zones: vec![format!("zone-{}", n % 3)],
        pod: Some(ObjectKey::new(key(number).namespace, format!("pod-{number}-{n}"))),
    };
    let ObjectKey { namespace, name } = key(number);
    EndpointSlice {
        key: ObjectKey::new(namespace, format!("{name}-abcde")),
        service: name,
        ports: vec![EndpointPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: Some(8080),
        }],
        endpoints: (0..endpoints).map(endpoint).collect(),
    }
}

/// The agent's knowledge: what the cluster says, and what the kernel is to have.
struct Agent {
    state: State,
    sets: Wanted<ObjectKey, compile::SetKey, Vec<Backend>>,
    frontends: Wanted<ObjectKey, Frontend, compile::Rule>,
}

impl Agent {
    /// Takes a change in and counts what has to be written.
    fn take_in(&mut self, change: Change) -> (Vec<Step<compile::SetKey, Vec<Backend>>>, usize) {
        let (mut sets, mut frontends) = (vec![], 0);
        for dirty in self.state.apply(change) {
            if let Dirty::Service(key) = dirty {
                let forwarding = compile::service(&self.state, &key);
                sets.extend(self.sets.set(&key, forwarding.sets));
                frontends += self.frontends.set(&key, forwarding.frontends).len();
            }
        }
        (sets, frontends)
    }
}

/// What the process has of the machine's memory, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1024
}

#[test]
fn a_change_costs_what_it_changes_and_all_of_it_fits() {
    let before = resident();
    let mut agent = Agent {
        state: State::new("node-0"),
        sets: Wanted::default(),
        frontends: Wanted::default(),
    };
    for number in 0..SERVICES {
        agent.take_in(service(number));
        agent.take_in(Change::EndpointSlice(slice(number, ENDPOINTS)));
    }
    let taken = resident() - before;
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!("{SERVICES} services of {ENDPOINTS} endpoints: {:.1} MiB", mib(taken));
    assert_eq!(agent.frontends.len(), 4 * SERVICES as usize);
    assert_eq!(agent.sets.len(), 2 * SERVICES as usize);
    assert!(mib(taken) < 60.0, "{:.1} MiB", mib(taken));

    // One endpoint more or less: one set, whatever the number of addresses, Services and nodes. The policy Local has
    // a set of its own, which only the endpoints of this node touch.
    let number = 4321;
    assert!(!(0..ENDPOINTS).any(|n| (number + n).is_multiple_of(50)));
    for endpoints in [ENDPOINTS - 1, ENDPOINTS] {
        let (sets, frontends) = agent.take_in(Change::EndpointSlice(slice(number, endpoints)));
        assert!(matches!(&sets[..], [Step::Put(_, backends)] if backends.len() == endpoints as usize));
        assert_eq!(frontends, 0);
    }
    // The same again, and what concerns no traffic: nothing.
    let mut renamed = slice(number, ENDPOINTS);
    renamed.endpoints[3].hostname = Some("other".into());
    assert_eq!(agent.state.apply(Change::EndpointSlice(renamed)), vec![]);
    // The last one goes: the policy Local no longer drops but refuses, at three addresses.
    let (sets, frontends) = agent.take_in(Change::EndpointSlice(slice(number, 0)));
    assert_eq!((sets.len(), frontends), (1, 3));
}
