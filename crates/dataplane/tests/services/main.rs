//! Services by nftables in the real kernel: who reaches which endpoint at which address, as whom, and who is refused.
//! Needs root.
#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test binary uses a part")]
mod support;
mod world;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use support::world::{A, B, NODE, OUTSIDE, World};
use weft_dataplane::net::services;
use weft_model::Protocol;
use weft_model::compile::FrontendKind::{ExternalIp, LoadBalancer, NodePort};
use weft_model::compile::Step;
use world::{Service, ask, ask_again, ask_udp, connect, say, silent};

/// Of both families, with every kind of address.
fn everywhere(name: &'static str, backends: [&'static str; 2]) -> [Service; 2] {
    let mut v4 = Service::new(name, "10.96.0.10", &backends[..1]);
    v4.at.extend([
        ("203.0.113.1", ExternalIp),
        ("203.0.113.2", LoadBalancer),
        ("30080", NodePort),
    ]);
    let mut v6 = Service::new(name, "fd00:10:96::10", &backends[1..]);
    v6.at.extend([
        ("2001:db8::1", ExternalIp),
        ("2001:db8::2", LoadBalancer),
        ("30080", NodePort),
    ]);
    [v4, v6]
}

const V4: [&str; 4] = ["10.96.0.10:80", "203.0.113.1:80", "203.0.113.2:80", "10.89.0.10:30080"];
const V6: [&str; 4] = [
    "[fd00:10:96::10]:80",
    "[2001:db8::1]:80",
    "[2001:db8::2]:80",
    "[fd89::10]:30080",
];

#[test]
fn everybody_reaches_every_address_in_both_families() {
    let world = World::with_servers();
    let mut all = everywhere("web", A).to_vec();
    all.extend(everywhere("web", A).map(|service| Service {
        protocol: Protocol::Udp,
        ..service
    }));
    world.agent(&all);
    for (family, addresses) in [V4, V6].into_iter().enumerate() {
        for at in addresses {
            // A pod keeps its address; one that is led to itself cannot; who is outside gets the node's.
            for (from, seen) in [
                (&world.b, B[family]),
                (&world.a, NODE[family]),
                (&world.node, NODE[family]),
                (&world.outside, NODE[family]),
            ] {
                assert_eq!(ask(from, at), Ok(format!("a {seen}")), "{at}");
                assert_eq!(ask_udp(from, at, 1), Ok(format!("a {seen} 1")), "{at}");
                // Fragments are of one datagram.
                assert_eq!(ask_udp(from, at, 9000), Ok(format!("a {seen} 9000")), "{at}");
            }
        }
    }
    let listed = world.nft("list table inet weft-services");
    for part in [
        "comment \"default/web port 80/TCP IPv4 all endpoints\"",
        "10.96.0.10 . tcp . 80",
        "numgen random mod 1",
    ] {
        assert!(listed.contains(part), "{part} is not in {listed}");
    }
}

#[test]
fn local_policy_keeps_the_clients_address_and_is_silent_without_endpoints() {
    let world = World::with_servers();
    let mut services = everywhere("web", A);
    services[0].all.push(B[0]);
    services[1].all.push(B[1]);
    services[0].local = Some(vec![A[0]]);
    services[1].local = Some(vec![A[1]]);
    let table = world.agent(&services);
    for (family, addresses) in [V4, V6].into_iter().enumerate() {
        for at in &addresses[1..] {
            assert_eq!(ask(&world.outside, at), Ok(format!("a {}", OUTSIDE[family])), "{at}");
        }
    }
    services[0].local = Some(vec![]);
    services[1].local = Some(vec![]);
    let steps = services.iter().flat_map(Service::steps).collect();
    world.apply(table, steps).1.unwrap();
    for at in [V4[1], V4[3], V6[2], V6[3]] {
        assert!(silent(&world.outside, at), "{at}");
        // Who is inside is led to any.
        assert!(ask(&world.node, at).is_ok() && ask(&world.b, at).is_ok(), "{at}");
    }
    assert!(world.refusals()["dropped: no endpoint that the traffic policy allows here"] >= 4);
}

/// To a process of the node itself, the kernel says that it did not send the datagram.
fn refused(answer: Result<String, ErrorKind>) -> bool {
    matches!(answer, Err(ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied))
}

#[test]
fn what_nobody_serves_is_refused_and_what_nobody_has_is_dropped() {
    let world = World::with_servers();
    let mut services = everywhere("web", A);
    services.iter_mut().for_each(|service| service.all.clear());
    let udp = services.clone().map(|service| Service {
        protocol: Protocol::Udp,
        ..service
    });
    world.agent(&[services, udp].concat());
    for at in V4.iter().chain(&V6) {
        for from in [&world.a, &world.node, &world.outside] {
            assert_eq!(ask(from, at), Err(ErrorKind::ConnectionRefused), "{at}");
            assert!(refused(ask_udp(from, at, 1)), "{at}");
        }
    }
    for from in [&world.a, &world.node, &world.outside] {
        for at in ["10.96.0.10:81", "[fd00:10:96::10]:81"] {
            assert_eq!(ask(from, at), Err(ErrorKind::ConnectionRefused), "{at}");
            assert!(refused(ask_udp(from, at, 1)), "{at}");
        }
        for at in ["10.96.0.11:80", "[fd00:10:96::11]:80"] {
            assert!(silent(from, at), "{at}");
        }
    }
    let refusals = world.refusals();
    assert!(refusals["refused: the service has no endpoint"] >= 48, "{refusals:?}");
    assert!(refusals["refused: the service has no such port"] >= 12, "{refusals:?}");
    assert!(refusals["dropped: no service has the address"] >= 6, "{refusals:?}");
}

#[test]
fn source_ranges_hold_for_load_balancers_alone() {
    let world = World::with_servers();
    let mut services = everywhere("web", A);
    services[0].source_ranges = Some(vec!["10.89.0.96/28", "10.89.0.0/30", "10.89.0.1/32", "fd89::/64"]);
    services[1].source_ranges = Some(vec!["fd89::99/128", "10.0.0.0/8"]);
    world.agent(&services);
    for at in V4.iter().chain(&V6) {
        assert!(ask(&world.outside, at).is_ok(), "{at}");
        let load_balancer = at.contains("203.0.113.2") || at.contains("2001:db8::2");
        if load_balancer {
            assert!(silent(&world.b, at) && silent(&world.node, at), "{at}");
        } else {
            assert!(ask(&world.b, at).is_ok() && ask(&world.node, at).is_ok(), "{at}");
        }
    }
    assert!(world.refusals()["dropped: not in loadBalancerSourceRanges"] >= 4);
}

/// What it asks another node gets there through that node, and so has to come back.
#[test]
fn a_pod_of_another_node_is_inside_with_the_nodes_address() {
    let world = World::with_servers();
    let mut web = everywhere("web", A);
    // Policy Local, and no endpoint here: who is inside is led to any.
    web[0].local = Some(vec![]);
    world.agent(&web);
    world.outside.run(|| {
        support::ip("address add 10.244.9.9/32 dev lo");
        support::ip("link set lo up");
        for range in ["10.96.0.0/16", "10.89.0.10/32", "203.0.113.0/24"] {
            support::ip(&format!(
                "route replace {range} via 10.89.0.10 src 10.244.9.9 onlink dev eth0"
            ));
        }
    });
    world.node.run(|| support::ip("route add 10.244.9.9 via 10.89.0.99"));
    for at in V4 {
        assert_eq!(ask(&world.outside, at), Ok(format!("a {}", NODE[0])), "{at}");
    }
    // Directly it keeps its own.
    world
        .outside
        .run(|| support::ip("route add 10.244.0.2 via 10.89.0.10 src 10.244.9.9"));
    assert_eq!(ask(&world.outside, "10.244.0.2:8080"), Ok("a 10.244.9.9".into()));
}

/// Who answered how often.
fn answers(world: &World, at: &str, times: usize) -> BTreeMap<char, usize> {
    let mut found = BTreeMap::new();
    for _ in 0..times {
        let answer = ask(&world.outside, at).unwrap();
        *found.entry(answer.chars().next().unwrap()).or_default() += 1;
    }
    found
}

#[test]
fn endpoints_share_evenly_and_change_one_by_one() {
    let world = World::with_servers();
    let mut web = Service::new("web", "10.96.0.10", &[A[0], B[0]]);
    let mut table = world.agent(std::slice::from_ref(&web));
    let both = answers(&world, "10.96.0.10:80", 200);
    // With p = 1/2, less than 60 of 200 happens once in 100 million runs.
    assert!(both[&'a'] > 60 && both[&'b'] > 60, "{both:?}");
    for (backends, who) in [(vec![B[0]], 'b'), (vec![B[0], A[0]], '*'), (vec![A[0]], 'a')] {
        web.all = backends;
        let (after, result) = world.apply(table, web.sets());
        result.unwrap();
        table = after;
        let found = answers(&world, "10.96.0.10:80", 20);
        assert!(who == '*' || found.keys().eq([&who]), "{found:?}");
    }
    // Connections stay with who has them.
    let mut stream = world.outside.run(|| TcpStream::connect("10.96.0.10:80").unwrap());
    assert_eq!(ask_again(&mut stream).unwrap(), "a 10.89.0.10");
    let (table, result) = world.apply(table, web.gone());
    result.unwrap();
    assert_eq!(table.len(), (0, 0, 0));
    assert!(silent(&world.outside, "10.96.0.10:80"));
    assert_eq!(ask_again(&mut stream).unwrap(), "a 10.89.0.10");
    // Made again at the same address, it works at once.
    world.apply(table, web.steps()).1.unwrap();
    assert_eq!(ask(&world.outside, "10.96.0.10:80"), Ok("a 10.89.0.10".into()));
}

#[test]
fn a_client_keeps_its_endpoint_while_that_is_there() {
    let world = World::with_servers();
    let mut services = everywhere("web", A);
    services[0].all.push(B[0]);
    services[1].all.push(B[1]);
    for service in &mut services {
        service.affinity = Some(Duration::from_secs(10_800));
    }
    let mut table = world.agent(&services);
    for (family, addresses) in [V4, V6].into_iter().enumerate() {
        let who = |at: &str| ask(&world.outside, at).unwrap().chars().next().unwrap();
        let first = who(addresses[0]);
        for at in addresses {
            assert!((0..8).all(|_| who(at) == first), "{at}");
        }
        // The next agent knows it still.
        drop(table);
        table = world.agent(&services);
        assert!((0..8).all(|_| who(addresses[3]) == first));
        // It goes: another, and that one is kept when the first is back.
        let (one, other) = if first == 'a' { (A, B) } else { (B, A) };
        let both = std::mem::replace(&mut services[family].all, vec![other[family]]);
        let (after, result) = world.apply(table, services[family].sets());
        result.unwrap();
        assert_ne!(who(addresses[0]), first);
        services[family].all = both;
        assert!(services[family].all.contains(&one[family]));
        let (after, result) = world.apply(after, services[family].sets());
        result.unwrap();
        assert!((0..8).all(|_| who(addresses[1]) != first));
        table = after;
    }
}

#[test]
fn affinity_ends_with_its_timeout() {
    let world = World::with_servers();
    let mut web = Service::new("web", "10.96.0.10", &[A[0], B[0]]);
    web.affinity = Some(Duration::from_secs(1));
    world.agent(&[web]);
    let who = || ask(&world.outside, "10.96.0.10:80").unwrap().chars().next().unwrap();
    let first = who();
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    // Silent for longer than that, half of the tries find the other one.
    loop {
        std::thread::sleep(Duration::from_millis(1100));
        if who() != first {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "still at {first}");
    }
}

#[test]
fn a_refused_change_changes_nothing_and_others_tables_are_left_alone() {
    let world = World::with_servers();
    world.nft("add table inet foreign");
    world.nft("add chain inet foreign c { type filter hook input priority 0; }");
    let web = Service::new("web", "10.96.0.10", &[A[0]]);
    let table = world.agent(std::slice::from_ref(&web));
    // No API server lets an endpoint be of another family. All of what comes with it is refused.
    let bad = Service::new("bad", "10.96.0.11", &[A[0], B[1]]);
    let moved = Service {
        all: vec![B[0]],
        ..web.clone()
    };
    let (table, result) = world.apply(table, [moved.sets(), bad.steps()].concat());
    result.unwrap_err();
    assert!(silent(&world.outside, "10.96.0.11:80"));
    assert_eq!(ask(&world.outside, "10.96.0.10:80"), Ok("a 10.89.0.10".into()));
    // At the start of an agent, too; the others are well.
    let all = vec![bad.steps(), web.steps()];
    let answers = world.node.run(move || {
        drop(table);
        services::Services::open().unwrap().replace(&all)
    });
    assert!(answers[0].is_err() && answers[1].is_ok());
    assert_eq!(ask(&world.outside, "10.96.0.10:80"), Ok("a 10.89.0.10".into()));
    assert!(world.node.run(|| services::is_there().unwrap()));
    world.node.run(|| services::remove().unwrap());
    assert_eq!(world.nft("list tables"), "table inet foreign\n");
}

#[test]
fn what_somebody_else_takes_away_comes_back() {
    let world = World::with_servers();
    let mut web = Service::new("web", "10.96.0.10", &[A[0]]);
    let mut table = world.agent(std::slice::from_ref(&web));
    for damage in [
        "flush ruleset",
        "flush table inet weft-services",
        "flush chain inet weft-services inside4",
    ] {
        world.nft(damage);
        table = world.node.run(move || {
            table.look().unwrap();
            table
        });
        assert_eq!(
            ask(&world.outside, "10.96.0.10:80"),
            Ok("a 10.89.0.10".into()),
            "{damage}"
        );
    }
    // An element that a change needs.
    world.nft("flush map inet weft-services backends4");
    web.all = vec![B[0]];
    world.apply(table, web.sets()).1.unwrap();
    assert_eq!(ask(&world.outside, "10.96.0.10:80"), Ok("b 10.89.0.10".into()));
}

/// A client that never changes its port, as a resolver's or a game's, leaves an endpoint that has gone at once.
#[test]
fn datagrams_leave_endpoints_that_have_gone() {
    let world = World::with_servers();
    let mut dns = Service::new("dns", "10.96.0.10", &[A[0]]);
    dns.at.push(("30053", NodePort));
    dns.protocol = Protocol::Udp;
    let mut table = world.agent(std::slice::from_ref(&dns));
    // Another's, to a port of the same number.
    serve_elsewhere(&world);
    let addresses = ["10.96.0.10:80", "10.89.0.10:30053", "10.89.0.10:8081"];
    let clients = world
        .outside
        .run(|| [(); 3].map(|()| UdpSocket::bind("10.89.0.99:0").unwrap()));
    let ask = |which: usize| say(&clients[which], addresses[which].parse().unwrap(), 1);
    let flows = || {
        let listed = world
            .node
            .run(|| std::fs::read_to_string("/proc/net/nf_conntrack").unwrap_or_default());
        listed.lines().count()
    };
    assert!((0..3).all(|which| ask(which).is_ok()));
    let before = flows();
    for (backends, answer) in [
        (vec![B[0]], Ok("b")),
        (vec![], Err(ErrorKind::ConnectionRefused)),
        (vec![A[0]], Ok("a")),
    ] {
        dns.all = backends;
        let (after, result) = world.apply(table, dns.sets());
        result.unwrap();
        table = after;
        for which in [0, 1] {
            let found = ask(which);
            assert_eq!(found.as_deref().map(|said| &said[..1]).map_err(|kind| *kind), answer);
        }
    }
    assert!(ask(2).is_ok() && flows() <= before);
    // The Service goes: nobody translates any more.
    let (_, result) = world.apply(table, dns.gone());
    result.unwrap();
    clients[0].set_nonblocking(true).unwrap();
    clients[0].send(b"?").unwrap();
    assert!(world.refusals()["dropped: no service has the address"] > 0);
}

/// A server of the node itself.
fn serve_elsewhere(world: &World) {
    let socket = world.node.run(|| UdpSocket::bind("10.89.0.10:8081").unwrap());
    std::thread::spawn(move || {
        let mut said = [0; 16];
        while let Ok((_, from)) = socket.recv_from(&mut said) {
            drop(socket.send_to(b"node", from));
        }
    });
}

#[test]
fn an_agent_that_starts_again_interrupts_nothing() {
    let world = World::with_servers();
    let mut web = everywhere("web", A).to_vec();
    web.extend(everywhere("web", A).map(|service| Service {
        protocol: Protocol::Udp,
        ..service
    }));
    drop(world.agent(&web));
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let client = world.outside.spawn(move || {
        let mut asked = 0;
        while stopped.try_recv().is_err() {
            let mut stream = connect("10.96.0.10:80".parse().unwrap()).unwrap();
            assert_eq!(ask_again(&mut stream).unwrap(), "a 10.89.0.10");
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let said = say(&socket, "10.89.0.10:30080".parse().unwrap(), 1);
            assert_eq!(said.unwrap(), "a 10.89.0.10 1");
            asked += 1;
        }
        asked
    });
    for _ in 0..50 {
        drop(world.agent(&web));
    }
    stop.send(()).unwrap();
    assert!(client.join().unwrap() > 0);
}

/// A packet may be under way while a change comes into force, and see both what was before and what is after.
#[test]
fn endpoints_that_come_and_go_interrupt_nobody() {
    let world = World::with_servers();
    let web = |backends: &[&'static str]| Service::new("web", "10.96.0.10", backends);
    let mut services = world.agent(&[web(&[A[0]])]);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let client = world.outside.spawn(move || {
        let mut asked = 0;
        while stopped.try_recv().is_err() {
            let mut stream = connect("10.96.0.10:80".parse().unwrap()).unwrap();
            assert!(ask_again(&mut stream).unwrap().ends_with(" 10.89.0.10"));
            asked += 1;
        }
        asked
    });
    for _ in 0..200 {
        for backends in [&[A[0], B[0]][..], &[A[0]]] {
            let result;
            (services, result) = world.apply(services, web(backends).steps());
            result.unwrap();
        }
    }
    stop.send(()).unwrap();
    assert!(client.join().unwrap() > 0);
}

#[test]
fn a_service_whose_endpoints_are_unknown_is_refused() {
    let world = World::with_servers();
    let mut web = Service::new("web", "10.96.0.10", &[A[0]]).steps();
    web.retain(|step| !matches!(step, Step::Set(..)));
    let results = world
        .node
        .run(move || services::Services::open().unwrap().replace(&[web]));
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(ask(&world.outside, "10.96.0.10:80"), Err(ErrorKind::ConnectionRefused));
}
