//! Hears when somebody changes the kernel's links, addresses or routes, so that what is to be there is put back at once.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use tokio::sync::watch;

use super::{NetError, name, route};

const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
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
                while let Some(Some(_)) = messages.next().now_or_never() {}
                sender.send_modify(|count| *count += 1);
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
        // The kernel says nothing about the IPv4 routes of a link that goes, and something about the IPv6 ones: those
        // of pods that end are looked at in vain.
        RouteNetlinkMessage::DelRoute(message) => route::parse(message).is_some(),
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) | RouteNetlinkMessage::DelRule(_) => {
            true
        }
        _ => false,
    }
}

fn is_pods(link: &LinkMessage) -> bool {
    let is_host_side =
        |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(name) if name::is_host_side(name));
    link.attributes.iter().any(is_host_side)
}
