//! One pool in the controller's books: what its author wants, what is in force, what of it nobody holds, and what
//! its status says.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::Tally;
use crate::ipam::pool::Pool;
use crate::ipam::space::Free;
use crate::ipam::spec::{Condition, Count, IpPool, PoolSpec, PoolStatus};

/// How many nodes are named as those that have most of a pool.
const NAMED: usize = 3;

/// A pool.
#[derive(Clone, Debug)]
pub(super) struct Book {
    pub(super) object: IpPool,
    in_force: Option<(PoolSpec, Pool)>,
    /// By network; none of a provider's pool, whose addresses the provider chooses.
    free: BTreeMap<IpNet, Free>,
    /// Of the object's spec; absent while it has not been judged.
    verdict: Option<Verdict>,
}

/// What is thought of a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    accepted: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    pub(super) fn accepted() -> Self {
        Self {
            accepted: true,
            reason: "Valid",
            message: "the spec is in force".into(),
        }
    }

    pub(super) fn refused(reason: &'static str, message: String) -> Self {
        Self {
            accepted: false,
            reason,
            message,
        }
    }
}

impl Book {
    /// A pool, and what an earlier controller had put in force.
    pub(super) fn new(object: IpPool) -> (Self, Option<Pool>) {
        let earlier = object.status.in_force.clone();
        let pool = earlier.as_ref().and_then(|spec| Pool::new(&object.name, spec).ok());
        (
            Self {
                object,
                in_force: None,
                free: BTreeMap::new(),
                verdict: None,
            },
            pool,
        )
    }

    /// True where nodes are concerned. An older version than is known is ignored.
    pub(super) fn update(&mut self, object: IpPool) -> bool {
        if object.version <= self.object.version {
            return false;
        }
        let before = std::mem::replace(&mut self.object, object);
        if before.spec != self.object.spec {
            self.verdict = None;
        }
        before.spec != self.object.spec || before.deleting != self.object.deleting || before.held != self.object.held
    }

    pub(super) fn pool(&self) -> Option<&Pool> {
        self.in_force.as_ref().map(|(_, pool)| pool)
    }

    pub(super) fn has_provider(&self) -> bool {
        self.pool().is_some_and(|pool| pool.provider.is_some())
    }

    /// The pool, if it gives addresses; else why not and what to do. Before its finalizer is on, it could vanish
    /// from under them.
    pub(super) fn open(&self) -> Result<&Pool, String> {
        let name = &self.object.name;
        if self.object.deleting {
            return Err(format!("IPPool {name} is being deleted; use another"));
        }
        match (self.pool(), &self.verdict) {
            (Some(pool), _) if self.object.held => Ok(pool),
            (None, Some(verdict)) => Err(verdict.message.clone()),
            _ => Err(format!("IPPool {name} is not in force yet; wait a moment")),
        }
    }

    /// A pool in deletion is beyond judging.
    pub(super) fn is_judged(&self) -> bool {
        self.verdict.is_some() || self.object.deleting
    }

    pub(super) fn is_refused(&self) -> bool {
        self.verdict.as_ref().is_some_and(|verdict| !verdict.accepted)
    }

    pub(super) fn reconsider(&mut self) {
        self.verdict = None;
    }

    pub(super) fn set_verdict(&mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }

    /// Keeps what is known of networks that stay.
    pub(super) fn enforce(&mut self, pool: Pool) {
        let mut before = std::mem::take(&mut self.free);
        if pool.provider.is_none() {
            let free = |cidr: &IpNet| (*cidr, before.remove(cidr).unwrap_or_else(|| Free::new(cidr)));
            self.free = pool.cidrs.iter().map(free).collect();
        }
        // What a controller before this one put in force is not what the object's spec has become since.
        let earlier = self.object.status.in_force.as_ref().filter(|_| self.in_force.is_none());
        let spec = match earlier.filter(|spec| Pool::new(&self.object.name, spec).as_ref() == Ok(&pool)) {
            Some(spec) => spec.clone(),
            None => self.object.spec.clone(),
        };
        self.in_force = Some((spec, pool));
    }

    pub(super) fn take(&mut self, cidr: &IpNet, net: &IpNet) {
        if let Some(free) = self.free.get_mut(cidr) {
            free.take(net);
        }
    }

    pub(super) fn give(&mut self, cidr: &IpNet, net: &IpNet) {
        if let Some(free) = self.free.get_mut(cidr) {
            free.give(net);
        }
    }

    pub(super) fn go_on_behind(&mut self, block: &IpNet) {
        for (_, free) in self.free.iter_mut().filter(|(cidr, _)| cidr.contains(block)) {
            free.go_on_behind(block);
        }
    }

    /// A block that nobody holds, other than these.
    pub(super) fn find(&self, ipv4: bool, not: &BTreeSet<IpNet>) -> Option<IpNet> {
        let prefix = self.pool()?.block_prefix(ipv4);
        let networks = self.free.iter().filter(|(cidr, _)| cidr.addr().is_ipv4() == ipv4);
        networks.map(|(_, free)| free).find_map(|free| {
            let found = free.find(prefix)?;
            if !not.contains(&found) {
                return Some(found);
            }
            let mut without = free.clone();
            not.iter().for_each(|net| without.take(net));
            without.find(prefix)
        })
    }

    /// What the status is to say. `problem` is what else is wrong with it.
    pub(super) fn status(&self, tally: &Tally, problem: Option<String>) -> PoolStatus {
        let judged = match &self.verdict {
            Some(_) => self.object.generation,
            None => self.object.status.observed_generation,
        };
        let accepted = match &self.verdict {
            Some(Verdict {
                accepted,
                reason,
                message,
            }) => condition("Accepted", *accepted, reason, message.clone()),
            None => condition("Accepted", true, "Valid", "the spec is in force".into()),
        };
        PoolStatus {
            observed_generation: judged,
            in_force: self.in_force.as_ref().map(|(spec, _)| spec.clone()),
            capacity: self.pool().map(Pool::capacity).unwrap_or_default(),
            allocated: tally.allocated,
            nodes: tally.nodes.len() as u32,
            conditions: vec![accepted, self.readiness(tally, problem)],
        }
    }

    fn readiness(&self, tally: &Tally, problem: Option<String>) -> Condition {
        let refused = self.verdict.as_ref().filter(|verdict| !verdict.accepted);
        if self.object.deleting {
            let message = match tally.nodes.is_empty() {
                true => "it is going".to_owned(),
                false => format!("deleted, but {} use it; it goes with their last pods", tally.most()),
            };
            return condition("Ready", false, "Deleting", message);
        }
        let Some(pool) = self.pool() else {
            let message = refused.map_or_else(
                || "it has not been judged yet".to_owned(),
                |verdict| verdict.message.clone(),
            );
            return condition(
                "Ready",
                false,
                refused.map_or("Pending", |verdict| verdict.reason),
                message,
            );
        };
        if let Some(problem) = problem {
            return condition("Ready", false, "Trouble", problem);
        }
        let full = [true, false].into_iter().find(|ipv4| {
            pool.provider.is_none() && pool.has_family(*ipv4) && self.find(*ipv4, &BTreeSet::new()).is_none()
        });
        match (full, refused) {
            (Some(ipv4), _) => condition("Ready", false, "Full", tally.full(pool, ipv4)),
            (None, Some(verdict)) => condition("Ready", true, "EditRefused", verdict.message.clone()),
            (None, None) => condition("Ready", true, "InForce", "gives addresses".into()),
        }
    }
}

fn condition(type_: &str, status: bool, reason: &str, message: String) -> Condition {
    Condition {
        type_: type_.into(),
        status: if status { "True" } else { "False" }.into(),
        reason: reason.into(),
        message,
        last_transition_time: String::new(),
    }
}

impl Tally {
    /// What is said where a pool has no block left.
    pub(super) fn full(&self, pool: &Pool, ipv4: bool) -> String {
        let family = if ipv4 { "IPv4" } else { "IPv6" };
        let Count { ipv4: v4, ipv6: v6 } = self.allocated;
        let (taken, all) = (if ipv4 { v4 } else { v6 }, pool.capacity().of(ipv4));
        format!(
            "IPPool {} is full: {taken} of {all} {family} addresses are with {}; add a network to spec.cidrs, lower spec.preAllocate, or delete pods",
            pool.name,
            self.most()
        )
    }

    /// How many nodes have of it, and which have most.
    fn most(&self) -> String {
        let mut nodes: Vec<(&String, &u64)> = self.nodes.iter().collect();
        let order = |(name, count): &(&String, &u64)| (Reverse(**count), (*name).clone());
        if nodes.len() > NAMED {
            nodes.select_nth_unstable_by_key(NAMED, order);
        }
        let count = nodes.len();
        nodes.truncate(NAMED);
        nodes.sort_by_key(order);
        let named: Vec<String> = nodes
            .iter()
            .take(NAMED)
            .map(|(name, count)| format!("{name}: {count}"))
            .collect();
        match count {
            0 => "nobody".into(),
            1 => format!("one node ({})", named.join(", ")),
            count if count <= NAMED => format!("{count} nodes ({})", named.join(", ")),
            count => format!("{count} nodes ({}, …)", named.join(", ")),
        }
    }
}
