//! How this node reaches the pods of every other, and what leaves the cluster: kept in the kernel as it is wanted,
//! whoever changes either side.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tracing::{info, warn};
use weft_dataplane::net::masquerade::Written;
use weft_dataplane::net::tunnel::{self, Encapsulation, Here};
use weft_dataplane::net::{NetError, masquerade, pod, routes, uplink};
use weft_model::compile::{self, Masquerade, RouteTable, Routing, Underlay};
use weft_model::desired::Step;
use weft_model::{State, compile::NextHop};

use super::node::Node;

/// What the operator may say about the way between nodes.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Which ways are allowed.
    pub(super) routing: Routing,
    /// The tunnel, where one is needed.
    pub(super) tunnel: tunnel::Config,
    /// Where pods keep their address although it is outside of the cluster.
    pub(super) excluded: Vec<IpNet>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            routing: Routing::Auto,
            tunnel: tunnel::Config::new(Encapsulation::Vxlan),
            excluded: vec![],
        }
    }
}

fn is_ipv6_tunnel(hop: &NextHop) -> bool {
    matches!(hop, NextHop::Tunnel(end) | NextHop::PodsTunnel(end) if end.is_ipv6())
}

fn ends_at(hop: &NextHop, node: IpAddr) -> bool {
    matches!(hop, NextHop::Tunnel(end) | NextHop::PodsTunnel(end) if *end == node)
}

/// The routes of this node.
pub(super) struct Routes {
    node: Arc<Node>,
    table: RouteTable,
    here: Here,
    /// What the kernel is to masquerade, by the nodes as they are known.
    masquerade: Arc<Masquerade>,
    /// What it does masquerade, once that has been written.
    written: Option<Written>,
}

impl Routes {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            table: RouteTable::default(),
            here: Here::default(),
            masquerade: Arc::default(),
            written: None,
        }
    }

    /// Takes in changes of these nodes.
    pub(super) async fn changed(&mut self, state: &State, nodes: Vec<String>) {
        if nodes.is_empty() {
            return;
        }
        let local = nodes.iter().any(|name| *name == self.node.name);
        let steps = self.table.update(state, nodes);
        if local {
            // Its addresses may be others: what follows from them is everywhere.
            self.look(state).await;
            return;
        }
        self.apply(steps).await;
        self.compile_masquerade(state);
        self.masquerade().await;
        self.note(state);
    }

    /// Compares everything with the kernel's.
    pub(super) async fn look(&mut self, state: &State) {
        if let Err(error) = self.look_at_kernel(state).await {
            warn!("cannot compare routes with the kernel's: {error}");
        }
        self.compile_masquerade(state);
        self.masquerade().await;
        self.note(state);
    }

    async fn look_at_kernel(&mut self, state: &State) -> Result<(), NetError> {
        let rtnl = &self.node.rtnl;
        let node_ips = state.node(&self.node.name).map(|node| node.internal_ips.clone());
        let node_ips = node_ips.unwrap_or_default();
        let mut here = self.node.look_around(&node_ips).await?;
        // What was learnt is true as long as the uplink is what it was: the kernel forgets sooner, at the price of what is
        // lost until it is told again.
        if (here.mtu, &here.local_ips) == (self.here.mtu, &self.here.local_ips) {
            here.narrow = std::mem::take(&mut self.here.narrow);
        }
        if self.here.local_ips.iter().any(|ip| !here.local_ips.contains(ip)) {
            self.node.moved.notify_one();
        }
        self.here = here;
        if !self.here.local_ips.is_empty() {
            self.node.follow_mtu(self.here.mtu).await;
        }
        // In this order: what a pod that is attached meanwhile has is not looked for.
        let pods: Vec<_> = self.node.attachments().values().map(|pod| pod.link.clone()).collect();
        let routes = rtnl.routes().await?;
        let underlay = Underlay {
            routing: self.node.settings.routing,
            networks: uplink::networks(&routes),
        };
        self.table.set_underlay(state, underlay);
        let config = &self.node.settings.tunnel;
        let (failed, steps) = routes::reconcile(rtnl, config, &self.here, &self.table.wanted()).await?;
        if steps > 0 {
            info!(steps, failed = failed.len(), "routes put right");
        }
        self.failed(failed, true);
        for pod in pod::restore(rtnl, &routes, pods, &self.here.local_ips).await? {
            info!(%pod, "a pod's route put right");
        }
        Ok(())
    }

    /// Takes in what routers on the way to other nodes have said, of which the kernel tells nobody.
    pub(super) async fn look_at_ways(&mut self, state: &State) {
        // Over IPv4 they cut larger packets into pieces instead.
        if !self.table.wanted().values().any(is_ipv6_tunnel) {
            return;
        }
        let told = match self.node.rtnl.narrow_ways().await {
            Ok(told) => told,
            Err(error) => return warn!("{error}; packets that are too large for the way to a node may be lost"),
        };
        let ends = |node: &IpAddr| self.table.wanted().values().any(|hop| ends_at(hop, *node));
        let known = &self.here.narrow;
        let news = told
            .into_iter()
            .filter(|(node, mtu)| known.get(node).is_none_or(|known| mtu < known));
        let news: Vec<_> = news.filter(|(node, _)| ends(node)).collect();
        let changed = !news.is_empty();
        self.here.narrow.extend(news);
        if changed {
            info!(ways = ?self.here.narrow, "the way to a node takes less than the uplink: so do the routes through its tunnel");
            self.look(state).await;
        }
    }

    async fn apply(&mut self, steps: Vec<Step<IpNet, NextHop>>) {
        if steps.is_empty() {
            return;
        }
        let config = &self.node.settings.tunnel;
        let failed = routes::apply(&self.node.rtnl, config, &self.here, &self.table.wanted(), steps).await;
        self.failed(failed, false);
    }

    /// After a full pass, what has not failed is well.
    fn failed(&self, failed: Vec<routes::Failed>, full: bool) {
        let mut progress = self.node.progress();
        let before = match full {
            true => std::mem::take(&mut progress.route_errors),
            false => progress.route_errors.clone(),
        };
        for routes::Failed { to, why } in failed {
            if before.get(&to.to_string()) != Some(&why) {
                warn!("{why}; pods in {to} cannot be reached from this node");
            }
            progress.route_errors.insert(to.to_string(), why);
        }
    }

    /// From every node, and so only where one has changed.
    fn compile_masquerade(&mut self, state: &State) {
        self.masquerade = Arc::new(compile::masquerade(state, &self.node.settings.excluded));
    }

    /// Writes what is masqueraded, where it or the kernel's rules have changed.
    pub(super) async fn masquerade(&mut self) {
        let (wanted, written) = (self.masquerade.clone(), self.written.take());
        let error = match tokio::task::spawn_blocking(move || masquerade::ensure(&wanted, written)).await {
            Ok(Ok(written)) => {
                self.written = Some(written);
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let mut progress = self.node.progress();
        if let Some(why) = error
            .as_ref()
            .filter(|why| progress.masquerade_error.as_ref() != Some(why))
        {
            warn!("{why}; pods cannot reach what is outside of the cluster");
        }
        progress.masquerade_error = error;
    }

    /// What the report says about all this.
    fn note(&self, state: &State) {
        let mut progress = self.node.progress();
        let overlaps: Vec<String> = self.table.overlaps().map(ToString::to_string).collect();
        for overlap in overlaps.iter().filter(|overlap| !progress.overlaps.contains(overlap)) {
            warn!("{overlap}");
        }
        progress.overlaps = overlaps;
        progress.reach = self.table.reach(state);
        progress.peers = state.nodes().filter(|node| node.name != self.node.name).count();
        progress.routes = self.table.count();
    }
}
