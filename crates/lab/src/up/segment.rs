//! The segment of a lab: a bridge in a namespace of its own, which every node's uplink is plugged into.
//! It stands for the switch that real nodes share; no link of a lab is ever in the machine's own namespace.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteMessage;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::spec::{NodeSpec, gateway};
use super::{Error, netns};

const BRIDGE: &str = "br0";
const UPLINK: &str = "eth0";

/// Makes the bridge with the control plane's addresses.
pub(super) fn create(segment: &File) -> Result<(), Error> {
    netns::inside(segment, || {
        with_netlink(async |net| {
            net.create(LinkBridge::new(BRIDGE).up().build()).await?;
            let bridge = net.index(BRIDGE).await?;
            net.up("lo").await?;
            for (address, prefix) in gateway() {
                net.address(bridge, address, prefix).await?;
            }
            Ok(())
        })?;
        set(&ROUTER_SYSCTLS)
    })
}

/// Plugs a node in: a veth pair between the bridge and the node's `eth0`, its addresses, its default routes.
pub(super) fn plug(segment: &File, node: &File, spec: &NodeSpec) -> Result<(), Error> {
    let far = format!("{}-up", spec.name);
    netns::inside(segment, || {
        with_netlink(async |net| {
            let bridge = net.index(BRIDGE).await?;
            net.create(LinkVeth::new(&spec.name, &far).controller(bridge).up().build())
                .await?;
            let far = net.index(&far).await?;
            let into_node = LinkUnspec::new_with_index(far)
                .name(UPLINK)
                .setns_by_fd(node.as_raw_fd())
                .build();
            net.change(into_node, "move the uplink into the node").await
        })
    })?;
    netns::inside(node, || {
        set(&NODE_SYSCTLS)?;
        with_netlink(async |net| {
            net.up("lo").await?;
            let uplink = net.index(UPLINK).await?;
            net.up(UPLINK).await?;
            for (address, prefix) in spec.addresses() {
                net.address(uplink, address, prefix).await?;
            }
            for (address, _) in gateway() {
                net.default_route(address).await?;
            }
            Ok(())
        })
    })
}

/// What a node's own configuration sets before any network plugin comes: addresses usable at once.
const NODE_SYSCTLS: [(&str, &str); 3] = [
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/eth0/accept_dad", "0"),
];

/// The nodes' gateway leads nowhere, but says so at once and each time, as a router does: who asks for the outside
/// (a resolver, say) is told that it is unreachable instead of waiting.
const ROUTER_SYSCTLS: [(&str, &str); 4] = [
    ("ipv4/ip_forward", "1"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/icmp/ratelimit", "0"),
];

/// Sets switches of the network namespace that this thread is in.
fn set(switches: &[(&str, &str)]) -> Result<(), Error> {
    for (key, value) in switches {
        let path = format!("/proc/sys/net/{key}");
        std::fs::write(&path, value).map_err(Error::io("set", path))?;
    }
    Ok(())
}

/// Netlink in one network namespace.
pub(super) struct Net {
    handle: Handle,
}

impl Net {
    async fn create(&self, link: LinkMessage) -> Result<(), Error> {
        self.handle
            .link()
            .add(link)
            .execute()
            .await
            .map_err(Error::netlink("create a link of the lab's segment"))
    }

    async fn change(&self, link: LinkMessage, what: &str) -> Result<(), Error> {
        self.handle
            .link()
            .set(link)
            .execute()
            .await
            .map_err(Error::netlink(what))
    }

    async fn index(&self, name: &str) -> Result<u32, Error> {
        use futures::TryStreamExt as _;
        let found = self
            .handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute()
            .try_next()
            .await;
        let link = found.map_err(Error::netlink(format!("find link {name}")))?;
        Ok(link.map_or(0, |link| link.header.index))
    }

    async fn up(&self, name: &str) -> Result<(), Error> {
        let link = LinkUnspec::new_with_index(self.index(name).await?).up().build();
        self.change(link, &format!("bring up {name}")).await
    }

    async fn address(&self, link: u32, address: IpAddr, prefix: u8) -> Result<(), Error> {
        let added = self.handle.address().add(link, address, prefix).execute().await;
        added.map_err(Error::netlink(format!("add address {address}/{prefix}")))
    }

    async fn default_route(&self, gateway: IpAddr) -> Result<(), Error> {
        let everywhere: IpNet = match gateway {
            IpAddr::V4(_) => Ipv4Net::default().into(),
            IpAddr::V6(_) => Ipv6Net::default().into(),
        };
        self.route((everywhere, gateway)).await
    }

    /// Adds a route, or replaces the one to the same destination.
    pub(super) async fn route(&self, route: (IpNet, IpAddr)) -> Result<(), Error> {
        let added = self.handle.route().add(message(route)).replace().execute().await;
        added.map_err(Error::netlink(format!(
            "add the route to {} through {}",
            route.0, route.1
        )))
    }

    pub(super) async fn remove_route(&self, route: (IpNet, IpAddr)) -> Result<(), Error> {
        let removed = self.handle.route().del(message(route)).execute().await;
        removed.map_err(Error::netlink(format!(
            "remove the route to {} through {}",
            route.0, route.1
        )))
    }
}

fn message((to, via): (IpNet, IpAddr)) -> RouteMessage {
    let to = RouteMessageBuilder::<IpAddr>::new().destination_prefix(to.trunc().addr(), to.prefix_len());
    // Both are of one family; a mixed pair has no route, which the kernel will say.
    to.and_then(|route| route.gateway(via))
        .map(RouteMessageBuilder::build)
        .unwrap_or_default()
}

/// Runs netlink requests in the calling thread's network namespace.
pub(super) fn with_netlink<T>(work: impl AsyncFnOnce(Net) -> Result<T, Error>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start a runtime for", "netlink"))?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::io("open", "netlink"))?;
        tokio::spawn(connection);
        work(Net { handle }).await
    })
}
