//! From what the API server says to what is in the kernel: applies each change, compiles what it touched, and takes
//! the steps that follow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};
use weft_dataplane::memory;
use weft_dataplane::net::Watch;
use weft_model::ipam::{Overlap, overlap};
use weft_model::{Change, Dirty, State};

use super::balancers::Health;
use super::node::Node;
use super::outside::Outside;
use super::routes::Routes;
use super::services::Services;

/// How often the kernel is compared with what is wanted, although it has told of no change.
const CHECK: Duration = Duration::from_secs(30);
/// How often it is asked whether somebody has changed the kernel's nftables, and what it has learnt of the way to other
/// nodes: two short questions.
const RULES: Duration = Duration::from_secs(1);
/// How many changes are taken in before the kernel is looked after.
const BATCH: usize = 256;

/// Follows the cluster for ever.
pub(super) async fn follow(node: Arc<Node>, mut changes: mpsc::Receiver<Change>) {
    let mut follower = Follower {
        state: State::new(node.name.clone()),
        services: Services::new(node.clone()),
        health: Health::start(),
        routes: Routes::new(node.clone()),
        outside: Outside::new(node.clone()),
        overlaps: BTreeMap::new(),
        node,
    };
    let mut kernel = match Watch::start() {
        Ok(kernel) => Some(kernel),
        Err(error) => {
            warn!(
                "{error}; what others change in the kernel is only noticed every {} s",
                CHECK.as_secs()
            );
            None
        }
    };
    let mut batch = Vec::with_capacity(BATCH);
    let mut rules = tokio::time::interval(RULES);
    rules.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut check = tokio::time::interval(CHECK);
    check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            count = changes.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return;
                }
                let dirty: Vec<Dirty> = batch.drain(..).flat_map(|change| follower.state.apply(change)).collect();
                follower.take_in(dirty).await;
            }
            () = changed(&mut kernel) => follower.look_after().await,
            _ = rules.tick() => follower.look_at_what_is_not_told().await,
            _ = check.tick() => {
                follower.look_after().await;
                memory::give_back();
            }
        }
    }
}

/// Returns when somebody has changed the kernel's network.
async fn changed(kernel: &mut Option<Watch>) {
    match kernel {
        Some(kernel) => kernel.changed().await,
        None => std::future::pending().await,
    }
}

struct Follower {
    node: Arc<Node>,
    state: State,
    services: Services,
    health: Health,
    routes: Routes,
    outside: Outside,
    /// What the node's ranges share addresses with.
    overlaps: BTreeMap<Dirty, Overlap>,
}

impl Follower {
    async fn take_in(&mut self, mut dirty: Vec<Dirty>) {
        dirty.sort();
        dirty.dedup();
        let own = &self.node.name;
        if dirty.contains(&Dirty::Node(own.clone())) {
            self.local_node();
        }
        if dirty.contains(&Dirty::Node(own.clone())) || dirty.iter().any(|key| matches!(key, Dirty::Pool(_))) {
            self.pools();
        }
        if dirty.contains(&Dirty::NodeAddresses(own.clone())) {
            self.node.take_in_addresses(self.state.node_addresses(own));
        }
        // Until all is known, what is missing here may only not have been told yet: the kernel keeps what it has.
        if !self.state.synced() {
            return;
        }
        if dirty.contains(&Dirty::Synced) {
            self.first_pass().await;
            return;
        }
        self.overlaps(&dirty);
        let (mut nodes, mut ranges) = (vec![], false);
        for key in dirty {
            match key {
                Dirty::Service(key) => {
                    self.services.change(&self.state, &key);
                    self.health.service(&self.state, &key);
                }
                Dirty::Node(name) | Dirty::NodeAddresses(name) => nodes.push(name),
                Dirty::ServiceCidr(_) => ranges = true,
                Dirty::Pod(_) | Dirty::Pool(_) | Dirty::Synced => {}
            }
        }
        if ranges || !nodes.is_empty() {
            self.outside.ranges(&self.state);
        }
        self.health.node(&self.state);
        self.routes.changed(&self.state, nodes).await;
        self.note();
    }

    /// What the node itself says: its addresses and its pods' ranges.
    fn local_node(&self) {
        let local = self.state.node(&self.node.name);
        let cidrs = local.map(|node| node.pod_cidrs.clone()).unwrap_or_default();
        let mut ipam = self.node.ipam();
        // Ranges that are taken back stay in use until others come: the pods in them are alive.
        if !cidrs.is_empty() || local.is_none() {
            ipam.set_ranges(&cidrs);
        }
        drop(ipam);
        self.node.ready.send_if_modified(|ready| {
            let before = ready.clone();
            ready.known = local.is_some();
            ready.node_ips = local.map(|node| node.internal_ips.clone()).unwrap_or_default();
            *ready != before
        });
    }

    /// Refuses to give what may be somebody else's.
    fn overlaps(&mut self, dirty: &[Dirty]) {
        let all;
        let keys = match dirty.contains(&Dirty::Node(self.node.name.clone())) {
            true => {
                all = overlap::candidates(&self.state);
                self.overlaps.clear();
                &all
            }
            false => dirty,
        };
        for key in keys {
            match overlap::with(&self.state, key) {
                Some(found) => drop(self.overlaps.insert(key.clone(), found)),
                None => drop(self.overlaps.remove(key)),
            }
        }
        let first = self.overlaps.values().next();
        let mut ipam = self.node.ipam();
        if ipam.refused() != first {
            match first {
                Some(overlap) => {
                    warn!("{overlap}: no pod gets an address of this node's pod CIDRs until one is corrected")
                }
                None => info!("the node's pod CIDRs overlap nothing any more"),
            }
            ipam.refuse(first.cloned());
        }
    }

    /// Which pools this node may use, and so whether it has addresses for pods at all.
    fn pools(&self) {
        let labels = self
            .state
            .node(&self.node.name)
            .map(|node| node.labels.clone())
            .unwrap_or_default();
        let has_ranges = self.node.ipam().has_ranges();
        let mut pools = self.node.pools();
        pools.set_all(self.state.pools(), &labels, has_ranges);
        let has_addresses = has_ranges || pools.usable().next().is_some();
        drop(pools);
        self.node.demand_changed();
        self.node
            .ready
            .send_if_modified(|ready| std::mem::replace(&mut ready.has_addresses, has_addresses) != has_addresses);
    }

    /// The one full pass: everything wanted against everything that is in the kernel.
    async fn first_pass(&mut self) {
        self.overlaps(&[Dirty::Node(self.node.name.clone())]);
        self.outside.ranges(&self.state);
        self.services.replace(&self.state);
        self.health.synced(&self.state);
        self.look_after().await;
        self.node.ready.send_modify(|ready| ready.synced = true);
    }

    /// Tries again what failed, and compares routes with the kernel's.
    async fn look_after(&mut self) {
        self.health.retry();
        if !self.state.synced() {
            return;
        }
        self.services.retry(&self.state);
        if self.services.is_well()
            && let Err(error) = self.node.datapath().settle()
        {
            warn!("{error}; services stay with the maps of the version before until it works");
        }
        self.routes.look(&self.state).await;
        self.outside.look(&self.state).await;
        self.note();
    }

    /// Puts back what somebody has flushed, and takes in what routers have said.
    async fn look_at_what_is_not_told(&mut self) {
        self.health.alive();
        if self.state.synced() {
            self.node.look_at_service_rules();
            self.routes.masquerade().await;
            self.routes.look_at_ways(&self.state).await;
        }
    }

    /// What the report says about all this.
    fn note(&self) {
        self.services.report(&self.state);
        self.node.progress().health_errors = self.health.problems();
        if self.node.datapath().take_released() {
            self.node.released.notify_one();
        }
    }
}
