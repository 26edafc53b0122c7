//! Which pools are in force, what speaks against the others, and what is said about them.

use super::book::Verdict;
use super::{Book, Holder, Ledger, NodeBook, Tally};
use crate::ipam::pool::Pool;
use crate::ipam::spec::{IpPool, PoolStatus};

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
    pub(super) fn judge_refused(&mut self) {
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
        let nothing = Tally::default();
        let tally = self.tallies.get(name).unwrap_or(&nothing);
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
        let offered = || {
            self.nodes
                .values()
                .any(|node| node.offered.values().any(|pool| pool == name))
        };
        let finalizer = match book.object.deleting {
            true => (book.object.held && tally.nodes.is_empty() && !offered()).then_some(false),
            false => (!book.object.held && book.pool().is_some()).then_some(true),
        };
        Some((book.object.clone(), book.status(tally, clash.or(trouble)), finalizer))
    }

    /// The pool in force under this name.
    pub fn in_force(&self, name: &str) -> Option<&Pool> {
        self.pools.get(name)?.pool()
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
