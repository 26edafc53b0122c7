//! A pod that may write any frame it likes: what leaves it, what its neighbours and its node see of that, and what it
//! sees of them.
#![expect(unsafe_code, reason = "no library sends frames through a packet socket without it")]

use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use weft_packet::Reason;

use super::pods::{Pod, receiver};
use super::world::{ip, run};
use crate::bpf::{Datapath, Drops};

/// What the attacker's frames carry, so that they are known wherever they turn up.
const MARK: &[u8] = b"written by hand";
/// What honest pods say to each other.
const SECRET: &[u8] = b"not for the neighbours";

/// Sends and receives whole frames on the pod's `eth0`.
struct Frames(OwnedFd);

impl Frames {
    fn open() -> Self {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap();
        let place = Self::place();
        let length = size_of_val(&place) as libc::socklen_t;
        // SAFETY: the address lives until the call returns, and its length is given.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const place).cast(), length) };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        ip("link set eth0 promisc on");
        Self(fd)
    }

    fn place() -> libc::sockaddr_ll {
        libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: nix::net::if_::if_nametoindex("eth0").unwrap() as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        }
    }

    fn send(&self, frame: &[u8]) {
        assert_eq!(nix::unistd::write(&self.0, frame).unwrap(), frame.len());
    }

    /// Whether a frame with these bytes in it has come, of all that came until now.
    fn saw(&mut self, bytes: &[u8]) -> bool {
        let mut buffer = [0; 4096];
        let mut found = false;
        while let Ok(length) = nix::unistd::read(&self.0, &mut buffer) {
            found |= buffer[..length].windows(bytes.len()).any(|window| window == bytes);
        }
        found
    }
}

fn octets(ip: &str) -> Vec<u8> {
    match ip.parse().unwrap() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const VICTIM_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const HOST_MAC: [u8; 6] = [4, 0, 0, 0, 0, 1];
const ALL: [u8; 6] = [0xff; 6];

fn frame(to: [u8; 6], from: [u8; 6], kind: u16, rest: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), rest, MARK].concat()
}

fn checksum(data: &[u8]) -> [u8; 2] {
    let mut sum: u32 = data
        .chunks(2)
        .map(|w| u32::from(w[0]) << 8 | w.get(1).copied().map_or(0, u32::from))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// A datagram from port 67 to port 68: as a DHCP server sends it.
fn ipv4(from: &str, to: &str) -> Vec<u8> {
    let udp = [&[0, 67, 0, 68, 0, 8 + MARK.len() as u8, 0, 0], MARK].concat();
    let mut header = vec![0x45, 0, 0, 20 + udp.len() as u8, 0, 0, 0, 0, 64, 17, 0, 0];
    header.extend([octets(from), octets(to)].concat());
    let check = checksum(&header);
    header[10..12].copy_from_slice(&check);
    [header, udp].concat()
}

fn ipv6(from: &str, to: &str, message: &[u8]) -> Vec<u8> {
    let (from, to) = (octets(from), octets(to));
    let length = message.len() as u8;
    let mut message = message.to_vec();
    let check = checksum(&[&from[..], &to, &[0, 0, 0, length, 0, 0, 0, 58], &message].concat());
    message[2..4].copy_from_slice(&check);
    [&[0x60, 0, 0, 0, 0, length, 58, 255], &from[..], &to, &message].concat()
}

fn advertisement(target: &str, mac: [u8; 6]) -> Vec<u8> {
    let message = [&[136, 0, 0, 0, 0x20, 0, 0, 0], &octets(target)[..], &[2, 1], &mac].concat();
    ipv6("fe80::ff:fe00:1", "ff02::1", &message)
}

fn arp(operation: u8, mac: [u8; 6], claimed: &str, target: &str) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head, &mac[..], &octets(claimed), &[0; 6], &octets(target)].concat()
}

/// Every attack: what it is, the frame (to, from, EtherType, the rest), and why it ends.
fn attacks() -> Vec<(&'static str, Vec<u8>, Reason)> {
    use Reason::{ForeignMac, ForeignNeighbour, NotIp, OnLink, Spoofed};
    const IPV4: u16 = 0x0800;
    const ARP: u16 = 0x0806;
    const IPV6: u16 = 0x86dd;
    const PING: [u8; 8] = [128, 0, 0, 0, 0, 0, 0, 0];
    const OWN: &str = "fe80::ff:fe00:1";
    const MDNS: [u8; 6] = [1, 0, 0x5e, 0, 0, 0xfb];
    const STP: [u8; 6] = [1, 0x80, 0xc2, 0, 0, 0];
    const LLDP: [u8; 6] = [1, 0x80, 0xc2, 0, 0, 0xe];
    let router = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let prefix = [3, 4, 64, 0xc0, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
    let router = [&router[..], &prefix, &octets("2001:db8::")].concat();
    let redirect = [
        &[137, 0, 0, 0, 0, 0, 0, 0][..],
        &octets("fe80::1"),
        &octets("fd00:1::2"),
    ]
    .concat();
    let honest = ipv4("10.1.0.1", "10.1.0.2");
    let tagged = |tags: &[u8]| [tags, &honest].concat();
    #[rustfmt::skip]
    let table = vec![
        ("a neighbour's address", HOST_MAC, MAC, IPV4, ipv4("10.1.0.2", "10.1.0.3"), Spoofed),
        ("nobody's address", HOST_MAC, MAC, IPV4, ipv4("192.0.2.1", "10.1.0.2"), Spoofed),
        ("the gateway's address", HOST_MAC, MAC, IPV4, ipv4("169.254.1.1", "10.1.0.2"), Spoofed),
        ("a neighbour's Ethernet address", HOST_MAC, VICTIM_MAC, IPV4, honest.clone(), ForeignMac),
        ("the gateway's Ethernet address", ALL, HOST_MAC, IPV4, honest.clone(), ForeignMac),
        ("a neighbour's IPv6 address", HOST_MAC, MAC, IPV6, ipv6("fd00:1::2", "fd00:1::3", &PING), Spoofed),
        ("a neighbour's link-local address", HOST_MAC, MAC, IPV6, ipv6("fe80::ff:fe00:2", "fe80::1", &PING), Spoofed),
        ("the gateway's link-local address", ALL, MAC, IPV6, ipv6("fe80::1", "ff02::1", &PING), Spoofed),
        ("a DHCP client", ALL, MAC, IPV4, ipv4("0.0.0.0", "255.255.255.255"), Spoofed),
        ("a DHCP server, to all", ALL, MAC, IPV4, ipv4("10.1.0.1", "255.255.255.255"), OnLink),
        ("multicast", MDNS, MAC, IPV4, ipv4("10.1.0.1", "224.0.0.251"), OnLink),
        ("an ARP answer for a neighbour", HOST_MAC, MAC, ARP, arp(2, MAC, "10.1.0.2", "10.9.0.1"), ForeignNeighbour),
        ("a gratuitous ARP for a neighbour", ALL, MAC, ARP, arp(1, MAC, "10.1.0.2", "10.1.0.2"), ForeignNeighbour),
        ("an ARP answer for the gateway", ALL, MAC, ARP, arp(2, MAC, "169.254.1.1", "169.254.1.1"), ForeignNeighbour),
        ("ARP of its own address elsewhere", ALL, MAC, ARP, arp(2, VICTIM_MAC, "10.1.0.1", "10.9.0.1"), ForeignNeighbour),
        ("an advertisement of a neighbour", ALL, MAC, IPV6, advertisement("fd00:1::2", MAC), ForeignNeighbour),
        ("an advertisement of the gateway", ALL, MAC, IPV6, advertisement("fe80::1", MAC), ForeignNeighbour),
        ("an advertisement of its own address elsewhere", ALL, MAC, IPV6, advertisement("fd00:1::1", VICTIM_MAC), ForeignNeighbour),
        ("a router's advertisement", ALL, MAC, IPV6, ipv6(OWN, "ff02::1", &router), ForeignNeighbour),
        ("a redirect", HOST_MAC, MAC, IPV6, ipv6(OWN, "fd00:1::2", &redirect), ForeignNeighbour),
        ("a VLAN tag", HOST_MAC, MAC, 0x8100, tagged(&[0, 5, 8, 0]), NotIp),
        ("two VLAN tags", HOST_MAC, MAC, 0x88a8, tagged(&[0, 5, 0x81, 0, 0, 6, 8, 0]), NotIp),
        ("a spanning tree", STP, MAC, 38, vec![0x42, 0x42, 3, 0, 0, 0, 0, 0], NotIp),
        ("link layer discovery", LLDP, MAC, 0x88cc, vec![2, 7, 4], NotIp),
    ];
    let write = |(what, to, from, kind, rest, why): (_, _, _, _, Vec<u8>, _)| (what, frame(to, from, kind, &rest), why);
    table.into_iter().map(write).collect()
}

/// What the node knows of the attacker's link: neighbours, addresses and routes.
fn learned() -> String {
    let commands = [
        "neigh show",
        "-6 neigh show",
        "-6 addr show",
        "-6 route show",
        "-4 route show",
    ];
    let said = commands.map(|command| {
        let output = Command::new("ip")
            .args(command.split(' '))
            .args(["dev", "veth1"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    });
    said.concat()
}

fn dropped(datapath: &Datapath, pod: &Pod, reason: Reason) -> u64 {
    let drops = datapath.drops().unwrap();
    let of_pod = drops.get(&pod.ifindex).map(Vec::as_slice).unwrap_or_default();
    of_pod
        .iter()
        .find(|drops| drops.reason == reason)
        .map_or(0, |drops| drops.count)
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "not after 30 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_an_attacker_writes_reaches_nobody() {
    run(module_path!(), "what_an_attacker_writes_reaches_nobody", |world| {
        let mut datapath = world.open();
        let [one, two, three] = [1, 2, 3].map(|n| Pod::new(n, &mut datapath));
        // A node that would learn whatever it is told.
        for switch in [
            "ipv4/conf/veth1/arp_accept",
            "ipv6/conf/veth1/accept_ra",
            "ipv6/conf/veth1/accept_untracked_na",
        ] {
            crate::net::sysctl::set(switch, if switch.ends_with("ra") { "2" } else { "1" }).unwrap();
        }
        let mut neighbours = [two.run(Frames::open), three.run(Frames::open)];
        let before = learned();
        let attacker = one.run(Frames::open);
        for (what, frame, reason) in attacks() {
            let count = dropped(&datapath, &one, reason);
            attacker.send(&frame);
            eventually(what, || dropped(&datapath, &one, reason) == count + 1);
            for neighbour in &mut neighbours {
                assert!(!neighbour.saw(MARK), "a neighbour saw {what}");
            }
        }
        assert_eq!(learned(), before, "the node has learned from a pod");
        // The pod itself is heard all the while, and its neighbours answer for nothing.
        let to = two.v4;
        let socket = two.run(move || receiver(to));
        one.run(move || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(MARK, (to, 5000)).unwrap());
        assert_eq!(socket.recv_from(&mut [0; 100]).unwrap().1.ip(), one.v4);
        assert!(neighbours[0].saw(MARK) && !neighbours[1].saw(MARK));
        for quiet in [&two, &three] {
            for reason in Reason::DROPS.into_iter().filter(|reason| *reason != Reason::OnLink) {
                assert_eq!(dropped(&datapath, quiet, reason), 0, "{reason:?}");
            }
        }
        // What is counted for a pod goes with it.
        for ip in [one.v4, one.v6] {
            datapath.remove_pod(ip).unwrap();
        }
        assert_eq!(datapath.drops().unwrap().get(&one.ifindex), None::<&Vec<Drops>>);
    });
}

#[test]
fn a_pod_hears_nothing_of_its_neighbours() {
    run(module_path!(), "a_pod_hears_nothing_of_its_neighbours", |world| {
        let mut datapath = world.open();
        let [one, two, three] = [1, 2, 3].map(|n| Pod::new(n, &mut datapath));
        let (mut party, mut spy) = (two.run(Frames::open), three.run(Frames::open));
        for to in [two.v4, two.v6] {
            let socket = two.run(move || receiver(to));
            one.run(move || {
                let any: IpAddr = if to.is_ipv4() {
                    [0, 0, 0, 0].into()
                } else {
                    Ipv6Addr::UNSPECIFIED.into()
                };
                UdpSocket::bind((any, 0)).unwrap().send_to(SECRET, (to, 5000)).unwrap();
            });
            let mut buffer = [0; 100];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], SECRET);
            two.run(move || socket.send_to(SECRET, from).unwrap());
        }
        // Over TCP too, whose answers the stack writes by itself.
        let to = two.v4;
        let listener = two.run(move || std::net::TcpListener::bind((to, 80)).unwrap());
        let server = std::thread::spawn(move || listener.accept().unwrap().0.read_to_end(&mut vec![]).unwrap());
        one.run(move || {
            let mut stream = std::net::TcpStream::connect((to, 80)).unwrap();
            io::Write::write_all(&mut stream, SECRET).unwrap();
        });
        assert_eq!(server.join().unwrap(), SECRET.len());
        assert!(party.saw(SECRET), "who is spoken to hears it");
        assert!(!spy.saw(SECRET), "a third pod heard what was not for it");
    });
}

/// What a pod's kernel sends by itself is nothing that anybody has to be told of.
#[test]
fn an_honest_pod_is_not_accused() {
    run(module_path!(), "an_honest_pod_is_not_accused", |world| {
        let mut datapath = world.open();
        let [one, two] = [1, 2].map(|n| Pod::new(n, &mut datapath));
        for (from, to) in [(&one, two.v4), (&one, two.v6), (&two, one.v4), (&two, one.v6)] {
            let status = from.run(move || {
                Command::new("ping")
                    .args(["-c", "1", "-W", "20", &to.to_string()])
                    .output()
            });
            assert!(status.unwrap().status.success());
        }
        // It asks for its gateway, as it does where somebody has emptied its table, and for its own address.
        one.run(|| {
            ip("neigh flush all nud permanent");
            ip("addr del fd00:1::1/128 dev eth0");
            ip("addr add fd00:1::1/128 dev eth0");
            for to in ["169.254.1.1", "fe80::1%eth0"] {
                let _ = Command::new("ping").args(["-c", "1", "-W", "1", to]).output();
            }
        });
        for (ifindex, drops) in datapath.drops().unwrap() {
            assert!(
                drops.iter().all(|drops| drops.reason == Reason::OnLink),
                "{ifindex}: {drops:?}"
            );
        }
    });
}
