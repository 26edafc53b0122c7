//! What the controller decides: which node gets which block of which pool, and when one it gave back may go to
//! another. Work is in proportion to what changed.
//!
//! The books hold what the objects say, and what has been decided but is not known to be written. Everything can be
//! read again from the objects, so a controller that starts, or takes over, loses nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

use ipnet::IpNet;

use super::judge::{Book, Verdict};
use super::node::by_pool;
use super::pool::{Pool, addresses, overlap};
use super::space::Holdings;
use super::spec::{Count, IpPool, NodeAddresses, NodeAddressesSpec, PoolStatus, Refusal};
use crate::selector::Labels;

/// Who holds a part of the address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holder {
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

/// A write that is to be made: the spec of one node's object, at the version it was decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The object as it was.
    pub at: NodeAddresses,
    /// What its spec is to be.
    pub spec: NodeAddressesSpec,
}

/// What a provider is to be asked for, on behalf of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// The pool.
    pub pool: String,
    /// Blocks of each family.
    pub blocks: Count,
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
pub(super) struct Tally {
    pub(super) allocated: Count,
    /// Addresses of each node.
    pub(super) nodes: BTreeMap<String, u64>,
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

    /// Nodes for which something may have to be decided, since this was asked last.
    pub fn take_dirty_nodes(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.dirty_nodes)
    }

    /// Has a node decided again: after every answer to a write, for what came meanwhile had to wait.
    pub fn reconsider(&mut self, name: &str) {
        self.dirty_nodes.insert(name.to_owned());
    }

    /// What is to be written for a node; `None` where its object says it already. Asked again before the answer to
    /// the write has been taken in, it is the same: what failed is safely tried again.
    pub fn decide(&mut self, name: &str) -> Option<Grant> {
        let book = self.nodes.get_mut(name)?;
        book.short.clear();
        let at = book.object.clone()?;
        if let Some(spec) = book.pending.clone() {
            return Some(Grant { at, spec });
        }
        let mut draft = Draft::new(&at);
        if let Some(labels) = book.labels.clone() {
            for ip in &at.status.wanted {
                self.grant_address(&mut draft, &labels, *ip);
            }
            for request in &at.status.requested {
                for (ipv4, want) in [(true, request.ipv4), (false, request.ipv6)] {
                    self.grant_blocks(&mut draft, &labels, &request.pool, ipv4, want);
                }
            }
        }
        let spec = NodeAddressesSpec {
            allocated: by_pool(draft.blocks.iter().map(|(cidr, pool)| (pool, *cidr))),
            refused: draft
                .refused
                .into_iter()
                .map(|(pool, message)| Refusal { pool, message })
                .collect(),
        };
        let book = self.nodes.get_mut(name)?;
        book.short = draft.short;
        if spec == at.spec {
            return None;
        }
        book.pending = Some(spec.clone());
        Some(Grant { at, spec })
    }

    /// What providers are to be asked for, as the last decision about this node found.
    pub fn shortfalls(&self, node: &str) -> &[Shortfall] {
        self.nodes.get(node).map_or(&[], |book| &book.short)
    }

    /// The block that holds one address which the node wants.
    fn grant_address(&mut self, draft: &mut Draft, labels: &Labels, ip: IpAddr) {
        if draft.blocks.keys().any(|cidr| cidr.contains(&ip)) {
            return;
        }
        match self.block_for(draft, labels, ip) {
            Ok((pool, block)) => self.give(draft, &pool, block),
            Err(why) => {
                self.longing.entry(ip).or_default().insert(draft.node.clone());
                draft.refused.insert(ip.to_string(), why);
            }
        }
    }

    /// The pool and block of an address, if the node may have it; else why not and what to do.
    fn block_for(&self, draft: &Draft, labels: &Labels, ip: IpAddr) -> Result<(String, IpNet), String> {
        let Some((_, name)) = self.in_force.overlapping(&IpNet::from(ip)).next() else {
            return Err("no IPPool in force has it; ask for an address of one (`kubectl get ippools`)".into());
        };
        let pool = self.open(name, labels)?;
        let block = pool.block_of(ip).unwrap_or_else(|| ip.into());
        if draft.releasing.contains(&block) {
            return Err("the node is giving its block back; it comes again in a moment".into());
        }
        let offer = Holder::Provider {
            node: draft.node.clone(),
            pool: name.clone(),
        };
        let mut holders = self.held.overlapping(&block).map(|(_, holder)| holder).peekable();
        let offered = holders.peek().is_some();
        if let Some(holder) = holders.find(|holder| **holder != offer) {
            return Err(format!(
                "it is with {holder}; ask for another address, or free that one"
            ));
        }
        if pool.provider.is_some() && !offered {
            let why = "chooses addresses itself; leave out the annotation weft.dev/ip";
            return Err(format!("the provider of IPPool {name} {why}"));
        }
        Ok((name.clone(), block))
    }

    /// Blocks of one pool and family until the node has as many addresses as it wants.
    fn grant_blocks(&mut self, draft: &mut Draft, labels: &Labels, name: &str, ipv4: bool, want: u64) {
        let mut have = draft.addresses(name, ipv4);
        if have >= want {
            return;
        }
        let pool = match self.open(name, labels) {
            Ok(pool) => pool.clone(),
            Err(why) => {
                draft.refused.insert(name.to_owned(), why);
                return;
            }
        };
        while have < want {
            let Some(block) = self.next_block(draft, &pool, ipv4) else {
                self.fall_short(draft, &pool, ipv4, want - have);
                break;
            };
            self.give(draft, name, block);
            have += addresses(&block);
        }
        self.wake(name, ipv4);
    }

    /// Of a provider's pool only what it has offered.
    fn next_block(&self, draft: &Draft, pool: &Pool, ipv4: bool) -> Option<IpNet> {
        if pool.provider.is_some() {
            let offered = &self.nodes.get(&draft.node)?.offered;
            let fits = |(cidr, of): &(&IpNet, &String)| {
                **of == pool.name
                    && cidr.addr().is_ipv4() == ipv4
                    && !draft.releasing.contains(*cidr)
                    && !draft.had.contains(*cidr)
            };
            return offered.iter().find(fits).map(|(cidr, _)| *cidr);
        }
        self.pools.get(&pool.name)?.find(ipv4, &draft.releasing)
    }

    fn fall_short(&mut self, draft: &mut Draft, pool: &Pool, ipv4: bool, missing: u64) {
        let family = if ipv4 { "IPv4" } else { "IPv6" };
        if pool.provider.is_some() {
            let key = (pool.name.clone(), draft.node.clone());
            if pool.has_family(ipv4) {
                let bits = if ipv4 { 32 } else { 128 } - pool.block_prefix(ipv4);
                draft.fall_short(&pool.name, ipv4, missing.div_ceil(1 << bits));
            }
            if let Some(why) = self.trouble.get(&key) {
                draft.refused.insert(pool.name.clone(), why.clone());
            }
            return;
        }
        let message = match pool.has_family(ipv4) {
            false => format!("IPPool {} has no {family} network; add one to spec.cidrs", pool.name),
            true => {
                let queue = self.waiting.entry((pool.name.clone(), ipv4)).or_default();
                if !queue.contains(&draft.node) {
                    queue.push_back(draft.node.clone());
                }
                let tally = self.tallies.get(&pool.name).cloned().unwrap_or_default();
                tally.full(pool, ipv4)
            }
        };
        draft.refused.insert(pool.name.clone(), message);
        self.dirty_pools.insert(pool.name.clone());
    }

    fn give(&mut self, draft: &mut Draft, pool: &str, block: IpNet) {
        self.hold(
            block,
            Holder::Node {
                node: draft.node.clone(),
                pool: pool.to_owned(),
            },
        );
        if let Some(book) = self.nodes.get_mut(&draft.node) {
            book.held.insert(block, pool.to_owned());
            book.offered.remove(&block);
        }
        self.held.remove(
            &block,
            &Holder::Provider {
                node: draft.node.clone(),
                pool: pool.to_owned(),
            },
        );
        if let Some(book) = self.pools.get_mut(pool) {
            book.go_on_behind(&block);
        }
        draft.blocks.insert(block, pool.to_owned());
    }

    /// The pool, if nodes with these labels may have more of it; else why not and what to do.
    fn open(&self, name: &str, labels: &Labels) -> Result<&Pool, String> {
        let book = self
            .pools
            .get(name)
            .ok_or_else(|| format!("there is no IPPool {name}; create it"))?;
        let pool = book.open()?;
        match pool.serves_node(labels) {
            true => Ok(pool),
            false => Err(format!(
                "IPPool {name} is for other nodes: its spec.nodeSelector does not match this one's labels"
            )),
        }
    }

    /// A provider has assigned a block to a node. What it must not have assigned is refused, with the reason.
    pub fn offer(&mut self, pool: &str, node: &str, cidr: IpNet) -> Result<(), String> {
        let found = self.pools.get(pool).and_then(Book::pool);
        let found = found.ok_or_else(|| format!("there is no IPPool {pool} in force"))?;
        if !found.is_block(&cidr) {
            let sizes = found.block_size;
            return Err(format!(
                "{cidr} is no block (/{} or /{}) of its spec.cidrs",
                sizes.ipv4, sizes.ipv6
            ));
        }
        let mine = Holder::Provider {
            node: node.to_owned(),
            pool: pool.to_owned(),
        };
        if let Some((_, holder)) = self.held.overlapping(&cidr).find(|(_, holder)| **holder != mine) {
            return Err(format!("{cidr} is with {holder} already"));
        }
        self.hold(cidr, mine);
        let book = self.nodes.entry(node.to_owned()).or_default();
        book.offered.insert(cidr, pool.to_owned());
        self.dirty_nodes.insert(node.to_owned());
        Ok(())
    }

    /// Blocks of a provider's pool that are in no spec: to be released, unless the node is to have them after all.
    pub fn unused_offers(&self, node: &str) -> Vec<(String, IpNet)> {
        let Some(book) = self.nodes.get(node) else {
            return vec![];
        };
        book.offered
            .iter()
            .filter(|(cidr, _)| !book.held.contains_key(*cidr))
            .map(|(cidr, pool)| (pool.clone(), *cidr))
            .collect()
    }

    /// The provider has taken a block back.
    pub fn returned(&mut self, pool: &str, node: &str, cidr: IpNet) {
        if let Some(book) = self.nodes.get_mut(node) {
            book.offered.remove(&cidr);
        }
        self.release(
            cidr,
            &Holder::Provider {
                node: node.to_owned(),
                pool: pool.to_owned(),
            },
        );
    }

    /// Why a pool's provider gives nothing to a node; `None` once it does.
    pub fn set_trouble(&mut self, pool: &str, node: &str, why: Option<String>) {
        let key = (pool.to_owned(), node.to_owned());
        let changed = match why {
            Some(why) => self.trouble.insert(key, why.clone()).as_ref() != Some(&why),
            None => self.trouble.remove(&key).is_some(),
        };
        if changed {
            self.dirty_nodes.insert(node.to_owned());
            self.dirty_pools.insert(pool.to_owned());
        }
    }

    /// Blocks of a pool in the specs of nodes.
    pub fn blocks_of(&self, pool: &str) -> Vec<(String, IpNet)> {
        let tally = self.tallies.get(pool);
        let nodes = tally
            .into_iter()
            .flat_map(|tally| tally.nodes.keys())
            .filter_map(|node| self.nodes.get_key_value(node));
        let blocks = nodes.flat_map(|(node, book)| book.held.iter().map(move |(cidr, of)| (node, cidr, of)));
        blocks
            .filter(|(_, _, of)| *of == pool)
            .map(|(node, cidr, _)| (node.clone(), *cidr))
            .collect()
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

/// Pools: which are in force, and what is said about them.
impl Ledger {
    /// Takes in an IPPool. An older version than is known is ignored.
    pub fn pool(&mut self, object: IpPool) {
        let name = object.name.clone();
        let Some(book) = self.pools.get_mut(&name) else {
            let (book, earlier) = Book::new(object);
            self.pools.insert(name.clone(), book);
            if let Some(earlier) = earlier {
                self.enforce(&name, earlier);
            }
            self.dirty_pools.insert(name);
            return;
        };
        if book.update(object) {
            self.dirty_askers(&name);
        }
        self.dirty_pools.insert(name);
    }

    /// Has every node that asks for a pool decided again.
    fn dirty_askers(&mut self, pool: &str) {
        let askers = self
            .nodes
            .iter()
            .filter(|(_, book)| book.asks_for(pool))
            .map(|(node, _)| node.clone());
        self.dirty_nodes.extend(askers);
    }

    /// An IPPool has gone. What nodes still have of it stays theirs.
    pub fn pool_gone(&mut self, name: &str) {
        let Some(book) = self.pools.remove(name) else { return };
        for cidr in book.pool().map(|pool| pool.cidrs.clone()).unwrap_or_default() {
            self.in_force.remove(&cidr, &name.to_owned());
        }
        self.trouble.retain(|(pool, _), _| pool != name);
        self.dirty_askers(name);
        self.judge_refused();
    }

    /// Pools whose state or numbers may have changed since this was asked last, the oldest first.
    pub fn take_dirty_pools(&mut self) -> Vec<String> {
        let mut dirty: Vec<String> = std::mem::take(&mut self.dirty_pools)
            .into_iter()
            .filter(|name| self.pools.contains_key(name))
            .collect();
        dirty.sort_by_key(|name| {
            self.pools
                .get(name)
                .map(|book| (book.object.created.clone(), name.clone()))
        });
        dirty
    }

    /// Judges a pool's spec, and puts it in force if nothing speaks against it.
    pub fn judge(&mut self, name: &str) {
        let Some(book) = self.pools.get(name).filter(|book| !book.is_judged()) else {
            return;
        };
        let verdict = match Pool::new(name, &book.object.spec) {
            Err(error) => Verdict::refused("Invalid", error.to_string()),
            Ok(pool) => match self.objection(&pool) {
                Some(verdict) => verdict,
                None => {
                    self.enforce(name, pool);
                    Verdict::accepted()
                }
            },
        };
        if let Some(book) = self.pools.get_mut(name) {
            book.set_verdict(verdict);
        }
        // Who was refused because of this pool may have better luck now.
        self.dirty_askers(name);
    }

    /// What speaks against a pool's new spec, whoever was first being right.
    fn objection(&self, pool: &Pool) -> Option<Verdict> {
        for cidr in &pool.cidrs {
            if let Some((other, name)) = self.in_force.overlapping(cidr).find(|(_, name)| **name != pool.name) {
                let message = format!(
                    "IPPool {}: spec.cidrs: {cidr} overlaps {other} of IPPool {name}, which was there first; take other addresses",
                    pool.name
                );
                return Some(Verdict::refused("Overlap", message));
            }
            let foreign = self.held.overlapping(cidr).find_map(|(net, holder)| match holder {
                Holder::Foreign(foreign) if !(foreign.is_node && pool.provider.is_some()) => Some((net, foreign)),
                _ => None,
            });
            if let Some((net, foreign)) = foreign {
                let message = format!(
                    "IPPool {}: spec.cidrs: {cidr} overlaps {net}, {}; take other addresses",
                    pool.name, foreign.of
                );
                return Some(Verdict::refused("Overlap", message));
            }
        }
        self.orphans(pool)
    }

    /// A change that would take addresses from under the nodes that have them.
    fn orphans(&self, pool: &Pool) -> Option<Verdict> {
        let before = self.pools.get(&pool.name)?.pool()?;
        let kept = "the earlier spec stays in force";
        let refuse = |field: &str, message: String| {
            Some(Verdict::refused(
                "InUse",
                format!("IPPool {}: {field}: {message}", pool.name),
            ))
        };
        for (node, block) in self.blocks_of(&pool.name) {
            if !pool.contains(&block.addr()) {
                let why = format!(
                    "node {node} has {block} of what was left out; {kept}. To empty it, move its pods to another pool or delete this one"
                );
                return refuse("spec.cidrs", why);
            }
            let ipv4 = block.addr().is_ipv4();
            if pool.block_prefix(ipv4) != before.block_prefix(ipv4) {
                let (old, new) = (before.block_prefix(ipv4), pool.block_prefix(ipv4));
                return refuse(
                    "spec.blockSize",
                    format!("cannot change from {old} to {new} while node {node} has {block}; {kept}"),
                );
            }
            if pool.provider != before.provider {
                return refuse(
                    "spec.provider",
                    format!("cannot change while node {node} has {block}; {kept}"),
                );
            }
        }
        None
    }

    /// Puts a pool in force, with what is held of its networks taken out.
    fn enforce(&mut self, name: &str, pool: Pool) {
        let Some(book) = self.pools.get_mut(name) else { return };
        let before = book.pool().map(|pool| pool.cidrs.clone()).unwrap_or_default();
        let cidrs = pool.cidrs.clone();
        book.enforce(pool);
        for cidr in before.iter().filter(|cidr| !cidrs.contains(cidr)) {
            self.in_force.remove(cidr, &name.to_owned());
        }
        for cidr in cidrs.iter().filter(|cidr| !before.contains(cidr)) {
            self.in_force.insert(*cidr, name.to_owned());
            for (net, _) in self.held.overlapping(cidr) {
                book.take(cidr, &net);
            }
        }
        if before.iter().any(|cidr| !cidrs.contains(cidr)) {
            self.judge_refused();
        }
    }

    /// Has every pool that was refused judged again.
    fn judge_refused(&mut self) {
        for (name, book) in &mut self.pools {
            if book.is_refused() {
                book.reconsider();
                self.dirty_pools.insert(name.clone());
            }
        }
    }

    /// What a pool's status is to be, and whether its finalizer is to be put on (`true`) or taken off. Condition
    /// times are left to who writes it.
    pub fn pool_status(&self, name: &str) -> Option<(IpPool, PoolStatus, Option<bool>)> {
        let book = self.pools.get(name)?;
        let tally = self.tallies.get(name).cloned().unwrap_or_default();
        let clash = book.pool().and_then(|pool| {
            self.clashes
                .iter()
                .find(|(net, _)| pool.contains(&net.addr()))
                .map(|(_, message)| message.clone())
        });
        let from = (name.to_owned(), String::new());
        let trouble = self
            .trouble
            .range(from..)
            .next()
            .filter(|((pool, _), _)| pool == name)
            .map(|(_, why)| why.clone());
        let offered = self
            .nodes
            .values()
            .any(|node| book.object.deleting && node.offered.values().any(|pool| pool == name));
        let finalizer = match book.object.deleting {
            true => (book.object.held && tally.nodes.is_empty() && !offered).then_some(false),
            false => (!book.object.held && book.pool().is_some()).then_some(true),
        };
        Some((book.object.clone(), book.status(&tally, clash.or(trouble)), finalizer))
    }

    /// The pool in force under this name.
    pub fn in_force(&self, name: &str) -> Option<&Pool> {
        self.pools.get(name)?.pool()
    }

    /// Names of the pools that have providers.
    pub fn provider_pools(&self) -> Vec<String> {
        self.pools
            .iter()
            .filter(|(_, book)| book.has_provider())
            .map(|(name, _)| name.clone())
            .collect()
    }
}

impl NodeBook {
    fn asks_for(&self, pool: &str) -> bool {
        let status = self.object.as_ref().map(|object| &object.status);
        status.is_some_and(|status| {
            !status.wanted.is_empty() || status.requested.iter().any(|request| request.pool == pool)
        })
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

/// A node's spec in the making.
struct Draft {
    node: String,
    blocks: BTreeMap<IpNet, String>,
    /// Blocks that the node had.
    had: BTreeSet<IpNet>,
    /// Blocks that the node does not give from any more: it must not get them again before it has forgotten them.
    releasing: BTreeSet<IpNet>,
    refused: BTreeMap<String, String>,
    short: Vec<Shortfall>,
}

impl Draft {
    /// What the node has, less what it gives back.
    fn new(at: &NodeAddresses) -> Self {
        let releasing: BTreeSet<IpNet> = at
            .status
            .releasing
            .iter()
            .flat_map(|of| of.cidrs.iter().copied())
            .collect();
        let had = at
            .spec
            .allocated
            .iter()
            .flat_map(|of| of.cidrs.iter().map(|cidr| (cidr.trunc(), of.pool.clone())));
        let had: BTreeMap<IpNet, String> = had.collect();
        Self {
            node: at.node.clone(),
            had: had.keys().copied().collect(),
            blocks: had.into_iter().filter(|(cidr, _)| !releasing.contains(cidr)).collect(),
            releasing,
            refused: BTreeMap::new(),
            short: vec![],
        }
    }

    fn addresses(&self, pool: &str, ipv4: bool) -> u64 {
        let of = self
            .blocks
            .iter()
            .filter(|(cidr, of)| *of == pool && cidr.addr().is_ipv4() == ipv4);
        of.map(|(cidr, _)| addresses(cidr)).sum()
    }

    fn fall_short(&mut self, pool: &str, ipv4: bool, blocks: u64) {
        if !self.short.iter().any(|short| short.pool == pool) {
            self.short.push(Shortfall {
                pool: pool.to_owned(),
                blocks: Count::default(),
            });
        }
        for short in self.short.iter_mut().filter(|short| short.pool == pool) {
            *(if ipv4 {
                &mut short.blocks.ipv4
            } else {
                &mut short.blocks.ipv6
            }) = blocks;
        }
    }
}
