//! The way between a pod and its node: who sent it, is it for a neighbour, and what does a router do to it.

use crate::header::{self, Kind};
use crate::sender::Sender;
use crate::transit::{self, Origin, Scratch};
use crate::{Maps, Packet, Reason, Verdict, neighbour};

const ICMPV6: u8 = 58;

/// A packet leaves a pod: tcx ingress on the host side of its veth.
///
/// Its source must be the pod's own, at every layer; what it says about neighbours, too. A pod on the same node gets it
/// directly, as if this node had routed it: with new Ethernet addresses and one hop less to live. What no router
/// forwards ends here. What is for a service, or a backend's reply, is translated first. Everything else, and what a router has to look at itself (options, a TTL that ends here, so
/// that `traceroute` sees this node), is left to the node's stack.
#[inline(always)]
pub fn from_pod<P: Packet, M: Maps>(packet: &mut P, maps: &M, scratch: &mut Scratch) -> Verdict {
    let verdict = leave(packet, maps, scratch).unwrap_or_else(Reason::end);
    maps.count(verdict.reason());
    if let Verdict::Drop(reason) = verdict {
        maps.count_drop(packet.ifindex(), reason);
    }
    verdict
}

#[inline(always)]
fn leave<P: Packet, M: Maps>(packet: &mut P, maps: &M, scratch: &mut Scratch) -> Result<Verdict, Reason> {
    let frame = header::ethernet(packet)?;
    if packet.tagged() {
        return Err(Reason::NotIp);
    }
    let sender = Sender {
        ifindex: packet.ifindex(),
        mac: frame.source,
    };
    match frame.kind {
        Kind::Ipv4 => {
            let ip = header::ipv4(packet)?;
            sender.owns(maps, &ip.source)?;
            if ip.destination.is_group_v4() {
                return Err(Reason::OnLink);
            }
            // No host sends to 127.0.0.0/8 of another (RFC 1122, 3.2.1.3). The kernel would drop it as well, but not
            // where the link may return answers to the node's loopback, as that of a pod with host ports may.
            if ip.destination.v4_bytes()[0] == 127 {
                return Err(Reason::Malformed);
            }
        }
        Kind::Ipv6 => {
            let ip = header::ipv6(packet)?;
            // ::ffff:0:0/96 is how maps hold IPv4; on the wire nobody has such an address (RFC 4291, 2.5.5.2).
            if ip.source.is_v4() || ip.destination.is_v4() {
                return Err(Reason::Malformed);
            }
            if ip.protocol == ICMPV6 && neighbour::discovery(packet, maps, &sender, &ip)? {
                return Ok(Verdict::Pass(Reason::Neighbour));
            }
            if ip.source.is_unspecified_v6() && ip.destination.is_multicast_v6() {
                // Reports of multicast listeners, before there is an address (RFC 3590).
                sender.is_genuine(maps)?;
                return Err(Reason::OnLink);
            }
            sender.owns(maps, &ip.source)?;
            // With them ends neighbour discovery that hides behind other headers (RFC 7113).
            if ip.source.is_link_local_v6() || ip.destination.is_link_local_v6() || ip.destination.is_multicast_v6() {
                return Err(Reason::OnLink);
            }
        }
        Kind::Arp => {
            neighbour::arp(packet, maps, &sender)?;
            return Ok(Verdict::Pass(Reason::Neighbour));
        }
        Kind::Other => return Err(Reason::NotIp),
    }
    if let Some(verdict) = transit::walk(packet, maps, scratch, frame.kind, Origin::Pod)? {
        return Ok(verdict);
    }
    route(packet, maps, frame.kind)
}

/// To a local pod directly, or to the node's stack.
#[inline(always)]
fn route<P: Packet, M: Maps>(packet: &mut P, maps: &M, kind: Kind) -> Result<Verdict, Reason> {
    // Read again: the kernel's stack has no room to keep it meanwhile.
    let ip = match kind {
        Kind::Ipv4 => header::ipv4(packet)?,
        _ => header::ipv6(packet)?,
    };
    let Some(pod) = maps.pod(&ip.destination) else {
        return Ok(Verdict::Pass(Reason::ToStack));
    };
    if ip.options {
        return Ok(Verdict::Pass(Reason::Options));
    }
    if ip.ttl <= 1 {
        return Ok(Verdict::Pass(Reason::Expiring));
    }
    if pod.limited != 0 {
        return Ok(Verdict::Pass(Reason::Limited));
    }
    match kind {
        Kind::Ipv4 => header::forward_ipv4(packet, pod.mac, pod.host_mac)?,
        _ => header::forward_ipv6(packet, pod.mac, pod.host_mac)?,
    }
    Ok(Verdict::Deliver(Reason::LocalPod, pod.ifindex))
}

#[cfg(test)]
mod tests;
