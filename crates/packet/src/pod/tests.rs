//! What a pod may send, case by case, and an oracle for everything else.

use std::net::{IpAddr, Ipv6Addr};
use std::vec;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::host::{HostMaps, HostPacket};
use crate::{Addr, Pod};

const OWN: u32 = 7;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const OWN_V4: [u8; 4] = [10, 0, 0, 7];
const OTHER_V4: [u8; 4] = [10, 0, 0, 9];
const OWN_V6: &str = "fd00::7";
const OTHER_V6: &str = "fd00::9";
const OWN_LINK_LOCAL: &str = "fe80::ff:fe00:7";
const OTHER_LINK_LOCAL: &str = "fe80::ff:fe00:9";
const ALL_NODES: &str = "ff02::1";

fn addr(s: &str) -> Addr {
    Addr::from(s.parse::<IpAddr>().unwrap())
}

fn octets(s: &str) -> [u8; 16] {
    s.parse::<Ipv6Addr>().unwrap().octets()
}

/// Pod 7 has 10.0.0.7 and fd00::7; pod 9 has 10.0.0.9 and fd00::9.
fn maps() -> HostMaps {
    let pod = |ifindex: u32| Pod {
        ifindex,
        mac: [2, 0, 0, 0, 0, ifindex as u8],
        host_mac: [4, 0, 0, 0, 0, ifindex as u8],
        limited: 0,
    };
    let pods = [
        ("10.0.0.7", pod(OWN)),
        (OWN_V6, pod(OWN)),
        ("10.0.0.9", pod(9)),
        (OTHER_V6, pod(9)),
    ];
    HostMaps {
        pods: pods.map(|(ip, pod)| (addr(ip), pod)).into(),
        macs: [(OWN, MAC), (9, OTHER_MAC)].into(),
        ..HostMaps::default()
    }
}

fn packet(ethertype: u16, rest: &[u8]) -> HostPacket {
    let mut data = vec![4, 0, 0, 0, 0, 7];
    data.extend(MAC);
    data.extend(ethertype.to_be_bytes());
    data.extend(rest);
    HostPacket {
        ifindex: OWN,
        data,
        ..HostPacket::default()
    }
}

/// The same packet from another Ethernet address.
fn from_mac(mac: [u8; 6], mut packet: HostPacket) -> HostPacket {
    packet.data[6..12].copy_from_slice(&mac);
    packet
}

fn ipv4(source: [u8; 4], destination: [u8; 4], ttl: u8) -> HostPacket {
    let mut header = vec![0x45, 0, 0, 20, 0, 0, 0, 0, ttl, 17, 0, 0];
    header.extend(source);
    header.extend(destination);
    let sum: u32 = header.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let check = !(((sum & 0xffff) + (sum >> 16)) as u16);
    header[10..12].copy_from_slice(&check.to_be_bytes());
    packet(0x0800, &header)
}

fn ipv6(source: &str, destination: &str, next_header: u8, hops: u8) -> HostPacket {
    ipv6_with(source, destination, next_header, hops, &[0; 8])
}

fn ipv6_with(source: &str, destination: &str, next_header: u8, hops: u8, payload: &[u8]) -> HostPacket {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((payload.len() as u16).to_be_bytes());
    header.extend([next_header, hops]);
    header.extend(octets(source));
    header.extend(octets(destination));
    header.extend(payload);
    packet(0x86dd, &header)
}

/// A solicitation (135) or an advertisement (136), with an option of this kind that holds this address.
fn discovery(kind: u8, source: &str, target: &str, option: Option<(u8, [u8; 6])>) -> HostPacket {
    let mut message = vec![kind, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(octets(target));
    if let Some((kind, mac)) = option {
        message.extend([kind, 1]);
        message.extend(mac);
    }
    ipv6_with(source, ALL_NODES, 58, 255, &message)
}

fn arp(operation: u8, mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> HostPacket {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, operation];
    arp.extend(mac);
    arp.extend(sender);
    arp.extend([0; 6]);
    arp.extend(target);
    packet(0x0806, &arp)
}

fn verdict(mut packet: HostPacket) -> Verdict {
    from_pod(&mut packet, &maps(), &mut Scratch::default())
}

#[track_caller]
fn dropped(reason: Reason, packets: impl IntoIterator<Item = HostPacket>) {
    for packet in packets {
        assert_eq!(verdict(packet.clone()), Verdict::Drop(reason), "{packet:x?}");
    }
}

#[test]
fn a_neighbour_gets_it_directly_and_as_if_routed() {
    let mut v4 = ipv4(OWN_V4, OTHER_V4, 64);
    assert_eq!(
        from_pod(&mut v4, &maps(), &mut Scratch::default()),
        Verdict::Deliver(Reason::LocalPod, 9)
    );
    assert_eq!(v4.data[..12], [2, 0, 0, 0, 0, 9, 4, 0, 0, 0, 0, 9]);
    assert_eq!(v4.data[14..], ipv4(OWN_V4, OTHER_V4, 63).data[14..]);

    let mut v6 = ipv6(OWN_V6, OTHER_V6, 17, 64);
    assert_eq!(
        from_pod(&mut v6, &maps(), &mut Scratch::default()),
        Verdict::Deliver(Reason::LocalPod, 9)
    );
    assert_eq!(v6.data[..12], [2, 0, 0, 0, 0, 9, 4, 0, 0, 0, 0, 9]);
    assert_eq!(v6.data[14..], ipv6(OWN_V6, OTHER_V6, 17, 63).data[14..]);
}

#[test]
fn what_a_router_looks_at_itself_is_left_to_the_stack_unchanged() {
    let mut options = ipv4(OWN_V4, OTHER_V4, 64);
    options.data[14] = 0x46;
    options.data.extend([0; 4]);
    for (packet, reason) in [
        (ipv4(OWN_V4, [8, 8, 8, 8], 64), Reason::ToStack),
        (ipv4(OWN_V4, OTHER_V4, 1), Reason::Expiring),
        (ipv4(OWN_V4, OTHER_V4, 0), Reason::Expiring),
        (options, Reason::Options),
        (ipv6(OWN_V6, "2001:db8::1", 17, 64), Reason::ToStack),
        (ipv6(OWN_V6, OTHER_V6, 17, 1), Reason::Expiring),
        (ipv6(OWN_V6, OTHER_V6, 0, 64), Reason::Options),
    ] {
        let mut after = packet.clone();
        assert_eq!(
            from_pod(&mut after, &maps(), &mut Scratch::default()),
            Verdict::Pass(reason)
        );
        assert_eq!(after, packet);
    }
}

#[test]
fn a_pod_has_its_own_addresses_only() {
    dropped(
        Reason::Spoofed,
        [
            ipv4(OTHER_V4, OWN_V4, 64),
            ipv4(OTHER_V4, [8, 8, 8, 8], 64),
            // A DHCP client; and nobody's, a group's and the loopback's address.
            ipv4([0, 0, 0, 0], [255, 255, 255, 255], 64),
            ipv4([8, 8, 8, 8], OTHER_V4, 64),
            ipv4([224, 0, 0, 1], OTHER_V4, 64),
            ipv4([127, 0, 0, 1], OTHER_V4, 64),
            ipv6(OTHER_V6, OWN_V6, 17, 64),
            ipv6("2001:db8::1", OTHER_V6, 17, 64),
            ipv6("::1", OTHER_V6, 17, 64),
            ipv6("::", OTHER_V6, 17, 64),
            ipv6("fe80::1", OTHER_V6, 17, 64),
            ipv6(OTHER_LINK_LOCAL, ALL_NODES, 17, 64),
        ],
    );
    // On the wire, a v4-mapped address is nobody's.
    dropped(
        Reason::Malformed,
        [
            ipv6("::ffff:10.0.0.7", OTHER_V6, 17, 64),
            ipv6(OWN_V6, "::ffff:10.0.0.9", 17, 64),
        ],
    );
}

#[test]
fn a_pod_has_its_own_ethernet_address_only() {
    let gateway = [4, 0, 0, 0, 0, 7];
    for mac in [OTHER_MAC, gateway, [0; 6], [0xff; 6]] {
        dropped(
            Reason::ForeignMac,
            [
                ipv4(OWN_V4, OTHER_V4, 64),
                ipv4(OWN_V4, [8, 8, 8, 8], 64),
                ipv6(OWN_V6, OTHER_V6, 17, 64),
                ipv6(OWN_LINK_LOCAL, ALL_NODES, 58, 255),
                ipv6("::", ALL_NODES, 0, 1),
                arp(1, MAC, OWN_V4, [169, 254, 1, 1]),
                discovery(135, OWN_LINK_LOCAL, "fe80::1", None),
                discovery(135, "::", OWN_LINK_LOCAL, None),
                discovery(136, OWN_V6, OWN_V6, None),
            ]
            .map(|packet| from_mac(mac, packet)),
        );
    }
}

#[test]
fn a_pod_speaks_of_itself_to_its_neighbours() {
    for packet in [
        arp(1, MAC, OWN_V4, [169, 254, 1, 1]),
        arp(2, MAC, OWN_V4, [169, 254, 1, 1]),
        // Is my address taken? (RFC 5227)
        arp(1, MAC, [0; 4], OWN_V4),
        discovery(135, OWN_LINK_LOCAL, "fe80::1", Some((1, MAC))),
        discovery(135, OWN_V6, "fe80::1", Some((1, MAC))),
        discovery(135, OWN_V6, OTHER_V6, None),
        // Is my address taken? (RFC 4862, with the nonce of RFC 7527)
        discovery(135, "::", OWN_V6, None),
        discovery(135, "::", OWN_LINK_LOCAL, Some((14, [1; 6]))),
        discovery(136, OWN_LINK_LOCAL, OWN_V6, Some((2, MAC))),
        discovery(136, OWN_V6, OWN_V6, Some((2, MAC))),
        ipv6_with(OWN_LINK_LOCAL, "ff02::2", 58, 255, &[133, 0, 0, 0, 0, 0, 0, 0]),
        ipv6_with("::", "ff02::2", 58, 255, &[133, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        assert_eq!(verdict(packet.clone()), Verdict::Pass(Reason::Neighbour), "{packet:x?}");
    }
}

#[test]
fn a_pod_does_not_speak_for_its_neighbours() {
    let mut two_options = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    two_options.extend(octets(OWN_V6));
    two_options.extend([2, 1, 2, 0, 0, 0, 0, 7, 2, 1, 2, 0, 0, 0, 0, 9]);
    let advertises_itself_as_router = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let redirect = [137; 40];
    dropped(
        Reason::ForeignNeighbour,
        [
            // Requests teach who hears them, and so do replies nobody asked for; also of its own address elsewhere.
            arp(1, MAC, OTHER_V4, [169, 254, 1, 1]),
            arp(2, MAC, OTHER_V4, OTHER_V4),
            arp(2, MAC, [169, 254, 1, 1], OTHER_V4),
            arp(1, MAC, [0; 4], OTHER_V4),
            arp(2, MAC, [0; 4], OTHER_V4),
            arp(1, OTHER_MAC, OWN_V4, [169, 254, 1, 1]),
            discovery(135, "::", OTHER_V6, None),
            discovery(135, OWN_LINK_LOCAL, "fe80::1", Some((1, OTHER_MAC))),
            discovery(136, OWN_LINK_LOCAL, OTHER_V6, Some((2, MAC))),
            discovery(136, OWN_LINK_LOCAL, "fe80::1", Some((2, MAC))),
            discovery(136, OWN_LINK_LOCAL, OWN_V6, Some((2, OTHER_MAC))),
            discovery(136, "::", OTHER_V6, None),
            ipv6_with(OWN_LINK_LOCAL, ALL_NODES, 58, 255, &two_options),
            ipv6_with(OWN_LINK_LOCAL, ALL_NODES, 58, 255, &advertises_itself_as_router),
            ipv6_with(OWN_V6, ALL_NODES, 58, 255, &advertises_itself_as_router),
            ipv6_with(OWN_LINK_LOCAL, OTHER_V6, 58, 255, &redirect),
        ],
    );
    dropped(
        Reason::Spoofed,
        [
            discovery(135, OTHER_LINK_LOCAL, "fe80::1", None),
            discovery(136, OTHER_V6, OWN_V6, None),
        ],
    );
    dropped(
        Reason::Malformed,
        // Reverse ARP's operations, and another hardware's addresses.
        [arp(3, MAC, OWN_V4, OWN_V4), {
            let mut other = arp(1, MAC, OWN_V4, OWN_V4);
            other.data[15] = 6;
            other
        }],
    );
}

#[test]
fn what_no_router_forwards_ends() {
    dropped(
        Reason::OnLink,
        [
            ipv4(OWN_V4, [224, 0, 0, 251], 255),
            ipv4(OWN_V4, [239, 1, 2, 3], 64),
            ipv4(OWN_V4, [255, 255, 255, 255], 64),
            ipv6(OWN_V6, "ff02::fb", 17, 255),
            ipv6(OWN_V6, "ff0e::1", 17, 64),
            ipv6(OWN_V6, "fe80::1", 58, 64),
            ipv6(OWN_LINK_LOCAL, "fe80::1", 58, 64),
            ipv6(OWN_LINK_LOCAL, OTHER_V6, 17, 64),
            // Reports of multicast listeners, and what may hide behind other headers.
            ipv6(OWN_LINK_LOCAL, "ff02::16", 0, 1),
            ipv6("::", "ff02::16", 0, 1),
            ipv6(OWN_LINK_LOCAL, ALL_NODES, 60, 255),
            ipv6(OWN_LINK_LOCAL, "fe80::1", 44, 255),
        ],
    );
}

#[test]
fn what_is_not_whole_or_not_ip_is_dropped() {
    let cut = |mut packet: HostPacket, length: usize| {
        packet.data.truncate(length);
        packet
    };
    dropped(
        Reason::Truncated,
        [
            cut(ipv4(OWN_V4, OTHER_V4, 64), 33),
            cut(ipv4(OWN_V4, OTHER_V4, 64), 13),
            cut(arp(1, MAC, OWN_V4, OWN_V4), 41),
            cut(discovery(136, OWN_V6, OWN_V6, None), 77),
            cut(discovery(136, OWN_V6, OWN_V6, Some((2, MAC))), 85),
        ],
    );
    let mut version = ipv4(OWN_V4, OTHER_V4, 64);
    version.data[14] = 0x55;
    dropped(Reason::Malformed, [version]);
    let tagged = HostPacket {
        tagged: true,
        ..ipv4(OWN_V4, OTHER_V4, 64)
    };
    // LLDP, VLAN and provider tags, MPLS, reverse ARP, a bridge's spanning tree (a length instead of a type), EAPOL.
    let kinds = [0x88cc, 0x8100, 0x88a8, 0x8847, 0x8035, 0x0026, 0x888e];
    let others = kinds.map(|kind| packet(kind, &[0; 40]));
    dropped(Reason::NotIp, [tagged].into_iter().chain(others));
}

#[test]
fn the_nodes_loopback_is_out_of_reach() {
    dropped(Reason::Malformed, [ipv4([10, 0, 0, 7], [127, 0, 0, 1], 64)]);
}

/// What must hold for everything that passes, read from the bytes alone.
fn harmless(packet: &HostPacket) -> Result<(), &'static str> {
    let check = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(what) };
    let data = &packet.data;
    check(!packet.tagged, "a tag")?;
    check(data[6..12] == MAC, "another's Ethernet address")?;
    match data[12..14] {
        [0x08, 0x00] => {
            check(data[26..30] == OWN_V4, "another's IPv4 address")?;
            check(data[30] & 0xf0 != 0xe0, "multicast")
        }
        [0x08, 0x06] => {
            check(data[22..28] == MAC, "ARP of another's Ethernet address")?;
            let asks = data[21] == 1 && data[28..32] == [0; 4];
            check(data[28..32] == OWN_V4 || asks, "ARP of another's address")
        }
        [0x86, 0xdd] => {
            let own = |at: &[u8]| at == octets(OWN_V6) || at == octets(OWN_LINK_LOCAL);
            let discovery = data[20] == 58 && (133..=137).contains(&data[54]);
            let nobody = data[22..38] == [0; 16];
            check(own(&data[22..38]) || nobody && discovery, "another's IPv6 address")?;
            let link_local = |at: &[u8]| at[0] == 0xfe && at[1] & 0xc0 == 0x80;
            let on_link = nobody || link_local(&data[22..]) || link_local(&data[38..]) || data[38] == 0xff;
            check(discovery || !on_link, "link-local traffic")?;
            if !discovery {
                return Ok(());
            }
            check(!matches!(data[54], 134 | 137), "speaks for a router")?;
            let announces = data[54] == 136 || nobody && data[54] == 135;
            check(!announces || own(&data[62..78]), "announces another")
        }
        _ => Err("neither IP nor ARP"),
    }
}

/// Packets that are nearly what a pod may send: each part is its own, another's or arbitrary.
fn attack() -> impl Strategy<Value = HostPacket> {
    let mac = || prop_oneof![4 => Just(MAC), 1 => Just(OTHER_MAC), 1 => any::<[u8; 6]>()];
    let v4 = || prop_oneof![3 => Just(OWN_V4), 1 => Just(OTHER_V4), 1 => Just([0; 4]), 1 => any::<[u8; 4]>()];
    let v6 = || {
        let known = [
            OWN_V6,
            OWN_LINK_LOCAL,
            OTHER_V6,
            OTHER_LINK_LOCAL,
            "::",
            ALL_NODES,
            "fe80::1",
        ];
        prop_oneof![7 => select(known.map(octets).to_vec()), 1 => any::<[u8; 16]>()]
    };
    let arp = (1u8..4, mac(), v4(), v4()).prop_map(|(operation, mac, from, to)| arp(operation, mac, from, to));
    let discovery = (
        133u8..=138,
        v6(),
        v6(),
        v6(),
        select(vec![1u8, 2, 14]),
        mac(),
        0usize..40,
    )
        .prop_map(|(kind, source, destination, target, option, mac, length)| {
            let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
            message.extend(target);
            message.extend([option, 1]);
            message.extend(mac);
            message.extend([0; 8]);
            // Ends where messages end, or anywhere.
            message.truncate(if length < 24 { [24, 32][length % 2] } else { length });
            let text = |ip: [u8; 16]| std::format!("{}", Ipv6Addr::from(ip));
            ipv6_with(&text(source), &text(destination), 58, 255, &message)
        });
    let v6 = (v6(), v6(), select(vec![0u8, 6, 17, 58, 60])).prop_map(|(source, destination, next)| {
        let text = |ip: [u8; 16]| std::format!("{}", Ipv6Addr::from(ip));
        ipv6(&text(source), &text(destination), next, 64)
    });
    let v4 = (v4(), v4()).prop_map(|(source, destination)| ipv4(source, destination, 64));
    (prop_oneof![arp, discovery, v6, v4], mac(), 0u8..20).prop_map(|(packet, mac, tag)| {
        let mut packet = from_mac(mac, packet);
        packet.tagged = tag == 0;
        packet
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_passes_is_harmless(packet in attack()) {
        let before = packet.clone();
        let mut packet = packet;
        let maps = maps();
        if let Verdict::Drop(reason) = from_pod(&mut packet, &maps, &mut Scratch::default()) {
            prop_assert_eq!(maps.drops.take(), [((OWN, reason), 1)].into());
        } else {
            prop_assert!(maps.drops.borrow().is_empty());
            if let Err(what) = harmless(&before) {
                prop_assert!(false, "let {} pass", what);
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_get_a_verdict_and_one_count(data in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..4) {
        let mut data = data;
        let ethertype: u16 = [0x0800, 0x86dd, 0x0806, 0x1234][kind];
        if let Some(place) = data.get_mut(12..14) {
            place.copy_from_slice(&ethertype.to_be_bytes());
        }
        let maps = maps();
        let len = data.len();
        let mut packet = HostPacket { ifindex: OWN, data, ..HostPacket::default() };
        let verdict = from_pod(&mut packet, &maps, &mut Scratch::default());
        prop_assert_eq!(packet.data.len(), len);
        let counters = maps.counters.borrow();
        prop_assert_eq!(counters.len(), 1);
        prop_assert_eq!(counters.get(&verdict.reason()), Some(&1));
    }
}
