//! A connection to the kernel's rtnetlink, in the words that Weft needs.

use std::net::IpAddr;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteScope, RouteType,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};
use tokio::sync::Mutex;

use super::{Mac, NetError, ROUTE_PROTOCOL};

/// A connection to the rtnetlink of one network namespace.
#[derive(Clone, Debug)]
pub struct Rtnl {
    handle: Handle,
    /// A socket lists one thing at a time; the kernel refuses a second list meanwhile (EBUSY).
    listing: Arc<Mutex<()>>,
}

/// A link as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address, where it has one.
    pub mac: Option<Mac>,
    /// Its MTU.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// One end of a veth pair.
    pub veth: bool,
}

/// A route as Weft writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: IpNet,
    /// By way of; directly on the link where absent.
    pub via: Option<IpAddr>,
    /// The link; found by the kernel from the gateway where absent.
    pub link: Option<u32>,
    /// Source address of what the node itself sends there.
    pub source: Option<IpAddr>,
    /// Leads nowhere: the sender is told that the destination is unreachable.
    pub unreachable: bool,
    /// Ours ([`ROUTE_PROTOCOL`]).
    pub ours: bool,
}

impl Route {
    /// A route of ours to a destination, with nothing said about the way yet.
    pub fn ours(to: IpNet) -> Self {
        Self {
            to,
            via: None,
            link: None,
            source: None,
            unreachable: false,
            ours: true,
        }
    }
}

impl Rtnl {
    /// Connects to the namespace of the calling thread; needs a tokio runtime, which drives the connection.
    pub fn connect() -> Result<Self, NetError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| NetError::Netlink(error.to_string()))?;
        tokio::spawn(connection);
        Ok(Self {
            handle,
            listing: Arc::default(),
        })
    }

    /// The link of this index; `None` where there is none.
    pub async fn link_at(&self, index: u32) -> Result<Option<Link>, NetError> {
        let request = self.handle.link().get().match_index(index).execute();
        self.first(request, format!("look up link {index}")).await
    }

    /// One link; `None` where there is none of this name.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetError> {
        let request = self.handle.link().get().match_name(name.to_owned()).execute();
        self.first(request, format!("look up link {name}")).await
    }

    async fn first(
        &self,
        found: impl Stream<Item = Result<LinkMessage, rtnetlink::Error>>,
        what: String,
    ) -> Result<Option<Link>, NetError> {
        match found.try_collect::<Vec<_>>().await.map_err(NetError::kernel(what)) {
            Ok(found) => Ok(found.into_iter().next().map(parse_link)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every link of the namespace.
    pub async fn links(&self) -> Result<Vec<Link>, NetError> {
        let _alone = self.listing.lock().await;
        let found: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(NetError::kernel("list links"))?;
        Ok(found.into_iter().map(parse_link).collect())
    }

    /// Brings a link up.
    pub async fn set_up(&self, index: u32) -> Result<(), NetError> {
        let message = LinkMessageBuilder::<LinkUnspec>::default().index(index).up().build();
        let what = format!("bring up link {index}");
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(NetError::kernel(what))
    }

    /// Removes a link, and its other end with it. False where there was none.
    pub async fn remove_link(&self, name: &str) -> Result<bool, NetError> {
        Ok(super::pod::tear_down(name).await?.is_some())
    }

    /// Addresses of one link, or of all.
    pub async fn addresses(&self, index: Option<u32>) -> Result<Vec<(u32, IpNet)>, NetError> {
        let _alone = self.listing.lock().await;
        let mut request = self.handle.address().get();
        if let Some(index) = index {
            request = request.set_link_index_filter(index);
        }
        let found: Vec<_> = request
            .execute()
            .try_collect()
            .await
            .map_err(NetError::kernel("list addresses"))?;
        let parse = |message: netlink_packet_route::address::AddressMessage| {
            // Of a point-to-point link, `Address` is the other side; `Local` is ours where both are there.
            let local = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            });
            let any = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            });
            Some((
                message.header.index,
                IpNet::new(local.or(any)?, message.header.prefix_len).ok()?,
            ))
        };
        Ok(found.into_iter().filter_map(parse).collect())
    }

    /// Adds a route of ours, or replaces the one to the same destination.
    pub async fn put_route(&self, route: &Route) -> Result<(), NetError> {
        let what = match route.via {
            Some(via) => format!("add the route to {} via {via}", route.to),
            None => format!("add the route to {}", route.to),
        };
        self.handle
            .route()
            .add(message(route))
            .replace()
            .execute()
            .await
            .map_err(NetError::kernel(what))
    }

    /// Removes the route of ours to a destination. False where there was none.
    pub async fn remove_route(&self, to: IpNet) -> Result<bool, NetError> {
        let mut message = message(&Route::ours(to));
        // Of any scope and type.
        message.header.scope = RouteScope::NoWhere;
        message.header.kind = RouteType::Unspec;
        let what = format!("remove the route to {to}");
        match self
            .handle
            .route()
            .del(message)
            .execute()
            .await
            .map_err(NetError::kernel(what))
        {
            Ok(()) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Unicast and unreachable routes of the main table, of both families.
    pub async fn routes(&self) -> Result<Vec<Route>, NetError> {
        let mut routes = vec![];
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            routes.extend(self.route_messages(family).await?.iter().filter_map(parse_route));
        }
        Ok(routes)
    }

    async fn route_messages(&self, family: AddressFamily) -> Result<Vec<RouteMessage>, NetError> {
        let _alone = self.listing.lock().await;
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        let listed = self.handle.route().get(filter).execute().try_collect().await;
        listed.map_err(NetError::kernel("list routes"))
    }
}

pub(super) fn message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = if route.to.addr().is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    header.table = RouteHeader::RT_TABLE_MAIN;
    header.protocol = ROUTE_PROTOCOL;
    header.kind = if route.unreachable {
        RouteType::Unreachable
    } else {
        RouteType::Unicast
    };
    header.scope = if route.via.is_none() && !route.unreachable && route.to.addr().is_ipv4() {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    header.destination_prefix_length = route.to.prefix_len();
    if route.via.is_some() && route.link.is_some() {
        // The gateway need not be in a range of the link.
        header.flags |= RouteFlags::Onlink;
    }
    if route.to.prefix_len() > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(address(route.to.network())));
    }
    message
        .attributes
        .extend(route.via.map(|via| RouteAttribute::Gateway(address(via))));
    message.attributes.extend(route.link.map(RouteAttribute::Oif));
    message
        .attributes
        .extend(route.source.map(|source| RouteAttribute::PrefSource(address(source))));
    message
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

pub(super) fn parse_route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let unreachable = header.kind == RouteType::Unreachable;
    if !(unreachable || header.kind == RouteType::Unicast) || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        _ => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let (mut to, mut via, mut link, mut source) = (unspecified, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(ip) => to = parse_address(ip)?,
            RouteAttribute::Gateway(ip) => via = parse_address(ip),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::PrefSource(ip) => source = parse_address(ip),
            _ => {}
        }
    }
    let to = IpNet::new(to, header.destination_prefix_length).ok()?;
    Some(Route {
        to,
        via,
        link,
        source,
        unreachable,
        ours: header.protocol == ROUTE_PROTOCOL,
    })
}

pub(super) fn parse_link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        veth: false,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(Mac),
            LinkAttribute::LinkInfo(infos) => {
                link.veth = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    link
}
