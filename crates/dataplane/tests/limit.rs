//! Limits of a pod in the real kernel: what arrives in a time, in both directions and families. Needs root.
//! Asserted is only that a limit is not passed: how near to it one comes, a busy machine cannot say.
#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use support::{Netns, ip};
use weft_dataplane::net::{PodLink, name, pod, sysctl};
use weft_model::cni::Bandwidth;

const NODE: [&str; 2] = ["10.89.0.10", "fd89::10"];
const POD: [&str; 2] = ["10.244.0.2", "fd00:10:244::2"];

fn link(netns: &Netns, limits: Bandwidth) -> PodLink {
    let (mac, host_mac) = name::macs("a", "eth0");
    PodLink {
        netns: netns.path(),
        ifname: "eth0".into(),
        host_ifname: name::host_side("a", "eth0"),
        mac,
        host_mac,
        ips: POD.map(|ip| ip.parse().unwrap()).to_vec(),
        mtu: 1500,
        node_ips: NODE.map(|ip| ip.parse().unwrap()).to_vec(),
        limits,
    }
}

fn limited(netns: &Netns, limits: Bandwidth) -> Netns {
    let node = Netns::new();
    let link = link(netns, limits);
    node.block_on(|| async move {
        ip("link set lo up");
        ip("address add 10.89.0.10/32 dev lo");
        ip("address add fd89::10/128 dev lo");
        sysctl::enable_forwarding().unwrap();
        pod::set_up(&link).await.unwrap();
    });
    node
}

/// How long it takes to send so much.
fn time(from: &Netns, to: &Netns, at: &str, bytes: usize) -> Duration {
    let at = SocketAddr::new(at.parse().unwrap(), 9000);
    let listener = to.run(move || TcpListener::bind(at).unwrap());
    let server = std::thread::spawn(move || {
        let mut received = vec![];
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        received.len()
    });
    let start = Instant::now();
    from.run(move || {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.write_all(&vec![0; bytes]).unwrap();
    });
    assert_eq!(server.join().unwrap(), bytes);
    start.elapsed()
}

/// CHECK's complaint about the limits of the pod `a`, if any, before and after somebody has run these words in a namespace.
fn complaints(node: &Netns, netns: &Netns, limits: Bandwidth, damaged: &Netns, damage: &'static str) -> [String; 2] {
    let link = link(netns, limits);
    let check = || {
        let link = link.clone();
        node.block_on(|| async move { pod::check(&link).await.map_err(|error| error.to_string()).err() })
    };
    let before = check().unwrap_or_default();
    damaged.run(move || {
        let status = std::process::Command::new("tc").args(damage.split(' ')).status();
        assert!(status.unwrap().success(), "tc {damage}");
    });
    [before, check().unwrap_or_default()]
}

/// How many limits there are.
fn buckets(netns: &Netns) -> usize {
    let listed = netns.run(|| std::process::Command::new("tc").arg("qdisc").output().unwrap());
    String::from_utf8(listed.stdout).unwrap().matches("qdisc tbf").count()
}

#[test]
fn each_direction_has_its_own_limit_in_both_families() {
    // A quarter of a mebibyte takes two seconds at 1 Mbit/s, and a millisecond without a limit.
    let slow = 1_000_000;
    let bytes = 256 * 1024;
    let least = Duration::from_secs(1);
    let netns = Netns::new();
    let limits = Bandwidth {
        ingress_rate: slow,
        ..Bandwidth::default()
    };
    let node = limited(&netns, limits);
    assert_eq!((buckets(&node), buckets(&netns)), (1, 0));
    for (pod, node_ip) in POD.into_iter().zip(NODE) {
        assert!(time(&node, &netns, pod, bytes) > least);
        time(&netns, &node, node_ip, bytes);
    }
    let netns = Netns::new();
    let limits = Bandwidth {
        egress_rate: slow,
        ..Bandwidth::default()
    };
    let node = limited(&netns, limits);
    assert_eq!((buckets(&node), buckets(&netns)), (0, 1));
    for (pod, node_ip) in POD.into_iter().zip(NODE) {
        assert!(time(&netns, &node, node_ip, bytes) > least);
        time(&node, &netns, pod, bytes);
    }
}

#[test]
fn a_limit_that_somebody_changed_is_found() {
    let limits = Bandwidth {
        ingress_rate: 1_000_000,
        egress_rate: 2_000_000,
        ..Bandwidth::default()
    };
    let netns = Netns::new();
    let node = limited(&netns, limits);
    let inside = complaints(&node, &netns, limits, &netns, "qdisc del dev eth0 root");
    let sends = "the queue that limits what the pod sends is not as it was set up";
    assert_eq!(inside, ["", sends]);
    let netns = Netns::new();
    let node = limited(&netns, limits);
    let host = name::host_side("a", "eth0");
    let wider = format!("qdisc change dev {host} root handle 1: tbf rate 5mbit burst 15140 latency 50ms");
    let here = complaints(&node, &netns, limits, &node, wider.leak());
    assert_eq!(
        here,
        [
            "",
            "the queue that limits what the pod receives is not as it was set up"
        ]
    );
}
