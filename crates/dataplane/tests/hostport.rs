//! Host ports in the real kernel: who reaches a pod by its node's port, and as whom. Needs root.
#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use support::world::{A, B, NODE, OUTSIDE, World};
use support::{Netns, greeting, ip};
use weft_dataplane::net::{conntrack, hostport, name};
use weft_model::Protocol;
use weft_model::cni::PortMapping;
use weft_model::hostport::{HostPorts, resolve};

impl World {
    /// The node has a second address, and its pods can be reached by its loopback.
    fn with_host_ports() -> Self {
        let world = Self::new();
        world.node.run(|| {
            ip("address add 10.89.0.20/16 dev eth0");
            for pod in ["a", "b"] {
                hostport::return_to_loopback(&name::host_side(pod, "eth0")).unwrap();
            }
        });
        world
    }

    fn set(&self, ports: &HostPorts) {
        let ports = ports.clone();
        self.node.run(move || hostport::set(&ports).unwrap());
    }

    fn rules(&self) -> String {
        self.nft("list ruleset")
    }
}

fn ports(mappings: &[(&str, u16, u16, Protocol)], pod: [&str; 2]) -> HostPorts {
    let mappings: Vec<_> = mappings
        .iter()
        .map(|(ip, host_port, container_port, protocol)| PortMapping {
            host_ip: ip.parse().ok(),
            host_port: *host_port,
            container_port: *container_port,
            protocol: *protocol,
        })
        .collect();
    resolve(&mappings, &pod.map(|ip| ip.parse().unwrap())).unwrap()
}

/// How a server in `to` on port 8080 sees who connects to `at` from `from`.
fn seen(from: &Netns, to: &Netns, at: &str) -> String {
    let at: SocketAddr = at.parse().unwrap();
    let any: IpAddr = if at.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
    let (_, server) = greeting::serve(to, (any, 8080).into());
    greeting::is_greeted(from, at);
    server.join().unwrap().to_string()
}

/// What is said to a client of `[::1]:80` by a server there.
fn own_loopback_v6(node: &Netns) -> String {
    node.run(|| {
        let listener = TcpListener::bind("[::1]:80").unwrap();
        let mut client = TcpStream::connect_timeout(&"[::1]:80".parse().unwrap(), Duration::from_secs(10)).unwrap();
        listener.accept().unwrap().0.write_all(b"hello").unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        said
    })
}

#[test]
fn everybody_reaches_a_host_port_in_both_families() {
    let world = World::with_host_ports();
    let (node, a, b, outside) = (&world.node, &world.a, &world.b, &world.outside);
    world.set(&ports(&[("", 80, 8080, Protocol::Tcp)], A));
    // From outside the client keeps its address.
    assert_eq!(seen(outside, a, "10.89.0.10:80"), OUTSIDE[0]);
    assert_eq!(seen(outside, a, "[fd89::10]:80"), OUTSIDE[1]);
    // From the node, by any of its addresses.
    assert_eq!(seen(node, a, "10.89.0.10:80"), NODE[0]);
    assert_eq!(seen(node, a, "[fd89::10]:80"), NODE[1]);
    assert_eq!(seen(node, a, "127.0.0.1:80"), NODE[0]);
    // ::1 stays the node's own: somebody who listens there is reached.
    assert_eq!(own_loopback_v6(node), "hello");
    // From a pod of the node, and from the pod itself.
    assert_eq!(seen(b, a, "10.89.0.10:80"), NODE[0]);
    assert_eq!(seen(b, a, "[fd89::10]:80"), NODE[1]);
    assert_eq!(seen(a, a, "10.89.0.10:80"), NODE[0]);
    assert_eq!(seen(a, a, "[fd89::10]:80"), NODE[1]);
    // Its own address is as it was.
    assert_eq!(seen(b, a, "10.244.0.2:8080"), B[0]);
}

#[test]
fn addresses_and_protocols_of_one_port_lead_to_different_pods() {
    let world = World::with_host_ports();
    let mut all = ports(
        &[("10.89.0.10", 80, 8080, Protocol::Tcp), ("", 80, 8080, Protocol::Sctp)],
        A,
    );
    let second = ports(
        &[("10.89.0.20", 80, 8080, Protocol::Tcp), ("::", 80, 8080, Protocol::Tcp)],
        B,
    );
    world.set(&all);
    let given = second.clone();
    world.node.run(move || hostport::add(&given).unwrap());
    all.extend(second.clone());
    assert_eq!(seen(&world.outside, &world.a, "10.89.0.10:80"), OUTSIDE[0]);
    assert_eq!(seen(&world.outside, &world.b, "10.89.0.20:80"), OUTSIDE[0]);
    assert_eq!(seen(&world.outside, &world.b, "[fd89::10]:80"), OUTSIDE[1]);
    let rules = world.rules();
    for part in [
        "10.89.0.10 . tcp . 80 : 10.244.0.2 . 8080",
        "10.89.0.20 . tcp . 80 : 10.244.0.3 . 8080",
        "sctp . 80 : 10.244.0.2 . 8080",
        "dnat ip to ip daddr . meta l4proto . th dport map @one4",
        "dnat ip6 to ip6 daddr . meta l4proto . th dport map @one6",
        "fib daddr type local jump translate",
        "ct status dnat oifname \"weft*\" iifname \"weft*\" iifname != \"weft-*\" masquerade",
    ] {
        assert!(rules.contains(part), "{part} is not in {rules}");
    }
    let (every, gone) = (all.clone(), second.clone());
    assert_eq!(world.node.run(move || hostport::first_missing(&every).unwrap()), None);
    // Taken away, it leads nowhere; what is not there cannot be, and nothing of that request is done.
    world.node.run(move || {
        hostport::remove(&second).unwrap();
        assert!(hostport::remove(&second).unwrap_err().is_missing());
    });
    assert!(!world.rules().contains("10.244.0.3"));
    let first = *gone.keys().next().unwrap();
    assert_eq!(
        world.node.run(move || hostport::first_missing(&gone).unwrap()),
        Some(first)
    );
    world.set(&HostPorts::new());
    assert_eq!(world.rules(), "");
    world
        .node
        .run(move || assert!(hostport::add(&all).unwrap_err().is_missing()));
}

/// There are no SCTP sockets in every kernel, but its packets can be written by hand (RFC 9260, 3).
mod sctp {
    #![expect(unsafe_code, reason = "no library opens a raw socket of this protocol")]

    use std::fs::File;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, SocketAddrV4};
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    use nix::libc;
    use nix::sys::socket::sockopt::ReceiveTimeout;
    use nix::sys::socket::{SockaddrIn, connect, setsockopt};
    use nix::sys::time::{TimeVal, TimeValLike};

    /// A socket for whole packets of SCTP.
    pub(super) fn open() -> OwnedFd {
        // SAFETY: a call that takes plain numbers; what it gives is a descriptor of ours, or less than zero.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_SCTP) };
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: as above.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(30)).unwrap();
        fd
    }

    /// CRC32c, bit by bit.
    fn sum(packet: &[u8]) -> [u8; 4] {
        let step = |sum: u32| (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 };
        let byte = |sum: u32, byte: &u8| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum));
        (!packet.iter().fold(!0, byte)).to_le_bytes()
    }

    /// The first packet of an association: a chunk INIT.
    pub(super) fn send_init(from_port: u16, to: Ipv4Addr, to_port: u16) {
        let fd = open();
        connect(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(to, 0))).unwrap();
        let init = [1, 0, 0, 20, 0, 0, 0x12, 0x34, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1];
        let ports = [from_port.to_be_bytes(), to_port.to_be_bytes()].concat();
        let mut packet = [&ports[..], &[0; 8], &init].concat();
        let sum = sum(&packet);
        packet[8..12].copy_from_slice(&sum);
        File::from(fd).write_all(&packet).unwrap();
    }

    /// From whom the next packet comes, from which port, and to which; its checksum is right.
    pub(super) fn receive(socket: OwnedFd) -> (Ipv4Addr, u16, u16) {
        let mut packet = [0; 100];
        let length = File::from(socket).read(&mut packet).unwrap();
        let (header, rest) = packet[..length].split_at_mut(20);
        let [a, b, c, d] = rest[8..12] else {
            unreachable!("four bytes")
        };
        rest[8..12].fill(0);
        assert_eq!(sum(rest), [a, b, c, d], "the checksum is wrong");
        let from = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
        let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
        (from, port(0), port(2))
    }
}

#[test]
fn an_association_reaches_the_pod_with_its_checksum_right() {
    let world = World::with_host_ports();
    world.set(&ports(&[("", 80, 8080, Protocol::Sctp)], A));
    let socket = world.a.run(sctp::open);
    world
        .outside
        .run(|| sctp::send_init(5000, NODE[0].parse().unwrap(), 80));
    let came = world.a.run(move || sctp::receive(socket));
    assert_eq!(came, (OUTSIDE[0].parse().unwrap(), 5000, 8080));
}

#[test]
fn whoever_changes_the_rules_is_noticed() {
    let world = World::with_host_ports();
    world.set(&ports(&[("", 80, 8080, Protocol::Tcp)], A));
    world.node.run(|| {
        let before = hostport::generation().unwrap();
        assert_eq!(hostport::generation().unwrap(), before);
        let flush = std::process::Command::new("nft").args(["flush", "ruleset"]).status();
        assert!(flush.unwrap().success());
        assert_ne!(hostport::generation().unwrap(), before);
    });
}

/// A client that never changes its port, as a resolver's or a game's, is led to the pod that is there now.
#[test]
fn datagrams_follow_the_pod() {
    let world = World::with_host_ports();
    let (of_a, of_b) = (
        ports(&[("", 53, 5353, Protocol::Udp)], A),
        ports(&[("", 53, 5353, Protocol::Udp)], B),
    );
    let serve = |netns: &Netns, name: &'static str| {
        let (ready, listening) = std::sync::mpsc::channel();
        netns.spawn(move || {
            let socket = UdpSocket::bind("0.0.0.0:5353").unwrap();
            ready.send(()).unwrap();
            let (_, from) = socket.recv_from(&mut [0; 16]).unwrap();
            socket.send_to(name.as_bytes(), from).unwrap();
        });
        listening.recv().unwrap();
    };
    serve(&world.a, "a");
    serve(&world.b, "b");
    let client = world.outside.run(|| {
        let socket = UdpSocket::bind("10.89.0.99:4000").unwrap();
        socket.connect("10.89.0.10:53").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    });
    let ask = || {
        client.send(b"?").and_then(|_| {
            let mut said = [0; 16];
            client
                .recv(&mut said)
                .map(|length| String::from_utf8_lossy(&said[..length]).into_owned())
        })
    };
    // Before there is a pod, the node itself refuses, and remembers the connection.
    assert_eq!(ask().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    let forget = |ports: &HostPorts| {
        let ports = ports.clone();
        world.node.run(move || conntrack::forget(&ports).unwrap())
    };
    world.set(&of_a);
    forget(&of_a);
    assert_eq!(ask().unwrap(), "a");
    // Another connection of the node's is none of ours.
    let elsewhere = ports(&[("", 54, 5353, Protocol::Udp), ("", 53, 5353, Protocol::Tcp)], A);
    assert_eq!(forget(&elsewhere), 0);
    world.set(&of_b);
    assert_eq!(forget(&of_a), 1);
    assert_eq!(ask().unwrap(), "b");
}
