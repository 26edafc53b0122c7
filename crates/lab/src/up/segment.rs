//! The segments of a lab: a bridge each, in one namespace of their own, which every node's uplink is plugged into.
//! A bridge stands for the switch that real nodes share, the namespace for the router between several of them; no link
//! of a lab is ever in the machine's own namespace.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteMessage;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, RouteNextHopBuilder,
};

use super::internet::{self, OUTSIDE};
use super::spec::NodeSpec;
use super::{Error, Spec, netns};
use crate::controllers::load_balancer_ranges;

const UPLINK: &str = "eth0";

/// The bridge of a segment.
fn bridge(segment: u8) -> String {
    format!("br{segment}")
}

/// Makes each segment's bridge with its gateway's addresses.
pub(super) fn create(segments: &File, spec: &Spec) -> Result<(), Error> {
    netns::inside(segments, || {
        set(&AT_ONCE)?;
        set(&ROUTER_SYSCTLS)?;
        with_netlink(async |net| {
            net.up("lo").await?;
            for segment in 0..spec.segments {
                net.create(LinkBridge::new(&bridge(segment)).up().build()).await?;
                let bridge = net.index(&bridge(segment)).await?;
                for gateway in spec.gateways(segment) {
                    net.address(bridge, gateway).await?;
                }
            }
            Ok(())
        })
    })
}

/// Plugs a node in: a veth pair between its segment's bridge and the node's `eth0`, its addresses, its default routes.
pub(super) fn plug(segments: &File, node: &File, lab: &Spec, spec: &NodeSpec) -> Result<(), Error> {
    netns::inside(segments, || {
        with_netlink(async |net| {
            let bridge = net.index(&bridge(spec.segment)).await?;
            let near = LinkVeth::new(&spec.name, &far(&spec.name)).controller(bridge).up();
            let into_node = |far: LinkMessageBuilder<LinkUnspec>| {
                far.name(UPLINK)
                    .address(spec.mac().to_vec())
                    .setns_by_fd(node.as_raw_fd())
            };
            net.pair(near, &spec.name, lab.mtu.uplink, into_node).await
        })
    })?;
    netns::inside(node, || {
        set(&AT_ONCE)?;
        set(&[("ipv6/conf/eth0/accept_dad", "0")])?;
        with_netlink(async |net| {
            net.up("lo").await?;
            net.up(UPLINK).await?;
            net.configure(lab, spec).await
        })
    })
}

/// Connects the router to the internet, by a link with one end and its addresses in each.
pub(super) fn connect(segments: &File, internet: &File, lab: &Spec) -> Result<(), Error> {
    netns::inside(segments, || {
        with_netlink(async |net| {
            let near = LinkVeth::new(OUTSIDE, &far(OUTSIDE)).up();
            let into_internet =
                |far: LinkMessageBuilder<LinkUnspec>| far.name(UPLINK).setns_by_fd(internet.as_raw_fd());
            net.pair(near, OUTSIDE, lab.mtu.internet, into_internet).await?;
            let outside = net.index(OUTSIDE).await?;
            for address in internet::router(lab.families) {
                net.address(outside, address).await?;
            }
            Ok(())
        })
    })?;
    netns::inside(internet, || {
        set(&AT_ONCE)?;
        set(&[("ipv6/conf/eth0/accept_dad", "0")])?;
        with_netlink(async |net| {
            net.up("lo").await?;
            net.up(UPLINK).await?;
            let uplink = net.index(UPLINK).await?;
            for address in internet::server(lab.families) {
                net.address(uplink, address).await?;
            }
            let to_nodes = (0..lab.segments).flat_map(|segment| lab.gateways(segment));
            for network in to_nodes.chain(load_balancer_ranges(lab.families)) {
                let routers = internet::router(lab.families);
                let router = routers
                    .iter()
                    .find(|router| router.addr().is_ipv4() == network.addr().is_ipv4());
                if let Some(router) = router {
                    net.route((network, router.addr())).await?;
                }
            }
            Ok(())
        })
    })
}

/// The other end of a link, until it is where it belongs.
fn far(near: &str) -> String {
    format!("{near}-up")
}

/// Pulls a node's plug: its uplink is gone at both ends.
pub(super) fn unplug(segments: &File, node: &str) -> Result<(), Error> {
    netns::inside(segments, || {
        with_netlink(async |net| {
            let removed = net.handle.link().del(net.index(node).await?).execute().await;
            removed.map_err(Error::netlink(format!("remove the link to {node}")))
        })
    })
}

/// Gives a node other addresses, as a lease that ran out does: the old ones go, with whatever depends on them.
pub(super) fn readdress(node: &File, lab: &Spec, old: &NodeSpec, new: &NodeSpec) -> Result<(), Error> {
    netns::inside(node, || {
        with_netlink(async |net| {
            let uplink = net.index(UPLINK).await?;
            for address in &old.addresses {
                net.remove_address(uplink, *address).await?;
            }
            net.configure(lab, new).await
        })
    })
}

/// IPv6 addresses are usable as soon as they are there, without a search for their duplicates.
const AT_ONCE: [(&str, &str); 2] = [("ipv6/conf/all/accept_dad", "0"), ("ipv6/conf/default/accept_dad", "0")];

/// The nodes' gateway knows no pods, and leads nowhere beyond the segments, but says so at once and each time, as a router does: who asks for the outside
/// (a resolver, say) is told that it is unreachable instead of waiting.
const ROUTER_SYSCTLS: [(&str, &str); 6] = [
    ("ipv4/ip_forward", "1"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/icmp/ratelimit", "0"),
    // Where several nodes have an address, a connection stays with one of them, and the next may go to another.
    ("ipv4/fib_multipath_hash_policy", "1"),
    ("ipv6/fib_multipath_hash_policy", "1"),
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
            .map_err(Error::netlink("create a link of the lab's segments"))
    }

    /// Makes a veth pair, both ends with that MTU, the far one as `place` says.
    async fn pair(
        &self,
        near: LinkMessageBuilder<LinkVeth>,
        name: &str,
        mtu: Option<u32>,
        place: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), Error> {
        self.create(near.build()).await?;
        let (near, far) = (self.index(name).await?, self.index(&far(name)).await?);
        for (index, mtu) in [near, far].into_iter().filter_map(|index| Some((index, mtu?))) {
            let link = LinkUnspec::new_with_index(index).mtu(mtu).build();
            self.change(link, &format!("set the MTU of {name} to {mtu}")).await?;
        }
        let far = place(LinkUnspec::new_with_index(far)).build();
        self.change(far, &format!("place the far end of {name}")).await
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

    async fn address(&self, link: u32, address: IpNet) -> Result<(), Error> {
        let (ip, prefix) = (address.addr(), address.prefix_len());
        let added = self.handle.address().add(link, ip, prefix).execute().await;
        added.map_err(Error::netlink(format!("add address {address}")))
    }

    async fn remove_address(&self, link: u32, address: IpNet) -> Result<(), Error> {
        use futures::TryStreamExt as _;
        let what = || format!("remove address {address}");
        let addresses = self.handle.address().get();
        let found = addresses.set_link_index_filter(link).set_address_filter(address.addr());
        let found: Vec<_> = found.execute().try_collect().await.map_err(Error::netlink(what()))?;
        for message in found {
            let removed = self.handle.address().del(message).execute().await;
            removed.map_err(Error::netlink(what()))?;
        }
        Ok(())
    }

    /// A node's addresses and default routes.
    async fn configure(&self, lab: &Spec, node: &NodeSpec) -> Result<(), Error> {
        let uplink = self.index(UPLINK).await?;
        for address in &node.addresses {
            self.address(uplink, *address).await?;
        }
        for gateway in lab.gateways(node.segment) {
            self.default_route(gateway.addr()).await?;
        }
        Ok(())
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

    /// Adds a route that leads to all of these by turns, each flow to one, or replaces the one to the same destination.
    pub(super) async fn shared_route(&self, to: IpNet, via: &BTreeSet<IpAddr>) -> Result<(), Error> {
        let hops = via.iter().filter_map(|ip| {
            let hop = match ip {
                IpAddr::V4(_) => RouteNextHopBuilder::new_ipv4(),
                IpAddr::V6(_) => RouteNextHopBuilder::new_ipv6(),
            };
            // A hop's family is that of its address.
            hop.via(*ip).ok().map(RouteNextHopBuilder::build)
        });
        let message = destination(to).multipath(hops.collect()).build();
        let added = self.handle.route().add(message).replace().execute().await;
        added.map_err(Error::netlink(format!("add the route to {to} through {via:?}")))
    }

    pub(super) async fn remove_shared_route(&self, to: IpNet) -> Result<(), Error> {
        let removed = self.handle.route().del(destination(to).build()).execute().await;
        removed.map_err(Error::netlink(format!("remove the route to {to}")))
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
    // Both are of one family; a mixed pair has no route, which the kernel will say.
    let route = destination(to).gateway(via);
    route.map(RouteMessageBuilder::build).unwrap_or_default()
}

fn destination(to: IpNet) -> RouteMessageBuilder<IpAddr> {
    // A network's prefix is not longer than its address.
    let route = RouteMessageBuilder::<IpAddr>::new().destination_prefix(to.trunc().addr(), to.prefix_len());
    route.unwrap_or_default()
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
