//! Hears when somebody changes the kernel's links, addresses, routes or neighbours, so that what is to be there is put back at once.

use std::collections::HashSet;
use std::ffi::CString;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use tokio::sync::watch;

use super::{NetError, name, route};

const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Neigh,
];

/// How long news are collected: a link that comes up brings addresses and routes.
const SETTLE: Duration = Duration::from_millis(50);

/// Changes that somebody else made; what Weft itself does for its pods is not among them.
pub struct Watch {
    count: watch::Receiver<u64>,
}

impl Watch {
    /// Listens in the namespace of the calling thread; needs a tokio runtime.
    pub fn start() -> Result<Self, NetError> {
        let (connection, _, mut messages) =
            rtnetlink::new_multicast_connection(&GROUPS).map_err(|error| NetError::Netlink(error.to_string()))?;
        tokio::spawn(connection);
        let (sender, count) = watch::channel(0);
        tokio::spawn(async move {
            while let Some((message, _)) = messages.next().await {
                if !is_news(&message.payload) {
                    continue;
                }
                tokio::time::sleep(SETTLE).await;
                // What has come meanwhile is seen by whoever looks now.
                let mut collected = vec![message.payload];
                while let Some(Some((message, _))) = messages.next().now_or_never() {
                    collected.push(message.payload);
                }
                if !only_pods_that_end(&collected) {
                    sender.send_modify(|count| *count += 1);
                }
            }
        });
        Ok(Self { count })
    }

    /// Returns when something has changed since the last time. Never, once the kernel does not tell any more.
    pub async fn changed(&mut self) {
        if self.count.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn is_news(payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    match payload {
        NetlinkPayload::InnerMessage(message) => matters(message),
        // Messages were lost, for one.
        _ => true,
    }
}

fn matters(message: &RouteNetlinkMessage) -> bool {
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => !is_pods(link),
        RouteNetlinkMessage::NewRoute(message) => route::parse(message).is_some_and(|route| !route.ours),
        // The kernel says nothing about the IPv4 routes of a link that goes, and something about the IPv6 ones, before it
        // says that the link has gone.
        RouteNetlinkMessage::DelRoute(message) => route::parse(message).is_some(),
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) | RouteNetlinkMessage::DelRule(_) => {
            true
        }
        RouteNetlinkMessage::DelNeighbour(message) => is_ours(message),
        _ => false,
    }
}

/// Whether it is of a pod's link or of the tunnel's: what the kernel forgets on others, and of groups, is no news.
fn is_ours(message: &NeighbourMessage) -> bool {
    let group = |attribute: &NeighbourAttribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => ip.is_multicast(),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => ip.is_multicast(),
        _ => false,
    };
    let named_ours = |name: CString| name.to_bytes().starts_with(name::PREFIX.as_bytes());
    // A link that has gone has no name any more.
    !message.attributes.iter().any(group) && nix::net::if_::if_indextoname(message.header.ifindex).is_ok_and(named_ours)
}

/// Whether all that was heard are routes and neighbours of pods' links that have gone: with hundreds of pods on a node, looking after
/// each that ends would cost more than everything else about it.
fn only_pods_that_end(collected: &[NetlinkPayload<RouteNetlinkMessage>]) -> bool {
    let ended: HashSet<u32> = collected
        .iter()
        .filter_map(|payload| match payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) if is_pods(link) => {
                Some(link.header.index)
            }
            _ => None,
        })
        .collect();
    let mut news = collected.iter().filter(|payload| is_news(payload));
    news.all(|payload| match payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(message)) => {
            let route = route::parse(message);
            route.is_some_and(|route| route.ours && route.link.is_some_and(|link| ended.contains(&link)))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => {
            ended.contains(&message.header.ifindex)
        }
        _ => false,
    })
}

fn is_pods(link: &LinkMessage) -> bool {
    let is_host_side =
        |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(name) if name::is_host_side(name));
    link.attributes.iter().any(is_host_side)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::route::{Route, message};

    fn link(index: u32, name: &str) -> NetlinkPayload<RouteNetlinkMessage> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::IfName(name.into()));
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))
    }

    fn route_over(index: u32) -> NetlinkPayload<RouteNetlinkMessage> {
        let route = Route {
            link: Some(index),
            ..Route::ours("fd00::2/128".parse().unwrap())
        };
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(message(&route)))
    }

    #[test]
    fn a_pod_that_ends_is_no_news_and_its_route_alone_is() {
        let host_side = name::host_side("c1", "eth0");
        assert!(only_pods_that_end(&[route_over(7), link(7, &host_side)]));
        assert!(!only_pods_that_end(&[route_over(7)]));
        assert!(!only_pods_that_end(&[route_over(8), link(7, &host_side)]));
        assert!(!only_pods_that_end(&[route_over(7), link(7, "up0")]));
    }
}
