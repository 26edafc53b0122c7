//! Which frontends a Service has, and which endpoints each leads to.

use super::super::Backend;
use super::*;
use crate::testing::{endpoint, node, service as a_service, slice};
use crate::{Change, Endpoint, EndpointPort, EndpointSlice, LoadBalancerIp, Protocol};

fn key() -> ObjectKey {
    ObjectKey::new("default", "a")
}

fn state(service: Service, slices: Vec<EndpointSlice>) -> State {
    let mut state = State::new("n1");
    let mut local = node("n1");
    local.zone = Some("z1".into());
    state.apply(Change::Node(local));
    state.apply(Change::Service(service));
    for slice in slices {
        state.apply(Change::EndpointSlice(slice));
    }
    state
}

/// The backends of the first frontend, as text.
fn backends_of(state: &State) -> Vec<String> {
    let forwarding = service(state, &key());
    let rule = forwarding.frontends.values().next().unwrap();
    forwarding.sets[&rule.inside.set]
        .iter()
        .map(|b| format!("{}:{}", b.ip, b.port))
        .collect()
}

#[test]
fn a_service_without_endpoints_keeps_its_frontend() {
    let state = state(a_service("a", "10.96.0.5"), vec![]);
    assert_eq!(backends_of(&state), Vec::<String>::new());
}

#[test]
fn headless_foreign_and_external_names_have_no_frontend() {
    let mut headless = a_service("a", "10.96.0.5");
    headless.headless = true;
    let mut foreign = a_service("a", "10.96.0.5");
    foreign.foreign = true;
    let mut name = a_service("a", "10.96.0.5");
    name.type_ = ServiceType::ExternalName;
    for svc in [headless, foreign, name] {
        assert_eq!(service(&state(svc, vec![]), &key()), Forwarding::default());
    }
}

#[test]
fn ports_are_matched_by_name_and_protocol_in_each_slice() {
    let mut svc = a_service("a", "10.96.0.5");
    svc.ports.push(ServicePort {
        name: "http".into(),
        protocol: Protocol::Udp,
        port: 80,
        node_port: None,
    });
    let old = slice("s1", "a", vec![endpoint("10.0.0.1")]);
    let mut new = slice("s2", "a", vec![endpoint("10.0.0.2")]);
    new.ports[0].port = Some(9090);
    new.ports.push(EndpointPort {
        name: "http".into(),
        protocol: Protocol::Udp,
        port: Some(53),
    });
    let state = state(svc, vec![old, new]);
    assert_eq!(backends_of(&state), ["10.0.0.1:8080", "10.0.0.2:9090"]);
    let forwarding = service(&state, &key());
    let udp = Frontend {
        ip: "10.96.0.5".parse().unwrap(),
        port: 80,
        protocol: Protocol::Udp,
    };
    assert_eq!(
        forwarding.sets[&forwarding.frontends[&udp].inside.set],
        vec![Backend {
            ip: "10.0.0.2".parse().unwrap(),
            port: 53
        }]
    );
}

#[test]
fn families_are_independent() {
    let mut svc = a_service("a", "10.96.0.5");
    svc.cluster_ips.push("fd00::5".parse().unwrap());
    let state = state(
        svc,
        vec![
            slice("s4", "a", vec![endpoint("10.0.0.1")]),
            slice("s6", "a", vec![endpoint("fd01::1")]),
        ],
    );
    let all: Vec<_> = service(&state, &key())
        .sets
        .into_values()
        .flatten()
        .map(|b| b.ip.to_string())
        .collect();
    assert_eq!(all, ["10.0.0.1", "fd01::1"]);
}

#[test]
fn draining_endpoints_are_the_last_resort_and_unready_ones_never() {
    let mut draining = endpoint("10.0.0.1");
    (draining.ready, draining.terminating) = (false, true);
    let mut unready = endpoint("10.0.0.2");
    (unready.ready, unready.serving) = (false, false);
    let svc = a_service("a", "10.96.0.5");
    let only = state(
        svc.clone(),
        vec![slice("s", "a", vec![draining.clone(), unready.clone()])],
    );
    assert_eq!(backends_of(&only), ["10.0.0.1:8080"]);
    let with_ready = state(
        svc,
        vec![slice("s", "a", vec![draining, unready, endpoint("10.0.0.3")])],
    );
    assert_eq!(backends_of(&with_ready), ["10.0.0.3:8080"]);
}

#[test]
fn local_policy_keeps_to_the_node_and_falls_back_within_it() {
    let mut svc = a_service("a", "10.96.0.5");
    svc.internal_traffic_policy = TrafficPolicy::Local;
    let on = |address: &str, node: &str| Endpoint {
        node_name: Some(node.into()),
        ..endpoint(address)
    };
    let remote = on("10.0.1.1", "n2");
    let mut draining = on("10.0.0.1", "n1");
    (draining.ready, draining.terminating) = (false, true);
    let both = state(svc.clone(), vec![slice("s", "a", vec![remote.clone(), draining])]);
    assert_eq!(backends_of(&both), ["10.0.0.1:8080"]);
    assert!(backends_of(&state(svc, vec![slice("s", "a", vec![remote])])).is_empty());
}

#[test]
fn hints_need_every_endpoint_and_one_match() {
    let hinted = |address: &str, nodes: &[&str], zones: &[&str]| Endpoint {
        for_nodes: nodes.iter().map(|s| s.to_string()).collect(),
        for_zones: zones.iter().map(|s| s.to_string()).collect(),
        ..endpoint(address)
    };
    let pick = |endpoints| backends_of(&state(a_service("a", "10.96.0.5"), vec![slice("s", "a", endpoints)]));
    let (a, b) = ("10.0.0.1", "10.0.0.2");
    let (pa, pb) = ("10.0.0.1:8080", "10.0.0.2:8080");
    assert_eq!(pick(vec![hinted(a, &["n1"], &[]), hinted(b, &["n2"], &[])]), [pa]);
    assert_eq!(pick(vec![hinted(a, &[], &["z2"]), hinted(b, &[], &["z1"])]), [pb]);
    // Nodes before zones.
    assert_eq!(
        pick(vec![hinted(a, &["n1"], &["z2"]), hinted(b, &["n2"], &["z1"])]),
        [pa]
    );
    // No hint for this node: its zone; a missing hint, or no match at all: everyone.
    assert_eq!(
        pick(vec![hinted(a, &["n3"], &["z2"]), hinted(b, &["n2"], &["z1"])]),
        [pb]
    );
    assert_eq!(pick(vec![hinted(a, &["n1"], &[]), hinted(b, &[], &[])]), [pa, pb]);
    assert_eq!(
        pick(vec![hinted(a, &["n3"], &["z3"]), hinted(b, &["n2"], &["z2"])]),
        [pa, pb]
    );
}

#[test]
fn an_endpoint_in_two_slices_counts_once() {
    let mut going = endpoint("10.0.0.1");
    (going.ready, going.terminating) = (false, true);
    let slices = vec![
        slice("s1", "a", vec![going]),
        slice("s2", "a", vec![endpoint("10.0.0.1")]),
    ];
    assert_eq!(
        backends_of(&state(a_service("a", "10.96.0.5"), slices)),
        ["10.0.0.1:8080"]
    );
}

fn of(service: Service, slices: Vec<EndpointSlice>) -> Forwarding {
    super::service(&state(service, slices), &key())
}

fn said(forwarding: &Forwarding) -> Vec<String> {
    forwarding.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn all_addresses_of_a_port_share_its_sets() {
    let mut svc = a_service("a", "10.96.0.5");
    svc.type_ = ServiceType::LoadBalancer;
    svc.external_ips = vec!["203.0.113.1".parse().unwrap()];
    svc.load_balancer_ips = vec![LoadBalancerIp {
        ip: "203.0.113.2".parse().unwrap(),
        mode: IpMode::Vip,
    }];
    svc.ports[0].node_port = Some(30_080);
    let all = of(svc.clone(), vec![slice("s", "a", vec![endpoint("10.0.0.1")])]);
    let names: Vec<_> = all.frontends.keys().map(ToString::to_string).collect();
    assert_eq!(
        names,
        [
            "node port 30080/TCP",
            "10.96.0.5 port 80/TCP",
            "203.0.113.1 port 80/TCP",
            "203.0.113.2 port 80/TCP"
        ]
    );
    assert_eq!(all.sets.len(), 1);
    svc.external_traffic_policy = TrafficPolicy::Local;
    assert_eq!(of(svc, vec![]).sets.len(), 2);
}

#[test]
fn what_must_not_be_trusted_is_skipped_by_itself_and_said() {
    let mut svc = a_service("a", "10.96.0.5");
    svc.type_ = ServiceType::LoadBalancer;
    svc.external_ips = vec!["0.0.0.0".parse().unwrap(), "203.0.113.1".parse().unwrap()];
    svc.load_balancer_ips = ["203.0.113.1", "2001:db8::1", "127.0.0.1"]
        .map(|ip| LoadBalancerIp {
            ip: ip.parse().unwrap(),
            mode: IpMode::Vip,
        })
        .to_vec();
    svc.cluster_ips.push("fd96::5".parse().unwrap());
    svc.load_balancer_source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    for node_port in [None, Some(30_080)] {
        svc.ports.push(ServicePort {
            name: "other".into(),
            protocol: Protocol::Tcp,
            port: 81,
            node_port,
        });
    }
    let again = ServicePort {
        port: 82,
        ..svc.ports[2].clone()
    };
    svc.ports[1].node_port = Some(30_080);
    svc.ports.push(again);
    let endpoints = ["10.0.0.1", "127.0.0.1", "169.254.169.254"].map(endpoint).to_vec();
    let all = of(svc, vec![slice("s", "a", endpoints)]);
    assert_eq!(
        said(&all),
        [
            "spec.loadBalancerSourceRanges has no IPv6 network: 2001:db8::1 is open to everybody, as with kube-proxy; \
             add one",
            "status.loadBalancer.ingress: 127.0.0.1 is a loopback address: it is not served; remove it",
            "spec.externalIPs: 0.0.0.0 is the unspecified address: it is not served; remove it",
            "EndpointSlice s: endpoint 127.0.0.1 is a loopback address (1 more endpoints are no better): nothing is \
             sent there; correct who writes the slice",
            "spec.ports: port 81/TCP is there twice: the first is in force; remove the other",
            "spec.ports: node port 30080/TCP is there twice: the first is in force; remove the other",
        ]
    );
    let balancer = Frontend {
        ip: "203.0.113.1".parse().unwrap(),
        port: 80,
        protocol: Protocol::Tcp,
    };
    // An external address that is a load balancer's too keeps its guard.
    assert_eq!(all.frontends[&balancer].kind, FrontendKind::LoadBalancer);
    assert!(all.frontends[&balancer].source_ranges.is_some());
    assert_eq!(all.sets[&all.frontends[&balancer].inside.set].len(), 1);
}

#[test]
fn five_thousand_ports_find_their_endpoints() {
    let mut svc = a_service("a", "10.96.0.5");
    let mut ends = slice("s", "a", vec![endpoint("10.0.0.1")]);
    (svc.ports, ends.ports) = (vec![], vec![]);
    for port in 1..=5000 {
        svc.ports.push(ServicePort {
            name: format!("p{port}"),
            protocol: Protocol::Udp,
            port,
            node_port: None,
        });
        ends.ports.push(EndpointPort {
            name: format!("p{port}"),
            protocol: Protocol::Udp,
            port: Some(port + 10_000),
        });
    }
    let all = of(svc, vec![ends]);
    assert_eq!(all.frontends.len(), 5000);
    let target = |(key, backends): (&SetKey, &Vec<Backend>)| backends[0].port == key.port + 10_000;
    assert!(all.sets.len() == 5000 && all.sets.iter().all(target));
}
