//! Pods on different network segments, through a tunnel of the real kernel: by each encapsulation that it has, and by all
//! of them on Debian's kernel in a virtual machine. Needs root.
#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use support::Netns;
use support::segments::{add_pod, here, ip, ips, node, ping, router, routers_with_link_between, send, set_routes};
use support::ways::{WAYS, Way, has};
use weft_dataplane::net::tunnel::{self, Config, Encapsulation, Here};
use weft_dataplane::net::{Rtnl, masquerade, routes};
use weft_model::compile::{Masquerade, Routes};

const MTU: u32 = 1500;

/// The links that tunnels can have.
const LINKS: [&str; 4] = ["weft-vxlan", "weft-geneve", "weft-ipip", "weft-ip6ip"];

struct World {
    _routers: Vec<Netns>,
    west: Netns,
    east: Netns,
    a: Netns,
    b: Netns,
}

/// A pod on each of two nodes.
fn world(way: Way) -> World {
    let router = router();
    let nodes = (node(&router, 81, MTU), node(&router, 82, MTU));
    connect(way, vec![router], nodes)
}

fn connect(way: Way, routers: Vec<Netns>, (west, east): (Netns, Netns)) -> World {
    set_routes(&west, way.config, &here(&way.ips(81), MTU), &way.to(82));
    set_routes(&east, way.config, &here(&way.ips(82), MTU), &way.to(81));
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
fn pods_and_nodes_reach_each_other_with_their_own_addresses() {
    for way in WAYS.iter() {
        println!("{way:?}");
        let World { west, east, a, b, .. } = &world(*way);
        for [from, pod, host, far] in [
            ["10.244.81.2", "10.244.82.2", "10.82.0.2", "10.81.0.2"],
            ["fd00:81::2", "fd00:82::2", "fd82::2", "fd81::2"],
        ] {
            // The nodes themselves need no tunnel.
            assert_eq!(send(west, east, host, 1000), far);
            if !way.carries(pod) {
                continue;
            }
            assert_eq!(send(a, b, pod, 100_000), from);
            assert_eq!(send(b, a, from, 100_000), pod);
            // A pod and the other node, begun by either. The router between drops what comes from an address that it
            // does not know: all of it has to be inside of the tunnel.
            assert_eq!(send(a, east, host, 100_000), from);
            assert_eq!(send(west, b, pod, 100_000), far);
        }
    }
}

#[test]
fn the_largest_packet_passes_and_one_byte_more_is_told_so() {
    for way in WAYS.iter() {
        let world = world(*way);
        let limit = match (way.config.encapsulation, way.over_ipv6) {
            (Encapsulation::Ipip, false) => 1480,
            (Encapsulation::Ipip, true) => 1460,
            (_, false) => 1450,
            (_, true) => 1430,
        };
        for (at, headers) in [("10.244.82.2", 28), ("fd00:82::2", 48)] {
            if !way.carries(at) {
                continue;
            }
            let (passed, text) = ping(&world.a, at, limit - headers);
            assert!(passed, "{way:?}: {text}");
            let (passed, text) = ping(&world.a, at, limit - headers + 1);
            assert!(!passed, "{way:?}: {text}");
            assert!(
                text.contains(&format!("mtu={limit}")) || text.contains(&format!("mtu: {limit}")),
                "{way:?}: {text}"
            );
        }
    }
}

#[test]
fn a_plain_device_of_the_kernel_is_a_peer() {
    for way in WAYS.iter() {
        let router = router();
        let (west, plain) = (node(&router, 81, MTU), node(&router, 82, MTU));
        set_routes(&west, way.config, &here(&way.ips(81), MTU), &way.to(82));
        let a = add_pod(&west, "a", &["10.244.81.2", "fd00:81::2"], &ips(81), MTU);
        // A device for one network and one peer, as `ip` makes it; Ethernet addresses as they are documented.
        let [(mine, my_ip), (theirs, their_ip)] = [82, 81].map(|number| {
            let ip = way.ips(number)[0];
            (tunnel::mac(ip), ip)
        });
        let device = match (way.config.encapsulation, way.over_ipv6) {
            (Encapsulation::Vxlan, _) => {
                format!("address {mine} type vxlan id 87 dstport 4789 local {my_ip} remote {their_ip} nolearning")
            }
            (Encapsulation::Geneve, _) => {
                format!("address {mine} type geneve id 87 dstport 6081 remote {their_ip}")
            }
            (Encapsulation::Ipip, false) => format!("type ipip local {my_ip} remote {their_ip}"),
            (Encapsulation::Ipip, true) => {
                format!("type ip6tnl mode any local {my_ip} remote {their_ip} encaplimit none")
            }
        };
        ip(
            &plain,
            &format!(
                "link add peer mtu 1430 {device}
                 address add 10.244.82.2/32 dev peer
                 address add fd00:82::2/128 dev peer nodad
                 link set peer up
                 route add 10.244.81.0/24 dev peer src 10.244.82.2
                 -6 route add fd00:81::/64 dev peer src fd00:82::2"
            ),
        );
        if way.config.encapsulation != Encapsulation::Ipip {
            ip(
                &plain,
                &format!(
                    "neighbor add 10.244.81.2 lladdr {theirs} dev peer
                     neighbor add fd00:81::2 lladdr {theirs} dev peer"
                ),
            );
        }
        for (pod, peer) in [("10.244.81.2", "10.244.82.2"), ("fd00:81::2", "fd00:82::2")] {
            if !way.carries(peer) {
                continue;
            }
            let (passed, text) = ping(&a, peer, 1000);
            assert!(passed, "{way:?}: {text}");
            assert_eq!(send(&a, &plain, peer, 100_000), pod);
            assert_eq!(send(&plain, &a, pod, 100_000), peer);
        }
    }
}

/// Indices of the tunnel's links on this node, by name.
fn links(node: &Netns) -> Vec<(&'static str, u32)> {
    node.block_on(|| async {
        let rtnl = Rtnl::connect().unwrap();
        let mut links = vec![];
        for name in LINKS {
            links.extend(rtnl.link(name).await.unwrap().map(|link| (name, link.index)));
        }
        links
    })
}

#[test]
fn one_encapsulation_follows_another_and_a_link_stays_what_it_is() {
    let router = router();
    let west = node(&router, 81, MTU);
    for way in WAYS.iter() {
        let (here, wanted) = (here(&way.ips(81), MTU), way.to(82));
        set_routes(&west, way.config, &here, &wanted);
        let first = links(&west);
        assert_eq!(first.len(), 1, "{way:?}: {first:?}");
        set_routes(&west, way.config, &here, &wanted);
        assert_eq!(links(&west), first, "{way:?}");
    }
}

#[test]
fn the_tunnel_is_as_it_was_asked_for_and_goes_when_nobody_needs_it() {
    assert!(!WAYS.is_empty());
    let vxlan = Way::new(Encapsulation::Vxlan, false);
    let router = router();
    let west = node(&router, 81, MTU);
    let links = |west: &Netns| {
        west.block_on(|| async {
            let rtnl = Rtnl::connect().unwrap();
            let link = rtnl.link("weft-vxlan").await.unwrap();
            (
                link,
                rtnl.links().await.unwrap().len(),
                rtnl.routes().await.unwrap().iter().filter(|route| route.ours).count(),
            )
        })
    };
    let before = links(&west);
    set_routes(&west, vxlan.config, &here(&ips(81), MTU), &vxlan.to(82));
    let first = links(&west).0.unwrap();
    assert_eq!((first.mtu, first.mac), (1450, Some(tunnel::mac(ips(81)[0]))));
    // Another MTU, another address: the same link. Another port: another link.
    let mut moved = here(&ips(83), 9000);
    moved.local_ips = ips(81).into();
    set_routes(&west, vxlan.config, &moved, &vxlan.to(82));
    let second = links(&west).0.unwrap();
    assert_eq!(
        (second.mtu, second.mac, second.index),
        (8950, Some(tunnel::mac(ips(83)[0])), first.index)
    );
    let other = Config {
        port: 8472,
        vni: 99,
        ..vxlan.config
    };
    set_routes(&west, other, &here(&ips(81), MTU), &vxlan.to(82));
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
    let why = |way: Way, wanted: Routes| {
        let here = here(&ips(81), MTU);
        west.block_on(move || async move {
            let rtnl = Rtnl::connect().unwrap();
            let (failed, _) = routes::reconcile(&rtnl, &way.config, &here, &wanted).await.unwrap();
            failed.first().map(|failed| failed.why.clone())
        })
    };
    ip(
        &west,
        "link add other type vxlan external dstport 4789\nlink set other up",
    );
    let vxlan = Way::new(Encapsulation::Vxlan, false);
    let text = why(vxlan, vxlan.to(82)).unwrap();
    assert!(
        text.contains("VXLAN tunnel on UDP port 4789") && text.contains("--tunnel-port"),
        "{text}"
    );
    ip(&west, "link del other");
    assert_eq!(why(vxlan, vxlan.to(82)), None);
    for encapsulation in [Encapsulation::Geneve, Encapsulation::Ipip] {
        let way = Way::new(encapsulation, false);
        // Where the kernel has it, there is nothing to say.
        let lacks = !has(encapsulation);
        let text = why(way, way.to(82)).unwrap_or_default();
        assert_eq!(
            text.contains(&format!("this kernel has no {encapsulation}")),
            lacks,
            "{text}"
        );
        assert_eq!(text.contains("--tunnel vxlan"), lacks, "{text}");
        // IPv6 over IPv4.
        let text = why(way, vxlan.to(82)).unwrap_or_default();
        assert_eq!(
            text.is_empty(),
            !lacks && encapsulation == Encapsulation::Geneve,
            "{text}"
        );
    }
}

#[test]
fn a_smaller_link_between_the_nodes_is_passed() {
    // Over IPv4: the tunnel's packets may be fragmented on the way.
    for way in WAYS.iter().filter(|way| !way.over_ipv6) {
        let (near, far) = routers_with_link_between(1300);
        let nodes = (node(&near, 81, MTU), node(&far, 82, MTU));
        let World { a, b, .. } = &connect(*way, vec![near, far], nodes);
        for [here, there] in [["10.244.81.2", "10.244.82.2"], ["fd00:81::2", "fd00:82::2"]] {
            if way.carries(there) {
                assert_eq!(send(a, b, there, 100_000), here, "{way:?}");
                assert_eq!(send(b, a, here, 100_000), there, "{way:?}");
            }
        }
    }
}

/// Sends packets that are too large for the way until the node has been told so. Returns what it was told.
fn learn(node: &Netns, pod: &Netns, to: &str) -> BTreeMap<IpAddr, u32> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (passed, text) = ping(pod, to, 1380);
        assert!(!passed, "{text}");
        let told = node.block_on(|| async { Rtnl::connect().unwrap().narrow_ways().await.unwrap() });
        if !told.is_empty() || Instant::now() > deadline {
            return told;
        }
    }
}

/// Over IPv6 they may not: the way's own limit becomes the routes', and so every sender's.
#[test]
fn a_smaller_link_between_the_nodes_is_learnt_over_ipv6() {
    for way in WAYS.iter().filter(|way| way.over_ipv6) {
        let (near, far) = routers_with_link_between(1400);
        let nodes = (node(&near, 81, MTU), node(&far, 82, MTU));
        let World { a, b, west, east, .. } = &connect(*way, vec![near, far], nodes);
        let limit = 1400 - way.config.overhead(way.ips(81)[0]);
        for (node, pod, [mine, other], to) in [(west, a, [81, 82], "fd00:82::2"), (east, b, [82, 81], "fd00:81::2")] {
            let narrow = learn(node, pod, to);
            assert_eq!(narrow.get(&way.ips(other)[0]), Some(&1400), "{way:?}: {narrow:?}");
            let here = Here {
                narrow,
                ..here(&way.ips(mine), MTU)
            };
            set_routes(node, way.config, &here, &way.to(other));
            let (passed, text) = ping(pod, to, limit - 48);
            assert!(passed, "{way:?}: {text}");
            let (passed, text) = ping(pod, to, limit - 48 + 1);
            assert!(!passed && text.contains(&limit.to_string()), "{way:?}: {text}");
        }
        for [here, there] in [["10.244.81.2", "10.244.82.2"], ["fd00:81::2", "fd00:82::2"]] {
            assert_eq!(send(a, b, there, 100_000), here, "{way:?}");
            assert_eq!(send(b, a, here, 100_000), there, "{way:?}");
        }
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

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "the virtual machine is one of x86")]
fn debians_kernel_passes_all_of_this() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/with-debian-kernel");
    let done = Command::new(script)
        .arg(std::env::current_exe().unwrap())
        // It has one processor, and most of a test is waiting.
        .args(["--test-threads", "4", "--skip", "debians_kernel"])
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    println!("{log}");
    assert!(
        done.status.success(),
        "the tests in the virtual machine ended with {}",
        done.status
    );
}
