//! What compile says of every connection, against a second reading of the rules: slow and literal, one question at a time.
//!
//! The reading goes by the table of behaviours of kube-proxy (KEP-563, 1669, 1860, 2086, 2447, 3015, 4444, and its own unit
//! tests), and shares no code with compile: it takes the objects as the API has them and asks "may this client have that
//! endpoint?" of each endpoint in turn.
#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use weft_model::compile::{Source, WhenEmpty};
use weft_model::service::ServiceCidr;
use weft_model::*;

const NODE: &str = "n1";

/// Objects as the API has them.
#[derive(Clone, Debug)]
struct World {
    service: Service,
    slices: Vec<EndpointSlice>,
    zone: Option<String>,
}

/// One connection.
#[derive(Clone, Copy, Debug)]
struct Question {
    /// Where to; `None` is an address of the node of this family.
    to: Result<IpAddr, Family>,
    port: u16,
    protocol: Protocol,
    from: IpAddr,
    inside: bool,
}

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    NotOurs,
    Refused,
    Dropped,
    /// To one of these; masqueraded or not, where it comes from outside.
    To(BTreeSet<(IpAddr, u16)>, Option<bool>),
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

const NODE_IPS: [&str; 2] = ["10.89.0.10", "fd89::10"];
const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd96::/108"];

// ---- The reading -----------------------------------------------------------------------------------------------------

fn nobody_is_there(address: IpAddr) -> bool {
    let never = [
        "0.0.0.0/32",
        "::/128",
        "127.0.0.0/8",
        "::1/128",
        "224.0.0.0/4",
        "ff00::/8",
        "255.255.255.255/32",
        "::ffff:0:0/96",
    ];
    never.iter().any(|range| net(range).contains(&address))
}

fn of_services(address: IpAddr) -> bool {
    SERVICE_CIDRS.iter().any(|range| net(range).contains(&address))
}

fn expected(world: &World, question: &Question) -> Answer {
    let service = &world.service;
    // Headless, a name, or another proxy's.
    if service.headless || service.foreign || service.type_ == ServiceType::ExternalName {
        return Answer::NotOurs;
    }
    let v6 = match question.to {
        Ok(address) => address.is_ipv6(),
        Err(Family::V4) => false,
        Err(Family::V6) => true,
    };
    // A family is a Service's where it has a cluster address in it.
    if !service.cluster_ips.iter().any(|address| address.is_ipv6() == v6) {
        return Answer::NotOurs;
    }
    let balanced = service.type_ == ServiceType::LoadBalancer;
    let on_nodes = balanced || service.type_ == ServiceType::NodePort;
    let is_cluster = |a: IpAddr| service.cluster_ips.contains(&a) && !nobody_is_there(a);
    let vip = |entry: &LoadBalancerIp, a| entry.ip == a && entry.mode == IpMode::Vip;
    let is_balancer = |a: IpAddr| {
        balanced && service.load_balancer_ips.iter().any(|e| vip(e, a)) && !nobody_is_there(a) && !of_services(a)
    };
    let is_external = |a: IpAddr| service.external_ips.contains(&a) && !nobody_is_there(a) && !of_services(a);

    // Of ports that are there twice the first is in force.
    let first_of_its_kind = |at: usize| {
        let port = &service.ports[at];
        let same = |other: &ServicePort| (other.port, other.protocol) == (port.port, port.protocol);
        service.ports.iter().position(same) == Some(at)
    };
    let mut ports = service
        .ports
        .iter()
        .enumerate()
        .filter(|(at, _)| first_of_its_kind(*at))
        .map(|(_, port)| port);
    let port = ports.find(|port| {
        port.protocol == question.protocol
            && match question.to {
                Ok(_) => port.port == question.port,
                Err(_) => on_nodes && port.node_port == Some(question.port),
            }
    });
    let Some(port) = port else { return Answer::NotOurs };
    let internal = match question.to {
        Ok(a) if is_cluster(a) => true,
        Ok(a) if is_balancer(a) || is_external(a) => false,
        Ok(_) => return Answer::NotOurs,
        Err(_) => false,
    };

    // Source ranges guard the load balancer's address alone; a node that may connect may also by that address.
    if let Ok(address) = question.to
        && !internal
        && is_balancer(address)
    {
        let mut allowed: Vec<IpNet> = service.load_balancer_source_ranges.clone();
        allowed.retain(|range| range.addr().is_ipv6() == v6);
        if !allowed.is_empty() {
            let node = ip(NODE_IPS[usize::from(v6)]);
            if allowed.iter().any(|range| range.contains(&node)) {
                allowed.push(IpNet::from(address));
            }
            if !allowed.iter().any(|range| range.contains(&question.from)) {
                return Answer::Dropped;
            }
        }
    }

    // Endpoints, with the target port of their slice.
    let mut endpoints: Vec<(&Endpoint, u16)> = vec![];
    for slice in world.slices.iter().filter(|slice| slice.service == service.key.name) {
        // A port without a number is that of a headless Service.
        let mut numbered = slice.ports.iter().filter(|p| p.port.is_some());
        let target = numbered.find(|p| (&p.name, p.protocol) == (&port.name, port.protocol));
        let Some(target) = target.and_then(|target| target.port) else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let Some(address) = endpoint.addresses.first() else {
                continue;
            };
            let link_local = ["169.254.0.0/16", "fe80::/10"]
                .iter()
                .any(|range| net(range).contains(address));
            if address.is_ipv6() == v6 && !nobody_is_there(*address) && !of_services(*address) && !link_local {
                endpoints.push((endpoint, target));
            }
        }
    }
    // The same endpoint twice counts in its better condition.
    let mut at = 0;
    while at < endpoints.len() {
        let (endpoint, target) = endpoints[at];
        let better = endpoints.iter().enumerate().any(|(other, (e, t))| {
            let same = e.addresses[0] == endpoint.addresses[0] && *t == target;
            let (theirs, ours) = (usable(e), usable(endpoint));
            same && (theirs > ours || theirs == ours && other < at)
        });
        if better {
            endpoints.remove(at);
        } else {
            at += 1;
        }
    }
    let ready: Vec<_> = endpoints.iter().copied().filter(|(e, _)| usable(e) == 2).collect();
    let draining: Vec<_> = endpoints.iter().copied().filter(|(e, _)| usable(e) == 1).collect();

    let policy = match (internal, question.inside) {
        (true, _) => service.internal_traffic_policy,
        // As if it had gone out and come back.
        (false, true) => TrafficPolicy::Cluster,
        (false, false) => service.external_traffic_policy,
    };
    let chosen = match policy {
        TrafficPolicy::Local => {
            let here = |(e, _): &(&Endpoint, u16)| e.node_name.as_deref() == Some(NODE);
            let ready: Vec<_> = ready.iter().copied().filter(here).collect();
            if ready.is_empty() {
                draining.iter().copied().filter(here).collect()
            } else {
                ready
            }
        }
        TrafficPolicy::Cluster if ready.is_empty() => draining.clone(),
        TrafficPolicy::Cluster => near(&ready, world.zone.as_deref()),
    };
    if chosen.is_empty() {
        return match ready.is_empty() && draining.is_empty() {
            true => Answer::Refused,
            false => Answer::Dropped,
        };
    }
    let masqueraded = internal || service.external_traffic_policy == TrafficPolicy::Cluster;
    Answer::To(
        chosen.iter().map(|(e, target)| (e.addresses[0], *target)).collect(),
        (!question.inside).then_some(masqueraded),
    )
}

/// 2 where ready, 1 where it still serves on its way out, 0 where nothing may be sent.
fn usable(endpoint: &Endpoint) -> u8 {
    if endpoint.ready {
        2
    } else {
        u8::from(endpoint.serving && endpoint.terminating)
    }
}

fn near<'a>(ready: &[(&'a Endpoint, u16)], zone: Option<&str>) -> Vec<(&'a Endpoint, u16)> {
    let mut near = ready.to_vec();
    near.retain(|(e, _)| e.for_nodes.iter().any(|name| name == NODE));
    if !near.is_empty() && !ready.iter().any(|(e, _)| e.for_nodes.is_empty()) {
        return near;
    }
    let mut near = ready.to_vec();
    near.retain(|(e, _)| zone.is_some_and(|zone| e.for_zones.iter().any(|name| name == zone)));
    if !near.is_empty() && !ready.iter().any(|(e, _)| e.for_zones.is_empty()) {
        return near;
    }
    ready.to_vec()
}

// ---- What compile says -----------------------------------------------------------------------------------------------

fn compiled(forwarding: &compile::Forwarding, question: &Question) -> Answer {
    let any = |family| match family {
        Family::V4 => ip("0.0.0.0"),
        Family::V6 => ip("::"),
    };
    let frontend = Frontend {
        ip: question.to.unwrap_or_else(any),
        port: question.port,
        protocol: question.protocol,
    };
    let Some(rule) = forwarding.frontends.get(&frontend) else {
        return Answer::NotOurs;
    };
    if let Some(ranges) = &rule.source_ranges
        && !ranges.iter().any(|range| range.contains(&question.from))
    {
        return Answer::Dropped;
    }
    let target = if question.inside { &rule.inside } else { &rule.outside };
    let backends = &forwarding.sets[&target.set];
    match (backends.is_empty(), target.when_empty) {
        (true, WhenEmpty::Refuse) => Answer::Refused,
        (true, WhenEmpty::Drop) => Answer::Dropped,
        (false, _) => Answer::To(
            backends.iter().map(|backend| (backend.ip, backend.port)).collect(),
            (!question.inside).then_some(target.source == Source::Masquerade),
        ),
    }
}

// ---- Worlds ----------------------------------------------------------------------------------------------------------

const CLUSTER_IPS: [&str; 2] = ["10.96.0.7", "fd96::7"];
const EXTERNAL: [&str; 6] = [
    "203.0.113.1",
    "2001:db8::1",
    "127.0.0.1",
    "10.96.0.99",
    "::ffff:192.0.2.1",
    "0.0.0.0",
];
const BALANCERS: [&str; 6] = [
    "203.0.113.1",
    "203.0.113.2",
    "2001:db8::2",
    "224.0.0.7",
    "fd96::99",
    "169.254.20.10",
];
const ENDPOINTS: [&str; 12] = [
    "10.244.0.1",
    "10.244.0.2",
    "10.244.0.3",
    "10.244.1.1",
    "fd00::1",
    "fd00::2",
    "fd00::3",
    "127.0.0.1",
    "169.254.1.1",
    "10.96.0.8",
    "ff02::1",
    "::",
];
const CLIENTS: [&str; 6] = [
    "10.244.0.9",
    "198.51.100.9",
    "203.0.113.1",
    "fd00::9",
    "2001:db8:1::9",
    "2001:db8::2",
];
const RANGES: [&str; 5] = [
    "198.51.100.0/24",
    "10.89.0.0/16",
    "10.0.0.0/8",
    "2001:db8:1::/48",
    "fd89::/64",
];
const PORTS: [u16; 4] = [80, 81, 30_080, 30_081];
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

fn ips(from: &'static [&'static str]) -> impl Strategy<Value = Vec<IpAddr>> {
    subsequence(from, 0..=from.len()).prop_map(|some| some.into_iter().map(ip).collect())
}

fn service_port() -> impl Strategy<Value = ServicePort> {
    let number = prop::option::weighted(0.8, 0u16..2).prop_map(|number| number.map(|n| 30_080 + n));
    (select(vec!["a", "b"]), select(PROTOCOLS.to_vec()), 80u16..82, number).prop_map(
        |(name, protocol, port, node_port)| ServicePort {
            name: name.into(),
            protocol,
            port,
            node_port,
        },
    )
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local])
}

fn service() -> impl Strategy<Value = Service> {
    let types = select(vec![
        ServiceType::ClusterIp,
        ServiceType::NodePort,
        ServiceType::LoadBalancer,
        ServiceType::LoadBalancer,
        ServiceType::ExternalName,
    ]);
    let balancers = (ips(&BALANCERS), any::<u8>()).prop_map(|(ips, proxied)| {
        let mode = |at| {
            if proxied >> at & 3 == 3 {
                IpMode::Proxy
            } else {
                IpMode::Vip
            }
        };
        let entry = |(at, ip)| LoadBalancerIp { ip, mode: mode(at) };
        ips.into_iter().enumerate().map(entry).collect::<Vec<_>>()
    });
    let ranges = prop_oneof![
        Just(vec![]),
        subsequence(&RANGES[..], 0..=RANGES.len()).prop_map(|some| some.into_iter().map(net).collect::<Vec<_>>()),
    ];
    (
        (types, ips(&CLUSTER_IPS), ips(&EXTERNAL), balancers, ranges),
        (prop::collection::vec(service_port(), 1..4), policy(), policy()),
        (
            prop::bool::weighted(0.05),
            prop::bool::weighted(0.05),
            prop::option::of(1u64..86_400),
        ),
    )
        .prop_map(
            |((type_, cluster_ips, external_ips, balancers, ranges), (ports, internal, external), rest)| {
                let (headless, foreign, affinity) = rest;
                Service {
                    type_,
                    cluster_ips,
                    external_ips,
                    load_balancer_ips: balancers,
                    load_balancer_source_ranges: ranges,
                    ports,
                    internal_traffic_policy: internal,
                    external_traffic_policy: external,
                    headless,
                    foreign,
                    session_affinity: affinity.map_or(SessionAffinity::None, |s| {
                        SessionAffinity::ClientIp(Duration::from_secs(s))
                    }),
                    ..Service::named(ObjectKey::new("default", "web"))
                }
            },
        )
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let names = |prefix: &'static str| {
        // Mostly present, because one without a hint disables them all.
        prop::collection::vec((1u8..4).prop_map(move |n| format!("{prefix}{n}")), 0..3)
    };
    let conditions = prop_oneof![
        4 => Just((true, true, false)),
        2 => Just((false, true, true)),
        1 => (any::<bool>(), any::<bool>(), any::<bool>()),
    ];
    let node = prop::option::weighted(0.9, 1u8..4);
    (select(ENDPOINTS.to_vec()), conditions, node, names("n"), names("z")).prop_map(
        |(address, (ready, serving, terminating), node, for_nodes, for_zones)| Endpoint {
            addresses: vec![ip(address)],
            ready,
            serving,
            terminating,
            hostname: None,
            node_name: node.map(|node| format!("n{node}")),
            zone: None,
            for_nodes,
            for_zones,
            pod: None,
        },
    )
}

fn slices() -> impl Strategy<Value = Vec<EndpointSlice>> {
    let port = (
        select(vec!["a", "b"]),
        select(PROTOCOLS.to_vec()),
        prop::option::weighted(0.9, 8080u16..8082),
    )
        .prop_map(|(name, protocol, port)| EndpointPort {
            name: name.into(),
            protocol,
            port,
        });
    let slice = (
        prop::bool::weighted(0.9),
        prop::collection::vec(port, 0..6),
        prop::collection::vec(endpoint(), 0..5),
    );
    prop::collection::vec(slice, 0..4).prop_map(|slices| {
        let slice = |(number, (ours, ports, endpoints)): (usize, (bool, _, _))| EndpointSlice {
            key: ObjectKey::new("default", format!("slice-{number}")),
            service: if ours { "web" } else { "other" }.into(),
            ports,
            endpoints,
        };
        slices.into_iter().enumerate().map(slice).collect()
    })
}

fn world() -> impl Strategy<Value = World> {
    let zone = prop::option::weighted(0.8, (1u8..3).prop_map(|n| format!("z{n}")));
    (service(), slices(), zone).prop_map(|(service, slices, zone)| World { service, slices, zone })
}

fn questions() -> Vec<Question> {
    let everywhere = CLUSTER_IPS
        .iter()
        .chain(&EXTERNAL)
        .chain(&BALANCERS)
        .map(|text| ip(text))
        .filter(|to| !to.is_unspecified());
    let to: Vec<_> = everywhere.map(Ok).chain([Err(Family::V4), Err(Family::V6)]).collect();
    let mut questions = vec![];
    for to in to {
        let v6 = match to {
            Ok(address) => address.is_ipv6(),
            Err(family) => matches!(family, Family::V6),
        };
        for from in CLIENTS.iter().map(|text| ip(text)).filter(|from| from.is_ipv6() == v6) {
            for port in PORTS {
                for protocol in PROTOCOLS {
                    for inside in [true, false] {
                        questions.push(Question {
                            to,
                            port,
                            protocol,
                            from,
                            inside,
                        });
                    }
                }
            }
        }
    }
    questions
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn every_connection_goes_where_the_rules_say(world in world()) {
        let mut state = State::new(NODE);
        for (name, cidr) in ["four", "six"].into_iter().zip(SERVICE_CIDRS) {
            let cidrs = vec![net(cidr)];
            state.apply(Change::ServiceCidr(ServiceCidr { name: name.into(), cidrs }));
        }
        state.apply(Change::Node(Node {
            name: NODE.into(),
            internal_ips: NODE_IPS.map(ip).to_vec(),
            zone: world.zone.clone(),
            ..Node::default()
        }));
        state.apply(Change::Service(world.service.clone()));
        for slice in &world.slices {
            state.apply(Change::EndpointSlice(slice.clone()));
        }
        let forwarding = compile::service(&state, &world.service.key);
        for question in questions() {
            let (said, right) = (compiled(&forwarding, &question), expected(&world, &question));
            prop_assert_eq!(said, right, "{:?}", question);
        }
        for (frontend, rule) in &forwarding.frontends {
            let affinity = match world.service.session_affinity {
                SessionAffinity::None => None,
                SessionAffinity::ClientIp(timeout) => Some(timeout),
            };
            prop_assert_eq!(rule.affinity, affinity);
            for target in [&rule.inside, &rule.outside] {
                prop_assert_eq!(target.set.ipv6, frontend.ip.is_ipv6());
            }
        }
        for backends in forwarding.sets.values() {
            prop_assert!(backends.is_sorted_by(|one, next| one < next));
        }
    }
}
