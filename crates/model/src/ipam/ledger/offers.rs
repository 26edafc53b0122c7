//! Pools with providers: what to ask them for, what they offered, and what goes back to them.

use ipnet::IpNet;

use super::{Book, Holder, Ledger};
use crate::ipam::spec::Count;

/// What a provider is to be asked for, on behalf of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// The pool.
    pub pool: String,
    /// Blocks of each family.
    pub blocks: Count,
}

impl Ledger {
    /// Names of the pools that have providers.
    pub fn provider_pools(&self) -> Vec<String> {
        self.pools
            .iter()
            .filter(|(_, book)| book.has_provider())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// What providers are to be asked for, as the last decision about this node found.
    pub fn shortfalls(&self, node: &str) -> &[Shortfall] {
        self.nodes.get(node).map_or(&[], |book| &book.short)
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
        // One that is being deleted waits for just that.
        self.dirty_pools.insert(pool.to_owned());
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

    /// Blocks of a pool in the spec of one node, or about to be.
    pub fn blocks_of_node(&self, pool: &str, node: &str) -> Vec<IpNet> {
        let held = self.nodes.get(node).into_iter().flat_map(|book| &book.held);
        held.filter(|(_, of)| *of == pool).map(|(cidr, _)| *cidr).collect()
    }

    /// Blocks of a pool in the specs of nodes, or about to be.
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
}
