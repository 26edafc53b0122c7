//! How this node reaches the pods of every other node: directly where both share a network segment, else by tunnel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::desired::{Step, Wanted};
use crate::{Node, State};

/// The way to each range.
pub type Routes = BTreeMap<IpNet, NextHop>;

/// Where a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NextHop {
    /// Behind the node with this address, on a network segment that this node is on too.
    Via(IpAddr),
    /// Behind the node with this address, by tunnel.
    Tunnel(IpAddr),
    /// A node's own address, for what this node forwards; the tunnel ends at the given address of that node. The network
    /// between the nodes knows no pod, so that what pods and that node say to each other has to be inside of the tunnel
    /// both ways. What this node sends itself, the tunnel's own packets among it, goes by the network.
    PodsTunnel(IpAddr),
    /// On this node, whose pods have routes of their own: whoever asks for an address of the range that no pod has
    /// is told so. Otherwise the packet would follow the default route, and come back for ever.
    Unreachable,
}

/// Which ways to other nodes are allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// Direct where the other node is on a segment of this one, else by tunnel.
    #[default]
    Auto,
    /// Never by tunnel.
    Direct,
    /// Always by tunnel.
    Tunnel,
}

/// What carries the packets between nodes, as this node's kernel sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Underlay {
    /// Which ways are allowed.
    pub routing: Routing,
    /// The networks that the kernel knows a way to, and whether they are on a segment of this node's.
    pub networks: Vec<(IpNet, bool)>,
}

impl Underlay {
    /// Whether the kernel reaches an address without a router between.
    fn on_link(&self, ip: IpAddr) -> bool {
        let containing = self.networks.iter().filter(|(network, _)| network.contains(&ip));
        containing
            .max_by_key(|(network, _)| network.prefix_len())
            // Who has everything on one link has a router there that answers for everybody.
            .is_some_and(|(network, on_link)| *on_link && network.prefix_len() > 0)
    }
}

/// Two nodes that say that they have the same addresses for their pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overlap {
    /// The node whose range gets no route: the later by name.
    pub node: String,
    /// That range.
    pub range: IpNet,
    /// The node that keeps its route.
    pub other: String,
    /// Its range.
    pub other_range: IpNet,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            node,
            range,
            other,
            other_range,
        } = self;
        write!(
            f,
            "pod range {range} of node {node} overlaps {other_range} of node {other}, which keeps its route"
        )
    }
}

/// How the other nodes are reached, in numbers and words for the report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Nodes all of whose ranges have a direct route.
    pub direct: usize,
    /// Nodes with a range behind a tunnel.
    pub tunnelled: usize,
    /// Why the first of them is.
    pub why: Option<String>,
    /// For each node with ranges that there is no way to: why.
    pub lost: Vec<String>,
}

/// Where a node's pods are: its own ranges, and the blocks that it has from pools.
pub fn ranges<'a>(state: &'a State, node: &'a Node) -> impl Iterator<Item = IpNet> + 'a {
    let blocks = state.node_addresses(&node.name).into_iter();
    let blocks = blocks.flat_map(|addresses| addresses.blocks());
    node.pod_cidrs.iter().copied().chain(blocks).map(|range| range.trunc())
}

/// The routes to all nodes, kept in step with what is known about them.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    underlay: Underlay,
    wanted: Wanted<String, IpNet, NextHop>,
    overlaps: BTreeSet<Overlap>,
}

impl RouteTable {
    /// The steps that follow from changes of these nodes.
    pub fn update(&mut self, state: &State, nodes: impl IntoIterator<Item = String>) -> Vec<Step<IpNet, NextHop>> {
        let mut nodes: BTreeSet<String> = nodes.into_iter().collect();
        let overlaps = overlaps(state);
        // Who gains or loses a route because of another node's ranges.
        nodes.extend(self.overlaps.symmetric_difference(&overlaps).map(|o| o.node.clone()));
        self.overlaps = overlaps;
        // A tunnel takes a family of addresses that this node has, too.
        if nodes.contains(state.local_node()) {
            nodes.extend(state.nodes().map(|node| node.name.clone()));
        }
        let mut steps = vec![];
        for name in nodes {
            steps.extend(self.wanted.set(&name, self.routes(state, &name)));
        }
        steps
    }

    /// The steps that follow from another underlay. None where it is the one that is known.
    pub fn set_underlay(&mut self, state: &State, underlay: Underlay) -> Vec<Step<IpNet, NextHop>> {
        if self.underlay == underlay {
            return vec![];
        }
        self.underlay = underlay;
        self.update(state, state.nodes().map(|node| node.name.clone()))
    }

    /// Every route.
    pub fn wanted(&self) -> Routes {
        self.wanted.iter().map(|(to, hop)| (*to, *hop)).collect()
    }

    /// How many routes there are.
    pub fn count(&self) -> usize {
        self.wanted.len()
    }

    /// The nodes that got in each other's way.
    pub fn overlaps(&self) -> impl Iterator<Item = &Overlap> {
        self.overlaps.iter()
    }

    /// How the other nodes are reached.
    pub fn reach(&self, state: &State) -> Reach {
        let mut reach = Reach::default();
        for node in state.nodes().filter(|node| node.name != state.local_node()) {
            let mut tunnelled = None;
            let mut lost = false;
            for range in ranges(state, node) {
                match self.next_hop(state, node, range) {
                    Some(NextHop::Tunnel(_)) => tunnelled = tunnelled.or(Some(range)),
                    Some(_) => {}
                    None => {
                        reach.lost.push(self.no_way(state, node, range));
                        lost = true;
                    }
                }
            }
            match tunnelled {
                Some(range) => {
                    reach.tunnelled += 1;
                    reach.why.get_or_insert_with(|| self.why_tunnel(node, range));
                }
                None if !lost && ranges(state, node).next().is_some() => reach.direct += 1,
                None => {}
            }
        }
        reach
    }

    fn routes(&self, state: &State, name: &str) -> Routes {
        let Some(node) = state.node(name) else {
            return Routes::new();
        };
        let refused = |range: &IpNet| self.overlaps.iter().any(|o| o.node == name && o.range == *range);
        let ranges = ranges(state, node).filter(|range| !refused(range));
        if name == state.local_node() {
            // A pool's single address is its pod's route, and nothing besides.
            let wide = ranges.filter(|range| range.prefix_len() < range.max_prefix_len());
            return wide.map(|range| (range, NextHop::Unreachable)).collect();
        }
        let mut routes: Routes = ranges
            .filter_map(|range| Some((range, self.next_hop(state, node, range)?)))
            .collect();
        let tunnel = routes.values().find_map(|hop| match hop {
            NextHop::Tunnel(end) => Some(*end),
            _ => None,
        });
        if let Some(end) = tunnel {
            let far = node.internal_ips.iter().filter(|ip| !self.direct(**ip));
            routes.extend(far.map(|ip| (IpNet::from(*ip), NextHop::PodsTunnel(end))));
        }
        routes
    }

    fn direct(&self, ip: IpAddr) -> bool {
        match self.underlay.routing {
            Routing::Auto => self.underlay.on_link(ip),
            Routing::Direct => true,
            Routing::Tunnel => false,
        }
    }

    /// A direct route takes an address of the range's own family; a tunnel takes either family inside, and ends at the
    /// node's first address, because that is the one that its peers know its end by.
    fn next_hop(&self, state: &State, node: &Node, range: IpNet) -> Option<NextHop> {
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == range.addr().is_ipv4();
        let own = node.internal_ips.iter().find(same_family).copied();
        if let Some(ip) = own.filter(|ip| self.direct(*ip)) {
            return Some(NextHop::Via(ip));
        }
        if self.underlay.routing == Routing::Direct {
            return None;
        }
        let end = *node.internal_ips.first()?;
        let local = state.node(state.local_node()).map(|local| &local.internal_ips);
        let speaks = local.is_none_or(|ips| ips.is_empty() || ips.iter().any(|ip| ip.is_ipv4() == end.is_ipv4()));
        speaks.then_some(NextHop::Tunnel(end))
    }

    fn no_way(&self, state: &State, node: &Node, range: IpNet) -> String {
        let name = &node.name;
        match (node.internal_ips.first(), self.underlay.routing) {
            (None, _) => format!("node {name} has no InternalIP, so that there is no route to its pods in {range}"),
            (Some(_), Routing::Direct) => {
                format!("node {name} has no InternalIP of the family of its pods' range {range}, and tunnels are off")
            }
            (Some(ip), _) => {
                let local = state.local_node();
                format!(
                    "no tunnel from node {local} to {ip} of node {name} for {range}: {local} has no InternalIP of that family"
                )
            }
        }
    }

    fn why_tunnel(&self, node: &Node, range: IpNet) -> String {
        let own = node
            .internal_ips
            .iter()
            .find(|ip| ip.is_ipv4() == range.addr().is_ipv4());
        let name = &node.name;
        match own {
            _ if self.underlay.routing == Routing::Tunnel => "as --routing says".into(),
            Some(ip) => format!("{ip} of {name} is not on this node's segment"),
            None => format!("{name} has no address of the family of {range}"),
        }
    }
}

/// Every range that overlaps one of a node that comes first by name.
fn overlaps(state: &State) -> BTreeSet<Overlap> {
    let mut all: Vec<(IpNet, &str)> = state
        .nodes()
        .flat_map(|node| ranges(state, node).map(|range| (range, node.name.as_str())))
        .collect();
    // By first address, and of two with the same the larger one first: a range comes after all that it is inside of.
    all.sort_by_key(|(range, name)| (range.network(), range.prefix_len(), *name));
    let mut found = BTreeSet::new();
    let mut around: Vec<(IpNet, &str)> = vec![];
    for (range, name) in all {
        around.retain(|(outer, _)| outer.contains(&range));
        for (outer, owner) in around.iter().filter(|(_, owner)| *owner != name) {
            let (first, second) = match owner < &name {
                true => ((*owner, *outer), (name, range)),
                false => ((name, range), (*owner, *outer)),
            };
            found.insert(Overlap {
                node: second.0.into(),
                range: second.1,
                other: first.0.into(),
                other_range: first.1,
            });
        }
        around.push((range, name));
    }
    found
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
