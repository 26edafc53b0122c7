//! The pools as this node sees them: which it may use, what it has of them, and waiting until there is more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::MutexGuard;
use std::time::Duration;

use weft_model::ipam::spec::DEFAULT_POOL;
use weft_model::ipam::{IpPool, NodeAddresses, NodePools, Pool, PoolsError};
use weft_model::selector::Labels;

use crate::agent::node::{Node, lock};

/// How long a pod waits where the controller has said why it gives no more: a moment, in case that has passed.
const PATIENCE_IF_REFUSED: Duration = Duration::from_secs(1);

/// What is known of pools.
#[derive(Debug, Default)]
pub(in crate::agent) struct Pools {
    book: NodePools,
    terms: BTreeMap<String, Terms>,
    /// The node's object as this run of the agent has last seen it; nothing is given before there is one.
    at: Option<NodeAddresses>,
    has_ranges: bool,
}

/// A pool, and what this node may do with it.
#[derive(Debug)]
enum Terms {
    /// The controller has not found it good, so nothing of it may be used; and why.
    Unusable(String),
    InForce {
        pool: Pool,
        closed: Option<String>,
    },
}

impl Pools {
    /// Takes in every pool there is, for a node with these labels.
    pub(in crate::agent) fn set_all<'a>(
        &mut self,
        pools: impl Iterator<Item = &'a IpPool>,
        labels: &Labels,
        has_ranges: bool,
    ) {
        self.has_ranges = has_ranges;
        let terms: BTreeMap<String, Terms> = pools.map(|pool| (pool.name.clone(), terms(pool, labels))).collect();
        for gone in self.terms.keys().filter(|name| !terms.contains_key(*name)) {
            self.book.remove_pool(gone);
        }
        self.terms = terms;
        self.tell_book();
    }

    /// Only a pool that is in use here, or would be by any pod, is kept in advance: a thousand nodes would otherwise
    /// hold back a buffer each of what one of them uses.
    fn tell_book(&mut self) {
        let used: BTreeSet<String> = self
            .book
            .status()
            .used
            .into_iter()
            .filter(|used| used.used > 0)
            .map(|used| used.pool)
            .collect();
        for (name, terms) in &self.terms {
            if let Terms::InForce { pool, closed } = terms {
                let by_any_pod = name == DEFAULT_POOL && !self.has_ranges;
                let buffered = by_any_pod || used.contains(name) || pool.min_allocate > 0;
                self.book.set_pool(pool.clone(), closed.clone(), buffered);
            }
        }
    }

    /// The pools that this node may use, by name.
    pub(in crate::agent) fn usable(&self) -> impl Iterator<Item = &Pool> {
        self.terms.values().filter_map(|terms| match terms {
            Terms::InForce { pool, closed: None } => Some(pool),
            _ => None,
        })
    }

    /// The pools that this node may not use, by name, and why.
    pub(in crate::agent) fn unusable(&self) -> impl Iterator<Item = (&str, &str)> {
        self.terms.iter().filter_map(|(name, terms)| match terms {
            Terms::Unusable(why) | Terms::InForce { closed: Some(why), .. } => Some((name.as_str(), why.as_str())),
            Terms::InForce { .. } => None,
        })
    }

    /// Whether there is anything to ask the controller for or to give back.
    pub(super) fn concern_us(&self) -> bool {
        !self.terms.is_empty() || self.at.is_some()
    }

    /// What this node has and wants.
    pub(in crate::agent) fn book(&self) -> &NodePools {
        &self.book
    }

    /// The node's object as it was last seen.
    pub(super) fn at(&self) -> Option<&NodeAddresses> {
        self.at.as_ref()
    }

    /// A run begins: what an earlier one was giving back is not given.
    pub(in crate::agent) fn open(&mut self, object: NodeAddresses) {
        self.book.resume(&object.status);
        self.book.set_allocated(&object.spec);
        self.at = Some(object);
        self.tell_book();
    }

    /// Takes in the object, where that is news: it is newer than what is known, or has gone. True where it was.
    pub(super) fn advance(&mut self, object: Option<&NodeAddresses>) -> bool {
        let news = match (&self.at, object) {
            (Some(at), Some(object)) => at.version < object.version,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if news {
            let spec = object.map(|object| object.spec.clone()).unwrap_or_default();
            self.book.set_allocated(&spec);
            self.at = object.cloned();
        }
        news
    }

    /// Chooses what is given back. To be called now and then only, so that a pool in brisk use keeps its buffer.
    pub(super) fn release_excess(&mut self) {
        if self.at.is_some() {
            self.tell_book();
            self.book.release_excess();
        }
    }

    /// See [`NodePools::allocate`].
    pub(super) fn allocate(&mut self, owner: &str, pool: &str) -> Result<Vec<IpAddr>, PoolsError> {
        if let Some(Terms::Unusable(why)) = self.terms.get(pool) {
            return Err(PoolsError::Closed {
                pool: pool.to_owned(),
                why: why.clone(),
            });
        }
        let given = self.book.allocate(owner, pool)?;
        self.tell_book();
        Ok(given)
    }

    /// See [`NodePools::allocate_fixed`].
    pub(super) fn allocate_fixed(&mut self, owner: &str, ips: &[IpAddr]) -> Result<(), PoolsError> {
        self.book.allocate_fixed(owner, ips)
    }

    /// See [`NodePools::reserve`].
    pub(super) fn reserve(&mut self, ip: IpAddr, owner: &str) -> Result<(), String> {
        self.book.reserve(ip, owner)
    }

    /// See [`NodePools::free`].
    pub(super) fn free(&mut self, owner: &str) -> usize {
        self.book.free(owner)
    }

    /// True where the controller has said why it does not give what an error asks for.
    fn has_refused(&self, error: &PoolsError) -> bool {
        let about = match error {
            PoolsError::Exhausted { pool, .. } => pool.clone(),
            PoolsError::Elsewhere { ip, .. } => ip.to_string(),
            _ => return false,
        };
        let refused = self.at.iter().flat_map(|at| &at.spec.refused);
        refused.into_iter().any(|refusal| refusal.pool == about)
    }
}

fn terms(pool: &IpPool, labels: &Labels) -> Terms {
    let ready = pool
        .status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready");
    let Some(in_force) = &pool.status.in_force else {
        let why = ready
            .map(|condition| condition.message.clone())
            .filter(|why| !why.is_empty());
        return Terms::Unusable(
            why.unwrap_or_else(|| "the controller has not looked at it; see that `weft controller` runs".into()),
        );
    };
    match Pool::new(&pool.name, in_force) {
        Err(error) => Terms::Unusable(error.to_string()),
        Ok(checked) => {
            let closed = match (pool.deleting, checked.serves_node(labels)) {
                (true, _) => Some("it is being deleted; name another, or create it anew".to_owned()),
                (false, false) => Some(
                    "its spec.nodeSelector leaves this node out; let the pod run on a node that it selects".to_owned(),
                ),
                (false, true) => None,
            };
            Terms::InForce { pool: checked, closed }
        }
    }
}

impl Node {
    /// What is known of pools.
    pub(in crate::agent) fn pools(&self) -> MutexGuard<'_, Pools> {
        lock(&self.pools)
    }

    /// Says that this node may want more or less than it did.
    pub(in crate::agent) fn demand_changed(&self) {
        self.demand.notify_one();
    }

    /// Tries until it gets something, and again whenever the controller has given or a pod has gone; not for ever.
    pub(super) async fn when_granted<T>(
        &self,
        mut attempt: impl FnMut(&mut Pools) -> Result<T, PoolsError>,
    ) -> Result<T, PoolsError> {
        let started = tokio::time::Instant::now();
        let mut granted = self.granted.subscribe();
        loop {
            granted.borrow_and_update();
            let (error, patience) = {
                let mut pools = self.pools();
                match attempt(&mut pools) {
                    Ok(given) => {
                        drop(pools);
                        self.demand_changed();
                        return Ok(given);
                    }
                    Err(error @ (PoolsError::NoPool { .. } | PoolsError::Closed { .. })) => return Err(error),
                    Err(error) if pools.has_refused(&error) => (error, PATIENCE_IF_REFUSED),
                    Err(error) => (error, self.patience),
                }
            };
            self.demand_changed();
            let more = tokio::time::timeout_at(started + patience, granted.changed());
            if !matches!(more.await, Ok(Ok(()))) {
                return Err(error);
            }
        }
    }
}
