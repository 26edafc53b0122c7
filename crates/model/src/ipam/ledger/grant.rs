//! Which node gets which block: what it wants and asks for, out of what nobody holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::offers::Shortfall;
use super::{Holder, Ledger, Tally};
use crate::ipam::node::by_pool;
use crate::ipam::pool::{Pool, addresses};
use crate::ipam::spec::{Count, NodeAddresses, NodeAddressesSpec, Refusal};
use crate::selector::Labels;

/// A write that is to be made: the spec of one node's object, at the version it was decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The object as it was.
    pub at: NodeAddresses,
    /// What its spec is to be.
    pub spec: NodeAddressesSpec,
}

impl Ledger {
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
                let nothing = Tally::default();
                self.tallies.get(&pool.name).unwrap_or(&nothing).full(pool, ipv4)
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
