//! One walk, two places: packets of services, through all three hooks. On the same packets and the same maps, kernel and
//! host give the same verdicts, the same counts, the same packets and the same flows.
//!
//! Whatever is random has one way to go: sets of one backend, and one port to masquerade with.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap as KernelMap};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config as Runs, TestRunner};
use weft_packet::host::{HostMaps, HostPacket};
use weft_packet::layout::{NODE_ADDRESS, name};
use weft_packet::{
    Addr, BackendKey, Config, Flow, Frontend, MemberKey, Plain, Pod, Port, Prefix, Reason, Scratch, Service, Set,
    SockAddr, Tuple, node, pod,
};

use super::differential::{Kernel, LO, Taken, mac};
use super::world::{add_address, ip, run};
use crate::bpf::table::Raw;

const CASES: u32 = 10_000;
/// What a route to a backend takes, in bytes.
const NARROW: u32 = 100;
const PROGRAMS: [&str; 3] = ["from_pod", "from_outside", "to_outside"];

/// Who there is, by family: the client, the node, the pod behind the loopback interface, a pod on another node, one
/// behind a narrow route, a service, and nobody's address from the range of services.
const HOSTS: [[&str; 7]; 2] = [
    [
        "198.51.100.5",
        "192.0.2.1",
        "10.0.0.1",
        "10.0.1.9",
        "10.0.2.9",
        "10.96.0.1",
        "10.96.0.2",
    ],
    [
        "2001:db8:5::5",
        "2001:db8::1",
        "fd00::1",
        "fd00:1::9",
        "fd00:2::9",
        "fd00:96::1",
        "fd00:96::2",
    ],
];

fn addr(text: &str) -> Addr {
    Addr::from(text.parse::<IpAddr>().unwrap())
}

/// The same for both places.
fn maps() -> HostMaps {
    let mut maps = HostMaps::default();
    for (family, hosts) in (0..).zip(HOSTS) {
        let [_, node, pod, other, narrow, service, _] = hosts.map(addr);
        maps.node_addresses.insert(node, NODE_ADDRESS);
        let link = Pod {
            ifindex: LO,
            mac: mac(LO),
            host_mac: [4, 0, 0, 0, 0, 1],
            limited: 0,
        };
        maps.pods.insert(pod, link);
        let ports = [
            (30080, Some(pod), 0),
            (30081, Some(pod), Service::KEEP_SOURCE),
            (30082, Some(other), 0),
            (30083, Some(narrow), 0),
            (30084, Some(node), Service::KEEP_SOURCE),
            (30085, None, 0),
            (30086, None, Service::OUTSIDE_DROPS | Service::INSIDE_DROPS),
            (30087, Some(pod), Service::RANGES),
        ];
        for (n, (port, backend, flags)) in (0..).zip(ports) {
            let set = 10 * family + n;
            if let Some(backend) = backend {
                let backend = SockAddr::new(backend, Port::from_host(8000 + n as u16));
                maps.backends.insert(BackendKey { set, slot: 0 }, backend);
                maps.members.insert(MemberKey::new(set, &backend));
            }
            let count = backend.is_some().into();
            maps.sets.insert(set, Set { count, flags: 0 });
            let value = Service {
                inside: set,
                outside: set,
                affinity: 100 * (n % 2),
                flags,
            };
            for protocol in [6, 17, 132] {
                // One address each: two that share a backend may need a random port.
                let addr = if n % 2 == 0 { node.unspecified() } else { service };
                maps.frontends
                    .insert(Frontend::new(addr, Port::from_host(port), protocol), value);
            }
        }
        maps.frontends.insert(Frontend::address(service), Service::default());
    }
    maps.macs.insert(LO, mac(LO));
    maps.inside = vec![Prefix::new(0, addr("10.0.0.0"), 16), Prefix::new(0, addr("fd00::"), 30)];
    maps.service_ranges = vec![
        Prefix::new(0, addr("10.96.0.0"), 16),
        Prefix::new(0, addr("fd00:96::"), 112),
    ];
    maps.source_ranges = vec![Prefix::new(7, addr("198.51.100.0"), 24)];
    maps.config = Some(Config {
        netns: 0,
        v4: addr("192.0.2.1"),
        v6: addr("2001:db8::1"),
        tunnel: 0,
        first_port: 10000,
        ports: 1,
    });
    maps
}

fn write<K: Plain, V: Plain>(ebpf: &mut Ebpf, map: &str, entries: impl IntoIterator<Item = (K, V)>) {
    let mut map: KernelMap<_, Raw<K>, Raw<V>> = ebpf.map_mut(map).unwrap().try_into().unwrap();
    for (key, value) in entries {
        map.insert(Raw(key), Raw(value), 0).unwrap();
    }
}

fn write_ranges(ebpf: &mut Ebpf, map: &str, ranges: &[Prefix]) {
    let mut map: LpmTrie<_, [u8; 20], u32> = ebpf.map_mut(map).unwrap().try_into().unwrap();
    for range in ranges {
        let mut data = [0; 20];
        data[..4].copy_from_slice(&range.scope.to_ne_bytes());
        data[4..].copy_from_slice(&range.addr.bytes());
        map.insert(&Key::new(range.length, data), 1, 0).unwrap();
    }
}

/// The kernel with the same maps.
fn kernel(pins: &Path, maps: &HostMaps) -> Kernel {
    let mut kernel = Kernel::load(pins, &PROGRAMS);
    let ebpf = &mut kernel.ebpf;
    write(ebpf, name::PODS, maps.pods.clone());
    write(ebpf, name::FRONTENDS, maps.frontends.clone());
    write(ebpf, name::SETS, maps.sets.clone());
    write(ebpf, name::BACKENDS, maps.backends.clone());
    write(ebpf, name::MEMBERS, maps.members.iter().map(|key| (*key, 1u32)));
    write(ebpf, name::NODE_ADDRESSES, maps.node_addresses.clone());
    write_ranges(ebpf, name::INSIDE, &maps.inside);
    write_ranges(ebpf, name::SERVICE_RANGES, &maps.service_ranges);
    write_ranges(ebpf, name::SOURCE_RANGES, &maps.source_ranges);
    let mut config: Array<_, Raw<Config>> = ebpf.map_mut(name::CONFIG).unwrap().try_into().unwrap();
    config.set(0, Raw(maps.config.unwrap()), 0).unwrap();
    kernel
}

/// An IP packet. Checksums are arbitrary: what the walk does to them must not depend on their being right.
fn ip_packet(v6: bool, from: usize, to: usize, protocol: u8, ttl: u8, more: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let [from, to] = [from, to].map(|host| addr(HOSTS[usize::from(v6)][host]));
    let [id, check, part, _] = more;
    if v6 {
        let fragment: &[u8] = match part % 4 {
            0 => &[protocol, 0, 0, 1, 0, 0, 0, id],
            1 => &[protocol, 0, 0, 8, 0, 0, 0, id],
            _ => &[],
        };
        let next = if fragment.is_empty() { protocol } else { 44 };
        let length = (fragment.len() + rest.len()) as u16;
        let start = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[next, ttl]].concat();
        [&start, &from.bytes()[..], &to.bytes(), fragment, rest].concat()
    } else {
        let part = match part % 4 {
            0 => [0x20, 0],
            1 => [0, 1],
            _ => [0x40, 0],
        };
        let length = (20 + rest.len() as u16).to_be_bytes();
        let start = [&[0x45, 0][..], &length, &[0, id], &part, &[ttl, protocol, check, 7]].concat();
        [&start, &from.v4_bytes()[..], &to.v4_bytes(), rest].concat()
    }
}

/// A transport header between these ports, with something behind it.
fn transport(protocol: u8, [from, to]: [u16; 2], flags: u8, header: [u8; 12], rest: &[u8]) -> Vec<u8> {
    let [from, to] = [from, to].map(u16::to_be_bytes);
    let mut all = [&from[..], &to, &header, &[0, 0, 0, 0], rest].concat();
    if protocol == 6 {
        all[13] = flags;
    }
    all
}

/// Between whom a packet goes, and by which ports: to a service, from a backend, or any.
fn ends() -> impl Strategy<Value = ([usize; 2], [u16; 2])> {
    let client = || 4000u16..4003;
    let service = || 30080u16..30089;
    let backend = || 8000u16..8008;
    prop_oneof![
        4 => (select(vec![0, 0, 2, 3]), select(vec![1, 5]), client(), service())
            .prop_map(|(from, to, a, b)| ([from, to], [a, b])),
        4 => (1usize..5, 0usize..3, backend(), prop_oneof![client(), Just(10000)])
            .prop_map(|(from, to, a, b)| ([from, to], [a, b])),
        1 => (0usize..7, 0usize..7, any::<u16>(), any::<u16>()).prop_map(|(from, to, a, b)| ([from, to], [a, b])),
    ]
}

/// Packets of services and errors about such, at the hook that sees them, or at another.
fn packet() -> impl Strategy<Value = (&'static str, bool, Vec<u8>)> {
    let hook = |from: usize, stray: &'static str| match from {
        _ if !stray.is_empty() => stray,
        1 => "to_outside",
        2 => "from_pod",
        _ => "from_outside",
    };
    let stray = || prop_oneof![9 => Just(""), 1 => select(PROGRAMS.to_vec())];
    let body = || {
        (
            select(vec![6u8, 6, 17, 17, 132]),
            select(vec![2u8, 16, 17, 4, 18]),
            any::<[u8; 12]>(),
            proptest::collection::vec(any::<u8>(), 0..90),
        )
    };
    let more = (0u8..3, any::<u8>(), prop_oneof![6 => Just(3u8), 1 => 0u8..2]).prop_map(|(a, b, c)| [a, b, c, 0]);
    let ttl = select(vec![64u8, 64, 64, 64, 2, 1]);
    let plain = (any::<bool>(), ends(), ttl, more, body(), stray()).prop_map(
        move |(v6, ([from, to], ports), ttl, more, (protocol, flags, header, rest), stray)| {
            let rest = transport(protocol, ports, flags, header, &rest);
            let packet = ip_packet(v6, from, to, protocol, ttl, more, &rest);
            (hook(from, stray), v6, packet)
        },
    );
    let kind = select(vec![1u8, 2, 3, 3, 4, 11, 12, 8]);
    let error = (
        any::<bool>(),
        ends(),
        0usize..7,
        kind,
        any::<[u8; 7]>(),
        body(),
        stray(),
    )
        .prop_map(
            move |(v6, ([from, to], [a, b]), router, kind, header, (protocol, flags, more, rest), stray)| {
                // About a packet that went the other way; from whom it was for, or from a router.
                let rest = transport(protocol, [b, a], flags, more, &rest);
                let quote = ip_packet(v6, to, from, protocol, 5, [0, 0, 3, 0], &rest);
                let message = [&[kind], &header[..], &quote].concat();
                let from = if router % 2 == 0 { from } else { router };
                let packet = ip_packet(v6, from, to, if v6 { 58 } else { 1 }, 64, [0, 0, 3, 0], &message);
                (hook(from, stray), v6, packet)
            },
        );
    prop_oneof![4 => plain, 1 => error]
}

#[test]
fn kernel_and_host_agree_on_packets_of_services() {
    run(
        module_path!(),
        "kernel_and_host_agree_on_packets_of_services",
        |world| {
            for family in ["ipv4", "ipv6"] {
                std::fs::write(format!("/proc/sys/net/{family}/conf/all/forwarding"), "1").unwrap();
            }
            ip("link add up0 type veth peer name up1");
            ip("link set up0 up");
            ip("link set up1 up");
            add_address("192.0.2.1/32", "up0");
            ip("route add 10.0.1.0/24 dev up0");
            ip(&format!("route add 10.0.2.0/24 dev up0 mtu lock {NARROW}"));
            ip("-6 route add fd00:1::/64 dev up0");
            let uplink = nix::net::if_::if_nametoindex("up0").unwrap();

            let maps = maps();
            let kernel = kernel(&world.bpffs.join("maps"), &maps);
            let routes = [(HOSTS[0][3], 1500), (HOSTS[0][4], NARROW), (HOSTS[1][3], 1500)];
            let routes: HashMap<_, _> = routes.map(|(to, mtu)| (addr(to), (uplink, mtu))).into();
            for program in PROGRAMS {
                let info = kernel.ebpf.program(program).unwrap().info().unwrap();
                let count = info.verified_instruction_count().unwrap();
                println!("{program}: the verifier looked at {count} instructions");
                // It gives up at a million.
                assert!(count < 200_000, "{program}: {count}");
            }
            let mut runner = TestRunner::new(Runs {
                cases: CASES,
                failure_persistence: None,
                ..Runs::default()
            });
            let result = runner.run(&packet(), |(program, v6, packet)| {
                let kind: u16 = if v6 { 0x86dd } else { 0x0800 };
                let frame = [&[4, 0, 0, 0, 0, 1][..], &mac(LO), &kind.to_be_bytes(), &packet].concat();
                let mut host = HostPacket {
                    ifindex: LO,
                    data: frame.clone(),
                    routes: routes.clone(),
                    ..HostPacket::default()
                };
                let scratch = &mut Scratch::default();
                let verdict = match program {
                    "from_pod" => pod::from_pod(&mut host, &maps, scratch),
                    "from_outside" => node::from_outside(&mut host, &maps, scratch),
                    _ => node::to_outside(&mut host, &maps, scratch),
                };
                prop_assert_eq!(kernel.agrees(program, &frame, verdict, &host.data)?, Taken::Yes);
                Ok(())
            });
            result.unwrap_or_else(|e| panic!("{e}"));

            // What was noted is the same, but for when.
            let noted: KernelMap<_, Raw<Tuple>, Raw<Flow>> = kernel.ebpf.map(name::FLOWS).unwrap().try_into().unwrap();
            let timeless = |flow: Flow| Flow { seen: 0, ..flow };
            let noted: HashMap<Tuple, Flow> = noted
                .iter()
                .map(|entry| entry.map(|(key, flow)| (key.0, timeless(flow.0))).unwrap())
                .collect();
            let expected = maps.flows.borrow();
            let differ = |key: &&Tuple| noted.get(key).copied() != expected.get(key).map(|flow| timeless(*flow));
            if let Some(key) = noted.keys().chain(expected.keys()).find(differ) {
                panic!("{key:?}: {:?} is not {:?}", noted.get(key), expected.get(key));
            }

            // The packets were of every kind that the walk tells apart.
            let seen = maps.counters.borrow();
            for reason in [
                Reason::Forwarded,
                Reason::ServiceToStack,
                Reason::TooBig,
                Reason::TimeExceeded,
                Reason::NoEndpoints,
                Reason::NoLocalEndpoints,
                Reason::UnknownServicePort,
                Reason::UnallocatedServiceAddress,
                Reason::SourceRange,
                Reason::NoPort,
                Reason::Untranslated,
                Reason::SctpPort,
                Reason::NoRoute,
            ] {
                assert!(seen.contains_key(&reason), "no {reason:?}: {seen:?}");
            }
        },
    );
}
