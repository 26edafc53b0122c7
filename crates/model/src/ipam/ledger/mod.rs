//! What the controller decides: which node gets which block of which pool, and when one it gave back may go to
//! another. Work is in proportion to what changed.
//!
//! The books hold what the objects say, and what has been decided but is not known to be written. Everything can be
//! read again from the objects, so a controller that starts, or takes over, loses nothing.

mod book;
mod grant;
mod judge;
mod offers;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

use ipnet::IpNet;

use self::book::Book;
use super::pool::{addresses, overlap};
use super::space::Holdings;
use super::spec::{Count, NodeAddresses, NodeAddressesSpec};
use crate::selector::Labels;

pub use grant::Grant;
pub use offers::Shortfall;

/// Who holds a part of the address space.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Holder {
    /// A node, out of a pool.
    Node { node: String, pool: String },
    /// A pool's provider has assigned it to a node, or not confirmed yet that it has taken it back.
    Provider { node: String, pool: String },
    /// What is not for pods: a network of Services, an address or pod CIDR of a node.
    Foreign(Foreign),
}

/// A network that pools may not use.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Foreign {
    /// Whose it is, such as `Service default/web`.
    pub of: String,
    /// True for the address of a node: a provider's networks may hold it, for clouds give pods addresses of the
    /// network that their nodes are in.
    pub is_node: bool,
}

/// A node: what its object says, and what has been decided.
#[derive(Clone, Debug, Default)]
struct NodeBook {
    /// Labels of the Node object; absent where there is none.
    labels: Option<Labels>,
    object: Option<NodeAddresses>,
    /// What is being written at the object's version; it may or may not have happened.
    pending: Option<NodeAddressesSpec>,
    /// Blocks that are in the spec, or may be.
    held: BTreeMap<IpNet, String>,
    /// Blocks that providers have assigned and that are in no spec.
    offered: BTreeMap<IpNet, String>,
    short: Vec<Shortfall>,
}

/// How much of a pool nodes have, also when the pool itself has gone.
#[derive(Clone, Debug, Default)]
struct Tally {
    allocated: Count,
    /// Addresses of each node.
    nodes: BTreeMap<String, u64>,
}

/// The controller's books.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    nodes: HashMap<String, NodeBook>,
    pools: BTreeMap<String, Book>,
    /// Networks of the pools in force.
    in_force: Holdings<String>,
    held: Holdings<Holder>,
    tallies: HashMap<String, Tally>,
    foreign: HashMap<String, Vec<(IpNet, Foreign)>>,
    /// Nodes that wait until a pool has room, in turn; one queue for each family.
    waiting: HashMap<(String, bool), VecDeque<String>>,
    /// Nodes that wait for one address.
    longing: BTreeMap<IpAddr, BTreeSet<String>>,
    /// Why a provider gives nothing, for each pool and node.
    trouble: BTreeMap<(String, String), String>,
    /// Two nodes that have the same addresses.
    clashes: BTreeMap<IpNet, String>,
    dirty_nodes: BTreeSet<String>,
    dirty_pools: BTreeSet<String>,
}

impl Ledger {
    /// Takes in a Node. It is told apart by name; its networks are kept out of the pools.
    pub fn node(&mut self, node: &crate::Node) {
        let book = self.nodes.entry(node.name.clone()).or_default();
        if book.labels.as_ref() != Some(&node.labels) {
            book.labels = Some(node.labels.clone());
            self.dirty_nodes.insert(node.name.clone());
        }
        let address = Foreign {
            of: format!("the address of node {}", node.name),
            is_node: true,
        };
        let range = Foreign {
            of: format!("spec.podCIDRs of node {}", node.name),
            is_node: false,
        };
        let ips = node.internal_ips.iter().map(|ip| (IpNet::from(*ip), address.clone()));
        let ranges = node.pod_cidrs.iter().map(|cidr| (cidr.trunc(), range.clone()));
        self.set_foreign(format!("Node {}", node.name), ips.chain(ranges).collect());
    }

    /// A Node has gone. What it had is given back when its NodeAddresses goes.
    pub fn node_gone(&mut self, name: &str) {
        if let Some(book) = self.nodes.get_mut(name) {
            book.labels = None;
            self.dirty_nodes.insert(name.to_owned());
        }
        self.set_foreign(format!("Node {name}"), vec![]);
    }

    /// Whether a Node of this name is known.
    pub fn has_node(&self, name: &str) -> bool {
        self.nodes.get(name).is_some_and(|book| book.labels.is_some())
    }

    /// The newest version of a node's object.
    pub fn object(&self, node: &str) -> Option<&NodeAddresses> {
        self.nodes.get(node)?.object.as_ref()
    }

    /// Sets the networks of something that is not for pods. `of` tells it apart.
    pub fn set_foreign(&mut self, of: String, networks: Vec<(IpNet, Foreign)>) {
        let before = self.foreign.get(&of).cloned().unwrap_or_default();
        if before == networks {
            return;
        }
        for (net, foreign) in before.iter().filter(|entry| !networks.contains(entry)) {
            self.release(*net, &Holder::Foreign(foreign.clone()));
        }
        for (net, foreign) in networks.iter().filter(|entry| !before.contains(entry)) {
            self.hold(*net, Holder::Foreign(foreign.clone()));
        }
        match networks.is_empty() {
            true => drop(self.foreign.remove(&of)),
            false => drop(self.foreign.insert(of, networks)),
        }
    }

    /// Takes in a NodeAddresses, as watched, read, or answered to a write. An older one than is known is ignored:
    /// answers and watches overtake each other.
    pub fn observe(&mut self, object: NodeAddresses) {
        let name = object.node.clone();
        let book = self.nodes.entry(name.clone()).or_default();
        if book
            .object
            .as_ref()
            .is_some_and(|known| known.version >= object.version)
        {
            return;
        }
        // What was decided on an earlier version has been written, and is in this one, or never will be.
        book.pending = None;
        let now: BTreeMap<IpNet, String> = object
            .spec
            .allocated
            .iter()
            .flat_map(|of| of.cidrs.iter().map(|cidr| (cidr.trunc(), of.pool.clone())))
            .collect();
        book.object = Some(object);
        self.settle(&name, now);
        self.dirty_nodes.insert(name);
    }

    /// A NodeAddresses has gone, and with it all that its node had.
    pub fn forget(&mut self, name: &str) {
        let Some(book) = self.nodes.get_mut(name) else { return };
        (book.object, book.pending) = (None, None);
        self.settle(name, BTreeMap::new());
        self.dirty_nodes.insert(name.to_owned());
    }

    /// What a node holds from now on. Of a provider's pool, what it no longer holds goes back to the provider.
    fn settle(&mut self, node: &str, now: BTreeMap<IpNet, String>) {
        let Some(book) = self.nodes.get_mut(node) else { return };
        let before = std::mem::replace(&mut book.held, now.clone());
        book.offered.retain(|cidr, _| !now.contains_key(cidr));
        let holder = |pool: &String| Holder::Node {
            node: node.to_owned(),
            pool: pool.clone(),
        };
        for (cidr, pool) in now.iter().filter(|entry| before.get(entry.0) != Some(entry.1)) {
            self.hold(*cidr, holder(pool));
            self.held.remove(
                cidr,
                &Holder::Provider {
                    node: node.to_owned(),
                    pool: pool.clone(),
                },
            );
        }
        for (cidr, pool) in before.iter().filter(|entry| now.get(entry.0) != Some(entry.1)) {
            if self.pools.get(pool).is_some_and(Book::has_provider) {
                self.hold(
                    *cidr,
                    Holder::Provider {
                        node: node.to_owned(),
                        pool: pool.clone(),
                    },
                );
                if let Some(book) = self.nodes.get_mut(node) {
                    book.offered.insert(*cidr, pool.clone());
                }
            }
            self.release(*cidr, &holder(pool));
        }
    }

    fn hold(&mut self, net: IpNet, holder: Holder) {
        if let Holder::Node { node, .. } = &holder {
            let other = self.held.overlapping(&net).find_map(|(at, other)| match other {
                Holder::Node { node: other, .. } if other != node => Some((at, other.clone())),
                _ => None,
            });
            if let Some((at, other)) = other {
                let message =
                    format!("node {node} has {net} and node {other} has {at}: delete the pods of one of them there");
                self.clashes.insert(net, message);
            }
        }
        if !self.held.insert(net, holder.clone()) {
            return;
        }
        self.each_pool(&net, |book, cidr| book.take(cidr, &net));
        self.count(&net, &holder, true);
    }

    fn release(&mut self, net: IpNet, holder: &Holder) {
        if !self.held.remove(&net, holder) {
            return;
        }
        self.clashes.retain(|at, _| !overlap(at, &net));
        self.each_pool(&net, |book, cidr| book.give(cidr, &net));
        // What others hold of it stays taken.
        let still: Vec<IpNet> = self.held.overlapping(&net).map(|(net, _)| net).collect();
        for other in still {
            self.each_pool(&net, |book, cidr| book.take(cidr, &other));
        }
        self.count(&net, holder, false);
        if let Holder::Foreign(_) = holder {
            self.judge_refused();
        }
        let pools: Vec<String> = self.in_force.overlapping(&net).map(|(_, pool)| pool.clone()).collect();
        pools.iter().for_each(|pool| self.wake(pool, net.addr().is_ipv4()));
        let longing: Vec<IpAddr> = self
            .longing
            .range(net.network()..=net.broadcast())
            .map(|(ip, _)| *ip)
            .collect();
        for nodes in longing.iter().filter_map(|ip| self.longing.remove(ip)) {
            self.dirty_nodes.extend(nodes);
        }
    }

    fn each_pool(&mut self, net: &IpNet, mut change: impl FnMut(&mut Book, &IpNet)) {
        let pools: Vec<(IpNet, String)> = self
            .in_force
            .overlapping(net)
            .map(|(cidr, pool)| (cidr, pool.clone()))
            .collect();
        for (cidr, pool) in pools {
            if let Some(book) = self.pools.get_mut(&pool) {
                change(book, &cidr);
            }
        }
    }

    fn count(&mut self, net: &IpNet, holder: &Holder, more: bool) {
        let Holder::Node { node, pool } = holder else { return };
        let tally = self.tallies.entry(pool.clone()).or_default();
        let size = addresses(net);
        let of = if net.addr().is_ipv4() {
            &mut tally.allocated.ipv4
        } else {
            &mut tally.allocated.ipv6
        };
        let here = tally.nodes.entry(node.clone()).or_default();
        for number in [of, here] {
            *number = if more {
                number.saturating_add(size)
            } else {
                number.saturating_sub(size)
            };
        }
        if tally.nodes.get(node) == Some(&0) {
            tally.nodes.remove(node);
        }
        self.dirty_pools.insert(pool.clone());
    }

    /// Has the node that waited longest decided again, if there is room now.
    fn wake(&mut self, pool: &str, ipv4: bool) {
        let has_room = self
            .pools
            .get(pool)
            .is_some_and(|book| book.find(ipv4, &BTreeSet::new()).is_some());
        let key = (pool.to_owned(), ipv4);
        if let Some(queue) = self.waiting.get_mut(&key).filter(|queue| has_room && !queue.is_empty()) {
            self.dirty_nodes.extend(queue.pop_front());
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Holder::Node { node, pool } => write!(f, "node {node} (IPPool {pool})"),
            Holder::Provider { node, pool } => write!(f, "the provider of IPPool {pool}, for node {node}"),
            Holder::Foreign(foreign) => write!(f, "{}", foreign.of),
        }
    }
}

#[cfg(test)]
mod tests;
