//! From what the API server says to what is in the kernel: applies each change, compiles what it touched, and takes
//! the steps that follow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};
use weft_dataplane::net::{masquerade, routes};
use weft_model::compile::Masquerade;
use weft_model::desired::{self, Step, Wanted};
use weft_model::ipam::{Overlap, overlap};
use weft_model::{Backend, Change, Dirty, Frontend, ObjectKey, State, compile};

use super::node::Node;

/// How often the kernel's routes are compared with what is wanted: a link that went down and up has lost its own.
const CHECK_ROUTES: Duration = Duration::from_secs(5);
/// How many changes are taken in before the kernel is looked after.
const BATCH: usize = 256;

/// Follows the cluster for ever.
pub(super) async fn follow(node: Arc<Node>, mut changes: mpsc::Receiver<Change>) {
    let mut follower = Follower {
        state: State::new(node.name.clone()),
        services: Wanted::default(),
        routes: Wanted::default(),
        masquerade: None,
        failed: BTreeMap::new(),
        overlaps: BTreeMap::new(),
        node,
    };
    let mut batch = Vec::with_capacity(BATCH);
    let mut check = tokio::time::interval(CHECK_ROUTES);
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
            _ = check.tick() => follower.look_after().await,
        }
    }
}

struct Follower {
    node: Arc<Node>,
    state: State,
    services: Wanted<ObjectKey, Frontend, Vec<Backend>>,
    routes: Wanted<String, ipnet::IpNet, compile::NextHop>,
    /// What the kernel masquerades, once that has been written.
    masquerade: Option<Masquerade>,
    /// Frontends that could not be written, and why; tried again.
    failed: BTreeMap<Frontend, String>,
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
        let nodes_changed = dirty.iter().any(|key| matches!(key, Dirty::Node(_)));
        let mut steps = vec![];
        for key in dirty {
            match key {
                Dirty::Service(key) => {
                    let changed = self.services.set(&key, compile::service(&self.state, &key));
                    self.write(changed);
                }
                Dirty::Node(name) => steps.extend(self.routes.set(&name, compile::routes(&self.state, &name))),
                Dirty::Pod(_) | Dirty::Pool(_) | Dirty::NodeAddresses(_) | Dirty::ServiceCidr(_) | Dirty::Synced => {}
            }
        }
        if !steps.is_empty() {
            let failed = routes::apply(&self.node.rtnl, steps).await;
            self.routes_failed(failed, false);
        }
        if nodes_changed {
            self.masquerade().await;
        }
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
        let keys: Vec<ObjectKey> = self.state.services().map(|service| service.key.clone()).collect();
        for key in keys {
            self.services.set(&key, compile::service(&self.state, &key));
        }
        let wanted: compile::Frontends = self.services.iter().map(|(key, value)| (*key, value.clone())).collect();
        let actual = self.node.datapath().frontends();
        let steps = desired::steps(&wanted, &actual);
        info!(
            services = self.state.services().count(),
            frontends = wanted.len(),
            steps = steps.len(),
            "in sync"
        );
        self.write(steps);
        let names: Vec<String> = self.state.nodes().map(|node| node.name.clone()).collect();
        for name in names {
            self.routes.set(&name, compile::routes(&self.state, &name));
        }
        self.look_after().await;
        self.node.ready.send_modify(|ready| ready.synced = true);
    }

    fn write(&mut self, steps: Vec<Step<Frontend, Vec<Backend>>>) {
        let mut datapath = self.node.datapath();
        for step in steps {
            let (frontend, result) = match &step {
                Step::Put(frontend, backends) => (*frontend, datapath.set_frontend(frontend, backends)),
                Step::Remove(frontend) => (*frontend, datapath.remove_frontend(frontend)),
            };
            match result {
                Ok(()) => {
                    self.failed.remove(&frontend);
                }
                Err(error) => {
                    let why = error.to_string();
                    if self.failed.insert(frontend, why.clone()).as_ref() != Some(&why) {
                        let Frontend { ip, port, protocol } = frontend;
                        warn!("service {ip} port {port}/{protocol}: {why}; it keeps what it had");
                    }
                }
            }
        }
    }

    /// Tries again what failed, and compares routes with the kernel's.
    async fn look_after(&mut self) {
        if !self.state.synced() {
            return;
        }
        let again = self.failed.keys().map(|frontend| match self.services.get(frontend) {
            Some(backends) => Step::Put(*frontend, backends.clone()),
            None => Step::Remove(*frontend),
        });
        let again = again.collect();
        self.write(again);
        let wanted = self.routes.iter().map(|(to, hop)| (*to, *hop)).collect();
        match routes::reconcile(&self.node.rtnl, &wanted).await {
            Ok((failed, _)) => self.routes_failed(failed, true),
            Err(error) => warn!("cannot compare routes: {error}"),
        }
        if self.masquerade.is_none() {
            self.masquerade().await;
        }
        self.note();
    }

    /// Writes what is masqueraded, where it has changed.
    async fn masquerade(&mut self) {
        let wanted = compile::masquerade(&self.state);
        if self.masquerade.as_ref() == Some(&wanted) {
            return;
        }
        let given = wanted.clone();
        let error = match tokio::task::spawn_blocking(move || masquerade::set(&given)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        self.masquerade = error.is_none().then_some(wanted);
        let mut progress = self.node.progress();
        if let Some(why) = error
            .as_ref()
            .filter(|why| progress.masquerade_error.as_ref() != Some(why))
        {
            warn!("{why}; pods cannot reach what is outside of the cluster");
        }
        progress.masquerade_error = error;
    }

    /// After a full pass, what has not failed is well.
    fn routes_failed(&self, failed: Vec<routes::Failed>, full: bool) {
        let mut progress = self.node.progress();
        let before = match full {
            true => std::mem::take(&mut progress.route_errors),
            false => progress.route_errors.clone(),
        };
        for routes::Failed { to, error } in failed {
            let why = error.to_string();
            if before.get(&to.to_string()) != Some(&why) {
                warn!("{why}; pods in {to} cannot be reached until the other node's address is on this segment");
            }
            progress.route_errors.insert(to.to_string(), why);
        }
    }

    /// What the report says about all this.
    fn note(&self) {
        let mut progress = self.node.progress();
        progress.services = self.state.services().count();
        progress.frontends = self.services.len();
        progress.backends = self.services.iter().map(|(_, backends)| backends.len()).sum();
        progress.service_errors = self
            .failed
            .iter()
            .map(|(f, why)| (format!("{}:{}/{}", f.ip, f.port, f.protocol), why.clone()))
            .collect();
        progress.peers = self.state.nodes().filter(|node| node.name != self.node.name).count();
        progress.routes = self.routes.len();
    }
}
