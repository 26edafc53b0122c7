//! Whatever order changes come in, what was compiled step by step equals what a full pass over the end state gives.
#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use weft_model::compile::RouteTable;
use weft_model::desired::{Step, Wanted};
use weft_model::service::ServiceCidr;
use weft_model::state::{Dirty, State};
use weft_model::*;

fn key(number: u8) -> ObjectKey {
    ObjectKey::new("default", format!("s{number}"))
}

fn service() -> impl Strategy<Value = Service> {
    let types = vec![ServiceType::ClusterIp, ServiceType::NodePort, ServiceType::LoadBalancer];
    let policy = || prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)];
    (
        (0u8..3, 1u8..4, 0u8..3, any::<bool>()),
        (prop::sample::select(types), policy(), policy()),
        (any::<bool>(), any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |((number, address, external, restricted), (type_, internal, outside), (headless, foreign, sctp))| {
                let ip = |prefix: &str, last: u8| format!("{prefix}.{last}").parse().unwrap();
                let range = "10.89.0.2/32".parse().unwrap();
                Service {
                    type_,
                    cluster_ips: vec![ip("10.96.0", address), "fd00::1".parse().unwrap()],
                    headless: headless && foreign,
                    foreign: foreign && sctp,
                    // Sometimes in the range of the Services.
                    external_ips: vec![ip("10.97.0", external)],
                    load_balancer_ips: vec![LoadBalancerIp {
                        ip: ip("203.0.113", external),
                        mode: IpMode::Vip,
                    }],
                    load_balancer_source_ranges: if restricted { vec![range] } else { vec![] },
                    ports: vec![ServicePort {
                        name: String::new(),
                        protocol: if sctp { Protocol::Sctp } else { Protocol::Tcp },
                        port: 80,
                        node_port: Some(30_080 + u16::from(external)),
                    }],
                    internal_traffic_policy: internal,
                    external_traffic_policy: outside,
                    ..Service::named(key(number))
                }
            },
        )
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (0u8..6, any::<bool>(), any::<bool>(), 0u8..3, 0u8..3, 0u8..3).prop_map(
        |(address, ready, draining, node, hint, zone)| Endpoint {
            // The last one is in the range of the Services, where that is wide.
            addresses: vec![
                format!("10.{}.0.{address}", if address == 5 { 97 } else { 244 })
                    .parse()
                    .unwrap(),
            ],
            ready,
            serving: ready || draining,
            terminating: draining,
            hostname: None,
            node_name: Some(format!("n{node}")),
            zone: None,
            for_nodes: (hint > 0).then(|| format!("n{hint}")).into_iter().collect(),
            for_zones: (zone > 0).then(|| format!("z{zone}")).into_iter().collect(),
            pod: None,
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        service().prop_map(Change::Service),
        (0u8..2, any::<bool>()).prop_map(|(cidr, wide)| {
            let prefix = if wide { 15 } else { 16 };
            let cidrs = vec![format!("10.96.0.0/{prefix}").parse().unwrap()];
            let name = format!("c{cidr}");
            Change::ServiceCidr(ServiceCidr { name, cidrs })
        }),
        (0u8..2).prop_map(|cidr| Change::ServiceCidrGone(format!("c{cidr}"))),
        (0u8..3).prop_map(|n| Change::ServiceGone(key(n))),
        (0u8..3, 0u8..3, prop::collection::vec(endpoint(), 0..4)).prop_map(|(name, of, endpoints)| {
            Change::EndpointSlice(EndpointSlice {
                key: ObjectKey::new("default", format!("slice{name}")),
                service: format!("s{of}"),
                ports: vec![EndpointPort {
                    name: String::new(),
                    protocol: Protocol::Tcp,
                    port: Some(8080),
                }],
                endpoints,
            })
        }),
        (0u8..3).prop_map(|n| Change::EndpointSliceGone(ObjectKey::new("default", format!("slice{n}")))),
        (0u8..3, 0u8..3, 1u8..4, 0u8..3).prop_map(|(name, zone, address, cidr)| {
            Change::Node(Node {
                name: format!("n{name}"),
                internal_ips: vec![format!("10.89.0.{address}").parse().unwrap()],
                pod_cidrs: vec![format!("10.244.{cidr}.0/24").parse().unwrap()],
                zone: (zone > 0).then(|| format!("z{zone}")),
                leaving: false,
                labels: Default::default(),
            })
        }),
        (0u8..3).prop_map(|n| Change::NodeGone(format!("n{n}"))),
        Just(Change::Synced),
    ]
}

fn take<K: Ord, V>(actual: &mut BTreeMap<K, V>, steps: Vec<Step<K, V>>) {
    for step in steps {
        match step {
            Step::Put(key, value) => drop(actual.insert(key, value)),
            Step::Remove(key) => drop(actual.remove(&key)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn incremental_equals_full(changes in prop::collection::vec(change(), 0..60)) {
        let mut state = State::new("n1");
        let (mut wanted, mut wanted_sets) = (Wanted::default(), Wanted::default());
        let mut table = RouteTable::default();
        let mut routes = BTreeMap::new();
        let (mut frontends, mut sets) = (BTreeMap::new(), BTreeMap::new());
        let mut told = BTreeMap::new();
        for change in changes {
            for dirty in state.apply(change) {
                match dirty {
                    Dirty::Service(key) => {
                        let forwarding = compile::service(&state, &key);
                        told.insert(key.clone(), (forwarding.problems, compile::health_check(&state, &key)));
                        take(&mut frontends, wanted.set(&key, forwarding.frontends));
                        take(&mut sets, wanted_sets.set(&key, forwarding.sets));
                    }
                    Dirty::Node(name) | Dirty::NodeAddresses(name) => {
                        take(&mut routes, table.update(&state, [name]));
                    }
                    Dirty::Pod(_) | Dirty::Pool(_) | Dirty::ServiceCidr(_) | Dirty::Synced => {}
                }
            }
        }
        let (mut full, mut full_sets) = (Wanted::default(), Wanted::default());
        for service in state.services() {
            let forwarding = compile::service(&state, &service.key);
            let problems = (forwarding.problems, compile::health_check(&state, &service.key));
            prop_assert_eq!(&told[&service.key], &problems);
            full.set(&service.key, forwarding.frontends);
            full_sets.set(&service.key, forwarding.sets);
        }
        let full: BTreeMap<_, _> = full.iter().map(|(k, v)| (*k, v.clone())).collect();
        prop_assert_eq!(frontends, full);
        let full_sets: BTreeMap<_, _> = full_sets.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        prop_assert_eq!(sets, full_sets);
        let mut full = RouteTable::default();
        full.update(&state, state.nodes().map(|node| node.name.clone()));
        prop_assert_eq!(&routes, &full.wanted());
        prop_assert_eq!(routes, table.wanted());
    }
}
