//! Keeps what providers have assigned in step with what nodes need: one request at a time for each node and pool, so
//! that one node's trouble is nobody else's.
//!
//! Before a pool's provider is asked for anything, it is asked what it has assigned already: what an earlier
//! controller was given and wrote nowhere is used or given back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use ipnet::IpNet;
use tokio::task::JoinSet;
use tokio_util::time::DelayQueue;
use tracing::{info, warn};
use weft_model::ipam::Ledger;
use weft_model::ipam::spec::Count;
use weft_provider::{Assignment, Http, Provider, ProviderError};

/// The pause after a failure doubles from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is asked one at a time: for a pool as a whole (no node), or for one node of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Line {
    pool: String,
    node: String,
}

/// Something has come of a request, or a pause is over.
pub(super) struct Event(Happened);

enum Happened {
    Listed(Line, Result<Vec<Assignment>, ProviderError>),
    Assigned(Line, Count, Result<Vec<IpNet>, ProviderError>),
    Released(Line, Vec<IpNet>, Result<(), ProviderError>),
    Rested(Line),
}

/// Every provider that pools in force name.
#[derive(Default)]
pub(super) struct Providers {
    clients: HashMap<String, (String, Arc<dyn Provider>)>,
    /// Pools of which is known what their providers have assigned.
    listed: HashSet<String>,
    busy: HashSet<Line>,
    failures: HashMap<Line, u32>,
    under_way: JoinSet<Happened>,
    later: DelayQueue<Line>,
    /// Nodes that were looked at before their pool's provider had told what it has assigned.
    early: HashMap<String, HashSet<String>>,
}

impl Providers {
    /// The next event; never, while nothing is under way.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            tokio::select! {
                Some(done) = self.under_way.join_next() => match done {
                    Ok(done) => return Event(done),
                    Err(error) => warn!("a request to a provider was cut short: {error}"),
                },
                Some(rested) = self.later.next() => return Event(Happened::Rested(rested.into_inner())),
                else => std::future::pending().await,
            }
        }
    }

    /// Asks what each provider has assigned, once.
    pub(super) fn look_at_pools(&mut self, ledger: &mut Ledger) {
        let pools = ledger.provider_pools();
        self.clients.retain(|pool, _| pools.contains(pool));
        for pool in pools {
            let url = ledger
                .in_force(&pool)
                .and_then(|pool| pool.provider.clone())
                .unwrap_or_default();
            if self.clients.get(&pool).is_some_and(|(known, _)| *known == url) {
                continue;
            }
            match Http::new(&url) {
                Ok(client) => {
                    self.listed.remove(&pool);
                    self.clients.insert(pool.clone(), (url, Arc::new(client)));
                    self.list(&pool);
                }
                Err(error) => ledger.set_trouble(&pool, "", Some(format!("IPPool {pool}: {error}"))),
            }
        }
    }

    fn list(&mut self, pool: &str) {
        let line = Line {
            pool: pool.to_owned(),
            node: String::new(),
        };
        let Some((_, client)) = self.clients.get(pool).cloned() else {
            return;
        };
        if self.busy.insert(line.clone()) {
            self.under_way.spawn(async move {
                let listed = client.list(&line.pool).await;
                Happened::Listed(line, listed)
            });
        }
    }

    /// Gives back what a node does not need, or asks for what it lacks, as the books say after its last decision.
    pub(super) fn look_at_node(&mut self, ledger: &Ledger, node: &str) {
        let mut unused: HashMap<String, Vec<IpNet>> = HashMap::new();
        for (pool, cidr) in ledger.unused_offers(node) {
            unused.entry(pool).or_default().push(cidr);
        }
        for (pool, cidrs) in unused {
            let line = Line {
                pool,
                node: node.to_owned(),
            };
            let Some(client) = self.begin(&line) else { continue };
            self.under_way.spawn(async move {
                let released = client.release(&line.pool, &line.node, &cidrs).await;
                Happened::Released(line, cidrs, released)
            });
        }
        for short in ledger.shortfalls(node) {
            let line = Line {
                pool: short.pool.clone(),
                node: node.to_owned(),
            };
            let Some(client) = self.begin(&line) else { continue };
            let mut blocks = short.blocks;
            for cidr in ledger.blocks_of_node(&short.pool, node) {
                *(if cidr.addr().is_ipv4() {
                    &mut blocks.ipv4
                } else {
                    &mut blocks.ipv6
                }) += 1;
            }
            self.under_way.spawn(async move {
                let assigned = client.assign(&line.pool, &line.node, blocks).await;
                Happened::Assigned(line, blocks, assigned)
            });
        }
    }

    /// The provider of a line's pool, if it may be asked now.
    fn begin(&mut self, line: &Line) -> Option<Arc<dyn Provider>> {
        if !self.listed.contains(&line.pool) {
            self.early
                .entry(line.pool.clone())
                .or_default()
                .insert(line.node.clone());
            return None;
        }
        let (_, client) = self.clients.get(&line.pool)?.clone();
        self.busy.insert(line.clone()).then_some(client)
    }

    /// Takes in what has happened.
    pub(super) fn take_in(&mut self, ledger: &mut Ledger, Event(happened): Event) {
        match happened {
            Happened::Listed(line, Ok(assignments)) => {
                self.listed(ledger, &line.pool, &assignments);
                self.well(ledger, line);
            }
            Happened::Assigned(line, blocks, Ok(cidrs)) => match assigned(ledger, &line, blocks, &cidrs) {
                Ok(()) => self.well(ledger, line),
                Err(why) => self.trouble(ledger, line, why, None),
            },
            Happened::Released(line, cidrs, Ok(())) => {
                cidrs
                    .iter()
                    .for_each(|cidr| ledger.returned(&line.pool, &line.node, *cidr));
                info!(
                    node = line.node,
                    pool = line.pool,
                    "{} blocks went back to the provider",
                    cidrs.len()
                );
                self.well(ledger, line);
            }
            Happened::Listed(line, Err(error))
            | Happened::Assigned(line, _, Err(error))
            | Happened::Released(line, _, Err(error)) => {
                let pause = error.pause();
                self.trouble(ledger, line, error.to_string(), pause);
            }
            Happened::Rested(line) => {
                self.busy.remove(&line);
                match line.node.is_empty() {
                    true => self.list(&line.pool),
                    false => ledger.reconsider(&line.node),
                }
            }
        }
    }

    /// What is assigned is offered to its nodes; what they do not need goes back.
    fn listed(&mut self, ledger: &mut Ledger, pool: &str, assignments: &[Assignment]) {
        let mut known: HashSet<(String, IpNet)> = ledger.blocks_of(pool).into_iter().collect();
        for Assignment { node, cidrs } in assignments {
            for cidr in cidrs {
                if known.remove(&(node.clone(), *cidr)) {
                    continue;
                }
                if let Err(why) = ledger.offer(pool, node, *cidr) {
                    warn!("the provider of IPPool {pool} says that node {node} has {cidr}, which is left alone: {why}");
                }
            }
        }
        for (node, cidr) in known {
            warn!(
                "node {node} has {cidr} of IPPool {pool}, which its provider knows nothing of; \
                 assign it there, or delete the pods that use it"
            );
        }
        self.listed.insert(pool.to_owned());
        self.early
            .remove(pool)
            .into_iter()
            .flatten()
            .for_each(|node| ledger.reconsider(&node));
    }

    fn well(&mut self, ledger: &mut Ledger, line: Line) {
        ledger.set_trouble(&line.pool, &line.node, None);
        if !line.node.is_empty() {
            ledger.reconsider(&line.node);
        }
        self.failures.remove(&line);
        self.busy.remove(&line);
    }

    /// The line rests: longer at each failure, and at least as long as the provider asks for.
    fn trouble(&mut self, ledger: &mut Ledger, line: Line, why: String, at_least: Option<Duration>) {
        let count = self.failures.entry(line.clone()).or_default();
        *count += 1;
        let pause = FIRST_PAUSE.saturating_mul(1 << (*count - 1).min(10)).min(LONGEST_PAUSE);
        // Many that failed together do not come back together.
        let pause = pause
            .mul_f64(rand::random_range(0.5..1.0))
            .max(at_least.unwrap_or_default());
        if *count == 1 {
            warn!(node = line.node, pool = line.pool, "{why}");
        }
        ledger.set_trouble(&line.pool, &line.node, Some(format!("IPPool {}: {why}", line.pool)));
        self.later.insert(line, pause);
    }
}

/// Takes in what a node has been assigned. What it must not have been is left alone, and named.
fn assigned(ledger: &mut Ledger, line: &Line, blocks: Count, cidrs: &[IpNet]) -> Result<(), String> {
    let of_node = ledger
        .blocks_of(&line.pool)
        .into_iter()
        .filter(|(node, _)| *node == line.node);
    let known: HashSet<IpNet> = of_node.map(|(_, cidr)| cidr).collect();
    let mut new: Vec<&IpNet> = cidrs.iter().filter(|cidr| !known.contains(*cidr)).collect();
    new.sort();
    new.dedup();
    let count = new.len();
    let mut wrong = vec![];
    for cidr in new {
        if let Err(why) = ledger.offer(&line.pool, &line.node, *cidr) {
            wrong.push(why);
        }
    }
    match wrong.first() {
        Some(why) => Err(format!(
            "its provider assigned what cannot be used: {why}; correct the provider"
        )),
        None if count == 0 => Err(format!(
            "its provider has no more: node {} has {} blocks and needs {}; raise the provider's limit, or delete pods",
            line.node,
            known.len(),
            blocks.ipv4 + blocks.ipv6
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
