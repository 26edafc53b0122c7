//! Pods' links and nodes' routes in the real kernel. Needs root.
#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

mod support;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use ipnet::IpNet;
use support::{Netns, greeting};
use weft_dataplane::net::tunnel::{Config, Encapsulation, Here};
use weft_dataplane::net::{NetError, PodLink, Rtnl, masquerade, name, pod, routes, sysctl, uplink};
use weft_model::compile::{Masquerade, NextHop};

fn link(id: &str, netns: &Netns, ips: &[&str], node_ips: &[&str]) -> PodLink {
    let (mac, host_mac) = name::macs(id, "eth0");
    PodLink {
        netns: netns.path(),
        ifname: "eth0".into(),
        host_ifname: name::host_side(id, "eth0"),
        mac,
        host_mac,
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        mtu: 1450,
        node_ips: node_ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        limits: Default::default(),
    }
}

/// A namespace that routes, with these addresses on `lo` standing in for the node's own.
fn node(addresses: &'static [&'static str]) -> Netns {
    let node = Netns::new();
    node.run(move || {
        sysctl::enable_forwarding().unwrap();
        for address in addresses {
            let status = std::process::Command::new("ip")
                .args(["address", "add", address, "dev", "lo"])
                .status();
            assert!(status.unwrap().success());
        }
        assert!(
            std::process::Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()
                .unwrap()
                .success()
        );
    });
    node
}

/// Connects from the namespace and returns how the server saw it.
fn reach(from: &Netns, to: &Netns, at: &str) -> String {
    let (address, server) = greeting::serve(to, SocketAddr::new(at.parse().unwrap(), 0));
    greeting::is_greeted(from, address);
    server.join().unwrap().to_string()
}

#[test]
fn pods_and_their_node_reach_each_other_in_both_families_at_once() {
    let node = node(&["10.89.0.10/32", "fd89::10/128"]);
    let (a, b) = (Netns::new(), Netns::new());
    let node_ips = ["10.89.0.10", "fd89::10"];
    let one = link("one", &a, &["10.244.0.2", "fd00:10:244::2"], &node_ips);
    let two = link("two", &b, &["10.244.0.3", "fd00:10:244::3"], &node_ips);
    let (first, second) = (one.clone(), two.clone());
    node.block_on(|| async move {
        pod::set_up(&first).await.unwrap();
        pod::set_up(&second).await.unwrap();
    });
    // Pod to pod keeps the source; node to pod comes from the node; pod to node keeps the source.
    assert_eq!(reach(&a, &b, "10.244.0.3"), "10.244.0.2");
    assert_eq!(reach(&a, &b, "fd00:10:244::3"), "fd00:10:244::2");
    assert_eq!(reach(&node, &a, "10.244.0.2"), "10.89.0.10");
    assert_eq!(reach(&node, &a, "fd00:10:244::2"), "fd89::10");
    assert_eq!(reach(&b, &node, "10.89.0.10"), "10.244.0.3");
    assert_eq!(reach(&b, &node, "fd89::10"), "fd00:10:244::3");
    // A pod reaches itself, over loopback and over its own address.
    assert_eq!(reach(&a, &a, "127.0.0.1"), "127.0.0.1");
    assert_eq!(reach(&a, &a, "10.244.0.2"), "10.244.0.2");
    let mtu = a.block_on(|| async { Rtnl::connect().unwrap().link("eth0").await.unwrap().unwrap().mtu });
    assert_eq!(mtu, 1450);
    node.block_on(|| async move {
        let rtnl = Rtnl::connect().unwrap();
        pod::check(&one).await.unwrap();
        assert!(pod::tear_down(&one.host_ifname).await.unwrap().is_some());
        assert!(pod::tear_down(&one.host_ifname).await.unwrap().is_none());
        pod::tear_down(&two.host_ifname).await.unwrap();
        assert_eq!(rtnl.links().await.unwrap().len(), 1);
        assert!(!rtnl.routes().await.unwrap().iter().any(|route| route.ours));
        let gone = pod::check(&one).await.unwrap_err().to_string();
        assert!(gone.contains("host side") && gone.contains("missing"), "{gone}");
    });
}

#[test]
fn an_interface_that_exists_is_refused_and_left_alone() {
    let node = node(&[]);
    let pod_ns = Netns::new();
    let (first, second) = (
        link("one", &pod_ns, &["10.244.0.2"], &[]),
        link("two", &pod_ns, &["10.244.0.3"], &[]),
    );
    node.block_on(|| async move {
        let rtnl = Rtnl::connect().unwrap();
        pod::set_up(&first).await.unwrap();
        let error = pod::set_up(&second).await.unwrap_err();
        assert!(matches!(error, NetError::InterfaceExists { .. }), "{error}");
        assert!(rtnl.link(&second.host_ifname).await.unwrap().is_none());
        pod::check(&first).await.unwrap();
    });
}

#[test]
fn a_second_interface_leaves_the_first_its_way_out_and_answers_by_its_own() {
    let node = node(&["10.89.0.10/32", "fd89::10/128"]);
    let pod_ns = Netns::new();
    let node_ips = ["10.89.0.10", "fd89::10"];
    let first = link("one", &pod_ns, &["10.244.0.2", "fd00:10:244::2"], &node_ips);
    let mut second = link("one", &pod_ns, &["10.244.0.3", "fd00:10:244::3"], &node_ips);
    second.ifname = "net1".into();
    second.host_ifname = name::host_side("one", "net1");
    let both = [first.clone(), second.clone()];
    node.block_on(|| async move {
        for link in &both {
            pod::set_up(link).await.unwrap();
        }
        for link in &both {
            pod::check(link).await.unwrap();
        }
    });
    assert_eq!(reach(&pod_ns, &node, "10.89.0.10"), "10.244.0.2");
    let reverse_path = |name: &str| {
        node.run({
            let path = format!("ipv4/conf/{name}/rp_filter");
            // Strict: what came from the other interface would be dropped.
            move || sysctl::set(&path, "1").unwrap()
        })
    };
    reverse_path("all");
    for at in ["10.244.0.2", "10.244.0.3"] {
        assert_eq!(reach(&node, &pod_ns, at), "10.89.0.10");
    }
    for at in ["fd00:10:244::2", "fd00:10:244::3"] {
        assert_eq!(reach(&node, &pod_ns, at), "fd89::10");
    }
    node.block_on(|| async move {
        assert!(pod::tear_down(&second.host_ifname).await.unwrap().is_some());
        pod::check(&first).await.unwrap();
    });
}

#[test]
fn a_node_is_no_pod() {
    let node = node(&[]);
    let link = link("one", &node, &["10.244.0.2"], &[]);
    node.block_on(|| async move {
        let error = pod::set_up(&link).await.unwrap_err();
        assert!(matches!(error, NetError::OwnNamespace { .. }), "{error}");
        assert_eq!(Rtnl::connect().unwrap().links().await.unwrap().len(), 1);
    });
}

#[test]
fn a_setup_that_fails_midway_leaves_nothing() {
    let node = node(&[]);
    let pod_ns = Netns::new();
    // The node does not have this address: the last step, the node's route, is refused.
    let link = link("one", &pod_ns, &["10.244.0.2"], &["192.0.2.1"]);
    node.block_on(|| async move {
        let rtnl = Rtnl::connect().unwrap();
        let error = pod::set_up(&link).await.unwrap_err();
        assert!(
            error.to_string().starts_with("cannot add the route to 10.244.0.2/32"),
            "{error}"
        );
        assert!(rtnl.link(&link.host_ifname).await.unwrap().is_none());
    });
    let left = pod_ns.block_on(|| async { Rtnl::connect().unwrap().link("eth0").await.unwrap() });
    assert_eq!(left, None);
}

#[test]
fn check_names_what_differs() {
    let node = node(&[]);
    let pod_ns = Netns::new();
    let link = link("one", &pod_ns, &["10.244.0.2"], &[]);
    let given = link.clone();
    node.block_on(|| async move { pod::set_up(&given).await.unwrap() });
    let check = |args: &'static [&'static str]| {
        pod_ns.run(move || assert!(std::process::Command::new("ip").args(args).status().unwrap().success()));
        let link = link.clone();
        node.block_on(|| async move { pod::check(&link).await.unwrap_err().to_string() })
    };
    assert_eq!(
        check(&["route", "del", "default"]),
        "the pod has lost its default route via 169.254.1.1"
    );
    assert_eq!(
        check(&["address", "flush", "dev", "eth0"]),
        "interface eth0 has lost its address 10.244.0.2"
    );
    assert_eq!(check(&["link", "set", "eth0", "down"]), "interface eth0 is down");
}

#[test]
fn what_is_no_namespace_is_said_to_be_none() {
    let node = node(&[]);
    let mut link = link("one", &node, &["10.244.0.2"], &[]);
    link.netns = std::env::current_exe().unwrap();
    node.block_on(|| async move {
        assert!(matches!(pod::set_up(&link).await, Err(NetError::NotANamespace { .. })));
        link.netns = "/nonexistent/netns".into();
        assert!(matches!(pod::set_up(&link).await, Err(NetError::Namespace { .. })));
    });
}

#[test]
fn routes_follow_what_is_wanted_and_touch_nobody_elses() {
    let node = node(&[]);
    node.block_on(|| async move {
        let ip = |args: &[&str]| {
            assert!(
                std::process::Command::new("ip").args(args).status().unwrap().success(),
                "{args:?}"
            )
        };
        ip(&["link", "add", "up0", "type", "veth", "peer", "name", "up1"]);
        ip(&["link", "set", "up0", "up"]);
        ip(&["link", "set", "up1", "up"]);
        ip(&["address", "add", "10.89.0.10/16", "dev", "up0"]);
        ip(&["-6", "address", "add", "fd89::10/64", "dev", "up0", "nodad"]);
        ip(&["route", "add", "10.99.0.0/16", "via", "10.89.0.77"]);
        let rtnl = Rtnl::connect().unwrap();
        let found = uplink::find(&rtnl, &["192.0.2.7".parse().unwrap(), "10.89.0.10".parse().unwrap()])
            .await
            .unwrap();
        assert_eq!(found.unwrap().node_ips, ["10.89.0.10".parse::<IpAddr>().unwrap()]);
        let wanted = |routes: &[(&str, &str)]| routes.iter().map(|(to, via)| (to.parse().unwrap(), hop(via))).collect();
        let all_five = wanted(&[
            ("10.244.2.0/23", "10.89.0.11"),
            ("10.244.4.0/23", "10.89.0.12"),
            ("fd00:10:244:1::/64", "fd89::11"),
            // This node's own.
            ("10.244.0.0/23", "unreachable"),
            ("fd00:10:244::/64", "unreachable"),
        ]);
        let (failed, steps) = routes::reconcile(&rtnl, &config(), &Here::default(), &all_five)
            .await
            .unwrap();
        assert!(failed.is_empty() && steps == 5, "{failed:?}");
        let (failed, steps) = routes::reconcile(&rtnl, &config(), &Here::default(), &all_five)
            .await
            .unwrap();
        assert!(failed.is_empty() && steps == 0);
        // One moved, one gone, one that cannot be reached directly.
        let changed = wanted(&[
            ("10.244.2.0/23", "10.89.0.21"),
            ("10.244.6.0/23", "203.0.113.1"),
            ("fd00:10:244:1::/64", "fd89::21"),
        ]);
        let (failed, steps) = routes::reconcile(&rtnl, &config(), &Here::default(), &changed)
            .await
            .unwrap();
        assert_eq!(steps, 6);
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].to, "10.244.6.0/23".parse::<IpNet>().unwrap());
        let all = rtnl.routes().await.unwrap();
        let ours: Vec<_> = all
            .iter()
            .filter(|route| route.ours)
            .map(|route| (route.to, route.via.unwrap()))
            .collect();
        assert_eq!(
            ours,
            [
                ("10.244.2.0/23".parse().unwrap(), "10.89.0.21".parse().unwrap()),
                ("fd00:10:244:1::/64".parse().unwrap(), "fd89::21".parse().unwrap())
            ]
        );
        assert!(
            all.iter()
                .any(|route| route.to == "10.99.0.0/16".parse::<IpNet>().unwrap() && !route.ours)
        );
        let (_, steps) = routes::reconcile(&rtnl, &config(), &Here::default(), &wanted(&[]))
            .await
            .unwrap();
        assert_eq!(steps, 2);
    });
}

#[test]
fn pods_of_two_nodes_reach_each_other_with_their_own_addresses() {
    let (west, east) = (node(&[]), node(&[]));
    let (a, b) = (Netns::new(), Netns::new());
    let east_path = east.path();
    west.run(move || {
        let ip = |args: &str| {
            let args: Vec<_> = args.split(' ').collect();
            assert!(
                std::process::Command::new("ip").args(&args).status().unwrap().success(),
                "{args:?}"
            )
        };
        let fd = std::fs::File::open(east_path).unwrap();
        ip(&format!(
            "link add eth0 type veth peer name eth0 netns /proc/{}/fd/{}",
            std::process::id(),
            std::os::fd::AsRawFd::as_raw_fd(&fd)
        ));
        ip("address add 10.89.0.10/16 dev eth0");
        ip("link set eth0 up");
    });
    east.run(|| {
        for args in ["address add 10.89.0.11/16 dev eth0", "link set eth0 up"] {
            let args: Vec<_> = args.split(' ').collect();
            assert!(
                std::process::Command::new("ip").args(&args).status().unwrap().success(),
                "{args:?}"
            );
        }
    });
    let wire = |node: &Netns, link: PodLink, to: &str, via: &str| {
        let wanted = [(to.parse().unwrap(), hop(via))].into();
        node.block_on(|| async move {
            let rtnl = Rtnl::connect().unwrap();
            pod::set_up(&link).await.unwrap();
            assert!(
                routes::reconcile(&rtnl, &config(), &Here::default(), &wanted)
                    .await
                    .unwrap()
                    .0
                    .is_empty()
            );
        });
    };
    wire(
        &west,
        link("a", &a, &["10.244.0.2"], &["10.89.0.10"]),
        "10.244.2.0/23",
        "10.89.0.11",
    );
    wire(
        &east,
        link("b", &b, &["10.244.2.2"], &["10.89.0.11"]),
        "10.244.0.0/23",
        "10.89.0.10",
    );
    assert_eq!(reach(&a, &b, "10.244.2.2"), "10.244.0.2");
    assert_eq!(reach(&west, &b, "10.244.2.2"), "10.89.0.10");
    let answer = b.spawn(|| {
        let socket = UdpSocket::bind("10.244.2.2:53").unwrap();
        let (_, from) = socket.recv_from(&mut [0; 16]).unwrap();
        from.ip().to_string()
    });
    std::thread::sleep(Duration::from_millis(50));
    a.run(|| {
        UdpSocket::bind("0.0.0.0:0")
            .unwrap()
            .send_to(b"x", "10.244.2.2:53")
            .unwrap()
    });
    assert_eq!(answer.join().unwrap(), "10.244.0.2");
}

#[test]
fn what_leaves_the_cluster_has_the_nodes_address_and_nothing_else_has() {
    let (node, outside) = (node(&[]), Netns::new());
    let a = Netns::new();
    let outside_path = outside.path();
    node.run(move || {
        for args in [
            &format!(
                "link add eth0 type veth peer name eth0 netns {}",
                outside_path.display()
            ),
            "address add 10.89.0.10/16 dev eth0",
            "address add fd89::10/64 dev eth0 nodad",
            "link set eth0 up",
        ] {
            let args: Vec<_> = args.split(' ').collect();
            assert!(
                std::process::Command::new("ip").args(&args).status().unwrap().success(),
                "{args:?}"
            );
        }
    });
    // Outside is another cluster node's address, and one that is in no cluster; only the first knows the way back.
    outside.run(|| {
        for args in [
            "address add 10.89.0.11/16 dev eth0",
            "address add 10.89.0.99/16 dev eth0",
            "address add fd89::99/64 dev eth0 nodad",
            "link set eth0 up",
            "route add 10.244.0.0/23 via 10.89.0.10",
        ] {
            let args: Vec<_> = args.split(' ').collect();
            assert!(
                std::process::Command::new("ip").args(&args).status().unwrap().success(),
                "{args:?}"
            );
        }
    });
    let pod_link = link("a", &a, &["10.244.0.2", "fd00:10:244::2"], &["10.89.0.10"]);
    node.block_on(|| async move {
        pod::set_up(&pod_link).await.unwrap();
        let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        let many = (0..3000u32).map(|n| IpNet::from(IpAddr::V4((0x0b00_0000 + 2 * n).into())));
        let mut ranges = Masquerade {
            pods: nets(&["10.244.0.0/23", "fd00:10:244::/64"]),
            cluster: nets(&[
                "10.244.0.0/23",
                "10.244.2.0/23",
                "10.89.0.10/32",
                "10.89.0.11/32",
                "fd00:10:244::/64",
            ]),
        };
        // Twice, the second time with more than one message holds.
        let written = masquerade::ensure(&ranges, None).unwrap();
        ranges.cluster.extend(many);
        masquerade::ensure(&ranges, Some(written)).unwrap();
    });
    let rules = node.run(|| {
        std::process::Command::new("nft")
            .args(["list", "table", "inet", "weft"])
            .output()
            .unwrap()
    });
    let rules = String::from_utf8(rules.stdout).unwrap();
    assert!(
        rules.contains("ip saddr @pods4 ip daddr != @cluster4 masquerade"),
        "{rules}"
    );
    assert_eq!(reach(&a, &outside, "10.89.0.11"), "10.244.0.2");
    assert_eq!(reach(&a, &outside, "10.89.0.99"), "10.89.0.10");
    assert_eq!(reach(&a, &outside, "fd89::99"), "fd89::10");
    assert_eq!(reach(&a, &node, "10.89.0.10"), "10.244.0.2");
    node.run(|| {
        masquerade::remove().unwrap();
        masquerade::remove().unwrap();
        let rules = std::process::Command::new("nft")
            .args(["list", "tables"])
            .output()
            .unwrap();
        assert!(rules.stdout.is_empty());
    });
}

#[test]
fn masquerading_changes_by_what_differs_and_comes_back_when_somebody_flushes_it() {
    let node = node(&[]);
    let nft = |node: &Netns, arguments: &'static str| {
        node.run(move || {
            let done = std::process::Command::new("nft")
                .args(arguments.split(' '))
                .output()
                .unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            String::from_utf8(done.stdout).unwrap()
        })
    };
    let ranges = |cluster: &[&str]| Masquerade {
        pods: vec!["10.244.0.0/23".parse().unwrap()],
        cluster: cluster.iter().map(|net| net.parse().unwrap()).collect(),
    };
    let ensure = |wanted: Masquerade, written: Option<masquerade::Written>| {
        node.run(move || masquerade::ensure(&wanted, written).unwrap())
    };
    let first = ensure(ranges(&["10.244.0.0/23", "10.244.4.0/23"]), None);
    let handles = nft(&node, "-a list chain inet weft outgoing");
    // Ranges that touch become one, and come apart again; the rules are the same ones all the while.
    let joined = ensure(
        ranges(&["10.244.0.0/23", "10.244.2.0/23", "10.244.4.0/23", "fd00::/64"]),
        Some(first),
    );
    let text = nft(&node, "list table inet weft");
    assert!(
        text.contains("10.244.0.0-10.244.5.255") && text.contains("fd00::/64"),
        "{text}"
    );
    let apart = ensure(ranges(&["10.244.0.0/23", "255.255.255.0/24"]), Some(joined));
    let text = nft(&node, "list table inet weft");
    assert!(
        text.contains("10.244.0.0/23, 255.255.255.0/24") && !text.contains("fd00"),
        "{text}"
    );
    assert_eq!(nft(&node, "-a list chain inet weft outgoing"), handles);
    // Somebody else's table is none of ours.
    nft(&node, "add table inet other");
    let mut written = ensure(ranges(&["10.244.0.0/23"]), Some(apart));
    assert_eq!(nft(&node, "-a list chain inet weft outgoing"), handles);
    let right = nft(&node, "list table inet weft");
    for damage in [
        "flush ruleset",
        "delete table inet weft",
        "flush chain inet weft outgoing",
        "flush set inet weft pods4",
        "delete element inet weft cluster4 { 10.244.0.0/23 }",
        "add rule inet weft outgoing accept",
    ] {
        nft(&node, damage);
        written = ensure(ranges(&["10.244.0.0/23"]), Some(written));
        assert_eq!(nft(&node, "list table inet weft"), right, "{damage}");
    }
}

fn config() -> Config {
    Config::new(Encapsulation::Vxlan)
}

/// A node's address, or nowhere.
fn hop(text: &str) -> NextHop {
    text.parse().map_or(NextHop::Unreachable, NextHop::Via)
}
