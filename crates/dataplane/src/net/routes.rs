//! Routes to the pods of other nodes, and what becomes of this node's unused pod addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use weft_model::compile::{NextHop, Routes};
use weft_model::desired::{self, Step};

use super::route::{FORWARD_TABLE, MAIN_TABLE, Route, TunnelKey};
use super::tunnel::{self, Config, Here, Links};
use super::{NetError, Rtnl, rules};

/// The smallest MTU of IPv6, and one that every host takes with IPv4 (RFC 791).
const LEAST_IPV6: u32 = 1280;
const LEAST_IPV4: u32 = 576;

/// A route that could not be put in place or removed.
#[derive(Debug)]
pub struct Failed {
    /// Its destination.
    pub to: IpNet,
    /// Why not.
    pub why: String,
}

/// Takes the kernel's routes to what is wanted: the difference over the union of both, so that what is only in the
/// kernel goes; and the tunnel to what its routes need. A route that fails does not stop the others. Returns what failed
/// and how many steps were taken.
///
/// Only routes of ours with a gateway or a tunnel, or to nowhere, are looked at: the others are the pods'.
pub async fn reconcile(
    rtnl: &Rtnl,
    config: &Config,
    here: &Here,
    wanted: &Routes,
) -> Result<(Vec<Failed>, usize), NetError> {
    let ends = ends(wanted.values());
    let tunnel = Tunnel::open(rtnl, config, here, &ends, None).await;
    let (mut failed, mut routes) = (vec![], BTreeMap::new());
    for (to, hop) in wanted {
        match tunnel.route(*to, *hop) {
            Ok(route) => drop(routes.insert((route.table, *to), route)),
            Err(why) => failed.push(Failed { to: *to, why }),
        }
    }
    let actual = rtnl.routes().await?.into_iter().filter(|route| route.ours);
    let actual = actual
        .filter_map(as_written)
        .map(|route| ((route.table, route.to), route));
    let steps = desired::steps(&routes, &actual.collect());
    let count = steps.len();
    failed.extend(take(rtnl, steps).await);
    Ok((failed, count))
}

/// Takes these steps, which lead to what is wanted.
pub async fn apply(
    rtnl: &Rtnl,
    config: &Config,
    here: &Here,
    wanted: &Routes,
    steps: Vec<Step<IpNet, NextHop>>,
) -> Vec<Failed> {
    let put = |step: &Step<IpNet, NextHop>| match step {
        Step::Put(_, hop) => Some(*hop),
        Step::Remove(_) => None,
    };
    let new = ends(steps.iter().filter_map(put).collect::<Vec<_>>().iter());
    let tunnel = Tunnel::open(rtnl, config, here, &ends(wanted.values()), Some(&new)).await;
    let (mut failed, mut to_take) = (vec![], vec![]);
    for step in steps {
        match step {
            // Of both tables, because a step does not say which: no pod's range is a node's address.
            Step::Remove(to) => to_take.extend([MAIN_TABLE, FORWARD_TABLE].map(|table| Step::Remove((table, to)))),
            Step::Put(to, hop) => match tunnel.route(to, hop) {
                Ok(route) => to_take.push(Step::Put((route.table, to), route)),
                Err(why) => failed.push(Failed { to, why }),
            },
        }
    }
    failed.extend(take(rtnl, to_take).await);
    failed
}

fn ends<'a>(hops: impl Iterator<Item = &'a NextHop>) -> BTreeSet<IpAddr> {
    let end = |hop: &NextHop| match hop {
        NextHop::Tunnel(end) | NextHop::PodsTunnel(end) => Some(*end),
        NextHop::Via(_) | NextHop::Unreachable => None,
    };
    hops.filter_map(end).collect()
}

async fn take(rtnl: &Rtnl, steps: Vec<Step<(u8, IpNet), Route>>) -> Vec<Failed> {
    let mut failed = vec![];
    for step in steps {
        let (to, result) = match step {
            Step::Put((_, to), route) => (to, rtnl.put_route(&route).await),
            Step::Remove((table, to)) => (to, rtnl.remove_route(to, table).await.map(drop)),
        };
        failed.extend(result.err().map(|error| Failed {
            to,
            why: error.to_string(),
        }));
    }
    failed
}

/// A route in the kernel the way [`Tunnel::route`] would have written it: without the link that the kernel found.
/// `None` for a pod's.
fn as_written(route: Route) -> Option<Route> {
    match route {
        Route { tunnel: Some(_), .. } => Some(route),
        Route { unreachable: true, .. } | Route { via: Some(_), .. } => Some(Route { link: None, ..route }),
        _ => None,
    }
}

/// The tunnel as it is, to write routes through.
struct Tunnel<'a> {
    config: &'a Config,
    here: &'a Here,
    links: Links,
    /// Why it is not there.
    broken: Option<String>,
}

impl<'a> Tunnel<'a> {
    /// The tunnel to these ends, of which only the `new` ones are not known yet; without them, nothing is.
    async fn open(
        rtnl: &Rtnl,
        config: &'a Config,
        here: &'a Here,
        ends: &BTreeSet<IpAddr>,
        new: Option<&BTreeSet<IpAddr>>,
    ) -> Self {
        let mut tunnel = Self {
            config,
            here,
            links: Links::new(),
            broken: None,
        };
        if let Err(error) = tunnel.prepare(rtnl, ends, new).await {
            tunnel.links.clear();
            tunnel.broken = Some(error.to_string());
        }
        tunnel
    }

    async fn prepare(
        &mut self,
        rtnl: &Rtnl,
        ends: &BTreeSet<IpAddr>,
        new: Option<&BTreeSet<IpAddr>>,
    ) -> Result<(), NetError> {
        self.links = tunnel::ensure(rtnl, self.config, self.here, ends).await?;
        rules::ensure(rtnl, !ends.is_empty()).await?;
        match new {
            None => tunnel::reconcile_neighbours(rtnl, self.config, &self.links, ends).await,
            Some(new) => tunnel::put_neighbours(rtnl, self.config, &self.links, new).await,
        }
    }

    /// What to write for a next hop, or why there is no way.
    fn route(&self, to: IpNet, hop: NextHop) -> Result<Route, String> {
        let route = Route::ours(to);
        Ok(match hop {
            NextHop::Via(via) => Route {
                via: Some(via),
                ..route
            },
            NextHop::Unreachable => Route {
                unreachable: true,
                ..route
            },
            NextHop::Tunnel(end) => Route {
                source: self.source(to),
                ..self.through(to, end)?
            },
            NextHop::PodsTunnel(end) => Route {
                table: FORWARD_TABLE,
                ..self.through(to, end)?
            },
        })
    }

    fn through(&self, to: IpNet, end: IpAddr) -> Result<Route, String> {
        if let Some(why) = &self.broken {
            return Err(why.clone());
        }
        let encapsulation = self.config.encapsulation;
        let carried = self.config.carries(to, end);
        let link = tunnel::link_to(self.config, &self.links, end).filter(|_| carried);
        let link = link.ok_or_else(|| {
            format!("{encapsulation} to {end} cannot carry {to}; choose another encapsulation for all nodes (--tunnel vxlan)")
        })?;
        Ok(Route {
            via: tunnel::gateway(self.config, &to, end),
            link: Some(link),
            mtu: self.narrowed(to, end),
            tunnel: Some(TunnelKey {
                end,
                vni: self.config.vni,
            }),
            ..Route::ours(to)
        })
    }

    /// What the way to this end leaves for a packet, where some router on it has said that it takes less than the uplink.
    /// Only IPv6 loses what is larger; nothing has to be smaller than every link of IPv6 takes (RFC 8200, 5).
    fn narrowed(&self, to: IpNet, end: IpAddr) -> Option<u32> {
        let way = *self.here.narrow.get(&end)?;
        let least = if to.addr().is_ipv6() { LEAST_IPV6 } else { LEAST_IPV4 };
        (way < self.here.mtu).then(|| way.saturating_sub(self.config.overhead(end)).max(least))
    }

    /// The node's own address: the tunnel's link has none, and the kernel would take any.
    fn source(&self, to: IpNet) -> Option<IpAddr> {
        let mut ips = self.here.local_ips.iter();
        ips.find(|ip| ip.is_ipv4() == to.addr().is_ipv4()).copied()
    }
}
