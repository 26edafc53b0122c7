//! Pods on different network segments, through a tunnel of the real kernel. Needs root.
#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

mod support;

use std::net::IpAddr;

use ipnet::IpNet;
use support::Netns;
use support::segments::{add_pod, here, ip, ips, node, ping, router, routers_with_link_between, send, set_routes};
use weft_dataplane::net::tunnel::{self, Config, Encapsulation};
use weft_dataplane::net::{Rtnl, masquerade, routes};
use weft_model::compile::{Masquerade, NextHop, Routes};

const MTU: u32 = 1500;

fn vxlan() -> Config {
    Config::new(Encapsulation::Vxlan)
}

/// The routes to the pods and to the node of a segment, whose tunnel ends at its first address here.
fn to(number: u8, ends: &[IpAddr]) -> Routes {
    let tunnel = NextHop::Tunnel(ends[0]);
    let mut routes: Routes = [
        (format!("10.244.{number}.0/24"), tunnel),
        (format!("fd00:{number}::/64"), tunnel),
    ]
    .map(|(range, hop)| (range.parse().unwrap(), hop))
    .into();
    routes.extend(ips(number).map(|ip| (ip.into(), NextHop::PodsTunnel(ends[0]))));
    routes
}

struct World {
    _routers: Vec<Netns>,
    west: Netns,
    east: Netns,
    a: Netns,
    b: Netns,
}

/// A pod on each of two nodes, whose tunnel goes over IPv4, or over IPv6.
fn world(config: Config, over_ipv6: bool) -> World {
    let router = router();
    let nodes = (node(&router, 81, MTU), node(&router, 82, MTU));
    connect(config, over_ipv6, vec![router], nodes)
}

fn connect(config: Config, over_ipv6: bool, routers: Vec<Netns>, (west, east): (Netns, Netns)) -> World {
    let known_as = |number| {
        let mut ips = ips(number);
        if over_ipv6 {
            ips.reverse();
        }
        ips
    };
    set_routes(&west, config, &here(&known_as(81), MTU), &to(82, &known_as(82)));
    set_routes(&east, config, &here(&known_as(82), MTU), &to(81, &known_as(81)));
    let a = add_pod(&west, "a", &["10.244.81.2", "fd00:81::2"], &ips(81), MTU);
    let b = add_pod(&east, "b", &["10.244.82.2", "fd00:82::2"], &ips(82), MTU);
    World {
        _routers: routers,
        west,
        east,
        a,
        b,
    }
}

#[test]
fn pods_and_nodes_reach_each_other_with_their_own_addresses_over_both_families() {
    for over_ipv6 in [false, true] {
        let world = world(vxlan(), over_ipv6);
        let World { west, east, a, b, .. } = &world;
        for [from, pod, host, far] in [
            ["10.244.81.2", "10.244.82.2", "10.82.0.2", "10.81.0.2"],
            ["fd00:81::2", "fd00:82::2", "fd82::2", "fd81::2"],
        ] {
            assert_eq!(send(a, b, pod, 100_000), from);
            // A pod and the other node, begun by either. The router between drops what comes from an address that it
            // does not know: all of it has to be inside of the tunnel.
            assert_eq!(send(a, east, host, 100_000), from);
            assert_eq!(send(west, b, pod, 100_000), far);
            // The nodes themselves need no tunnel.
            assert_eq!(send(west, east, host, 1000), far);
        }
    }
}

#[test]
fn the_largest_packet_passes_and_one_byte_more_is_told_so() {
    for (over_ipv6, limit) in [(false, 1450), (true, 1430)] {
        let world = world(vxlan(), over_ipv6);
        for (at, headers) in [("10.244.82.2", 28), ("fd00:82::2", 48)] {
            let (passed, text) = ping(&world.a, at, limit - headers);
            assert!(passed, "{text}");
            let (passed, text) = ping(&world.a, at, limit - headers + 1);
            assert!(!passed, "{text}");
            assert!(
                text.contains(&format!("mtu={limit}")) || text.contains(&format!("mtu: {limit}")),
                "{text}"
            );
        }
    }
}

#[test]
fn a_plain_vxlan_device_of_the_kernel_is_a_peer() {
    let router = router();
    let (west, plain) = (node(&router, 81, MTU), node(&router, 82, MTU));
    set_routes(&west, vxlan(), &here(&ips(81), MTU), &to(82, &ips(82)));
    let a = add_pod(&west, "a", &["10.244.81.2", "fd00:81::2"], &ips(81), MTU);
    // A device for one network and one peer, as `ip` makes it; Ethernet addresses as they are documented.
    let (mine, theirs) = (tunnel::mac(ips(82)[0]), tunnel::mac(ips(81)[0]));
    ip(
        &plain,
        &format!(
            "link add vx0 address {mine} mtu 1450 type vxlan id 87 dstport 4789 local 10.82.0.2 remote 10.81.0.2 nolearning
             address add 10.244.82.2/32 dev vx0
             address add fd00:82::2/128 dev vx0 nodad
             link set vx0 up
             route add 10.244.81.0/24 dev vx0 src 10.244.82.2
             -6 route add fd00:81::/64 dev vx0 src fd00:82::2
             neighbor add 10.244.81.2 lladdr {theirs} dev vx0
             neighbor add fd00:81::2 lladdr {theirs} dev vx0"
        ),
    );
    for (pod, peer) in [("10.244.81.2", "10.244.82.2"), ("fd00:81::2", "fd00:82::2")] {
        let (passed, text) = ping(&a, peer, 1000);
        assert!(passed, "{text}");
        assert_eq!(send(&a, &plain, peer, 100_000), pod);
        assert_eq!(send(&plain, &a, pod, 100_000), peer);
    }
}

#[test]
fn the_tunnel_is_as_it_was_asked_for_and_goes_when_nobody_needs_it() {
    let router = router();
    let west = node(&router, 81, MTU);
    let links = |west: &Netns| {
        west.block_on(|| async {
            let rtnl = Rtnl::connect().unwrap();
            let link = rtnl.link("weft-vxlan").await.unwrap();
            (
                link,
                rtnl.links().await.unwrap().len(),
                rtnl.routes().await.unwrap().len(),
            )
        })
    };
    let before = links(&west);
    set_routes(&west, vxlan(), &here(&ips(81), MTU), &to(82, &ips(82)));
    let first = links(&west).0.unwrap();
    assert_eq!((first.mtu, first.mac), (1450, Some(tunnel::mac(ips(81)[0]))));
    // Another MTU, another address: the same link. Another port: another link.
    let mut moved = here(&ips(83), 9000);
    moved.local_ips = ips(81).into();
    set_routes(&west, vxlan(), &moved, &to(82, &ips(82)));
    let second = links(&west).0.unwrap();
    assert_eq!(
        (second.mtu, second.mac, second.index),
        (8950, Some(tunnel::mac(ips(83)[0])), first.index)
    );
    let other = Config {
        port: 8472,
        vni: 99,
        ..vxlan()
    };
    set_routes(&west, other, &here(&ips(81), MTU), &to(82, &ips(82)));
    assert_ne!(links(&west).0.unwrap().index, first.index);
    set_routes(&west, other, &here(&ips(81), MTU), &Routes::new());
    assert_eq!(links(&west), before);
    let rules = west.run(|| std::process::Command::new("ip").args(["rule"]).output().unwrap().stdout);
    assert_eq!(String::from_utf8(rules).unwrap().lines().count(), 3);
}

#[test]
fn what_the_kernel_lacks_and_a_port_that_is_taken_are_named() {
    let router = router();
    let west = node(&router, 81, MTU);
    let why = |config: Config| {
        let (here, wanted) = (here(&ips(81), MTU), to(82, &ips(82)));
        west.block_on(move || async move {
            let rtnl = Rtnl::connect().unwrap();
            let (failed, _) = routes::reconcile(&rtnl, &config, &here, &wanted).await.unwrap();
            failed.first().map(|failed| failed.why.clone())
        })
    };
    ip(
        &west,
        "link add other type vxlan external dstport 4789\nlink set other up",
    );
    let text = why(vxlan()).unwrap();
    assert!(
        text.contains("VXLAN tunnel on UDP port 4789") && text.contains("--tunnel-port"),
        "{text}"
    );
    ip(&west, "link del other");
    assert_eq!(why(vxlan()), None);
    // Where the kernel has Geneve, there is nothing to say.
    if let Some(text) = why(Config::new(Encapsulation::Geneve)) {
        assert!(
            text.contains("this kernel has no Geneve") && text.contains("--tunnel vxlan"),
            "{text}"
        );
    }
}

#[test]
fn a_smaller_link_between_the_nodes_is_passed() {
    // Over IPv4: the tunnel's packets may be fragmented on the way.
    let (near, far) = routers_with_link_between(1300);
    let nodes = (node(&near, 81, MTU), node(&far, 82, MTU));
    let World { a, b, .. } = &connect(vxlan(), false, vec![near, far], nodes);
    for [here, there] in [["10.244.81.2", "10.244.82.2"], ["fd00:81::2", "fd00:82::2"]] {
        assert_eq!(send(a, b, there, 1_000_000), here);
        assert_eq!(send(b, a, here, 1_000_000), there);
    }
}

#[test]
fn a_smaller_link_out_of_the_cluster_is_found_by_a_pod_behind_the_nodes_address() {
    let (near, far) = routers_with_link_between(1300);
    let (west, outside) = (node(&near, 81, MTU), node(&far, 82, MTU));
    let a = add_pod(&west, "a", &["10.244.81.2", "fd00:81::2"], &ips(81), MTU);
    let ranges: Vec<IpNet> = ["10.244.81.0/24", "fd00:81::/64"]
        .map(|net| net.parse().unwrap())
        .into();
    let ranges = Masquerade {
        pods: ranges.clone(),
        cluster: ranges,
    };
    west.run(move || masquerade::ensure(&ranges, None).unwrap());
    for [node, server] in [["10.81.0.2", "10.82.0.2"], ["fd81::2", "fd82::2"]] {
        assert_eq!(send(&a, &outside, server, 1_000_000), node);
        // The router's answer finds the pod behind the node's address.
        let (passed, text) = ping(&a, server, 1400);
        assert!(!passed && text.contains("1300"), "{text}");
    }
}
