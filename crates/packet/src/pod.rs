//! The way between a pod and its node: who sent it, is it for a neighbour, and what does a router do to it.

use crate::header::{self, Ip, Kind};
use crate::{Addr, Maps, Packet, Reason, Verdict};

/// A packet leaves a pod: tcx ingress on the host side of its veth.
///
/// Its source must be the pod's own. A pod on the same node gets it directly, as if this node had routed it: with new
/// Ethernet addresses and one hop less to live. Everything else, and what a router has to look at itself (options, a
/// TTL that ends here, so that `traceroute` sees this node), is left to the node's stack.
#[inline(always)]
pub fn from_pod<P: Packet, M: Maps>(packet: &mut P, maps: &M) -> Verdict {
    let verdict = leave(packet, maps).unwrap_or_else(Verdict::Drop);
    maps.count(verdict.reason());
    verdict
}

#[inline(always)]
fn leave<P: Packet, M: Maps>(packet: &mut P, maps: &M) -> Result<Verdict, Reason> {
    match header::ethernet(packet)? {
        Kind::Ipv4 => {
            let ip = header::ipv4(packet)?;
            owned(packet, maps, &ip.source)?;
            route(packet, maps, &ip, header::forward_ipv4)
        }
        Kind::Ipv6 => {
            let ip = header::ipv6(packet)?;
            // Neighbour discovery and multicast listeners use addresses that no router forwards.
            if ip.source.is_link_local_v6() || ip.source.is_unspecified_v6() {
                return if ip.destination.is_multicast_v6() || ip.destination.is_link_local_v6() {
                    Ok(Verdict::Pass(Reason::Neighbour))
                } else {
                    Err(Reason::Spoofed)
                };
            }
            // ::ffff:0:0/96 is how maps hold IPv4; on the wire nobody has such an address (RFC 4291, 2.5.5.2).
            if ip.source.is_v4() || ip.destination.is_v4() {
                return Err(Reason::Malformed);
            }
            owned(packet, maps, &ip.source)?;
            route(packet, maps, &ip, header::forward_ipv6)
        }
        Kind::Arp => {
            let sender = header::arp(packet)?;
            // 0.0.0.0 asks whether an address is taken (RFC 5227) and claims nothing.
            if sender.v4_bytes() != [0; 4] {
                owned(packet, maps, &sender)?;
            }
            Ok(Verdict::Pass(Reason::Neighbour))
        }
        Kind::Other => Err(Reason::NotIp),
    }
}

/// Whether the pod behind this hook owns the address.
#[inline(always)]
fn owned<P: Packet, M: Maps>(packet: &P, maps: &M, source: &Addr) -> Result<(), Reason> {
    match maps.pod(source) {
        Some(pod) if pod.ifindex == packet.ifindex() => Ok(()),
        _ => Err(Reason::Spoofed),
    }
}

/// To a local pod directly, or to the node's stack.
#[inline(always)]
fn route<P: Packet, M: Maps>(
    packet: &mut P,
    maps: &M,
    ip: &Ip,
    forward: impl FnOnce(&mut P, [u8; 6], [u8; 6]) -> Result<(), Reason>,
) -> Result<Verdict, Reason> {
    let Some(pod) = maps.pod(&ip.destination) else {
        return Ok(Verdict::Pass(Reason::ToStack));
    };
    if ip.options {
        return Ok(Verdict::Pass(Reason::Options));
    }
    if ip.ttl <= 1 {
        return Ok(Verdict::Pass(Reason::Expiring));
    }
    forward(packet, pod.mac, pod.host_mac)?;
    Ok(Verdict::Deliver(Reason::LocalPod, pod.ifindex))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::Pod;
    use crate::host::{HostMaps, HostPacket};

    const OWN: u32 = 7;
    const OTHER: Pod = Pod {
        ifindex: 9,
        mac: [2, 0, 0, 0, 0, 9],
        host_mac: [4, 0, 0, 0, 0, 9],
    };

    fn addr(s: &str) -> Addr {
        Addr::from(s.parse::<IpAddr>().unwrap())
    }

    /// Pod 7 has 10.0.0.7 and fd00::7; pod 9 has 10.0.0.9 and fd00::9.
    fn maps() -> HostMaps {
        let own = Pod {
            ifindex: OWN,
            mac: [2, 0, 0, 0, 0, 7],
            host_mac: [4, 0, 0, 0, 0, 7],
        };
        let pods = [
            ("10.0.0.7", own),
            ("fd00::7", own),
            ("10.0.0.9", OTHER),
            ("fd00::9", OTHER),
        ];
        HostMaps {
            pods: pods.map(|(ip, pod)| (addr(ip), pod)).into(),
            ..HostMaps::default()
        }
    }

    fn packet(ethertype: u16, rest: &[u8]) -> HostPacket {
        let mut data = vec![4, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 7];
        data.extend(ethertype.to_be_bytes());
        data.extend(rest);
        HostPacket { ifindex: OWN, data }
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
        let mut header = vec![0x60, 0, 0, 0, 0, 0, next_header, hops];
        for ip in [source, destination] {
            header.extend(ip.parse::<std::net::Ipv6Addr>().unwrap().octets());
        }
        packet(0x86dd, &header)
    }

    fn verdict(mut packet: HostPacket) -> Verdict {
        from_pod(&mut packet, &maps())
    }

    #[test]
    fn a_neighbour_gets_it_directly_and_as_if_routed() {
        let mut v4 = ipv4([10, 0, 0, 7], [10, 0, 0, 9], 64);
        assert_eq!(from_pod(&mut v4, &maps()), Verdict::Deliver(Reason::LocalPod, 9));
        assert_eq!(v4.data[..12], [2, 0, 0, 0, 0, 9, 4, 0, 0, 0, 0, 9]);
        assert_eq!(v4.data[14..], ipv4([10, 0, 0, 7], [10, 0, 0, 9], 63).data[14..]);

        let mut v6 = ipv6("fd00::7", "fd00::9", 17, 64);
        assert_eq!(from_pod(&mut v6, &maps()), Verdict::Deliver(Reason::LocalPod, 9));
        assert_eq!(v6.data[..12], [2, 0, 0, 0, 0, 9, 4, 0, 0, 0, 0, 9]);
        assert_eq!(v6.data[14..], ipv6("fd00::7", "fd00::9", 17, 63).data[14..]);
    }

    #[test]
    fn what_a_router_looks_at_itself_is_left_to_the_stack_unchanged() {
        let mut options = ipv4([10, 0, 0, 7], [10, 0, 0, 9], 64);
        options.data[14] = 0x46;
        options.data.extend([0; 4]);
        for (packet, reason) in [
            (ipv4([10, 0, 0, 7], [8, 8, 8, 8], 64), Reason::ToStack),
            (ipv4([10, 0, 0, 7], [10, 0, 0, 9], 1), Reason::Expiring),
            (ipv4([10, 0, 0, 7], [10, 0, 0, 9], 0), Reason::Expiring),
            (options, Reason::Options),
            (ipv6("fd00::7", "2001:db8::1", 17, 64), Reason::ToStack),
            (ipv6("fd00::7", "fd00::9", 17, 1), Reason::Expiring),
            (ipv6("fd00::7", "fd00::9", 0, 64), Reason::Options),
        ] {
            let mut after = packet.clone();
            assert_eq!(from_pod(&mut after, &maps()), Verdict::Pass(reason));
            assert_eq!(after, packet);
        }
    }

    #[test]
    fn a_pod_speaks_only_for_itself() {
        for packet in [
            ipv4([10, 0, 0, 9], [10, 0, 0, 7], 64),
            ipv4([10, 0, 0, 9], [8, 8, 8, 8], 64),
            ipv4([0, 0, 0, 0], [255, 255, 255, 255], 64),
            ipv6("fd00::9", "fd00::7", 17, 64),
            ipv6("fe80::7", "fd00::9", 17, 64),
            ipv6("::", "fd00::9", 17, 64),
            packet(0x0806, &arp([10, 0, 0, 9])),
        ] {
            assert_eq!(verdict(packet), Verdict::Drop(Reason::Spoofed));
        }
        // On the wire, a v4-mapped address is nobody's.
        assert_eq!(
            verdict(ipv6("::ffff:10.0.0.7", "fd00::9", 17, 64)),
            Verdict::Drop(Reason::Malformed)
        );
        assert_eq!(
            verdict(ipv6("fd00::7", "::ffff:10.0.0.9", 17, 64)),
            Verdict::Drop(Reason::Malformed)
        );
    }

    fn arp(sender: [u8; 4]) -> Vec<u8> {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 7];
        arp.extend(sender);
        arp.extend([0, 0, 0, 0, 0, 0, 169, 254, 1, 1]);
        arp
    }

    #[test]
    fn neighbours_are_resolved() {
        for packet in [
            packet(0x0806, &arp([10, 0, 0, 7])),
            packet(0x0806, &arp([0, 0, 0, 0])),
            ipv6("fe80::7", "ff02::1:ff00:1", 58, 255),
            ipv6("::", "ff02::1:ff00:7", 58, 255),
            ipv6("fe80::7", "fe80::1", 58, 255),
        ] {
            assert_eq!(verdict(packet), Verdict::Pass(Reason::Neighbour));
        }
        assert_eq!(
            verdict(ipv6("fd00::7", "ff02::1:ff00:1", 58, 255)),
            Verdict::Pass(Reason::ToStack)
        );
    }

    #[test]
    fn what_is_not_whole_is_dropped() {
        let mut short = ipv4([10, 0, 0, 7], [10, 0, 0, 9], 64);
        short.data.truncate(33);
        assert_eq!(verdict(short), Verdict::Drop(Reason::Truncated));
        let mut version = ipv4([10, 0, 0, 7], [10, 0, 0, 9], 64);
        version.data[14] = 0x55;
        assert_eq!(verdict(version), Verdict::Drop(Reason::Malformed));
        assert_eq!(verdict(packet(0x88cc, &[0; 40])), Verdict::Drop(Reason::NotIp));
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
            let mut packet = HostPacket { ifindex: OWN, data };
            let verdict = from_pod(&mut packet, &maps);
            prop_assert_eq!(packet.data.len(), len);
            let counters = maps.counters.borrow();
            prop_assert_eq!(counters.len(), 1);
            prop_assert_eq!(counters.get(&verdict.reason()), Some(&1));
        }
    }
}
