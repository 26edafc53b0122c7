//! Requests, replies and errors about them, through a node with a pod, a second node and services of every kind.

use std::collections::HashMap;
use std::net::IpAddr;
use std::vec::Vec;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::host::{HostMaps, HostPacket};
use crate::layout::{LOOPBACK_ADDRESS, NODE_ADDRESS};
use crate::{
    Addr, BackendKey, Config, Flow, Frontend, MemberKey, Pod, Port, Prefix, Service, Set, SockAddr, checksum, pod,
};

const UPLINK: u32 = 2;
const OTHER_NODE: u32 = 3;
const POD: u32 = 7;
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const TCP: u8 = 6;
const UDP: u8 = 17;

fn addr(text: &str) -> Addr {
    Addr::from(text.parse::<IpAddr>().unwrap())
}

fn at(text: &str, port: u16) -> SockAddr {
    SockAddr::new(addr(text), Port::from_host(port))
}

/// A node with the addresses 192.0.2.1 and 2001:db8::1.
struct World(HostMaps);

/// Sets: everywhere (a pod here and one on another node), here (the pod), a process of the node, nowhere.
const EVERYWHERE: u32 = 0;
const HERE: u32 = 2;
const NODE: u32 = 4;
const NOWHERE: u32 = 6;

impl World {
    fn new() -> Self {
        let mut maps = HostMaps::default();
        for (family, [node, pod, other, service]) in [
            ["192.0.2.1", "10.0.0.7", "10.0.1.9", "10.96.0.1"],
            ["2001:db8::1", "fd00::7", "fd00:1::9", "fd00:96::1"],
        ]
        .into_iter()
        .enumerate()
        {
            maps.node_addresses.insert(addr(node), NODE_ADDRESS);
            let local = Pod {
                ifindex: POD,
                mac: POD_MAC,
                host_mac: [4, 0, 0, 0, 0, 7],
                limited: 0,
            };
            maps.pods.insert(addr(pod), local);
            let family = family as u32;
            for (set, backends) in [
                (EVERYWHERE, [pod, other].as_slice()),
                (HERE, &[pod]),
                (NODE, &[node]),
                (NOWHERE, &[]),
            ] {
                let set = set + family;
                for (slot, backend) in (0..).zip(backends) {
                    let backend = at(backend, 8080);
                    maps.backends.insert(BackendKey { set, slot }, backend);
                    maps.members.insert(MemberKey::new(set, &backend));
                }
                let count = backends.len() as u32;
                maps.sets.insert(set, Set { count, flags: 0 });
            }
            let any = addr(node).unspecified();
            for protocol in [TCP, UDP] {
                let mut add = |ip: Addr, port: u16, set: u32, flags: u32| {
                    let service = Service {
                        inside: EVERYWHERE + family,
                        outside: set + family,
                        affinity: 0,
                        flags,
                    };
                    maps.frontends
                        .insert(Frontend::new(ip, Port::from_host(port), protocol), service);
                };
                add(any, 30080, EVERYWHERE, 0);
                add(any, 30081, HERE, Service::KEEP_SOURCE | Service::OUTSIDE_DROPS);
                add(any, 30082, NODE, Service::KEEP_SOURCE);
                add(any, 30083, NOWHERE, 0);
                add(any, 30084, NOWHERE, Service::OUTSIDE_DROPS);
                add(addr(service), 80, EVERYWHERE, 0);
                add(addr(service), 81, EVERYWHERE, Service::RANGES);
            }
            maps.frontends
                .insert(Frontend::address(addr(service)), Service::default());
        }
        maps.node_addresses.insert(addr("127.0.0.1"), LOOPBACK_ADDRESS);
        maps.node_addresses.insert(addr("::1"), LOOPBACK_ADDRESS);
        maps.macs.insert(POD, POD_MAC);
        maps.inside = std::vec![Prefix::new(0, addr("10.0.0.0"), 16), Prefix::new(0, addr("fd00::"), 31)];
        maps.service_ranges = std::vec![
            Prefix::new(0, addr("10.96.0.0"), 16),
            Prefix::new(0, addr("fd00:96::"), 112)
        ];
        maps.config = Some(Config {
            netns: 1,
            v4: addr("192.0.2.1"),
            v6: addr("2001:db8::1"),
            tunnel: 0,
            first_port: 10000,
            ports: 1000,
        });
        Self(maps)
    }

    fn outside(&self, packet: &mut HostPacket) -> Verdict {
        packet.ifindex = UPLINK;
        packet.routes = routes(1500);
        from_outside(packet, &self.0, &mut Scratch::default())
    }

    /// The way of a packet from the backend that a request has reached.
    fn back(&self, verdict: Verdict, packet: &mut HostPacket) -> Verdict {
        let scratch = &mut Scratch::default();
        match verdict {
            Verdict::Deliver(_, ifindex) => {
                packet.ifindex = ifindex;
                packet.data[6..12].copy_from_slice(&POD_MAC);
                pod::from_pod(packet, &self.0, scratch)
            }
            Verdict::Send(_, ifindex) => {
                packet.ifindex = ifindex;
                from_outside(packet, &self.0, scratch)
            }
            _ => {
                packet.ifindex = UPLINK;
                to_outside(packet, &self.0, scratch)
            }
        }
    }
}

/// The routes to the pods of the other node.
fn routes(mtu: u32) -> HashMap<Addr, (u32, u32)> {
    ["10.0.1.9", "fd00:1::9"].map(|to| (addr(to), (OTHER_NODE, mtu))).into()
}

/// A packet by what it says, and back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    from: SockAddr,
    to: SockAddr,
    protocol: u8,
    ttl: u8,
    payload: Vec<u8>,
}

fn message(from: SockAddr, to: SockAddr, protocol: u8) -> Message {
    Message {
        from,
        to,
        protocol,
        ttl: 64,
        payload: b"hello".to_vec(),
    }
}

fn sum(bytes: &[u8]) -> u64 {
    let pair = |w: &[u8]| u64::from(u16::from_ne_bytes([w[0], w.get(1).copied().unwrap_or(0)]));
    bytes.chunks(2).map(pair).sum()
}

fn pseudo(from: Addr, to: Addr, protocol: u8, length: usize) -> u64 {
    let words = u64::from((length as u16).to_be()) + u64::from(u16::from(protocol).to_be());
    words
        + if from.is_v4() {
            sum(&from.v4_bytes()) + sum(&to.v4_bytes())
        } else {
            sum(&from.bytes()) + sum(&to.bytes())
        }
}

/// An IP packet with its Ethernet header.
fn ip(from: Addr, to: Addr, protocol: u8, ttl: u8, payload: &[u8]) -> HostPacket {
    let mut data = std::vec![4, 0, 0, 0, 0, 2, 6, 0, 0, 0, 0, 1];
    if from.is_v4() {
        data.extend([8, 0, 0x45, 0]);
        data.extend((20 + payload.len() as u16).to_be_bytes());
        data.extend([0, 1, 0, 0, ttl, protocol, 0, 0]);
        data.extend(from.v4_bytes());
        data.extend(to.v4_bytes());
        let check = checksum::fold(sum(&data[14..34]));
        data[24..26].copy_from_slice(&check.to_ne_bytes());
    } else {
        data.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        data.extend((payload.len() as u16).to_be_bytes());
        data.extend([protocol, ttl]);
        data.extend(from.bytes());
        data.extend(to.bytes());
    }
    data.extend(payload);
    HostPacket {
        ifindex: UPLINK,
        data,
        ..HostPacket::default()
    }
}

impl Message {
    fn packet(&self) -> HostPacket {
        let mut transport = Vec::new();
        transport.extend(self.from.port.host().to_be_bytes());
        transport.extend(self.to.port.host().to_be_bytes());
        let check = match self.protocol {
            TCP => {
                transport.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 16, 1, 0, 0, 0, 0, 0]);
                16
            }
            _ => {
                transport.extend((8 + self.payload.len() as u16).to_be_bytes());
                transport.extend([0, 0]);
                6
            }
        };
        transport.extend(&self.payload);
        let total = pseudo(self.from.addr, self.to.addr, self.protocol, transport.len()) + sum(&transport);
        let sum = match checksum::fold(total) {
            0 if self.protocol == UDP => u16::MAX,
            sum => sum,
        };
        transport[check..check + 2].copy_from_slice(&sum.to_ne_bytes());
        ip(self.from.addr, self.to.addr, self.protocol, self.ttl, &transport)
    }

    /// What a packet says; its checksums must be right.
    fn of(packet: &HostPacket) -> Self {
        let data = &packet.data;
        let (from, to, protocol, ttl, transport) = if data[12..14] == [8, 0] {
            assert_eq!(checksum::fold(sum(&data[14..34])), 0, "IPv4's checksum");
            let v4 = |at: usize| Addr::from_v4_bytes(data[at..at + 4].try_into().unwrap());
            (v4(26), v4(30), data[23], data[22], &data[34..])
        } else {
            let v6 = |at: usize| Addr::from_v6_bytes(data[at..at + 16].try_into().unwrap());
            (v6(22), v6(38), data[20], data[21], &data[54..])
        };
        let total = pseudo(from, to, protocol, transport.len()) + sum(transport);
        let total = if protocol == 1 { sum(transport) } else { total };
        assert_eq!(checksum::fold(total), 0, "the checksum of protocol {protocol}");
        let port = |at: usize| Port::from_host(u16::from_be_bytes([transport[at], transport[at + 1]]));
        let headers = if protocol == TCP { 20 } else { 8 };
        Self {
            from: SockAddr::new(from, port(0)),
            to: SockAddr::new(to, port(2)),
            protocol,
            ttl,
            payload: transport[headers..].to_vec(),
        }
    }

    fn reply(&self) -> Self {
        Self {
            ttl: 64,
            ..message(self.to, self.from, self.protocol)
        }
    }
}

fn node_port(client: &str, port: u16, protocol: u8) -> Message {
    let node = if client.contains(':') {
        "2001:db8::1"
    } else {
        "192.0.2.1"
    };
    message(at(client, 4000), at(node, port), protocol)
}

/// Clients outside, of both families.
const CLIENTS: [&str; 2] = ["198.51.100.5", "2001:db8:5::5"];

#[test]
fn a_request_to_a_node_port_comes_from_this_node_and_its_reply_from_the_node_port() {
    for client in CLIENTS {
        for protocol in [TCP, UDP] {
            let world = World::new();
            let request = node_port(client, 30080, protocol);
            let mut packet = request.packet();
            let verdict = world.outside(&mut packet);
            let got = Message::of(&packet);
            assert!(matches!(
                verdict,
                Verdict::Deliver(_, POD) | Verdict::Send(_, OTHER_NODE)
            ));
            assert_eq!(got.from.addr, request.to.addr, "masqueraded");
            assert!((10000..11000).contains(&got.from.port.host()));
            assert_eq!((got.ttl, &got.payload), (63, &request.payload));
            let mut reply = got.reply().packet();
            assert_eq!(
                world.back(verdict, &mut reply),
                Verdict::Send(Reason::Forwarded, UPLINK)
            );
            let reply = Message::of(&reply);
            assert_eq!((reply.from, reply.to), (request.to, request.from));
        }
    }
}

#[test]
fn policy_local_keeps_the_clients_address() {
    for client in CLIENTS {
        let world = World::new();
        let request = node_port(client, 30081, TCP);
        let mut packet = request.packet();
        let verdict = world.outside(&mut packet);
        assert_eq!(verdict, Verdict::Deliver(Reason::Forwarded, POD));
        assert_eq!(packet.data[..12], [2, 0, 0, 0, 0, 7, 4, 0, 0, 0, 0, 7]);
        let got = Message::of(&packet);
        assert_eq!((got.from, got.to.port.host()), (request.from, 8080));
        let mut reply = got.reply().packet();
        assert_eq!(
            world.back(verdict, &mut reply),
            Verdict::Send(Reason::Forwarded, UPLINK)
        );
        assert_eq!(Message::of(&reply).from, request.to);
    }
}

#[test]
fn a_process_of_the_node_answers_through_the_stack() {
    for client in CLIENTS {
        let world = World::new();
        let request = node_port(client, 30082, UDP);
        let mut packet = request.packet();
        let verdict = world.outside(&mut packet);
        assert_eq!(verdict, Verdict::Pass(Reason::ServiceToStack));
        let got = Message::of(&packet);
        assert_eq!((got.from, got.to.port.host(), got.ttl), (request.from, 8080, 64));
        let mut reply = got.reply().packet();
        assert_eq!(world.back(verdict, &mut reply), Verdict::Pass(Reason::ServiceToStack));
        assert_eq!(Message::of(&reply).from, request.to);
    }
}

#[test]
fn what_ends_has_a_name() {
    let end = |request: Message| World::new().outside(&mut request.packet());
    for client in CLIENTS {
        let service = |port| {
            let service = if client.contains(':') {
                "fd00:96::1"
            } else {
                "10.96.0.1"
            };
            message(at(client, 4000), at(service, port), TCP)
        };
        assert_eq!(end(node_port(client, 30083, TCP)), Verdict::Refuse(Reason::NoEndpoints));
        assert_eq!(
            end(node_port(client, 30084, TCP)),
            Verdict::Drop(Reason::NoLocalEndpoints)
        );
        assert_eq!(end(service(82)), Verdict::Refuse(Reason::UnknownServicePort));
        assert_eq!(end(service(81)), Verdict::Drop(Reason::SourceRange));
        let mut unallocated = service(80);
        unallocated.to.addr = addr(if client.contains(':') {
            "fd00:96::2"
        } else {
            "10.96.0.2"
        });
        assert_eq!(end(unallocated), Verdict::Drop(Reason::UnallocatedServiceAddress));
        assert_eq!(end(node_port(client, 22, TCP)), Verdict::Pass(Reason::ToStack));
        let own = &mut service(80).packet();
        let verdict = to_outside(own, &World::new().0, &mut Scratch::default());
        assert_eq!(verdict, Verdict::Drop(Reason::Untranslated));
    }
}

#[test]
fn a_source_range_lets_its_own_in() {
    let mut world = World::new();
    world.0.source_ranges = std::vec![Prefix::new(EVERYWHERE, addr("198.51.100.0"), 24)];
    let request = |client| message(at(client, 4000), at("10.96.0.1", 81), TCP);
    assert!(matches!(
        world.outside(&mut request("198.51.100.5").packet()),
        Verdict::Deliver(..) | Verdict::Send(..)
    ));
    assert_eq!(
        world.outside(&mut request("198.51.101.5").packet()),
        Verdict::Drop(Reason::SourceRange)
    );
}

#[test]
fn a_pod_that_reaches_itself_sees_the_node() {
    for (pod, service) in [("10.0.0.7", "10.96.0.1"), ("fd00::7", "fd00:96::1")] {
        let mut world = World::new();
        // The other backend goes.
        for set in [EVERYWHERE, EVERYWHERE + 1] {
            world.0.sets.insert(set, Set { count: 1, flags: 0 });
        }
        let request = message(at(pod, 4000), at(service, 80), TCP);
        let mut packet = request.packet();
        let here = Verdict::Deliver(Reason::Forwarded, POD);
        assert_eq!(world.back(here, &mut packet), here);
        let got = Message::of(&packet);
        assert!(world.0.node_addresses.contains_key(&got.from.addr), "{got:?}");
        let mut reply = got.reply().packet();
        assert_eq!(world.back(here, &mut reply), here);
        let reply = Message::of(&reply);
        assert_eq!((reply.from, reply.to), (request.to, request.from));
    }
}

#[test]
fn a_flow_of_udp_leaves_a_backend_that_is_none_any_more_and_one_of_tcp_does_not() {
    for (protocol, stays) in [(UDP, false), (TCP, true)] {
        let mut world = World::new();
        let request = node_port(CLIENTS[0], 30080, protocol);
        let mut packet = request.packet();
        world.outside(&mut packet);
        let first = Message::of(&packet).to;
        world.0.members.remove(&MemberKey::new(EVERYWHERE, &first));
        let other = match first == at("10.0.0.7", 8080) {
            true => at("10.0.1.9", 8080),
            false => at("10.0.0.7", 8080),
        };
        let set = EVERYWHERE;
        world.0.backends.insert(BackendKey { set, slot: 0 }, other);
        world.0.sets.insert(set, Set { count: 1, flags: 0 });
        let mut packet = request.packet();
        world.outside(&mut packet);
        assert_eq!(Message::of(&packet).to == first, stays);
        // With none left, it is refused, or lives on.
        world.0.sets.insert(set, Set { count: 0, flags: 0 });
        world.0.members.clear();
        let end = world.outside(&mut request.packet());
        assert_eq!(end == Verdict::Refuse(Reason::NoEndpoints), !stays);
    }
}

fn with_flags(message: &Message, flags: u8) -> HostPacket {
    let mut packet = message.packet();
    let at = 33 + 14;
    packet.data[at] = flags;
    packet
}

#[test]
fn a_new_connection_on_the_ports_of_one_that_ended_chooses_anew() {
    const FIN: u8 = 17;
    const SYN: u8 = 2;
    let mut world = World::new();
    let request = node_port(CLIENTS[0], 30080, TCP);
    let mut packet = with_flags(&request, SYN);
    let verdict = world.outside(&mut packet);
    // The checksum is that of other flags, and stays as wrong.
    let flow = |world: &World| {
        world
            .0
            .flows
            .borrow()
            .values()
            .find(|f| !f.has(Flow::REPLY))
            .copied()
            .unwrap()
    };
    let first = flow(&world);
    let reply = message(
        SockAddr::new(first.to.destination, first.to.destination_port),
        SockAddr::new(first.to.source, first.to.source_port),
        TCP,
    );
    // The set is now without its old backends.
    let set = EVERYWHERE;
    let other = at("10.0.1.10", 8080);
    world.0.backends.insert(BackendKey { set, slot: 0 }, other);
    world.0.sets.insert(set, Set { count: 1, flags: 0 });
    let open = |world: &World| {
        world.outside(&mut with_flags(&request, SYN));
        flow(world).to.destination
    };
    assert_eq!(open(&world), first.to.destination, "it is open");
    world.outside(&mut with_flags(&request, FIN));
    assert_eq!(open(&world), first.to.destination, "half closed");
    world.back(verdict, &mut with_flags(&reply, FIN));
    assert_eq!(open(&world), other.addr);
}

#[test]
fn without_a_free_port_nothing_is_overwritten() {
    let mut world = World::new();
    world.0.config = world.0.config.map(|config| Config { ports: 1, ..config });
    let set = EVERYWHERE;
    world.0.sets.insert(set, Set { count: 1, flags: 0 });
    let request = |port| Message {
        from: at(CLIENTS[0], port),
        ..node_port(CLIENTS[0], 30080, UDP)
    };
    assert!(matches!(world.outside(&mut request(1).packet()), Verdict::Deliver(..)));
    assert_eq!(world.outside(&mut request(2).packet()), Verdict::Drop(Reason::NoPort));
    // The first one's time is over.
    world.0.now.set(1000);
    assert!(matches!(world.outside(&mut request(2).packet()), Verdict::Deliver(..)));
}

#[test]
fn a_packet_too_big_or_too_old_is_answered() {
    for client in CLIENTS {
        for (ttl, mtu, reason) in [(64, 30, Reason::TooBig), (1, 1500, Reason::TimeExceeded)] {
            let mut world = World::new();
            let family = u32::from(client.contains(':'));
            // The backend on the other node alone.
            let other = world.0.backends[&BackendKey { set: family, slot: 1 }];
            world.0.backends.insert(BackendKey { set: family, slot: 0 }, other);
            let request = Message {
                ttl,
                ..node_port(client, 30080, UDP)
            };
            let mut packet = request.packet();
            packet.routes = routes(mtu);
            let original = packet.data.clone();
            let verdict = from_outside(&mut packet, &world.0, &mut Scratch::default());
            assert_eq!(verdict, Verdict::Send(reason, UPLINK));
            let error = Message::of(&packet);
            assert_eq!((error.from.addr, error.to.addr), (request.to.addr, request.from.addr));
            let quote = &error.payload;
            assert_eq!(quote[..], original[14..14 + quote.len()]);
            let start = packet.data.len() - quote.len() - 8;
            let kind = &packet.data[start..start + 8];
            match (reason, family) {
                (Reason::TooBig, 0) => assert_eq!((&kind[..2], &kind[4..]), (&[3, 4][..], &[0, 0, 0, 30][..])),
                (Reason::TooBig, _) => assert_eq!((&kind[..2], &kind[4..]), (&[2, 0][..], &[0, 0, 0, 30][..])),
                (_, 0) => assert_eq!(kind[..2], [11, 0]),
                _ => assert_eq!(kind[..2], [3, 0]),
            }
        }
    }
}

/// "Unreachable", about a packet, from this address.
fn error(from: Addr, about: &HostPacket) -> HostPacket {
    let about = Message::of(about);
    let quote = about.packet().data[14..].to_vec();
    let v4 = from.is_v4();
    let mut icmp = std::vec![if v4 { 3 } else { 1 }, if v4 { 3 } else { 4 }, 0, 0, 0, 0, 0, 0];
    icmp.extend(&quote[..quote.len().min(68)]);
    let protocol = if v4 { 1 } else { 58 };
    let total = sum(&icmp)
        + if v4 {
            0
        } else {
            pseudo(from, about.from.addr, protocol, icmp.len())
        };
    icmp[2..4].copy_from_slice(&checksum::fold(total).to_ne_bytes());
    ip(from, about.from.addr, protocol, 64, &icmp)
}

#[test]
fn errors_about_requests_and_replies_are_turned() {
    for (client, router) in [(CLIENTS[0], "203.0.113.9"), (CLIENTS[1], "2001:db8:9::9")] {
        for port in [30080, 30081] {
            let world = World::new();
            let request = node_port(client, port, UDP);
            let mut packet = request.packet();
            let verdict = world.outside(&mut packet);
            let got = Message::of(&packet);
            // The backend's own, through the hook of its pod or node; then a router's on the way.
            for from in [got.to.addr, addr(router)] {
                let mut error = error(from, &packet);
                let turned = match from == got.to.addr {
                    true => world.back(verdict, &mut error),
                    false => world.outside(&mut error),
                };
                assert_eq!(turned, Verdict::Send(Reason::Forwarded, UPLINK));
                let error = Message::of(&error);
                assert_eq!(error.to.addr, request.from.addr);
                let expected = if from == got.to.addr { request.to.addr } else { from };
                assert_eq!(error.from.addr, expected, "the service's, or the router's own");
                quotes(&error, &request, got.ttl);
            }
            // The client's, about a reply.
            let mut reply = got.reply().packet();
            world.back(verdict, &mut reply);
            let mut error = error(request.from.addr, &reply);
            assert_eq!(world.outside(&mut error), verdict);
            let error = Message::of(&error);
            assert_eq!((error.from.addr, error.to.addr), (got.from.addr, got.to.addr));
            quotes(&error, &got.reply(), 63);
        }
    }
}

/// The error quotes this message, as far as its IP header and ports go.
#[track_caller]
fn quotes(error: &Message, message: &Message, ttl: u8) {
    let original = Message { ttl, ..message.clone() }.packet();
    let length = if message.from.addr.is_v4() { 24 } else { 44 };
    assert_eq!(error.payload[..length], original.data[14..14 + length]);
}

/// The fragments of a datagram, the first with so many bytes.
fn fragments(message: &Message, first: usize) -> [HostPacket; 2] {
    let whole = message.packet();
    let headers = if message.from.addr.is_v4() { 34 } else { 54 };
    let transport = &whole.data[headers..];
    [
        (&transport[..first], 0u16, true),
        (&transport[first..], first as u16, false),
    ]
    .map(|(part, offset, more)| {
        let (from, to) = (message.from.addr, message.to.addr);
        if from.is_v4() {
            let mut packet = ip(from, to, message.protocol, 64, part);
            let more = if more { 0x2000 } else { 0 };
            let field = (offset / 8) | more;
            packet.data[20..22].copy_from_slice(&field.to_be_bytes());
            packet.data[24..26].fill(0);
            let check = checksum::fold(sum(&packet.data[14..34]));
            packet.data[24..26].copy_from_slice(&check.to_ne_bytes());
            packet
        } else {
            let mut payload = std::vec![message.protocol, 0];
            payload.extend((offset | u16::from(more)).to_be_bytes());
            payload.extend([0, 0, 0, 9]);
            payload.extend(part);
            ip(from, to, 44, 64, &payload)
        }
    })
}

#[test]
fn fragments_stay_together() {
    for client in CLIENTS {
        let world = World::new();
        let request = Message {
            payload: (0..200).collect(),
            ..node_port(client, 30080, UDP)
        };
        let [mut first, mut second] = fragments(&request, 64);
        assert_eq!(
            world.outside(&mut second.clone()),
            Verdict::Pass(Reason::ToStack),
            "nobody knows its ports"
        );
        let verdict = world.outside(&mut first);
        assert_eq!(world.outside(&mut second), verdict);
        // Put together again, the checksum of the datagram is right.
        let headers = if client.contains(':') { 62 } else { 34 };
        let transport = [&first.data[headers..], &second.data[headers..]].concat();
        let whole = match client.contains(':') {
            true => {
                let v6 = |at: usize| Addr::from_v6_bytes(first.data[at..at + 16].try_into().unwrap());
                ip(v6(22), v6(38), UDP, 63, &transport)
            }
            false => {
                let v4 = |at: usize| Addr::from_v4_bytes(first.data[at..at + 4].try_into().unwrap());
                assert_eq!(first.data[26..34], second.data[26..34]);
                ip(v4(26), v4(30), UDP, 63, &transport)
            }
        };
        let got = Message::of(&whole);
        assert_eq!((got.payload, got.to.port.host()), (request.payload, 8080));
    }
}

proptest! {
    /// There and back again is where it began, whoever asks, for whatever, with whatever payload.
    #[test]
    fn every_reply_undoes_its_request(
        v6: bool,
        host in 1u8..250,
        ports in (1u16.., select(std::vec![30080u16, 30081, 30082])),
        protocol in select(std::vec![TCP, UDP]),
        payload in proptest::collection::vec(any::<u8>(), 0..100),
        seed: u32,
    ) {
        let world = World::new();
        world.0.seed.set(seed);
        let client = match v6 {
            true => Addr::from_v6_bytes([0x20, 1, 0xd, 0xb8, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]),
            false => Addr::from_v4_bytes([198, 51, 100, host]),
        };
        let mut request = node_port(CLIENTS[usize::from(v6)], ports.1, protocol);
        request.from = SockAddr::new(client, Port::from_host(ports.0));
        request.payload = payload;
        let mut packet = request.packet();
        let verdict = world.outside(&mut packet);
        let got = Message::of(&packet);
        prop_assert_eq!(&got.payload, &request.payload);
        prop_assert!(got.from == request.from || got.from.addr == request.to.addr);
        let mut reply = Message { payload: got.payload.clone(), ..got.reply() }.packet();
        world.back(verdict, &mut reply);
        let reply = Message::of(&reply);
        prop_assert_eq!((reply.from, reply.to, reply.payload), (request.to, request.from, request.payload));
    }

    /// Whatever arrives, nothing is sent on by another source than the sender, this node or a service.
    #[test]
    fn nothing_goes_on_with_a_strange_source(
        v6: bool,
        from in select(std::vec![0usize, 1, 2, 3]),
        to in select(std::vec![0usize, 1, 2, 3, 4]),
        protocol in select(std::vec![1u8, 6, 17, 44, 58, 132, 99]),
        mut rest in proptest::collection::vec(any::<u8>(), 0..120),
        ports in select(std::vec![30080u16, 30081, 30082, 80, 8080]),
    ) {
        let addresses = match v6 {
            false => ["198.51.100.5", "10.0.0.7", "10.0.1.9", "192.0.2.1", "10.96.0.1"],
            true => ["2001:db8:5::5", "fd00::7", "fd00:1::9", "2001:db8::1", "fd00:96::1"],
        };
        if rest.len() >= 4 {
            rest[2..4].copy_from_slice(&ports.to_be_bytes());
        }
        let world = World::new();
        let mut packet = ip(addr(addresses[from]), addr(addresses[to]), protocol, 64, &rest);
        let before = packet.data.clone();
        let verdict = world.outside(&mut packet);
        match verdict {
            Verdict::Pass(Reason::ToStack) | Verdict::Refuse(_) => prop_assert_eq!(packet.data, before),
            Verdict::Deliver(..) | Verdict::Send(..) | Verdict::Pass(_) => {
                let source = match v6 {
                    false => Addr::from_v4_bytes(packet.data[26..30].try_into().unwrap()),
                    true => Addr::from_v6_bytes(packet.data[22..38].try_into().unwrap()),
                };
                prop_assert!(source == addr(addresses[from]) || source == addr(addresses[3]), "{:?}", source);
            }
            Verdict::Drop(_) => {}
        }
    }
}
