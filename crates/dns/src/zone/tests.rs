//! The rules of the specification, one test each, and: changes one by one give what a rebuild gives.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;
use weft_model::ipam::IpPool;
use weft_model::ipam::spec::{PoolSpec, PoolStatus, Provider};
use weft_model::service::ServiceCidr;
use weft_model::{
    Change, Endpoint, EndpointPort, EndpointSlice, Node, ObjectKey, Protocol, Service, ServicePort, ServiceType,
};

use super::{Answer, Lookup, Zone};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(name: &str, ips: &[&str]) -> Service {
    let port = |name: &str, protocol, port| ServicePort {
        name: name.into(),
        protocol,
        port,
        node_port: None,
    };
    Service {
        cluster_ips: ips.iter().map(|i| ip(i)).collect(),
        headless: ips.is_empty(),
        ports: vec![port("http", Protocol::Tcp, 80), port("", Protocol::Udp, 53)],
        ..Service::named(ObjectKey::new("shop", name))
    }
}

fn external(name: &str, target: &str) -> Service {
    let mut service = service(name, &[]);
    (service.type_, service.headless) = (ServiceType::ExternalName, false);
    service.external_name = Some(target.into());
    service
}

fn endpoint(address: &str, hostname: Option<&str>) -> Endpoint {
    Endpoint {
        addresses: vec![ip(address)],
        ready: true,
        serving: true,
        terminating: false,
        hostname: hostname.map(Into::into),
        node_name: None,
        zone: None,
        for_nodes: Vec::new(),
        for_zones: Vec::new(),
        pod: None,
    }
}

fn slice(name: &str, service: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let port = |name: &str, protocol, port| EndpointPort {
        name: name.into(),
        protocol,
        port: Some(port),
    };
    EndpointSlice {
        key: ObjectKey::new("shop", name),
        service: service.into(),
        ports: vec![port("http", Protocol::Tcp, 8080), port("", Protocol::Udp, 5353)],
        endpoints,
    }
}

fn empty() -> Zone {
    Zone::new(
        "cluster.local",
        ObjectKey::new("shop", "web"),
        vec!["10.96.0.0/16".parse().unwrap()],
    )
    .unwrap()
}

/// A zone with one Service of each kind.
fn zone() -> Zone {
    let mut zone = empty();
    let mut hidden = endpoint("10.244.0.9", Some("late"));
    hidden.ready = false;
    let changes = [
        Change::Service(service("web", &["10.96.0.7", "fd00:10:96::7"])),
        Change::EndpointSlice(slice("web-1", "web", vec![endpoint("10.244.0.1", None)])),
        Change::Service(service("db", &[])),
        Change::EndpointSlice(slice(
            "db-1",
            "db",
            vec![
                endpoint("10.244.0.2", Some("db-0")),
                endpoint("10.244.0.3", None),
                hidden,
            ],
        )),
        Change::EndpointSlice(slice("db-2", "db", vec![endpoint("5678:abcd::1", Some("db-0"))])),
        Change::Service(service("none", &[])),
        Change::Service(external("out", "www.example.com")),
        Change::Service(external("alias", "web.shop.svc.cluster.local")),
        Change::Service(external("dangling", "gone.shop.svc.Cluster.local")),
        Change::Service(external("loop", "loop.shop.svc.cluster.local")),
        Change::Service(external("address", "192.0.2.1")),
        Change::Node(Node {
            name: "n".into(),
            pod_cidrs: vec!["10.244.0.0/23".parse().unwrap()],
            ..Node::default()
        }),
        Change::Synced,
    ];
    changes.iter().for_each(|c| zone.apply(c));
    zone
}

fn find(zone: &Zone, name: &str, kind: RecordType) -> Option<Answer> {
    let name = if name.is_empty() {
        "cluster.local.".into()
    } else {
        name.replace('$', "svc.cluster.local.")
    };
    match zone.lookup(&Name::from_ascii(name).unwrap(), kind) {
        Lookup::NotOurs => None,
        Lookup::Ours(answer) => Some(answer),
    }
}

/// The answer's code and data as text; `$` in a name stands for `svc.cluster.local.`
fn ask(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
    let answer = find(&zone(), name, kind).expect("a name of the cluster");
    assert_eq!(
        answer.authorities.is_empty(),
        answer.answers.iter().any(|r| r.record_type() == kind),
        "SOA iff no data"
    );
    (answer.code, answer.answers.iter().map(|r| r.data.to_string()).collect())
}

const OK: ResponseCode = ResponseCode::NoError;
const NX: ResponseCode = ResponseCode::NXDomain;
const NOTHING: Vec<String> = Vec::new();

#[test]
fn a_service_has_its_addresses_by_family() {
    assert_eq!(ask("web.shop.$", RecordType::A), (OK, vec!["10.96.0.7".into()]));
    assert_eq!(ask("web.shop.$", RecordType::AAAA), (OK, vec!["fd00:10:96::7".into()]));
    assert_eq!(
        ask("db.shop.$", RecordType::A),
        (OK, vec!["10.244.0.2".into(), "10.244.0.3".into()])
    );
    assert_eq!(ask("db.shop.$", RecordType::AAAA), (OK, vec!["5678:abcd::1".into()]));
}

#[test]
fn names_are_compared_without_case_and_answered_as_written() {
    let answer = find(&zone(), "WEB.shop.SVC.cluster.LOCAL.", RecordType::A).unwrap();
    assert_eq!(answer.answers[0].name.to_ascii(), "WEB.shop.SVC.cluster.LOCAL.");
    assert_eq!(answer.answers[0].ttl, 5);
}

#[test]
fn the_wrong_type_is_no_data_and_a_missing_name_is_no_such_name() {
    assert_eq!(ask("web.shop.$", RecordType::MX), (OK, NOTHING));
    for missing in [
        "gone.shop.$",
        "web.nowhere.$",
        "nowhere.$",
        "x.web.shop.$",
        "_http._udp.web.shop.$",
        "_._udp.web.shop.$",
    ] {
        assert_eq!(ask(missing, RecordType::A), (NX, NOTHING), "{missing}");
    }
    for missing in [
        "x.cluster.local.",
        "a.b.c.web.shop.$",
        "http._tcp.web.shop.$",
        "_sctp.web.shop.$",
    ] {
        assert_eq!(ask(missing, RecordType::SRV), (NX, NOTHING), "{missing}");
    }
}

#[test]
fn what_lies_above_a_name_exists() {
    for above in [
        "",
        "$",
        "shop.$",
        "pod.cluster.local.",
        "_tcp.web.shop.$",
        "_tcp.db.shop.$",
        "dns.cluster.local.",
    ] {
        assert_eq!(ask(above, RecordType::A), (OK, NOTHING), "{above}");
    }
}

#[test]
fn a_headless_service_without_ready_endpoints_does_not_exist() {
    assert_eq!(ask("none.shop.$", RecordType::A), (NX, NOTHING));
    assert_eq!(ask("late.db.shop.$", RecordType::A), (NX, NOTHING));
}

#[test]
fn publish_not_ready_publishes() {
    let mut zone = zone();
    let mut db = service("db", &[]);
    db.publish_not_ready = true;
    zone.apply(&Change::Service(db));
    assert_eq!(find(&zone, "late.db.shop.$", RecordType::A).unwrap().answers.len(), 1);
    zone.apply(&Change::Service(service("db", &[])));
    assert_eq!(find(&zone, "late.db.shop.$", RecordType::A).unwrap().code, NX);
}

#[test]
fn endpoints_have_names() {
    assert_eq!(ask("db-0.db.shop.$", RecordType::A), (OK, vec!["10.244.0.2".into()]));
    assert_eq!(
        ask("db-0.db.shop.$", RecordType::AAAA),
        (OK, vec!["5678:abcd::1".into()])
    );
    assert_eq!(
        ask("10-244-0-3.db.shop.$", RecordType::A),
        (OK, vec!["10.244.0.3".into()])
    );
    assert_eq!(
        ask("10-244-0-2.db.shop.$", RecordType::A),
        (NX, NOTHING),
        "it has a hostname"
    );
    assert_eq!(
        ask("10-244-0-1.web.shop.$", RecordType::A),
        (OK, vec!["10.244.0.1".into()]),
        "headless or not"
    );
}

#[test]
fn srv_of_a_named_port_has_the_address_beside_it() {
    let answer = find(&zone(), "_http._tcp.web.shop.$", RecordType::SRV).unwrap();
    let text: Vec<String> = answer.answers.iter().map(|r| r.data.to_string()).collect();
    assert_eq!(text, ["0 100 80 web.shop.svc.cluster.local."]);
    let beside: Vec<String> = answer
        .additionals
        .iter()
        .map(|r| format!("{} {}", r.name, r.data))
        .collect();
    assert_eq!(
        beside,
        [
            "web.shop.svc.cluster.local. 10.96.0.7",
            "web.shop.svc.cluster.local. fd00:10:96::7"
        ]
    );
    assert_eq!(ask("_http._tcp.web.shop.$", RecordType::A), (OK, NOTHING));
}

#[test]
fn srv_of_a_headless_service_names_every_endpoint() {
    let answer = find(&zone(), "_http._tcp.db.shop.$", RecordType::SRV).unwrap();
    let mut text: Vec<String> = answer.answers.iter().map(|r| r.data.to_string()).collect();
    text.sort();
    let of = |host: &str| format!("0 50 8080 {host}.db.shop.svc.cluster.local.");
    assert_eq!(text, [of("10-244-0-3"), of("db-0")]);
    assert_eq!(answer.additionals.len(), 3, "db-0 has two addresses");
}

#[test]
fn srv_of_the_bare_name_has_every_port() {
    assert_eq!(ask("web.shop.$", RecordType::SRV).1.len(), 2);
    assert_eq!(ask("db.shop.$", RecordType::SRV).1.len(), 4);
    assert_eq!(ask("db-0.db.shop.$", RecordType::SRV).1.len(), 2);
}

#[test]
fn addresses_point_back() {
    let pointer = |address: &str| ask(&Name::from(ip(address)).to_ascii(), RecordType::PTR);
    let name = |text: &str| (OK, vec![format!("{text}.shop.svc.cluster.local.")]);
    assert_eq!(pointer("10.96.0.7"), name("web"));
    assert_eq!(pointer("fd00:10:96::7"), name("web"));
    assert_eq!(pointer("10.244.0.2"), name("db-0.db"));
    assert_eq!(pointer("10.244.0.3"), name("10-244-0-3.db"));
    assert_eq!(pointer("5678:abcd::1"), name("db-0.db"));
    assert_eq!(pointer("10.244.0.9"), (NX, NOTHING), "not ready, but in a node's range");
    assert_eq!(pointer("10.96.200.1"), (NX, NOTHING), "in the service range");
}

#[test]
fn an_unknown_address_of_a_pool_or_of_the_services_is_nobodys() {
    let mut zone = zone();
    let pool = |name: &str, cidr: &str, provider: Option<Provider>| {
        let spec = PoolSpec {
            cidrs: vec![cidr.into()],
            provider,
            ..PoolSpec::default()
        };
        let status = PoolStatus {
            in_force: Some(spec),
            ..PoolStatus::default()
        };
        Change::Pool(Box::new(IpPool {
            name: name.into(),
            status,
            ..IpPool::default()
        }))
    };
    let services = ServiceCidr {
        name: "more".into(),
        cidrs: vec!["10.97.0.0/16".parse().unwrap()],
    };
    let added = endpoint("10.61.0.5", None);
    for change in [
        pool("blue", "10.61.0.0/24", None),
        pool("cloud", "172.31.0.0/16", Some(Provider::default())),
        Change::ServiceCidr(services),
        Change::EndpointSlice(slice("web-1", "web", vec![added])),
    ] {
        zone.apply(&change);
    }
    let code = |zone: &Zone, address: &str| {
        let name = Name::from(ip(address)).to_ascii();
        find(zone, &name, RecordType::PTR).map(|answer| answer.code)
    };
    assert_eq!(code(&zone, "10.61.0.5"), Some(OK), "a pod's address out of a pool");
    assert_eq!(code(&zone, "10.61.0.6"), Some(NX));
    assert_eq!(code(&zone, "10.97.0.6"), Some(NX));
    assert_eq!(
        code(&zone, "172.31.0.6"),
        None,
        "another machine of the provider's may have it"
    );
    zone.apply(&Change::PoolGone("blue".into()));
    zone.apply(&Change::ServiceCidrGone("more".into()));
    assert_eq!(code(&zone, "10.61.0.6"), None);
    assert_eq!(code(&zone, "10.97.0.6"), None);
}

#[test]
fn reverse_names_of_others_are_not_ours() {
    for other in [
        "1.2.0.192.in-addr.arpa.",
        "10.in-addr.arpa.",
        "in-addr.arpa.",
        "007.0.96.10.in-addr.arpa.",
    ] {
        assert!(find(&zone(), other, RecordType::PTR).is_none(), "{other}");
    }
    assert_eq!(
        ask("0.96.10.in-addr.arpa.", RecordType::PTR),
        (OK, NOTHING),
        "a range of ours"
    );
    assert_eq!(ask("7.0.96.10.in-addr.arpa.", RecordType::A), (OK, NOTHING));
    assert!(find(&zone(), "example.com.", RecordType::A).is_none());
    assert!(find(&zone(), "xcluster.local.", RecordType::A).is_none());
}

#[test]
fn an_external_name_is_a_cname() {
    let out = find(&zone(), "out.shop.$", RecordType::A).unwrap();
    assert_eq!(out.answers[0].data.to_string(), "www.example.com.");
    assert_eq!(out.outside.unwrap().to_ascii(), "www.example.com.");
    assert!(
        find(&zone(), "out.shop.$", RecordType::CNAME)
            .unwrap()
            .outside
            .is_none()
    );
    assert_eq!(ask("x.out.shop.$", RecordType::A), (NX, NOTHING));
    assert_eq!(ask("_http._tcp.out.shop.$", RecordType::SRV), (NX, NOTHING));
    assert_eq!(
        ask("address.shop.$", RecordType::A),
        (NX, NOTHING),
        "a CNAME cannot point at an address"
    );
}

#[test]
fn an_external_name_inside_is_followed() {
    let alias = (OK, vec!["web.shop.svc.cluster.local.".into(), "10.96.0.7".into()]);
    assert_eq!(ask("alias.shop.$", RecordType::A), alias, "the CNAME first");
    assert_eq!(ask("alias.shop.$", RecordType::MX).0, OK);
    assert_eq!(
        ask("dangling.shop.$", RecordType::A),
        (NX, vec!["gone.shop.svc.Cluster.local.".into()])
    );
    let round = find(&zone(), "loop.shop.$", RecordType::A).unwrap();
    assert_eq!((round.code, round.answers.len()), (ResponseCode::ServFail, 0));
}

#[test]
fn the_zone_itself() {
    assert_eq!(
        ask("dns-version.cluster.local.", RecordType::TXT),
        (OK, vec!["1.1.0".into()])
    );
    assert_eq!(ask("", RecordType::NS), (OK, vec!["ns.dns.cluster.local.".into()]));
    assert_eq!(
        ask("ns.dns.cluster.local.", RecordType::A),
        (OK, vec!["10.96.0.7".into()])
    );
    assert_eq!(ask("", RecordType::SOA).1.len(), 1);
    assert_eq!(zone().server_addresses(), [ip("10.96.0.7"), ip("fd00:10:96::7")]);
}

#[test]
fn a_bad_domain_is_refused() {
    for bad in ["", ".", "a..b", &"x".repeat(64)] {
        assert!(Zone::new(bad, ObjectKey::new("a", "b"), Vec::new()).is_err(), "{bad:?}");
    }
}

#[test]
fn a_slice_may_change_hands_and_arrive_before_its_service() {
    let mut zone = empty();
    zone.apply(&Change::EndpointSlice(slice(
        "s",
        "db",
        vec![endpoint("10.244.0.2", None)],
    )));
    assert_eq!(find(&zone, "db.shop.$", RecordType::A).unwrap().code, NX);
    zone.apply(&Change::Service(service("db", &[])));
    assert_eq!(find(&zone, "db.shop.$", RecordType::A).unwrap().answers.len(), 1);
    zone.apply(&Change::Service(service("other", &[])));
    zone.apply(&Change::EndpointSlice(slice(
        "s",
        "other",
        vec![endpoint("10.244.0.2", None)],
    )));
    assert_eq!(find(&zone, "db.shop.$", RecordType::A).unwrap().code, NX);
    assert_eq!(find(&zone, "other.shop.$", RecordType::A).unwrap().answers.len(), 1);
}

const SERVICES: [&str; 3] = ["a", "b", "web"];
const SLICES: [&str; 3] = ["s", "t", "u"];
const ADDRESSES: [&str; 4] = ["10.96.0.1", "10.244.0.1", "10.244.0.2", "fd00::1"];
const HOSTS: [Option<&str>; 4] = [None, Some("h"), Some("10-244-0-1"), Some("Bad_Name")];

fn any_service() -> impl Strategy<Value = Service> {
    let ips = prop::collection::vec(prop::sample::select(&ADDRESSES[..]), 0..3);
    (
        prop::sample::select(&SERVICES[..]),
        ips,
        any::<bool>(),
        prop::option::of(prop::sample::select(&SERVICES[..])),
    )
        .prop_map(|(name, ips, publish, alias)| {
            let mut made = service(name, &ips);
            made.publish_not_ready = publish;
            alias
                .filter(|_| !publish)
                .map_or(made, |to| external(name, &format!("{to}.shop.svc.cluster.local")))
        })
}

fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    let one = (
        prop::sample::select(&ADDRESSES[..]),
        prop::sample::select(&HOSTS[..]),
        any::<bool>(),
    );
    let endpoints = prop::collection::vec(one, 0..4);
    (
        prop::sample::select(&SLICES[..]),
        prop::sample::select(&SERVICES[..]),
        endpoints,
        0..3_usize,
    )
        .prop_map(|(name, service, endpoints, ports)| {
            let make = |(address, host, ready): (&str, Option<&str>, bool)| {
                let mut made = endpoint(address, host);
                made.ready = ready;
                made
            };
            let mut made = slice(name, service, endpoints.into_iter().map(make).collect());
            made.ports.truncate(ports);
            made
        })
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => any_service().prop_map(Change::Service),
        1 => prop::sample::select(&SERVICES[..]).prop_map(|n| Change::ServiceGone(ObjectKey::new("shop", n))),
        4 => any_slice().prop_map(Change::EndpointSlice),
        1 => prop::sample::select(&SLICES[..]).prop_map(|n| Change::EndpointSliceGone(ObjectKey::new("shop", n))),
    ]
}

/// Every question that could tell two zones of the test's little world apart.
fn everything(zone: &Zone) -> Vec<String> {
    let mut names: Vec<String> = ADDRESSES.iter().map(|a| Name::from(ip(a)).to_ascii()).collect();
    names.push("shop.$".into());
    for service in SERVICES {
        for label in [
            "",
            "h.",
            "10-244-0-1.",
            "10-244-0-2.",
            "10-96-0-1.",
            "fd00--1.",
            "_http._tcp.",
            "_tcp.",
        ] {
            names.push(format!("{label}{service}.shop.$"));
        }
    }
    let kinds = [
        RecordType::A,
        RecordType::AAAA,
        RecordType::SRV,
        RecordType::PTR,
        RecordType::CNAME,
    ];
    let each = names.iter().flat_map(|name| kinds.map(|kind| (name, kind)));
    each.map(|(name, kind)| {
        let answer = find(zone, name, kind).map(|a| (a.code, a.answers, a.additionals));
        format!("{name} {kind}: {answer:?}")
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_by_one_is_the_same_as_anew(changes in prop::collection::vec(any_change(), 0..40)) {
        let mut grown = empty();
        let (mut services, mut slices) = (std::collections::BTreeMap::new(), std::collections::BTreeMap::new());
        for change in &changes {
            grown.apply(change);
            match change.clone() {
                Change::Service(s) => drop(services.insert(s.key.clone(), s)),
                Change::ServiceGone(key) => drop(services.remove(&key)),
                Change::EndpointSlice(s) => drop(slices.insert(s.key.clone(), s)),
                Change::EndpointSliceGone(key) => drop(slices.remove(&key)),
                _ => {}
            }
        }
        let mut built = empty();
        services.values().for_each(|s| built.apply(&Change::Service(s.clone())));
        slices.values().for_each(|s| built.apply(&Change::EndpointSlice(s.clone())));
        prop_assert_eq!(everything(&grown), everything(&built));

        services.keys().for_each(|key| grown.apply(&Change::ServiceGone(key.clone())));
        slices.keys().for_each(|key| grown.apply(&Change::EndpointSliceGone(key.clone())));
        prop_assert!(grown.is_empty(), "something is left: {:?}", grown);
    }
}
