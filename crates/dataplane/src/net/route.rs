//! A route as Weft writes it, and how the kernel's rtnetlink says the same.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteIp6Tunnel, RouteIp6TunnelFlags, RouteIpTunnel,
    RouteLwEnCapType, RouteLwTunnelEncap, RouteMessage, RouteMetric, RouteScope, RouteType, RouteVia,
};

use super::{NetError, ROUTE_PROTOCOL, Rtnl};

/// A route as Weft writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: IpNet,
    /// By way of; directly on the link where absent. Of the other family only for IPv4 by way of IPv6.
    pub via: Option<IpAddr>,
    /// The link; found by the kernel from the gateway where absent.
    pub link: Option<u32>,
    /// Source address of what the node itself sends there.
    pub source: Option<IpAddr>,
    /// Leads nowhere: the sender is told that the destination is unreachable.
    pub unreachable: bool,
    /// The largest packet that the way takes, where that is less than the link's MTU.
    pub mtu: Option<u32>,
    /// What the link, a tunnel for many, is told about each packet.
    pub tunnel: Option<TunnelKey>,
    /// The routing table.
    pub table: u8,
    /// Ours ([`ROUTE_PROTOCOL`]).
    pub ours: bool,
}

/// Where a packet leaves a tunnel, and as part of which virtual network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelKey {
    /// The address of the other node.
    pub end: IpAddr,
    /// The virtual network's number.
    pub vni: u32,
}

/// The routing table that everybody's packets are looked up in.
pub const MAIN_TABLE: u8 = RouteHeader::RT_TABLE_MAIN;

/// The routing table for what this node forwards: how pods reach the nodes behind tunnels.
pub const FORWARD_TABLE: u8 = 87;

/// linux/rtnetlink.h: RTAX_MTU.
const RTAX_MTU: u32 = 2;

impl Route {
    /// A route of ours to a destination, with nothing said about the way yet.
    pub fn ours(to: IpNet) -> Self {
        Self {
            to,
            via: None,
            link: None,
            source: None,
            unreachable: false,
            mtu: None,
            tunnel: None,
            table: MAIN_TABLE,
            ours: true,
        }
    }
}

impl Rtnl {
    /// Adds a route of ours, or replaces the one to the same destination.
    pub async fn put_route(&self, route: &Route) -> Result<(), NetError> {
        let what = match (route.via, route.tunnel) {
            (_, Some(key)) => format!("add the route to {} through the tunnel to {}", route.to, key.end),
            (Some(via), None) => format!("add the route to {} via {via}", route.to),
            (None, None) => format!("add the route to {}", route.to),
        };
        let request = self.handle.route().add(message(route)).replace();
        request.execute().await.map_err(NetError::kernel(what))
    }

    /// Removes the route of ours to a destination. False where there was none.
    pub async fn remove_route(&self, to: IpNet, table: u8) -> Result<bool, NetError> {
        let mut message = message(&Route {
            table,
            ..Route::ours(to)
        });
        // Of any scope and type.
        message.header.scope = RouteScope::NoWhere;
        message.header.kind = RouteType::Unspec;
        let removed = self.handle.route().del(message).execute().await;
        match removed.map_err(NetError::kernel(format!("remove the route to {to}"))) {
            Ok(()) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Unicast and unreachable routes of the main table and of [`FORWARD_TABLE`], of both families.
    pub async fn routes(&self) -> Result<Vec<Route>, NetError> {
        let mut routes = vec![];
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            routes.extend(
                self.route_messages(family, RouteFlags::empty())
                    .await?
                    .iter()
                    .filter_map(parse),
            );
        }
        Ok(routes)
    }

    /// The IPv6 addresses to which routers have said that the way takes less than the first link of it, and how much. The
    /// kernel forgets after ten minutes (`net.ipv6.route.mtu_expires`).
    pub async fn narrow_ways(&self) -> Result<BTreeMap<IpAddr, u32>, NetError> {
        let learnt = self.route_messages(AddressFamily::Inet6, RouteFlags::Cloned).await?;
        let way = |message: &RouteMessage| {
            let (mut to, mut mtu) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    RouteAttribute::Destination(ip) => to = parse_address(ip),
                    RouteAttribute::Metrics(metrics) => mtu = mtu_in(metrics),
                    _ => {}
                }
            }
            Some((to?, mtu?))
        };
        let learnt = learnt
            .iter()
            .filter(|message| message.header.flags.contains(RouteFlags::Cloned));
        Ok(learnt.filter_map(way).collect())
    }

    async fn route_messages(&self, family: AddressFamily, flags: RouteFlags) -> Result<Vec<RouteMessage>, NetError> {
        let _alone = self.listing.lock().await;
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        filter.header.flags = flags;
        let listed = self.handle.route().get(filter).execute().try_collect().await;
        listed.map_err(NetError::kernel("list routes"))
    }
}

pub(super) fn message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    let v4 = route.to.addr().is_ipv4();
    header.address_family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    header.table = route.table;
    header.protocol = ROUTE_PROTOCOL;
    header.kind = if route.unreachable {
        RouteType::Unreachable
    } else {
        RouteType::Unicast
    };
    header.scope = if route.via.is_none() && !route.unreachable && v4 {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    header.destination_prefix_length = route.to.prefix_len();
    if route.link.is_some() && route.via.is_some_and(|via| !is_link_local(via)) {
        // The gateway need not be in a range of the link.
        header.flags |= RouteFlags::Onlink;
    }
    let mut attributes = vec![];
    if route.to.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(address(route.to.network())));
    }
    attributes.extend(route.via.map(|via| match via {
        IpAddr::V6(via) if v4 => RouteAttribute::Via(RouteVia::Inet6(via)),
        via => RouteAttribute::Gateway(address(via)),
    }));
    attributes.extend(route.link.map(RouteAttribute::Oif));
    attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(address(source))));
    // Locked: only then IPv6 keeps to it for what it forwards.
    let mtu = |mtu| RouteAttribute::Metrics(vec![RouteMetric::Lock(1 << RTAX_MTU), RouteMetric::Mtu(mtu)]);
    attributes.extend(route.mtu.map(mtu));
    attributes.extend(route.tunnel.into_iter().flat_map(encapsulation));
    message.attributes = attributes;
    message
}

/// Hops that a packet in a tunnel may take (RFC 1340, "IP time to live parameter"). Said, because Geneve would send with none, and IPIP with
/// those that are left to the packet inside.
const TUNNEL_HOPS: u8 = 64;

/// With UDP checksums where the outer packet is IPv6, which has none of its own (RFC 8200, 8.1).
fn encapsulation(key: TunnelKey) -> [RouteAttribute; 2] {
    let id = u64::from(key.vni);
    let (kind, encap) = match key.end {
        IpAddr::V4(end) => (
            RouteLwEnCapType::Ip,
            [
                RouteIpTunnel::Id(id),
                RouteIpTunnel::Destination(end),
                RouteIpTunnel::Ttl(TUNNEL_HOPS),
            ]
            .map(RouteLwTunnelEncap::Ip)
            .to_vec(),
        ),
        IpAddr::V6(end) => (
            RouteLwEnCapType::Ip6,
            [
                RouteIp6Tunnel::Id(id),
                RouteIp6Tunnel::Destination(end),
                RouteIp6Tunnel::Hoplimit(TUNNEL_HOPS),
                RouteIp6Tunnel::Flags(RouteIp6TunnelFlags::Checksum),
            ]
            .map(RouteLwTunnelEncap::Ip6)
            .to_vec(),
        ),
    };
    [RouteAttribute::EncapType(kind), RouteAttribute::Encap(encap)]
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

pub(super) fn address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

fn parse_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// A route as the kernel describes it; `None` for kinds and tables that Weft has nothing to do with.
pub(super) fn parse(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let unreachable = header.kind == RouteType::Unreachable;
    let kind = unreachable || header.kind == RouteType::Unicast;
    if !kind || ![MAIN_TABLE, FORWARD_TABLE].contains(&header.table) {
        return None;
    }
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut route = Route {
        unreachable,
        table: header.table,
        ours: header.protocol == ROUTE_PROTOCOL,
        ..Route::ours(IpNet::new(unspecified, 0).ok()?)
    };
    let mut to = unspecified;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(ip) => to = parse_address(ip)?,
            RouteAttribute::Gateway(ip) => route.via = parse_address(ip),
            RouteAttribute::Via(RouteVia::Inet6(ip)) => route.via = Some((*ip).into()),
            RouteAttribute::Oif(index) => route.link = Some(*index),
            RouteAttribute::PrefSource(ip) => route.source = parse_address(ip),
            RouteAttribute::Encap(encap) => route.tunnel = parse_encapsulation(encap),
            RouteAttribute::Metrics(metrics) => route.mtu = mtu_in(metrics),
            _ => {}
        }
    }
    route.to = IpNet::new(to, header.destination_prefix_length).ok()?;
    Some(route)
}

fn mtu_in(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

fn parse_encapsulation(encap: &[RouteLwTunnelEncap]) -> Option<TunnelKey> {
    let (mut end, mut vni) = (None, None);
    for part in encap {
        match part {
            RouteLwTunnelEncap::Ip(RouteIpTunnel::Destination(ip)) => end = Some(IpAddr::V4(*ip)),
            RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Destination(ip)) => end = Some(IpAddr::V6(*ip)),
            RouteLwTunnelEncap::Ip(RouteIpTunnel::Id(id)) | RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Id(id)) => {
                vni = u32::try_from(*id).ok();
            }
            _ => {}
        }
    }
    Some(TunnelKey { end: end?, vni: vni? })
}
