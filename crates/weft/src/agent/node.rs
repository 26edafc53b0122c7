//! What the agent knows and has on this node, shared by all of its tasks.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tracing::warn;
use weft_cluster::AgentEvent;
use weft_dataplane::aside;
use weft_dataplane::bpf::{self, Datapath, PodHooks};
use weft_dataplane::net::tunnel::Here;
use weft_dataplane::net::{self, Rtnl, limit, name, uplink};
use weft_model::cni::AttachmentId;
use weft_model::compile::Reach;
use weft_model::ipam::Ipam;

use super::addresses::Pools;
use super::attachments::{Attachment, Store};
use super::dataplane::Dataplane;
use super::hostports::Published;
use super::isolation::Offender;
use super::known::{Api, NoPods, Objects};
use super::routes::Settings;

/// What pods have to wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Readiness {
    /// The API server has told everything once.
    pub(super) synced: bool,
    /// The Node object exists.
    pub(super) known: bool,
    /// The node has ranges or pools for its pods.
    pub(super) has_addresses: bool,
    /// The node's own addresses.
    pub(super) node_ips: Vec<IpAddr>,
}

/// How services and routes are doing, for the report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) services: usize,
    pub(super) frontends: usize,
    pub(super) backends: usize,
    pub(super) service_errors: BTreeMap<String, String>,
    /// How much of what Services ask for they do not get, because it must not be done.
    pub(super) service_problems: usize,
    pub(super) first_problem: Option<String>,
    /// What load balancers do not hear, and why.
    pub(super) health_errors: Vec<String>,
    pub(super) peers: usize,
    pub(super) routes: usize,
    pub(super) route_errors: BTreeMap<String, String>,
    /// How the other nodes are reached.
    pub(super) reach: Reach,
    /// Nodes that claim the same addresses for their pods.
    pub(super) overlaps: Vec<String>,
    /// Why pods cannot reach what is outside of the cluster.
    pub(super) masquerade_error: Option<String>,
    /// What was found that nobody had given back, since this agent was started.
    pub(super) leaks: u64,
    /// Pods that sent what they may not.
    pub(super) offenders: Vec<Offender>,
}

/// This node.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) state_dir: PathBuf,
    pub(super) rtnl: Rtnl,
    pub(super) store: Store,
    pub(super) ready: watch::Sender<Readiness>,
    /// How long ADD waits for what the node itself lacks.
    pub(super) patience: Duration,
    /// For how long something has to look like a leak before it is taken for one.
    pub(super) leak_grace: Duration,
    /// What the operator says about the way between nodes.
    pub(super) settings: Settings,
    /// The API server, for single questions.
    pub(super) api: Box<dyn Api>,
    /// Events, to be written.
    pub(super) events: mpsc::Sender<AgentEvent>,
    datapath: Mutex<Datapath>,
    /// What translates Services.
    pub(super) dataplane: Dataplane,
    hooks: PodHooks,
    /// Told whenever there may be more of a pool for this node's pods.
    pub(super) granted: watch::Sender<()>,
    /// Told when an address of the node has left this machine.
    pub(super) moved: Notify,
    /// How this node is reached, once that has been looked at.
    seen: Mutex<Option<Here>>,
    /// Told when endpoints have gone that UDP sockets may be connected to.
    pub(super) released: Notify,
    /// Told whenever this node may want more or less of the pools.
    pub(super) demand: Notify,
    ipam: Mutex<Ipam>,
    pub(super) pools: Mutex<Pools>,
    objects: Mutex<Objects>,
    attachments: Mutex<BTreeMap<AttachmentId, Attachment>>,
    progress: Mutex<Progress>,
    pub(super) published: tokio::sync::Mutex<Published>,
    /// One at a time for each interface of each container.
    busy: Mutex<HashMap<AttachmentId, Arc<tokio::sync::Mutex<()>>>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is done under these locks leaves them half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    pub(super) fn open(name: &str, state_dir: &Path, datapath: Datapath) -> anyhow::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            state_dir: state_dir.to_owned(),
            rtnl: Rtnl::connect()?,
            store: Store::open(state_dir.join("attachments"))?,
            ready: watch::Sender::default(),
            patience: Duration::from_secs(8),
            leak_grace: Duration::from_secs(60),
            settings: Settings::default(),
            api: Box::new(NoPods),
            // Nobody listens, until somebody does.
            events: mpsc::channel(1).0,
            hooks: datapath.pod_hooks(),
            datapath: Mutex::new(datapath),
            dataplane: Dataplane::default(),
            granted: watch::Sender::default(),
            moved: Notify::new(),
            seen: Mutex::default(),
            released: Notify::new(),
            demand: Notify::new(),
            ipam: Mutex::new(Ipam::new(name)),
            pools: Mutex::default(),
            objects: Mutex::default(),
            attachments: Mutex::default(),
            progress: Mutex::default(),
            published: tokio::sync::Mutex::default(),
            busy: Mutex::default(),
        })
    }

    pub(super) fn datapath(&self) -> MutexGuard<'_, Datapath> {
        lock(&self.datapath)
    }

    /// Attaches a pod's hooks. The kernel takes its time, so this is done aside.
    pub(super) async fn attach_hooks(&self, index: u32, limited: bool) -> anyhow::Result<()> {
        let hooks = self.hooks.clone();
        Ok(aside::blocking(move || hooks.attach(index, limited)).await??)
    }

    /// Takes a pod's hooks off, or lets go of what is left of them when the interface has gone.
    pub(super) async fn detach_hooks(&self, index: u32) -> anyhow::Result<()> {
        let hooks = self.hooks.clone();
        Ok(aside::blocking(move || hooks.detach(index)).await??)
    }

    pub(super) fn ipam(&self) -> MutexGuard<'_, Ipam> {
        lock(&self.ipam)
    }

    pub(super) fn objects(&self) -> MutexGuard<'_, Objects> {
        lock(&self.objects)
    }

    pub(super) fn attachments(&self) -> MutexGuard<'_, BTreeMap<AttachmentId, Attachment>> {
        lock(&self.attachments)
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        lock(&self.progress)
    }

    /// Waits until nobody else works on this interface, and keeps others off until the guard goes.
    pub(super) async fn turn(&self, id: &AttachmentId) -> tokio::sync::OwnedMutexGuard<()> {
        let mine = {
            let mut busy = lock(&self.busy);
            // Nobody but the map holds the lock of an interface that nobody works on.
            busy.retain(|_, other| Arc::strong_count(other) > 1);
            busy.entry(id.clone()).or_default().clone()
        };
        mine.lock_owned().await
    }

    /// How this node is reached, as it was seen last: nobody has to ask the kernel for every pod, since it tells of what
    /// changes, and then it is asked again.
    pub(super) async fn here(&self) -> Result<Here, net::NetError> {
        let seen = lock(&self.seen).clone();
        if let Some(here) = seen {
            return Ok(here);
        }
        let node_ips = self.ready.borrow().node_ips.clone();
        self.look_around(&node_ips).await
    }

    /// Asks the kernel how the node with these addresses is reached.
    pub(super) async fn look_around(&self, node_ips: &[IpAddr]) -> Result<Here, net::NetError> {
        let uplink = uplink::find(&self.rtnl, node_ips).await?;
        let here = Here {
            mtu: uplink.as_ref().map_or(uplink::DEFAULT_MTU, |uplink| uplink.mtu),
            local_ips: uplink.map(|uplink| uplink.node_ips).unwrap_or_default(),
            node_ips: node_ips.to_vec(),
            ..Here::default()
        };
        *lock(&self.seen) = Some(here.clone());
        Ok(here)
    }

    /// Whether there is a way off this node at all, as far as it is known where to look for one.
    pub(super) async fn has_uplink(&self) -> Result<bool, net::NetError> {
        let node_ips = self.ready.borrow().node_ips.clone();
        Ok(node_ips.is_empty() || uplink::find(&self.rtnl, &node_ips).await?.is_some())
    }

    /// Takes over what an earlier agent left: the union of what was recorded and what is in the kernel, so that
    /// what is only in one of them goes.
    pub(super) async fn take_over(&self) -> anyhow::Result<()> {
        let links: HashMap<String, net::Link> = self
            .rtnl
            .links()
            .await?
            .into_iter()
            .map(|link| (link.name.clone(), link))
            .collect();
        let mut alive: BTreeMap<AttachmentId, (Attachment, u32)> = BTreeMap::new();
        for attachment in self.store.load()? {
            match links.get(&attachment.link.host_ifname) {
                Some(link) => {
                    self.reserve(&attachment);
                    alive.insert(attachment.id.clone(), (attachment, link.index));
                }
                // The namespace went while nobody looked, and its link with it.
                None => self.store.remove(&attachment.id)?,
            }
        }
        let known: Vec<&str> = alive
            .values()
            .map(|(attachment, _)| attachment.link.host_ifname.as_str())
            .collect();
        for (link, _) in links
            .iter()
            .filter(|(link, _)| name::is_host_side(link) && !known.contains(&link.as_str()))
        {
            warn!(
                link,
                "removing a pod's link that nobody asked for: of an attempt that was interrupted"
            );
            self.rtnl.remove_link(link).await?;
        }
        self.take_over_datapath(alive.values())?;
        *self.attachments() = alive
            .into_iter()
            .map(|(id, (attachment, _))| (id, attachment))
            .collect();
        self.take_over_ports().await;
        Ok(())
    }

    fn take_over_datapath<'a>(&self, alive: impl Iterator<Item = &'a (Attachment, u32)> + Clone) -> anyhow::Result<()> {
        let mut datapath = self.datapath();
        for (attachment, index) in alive.clone() {
            for ip in &attachment.link.ips {
                datapath.set_pod(*ip, self.entry(&attachment.link, *index))?;
            }
            datapath.attach_pod(*index)?;
        }
        let ours = |ip: &IpAddr| alive.clone().any(|(attachment, _)| attachment.link.ips.contains(ip));
        for ip in datapath.pods().into_keys().filter(|ip| !ours(ip)) {
            datapath.remove_pod(ip)?;
        }
        for index in datapath
            .attached()?
            .into_iter()
            .filter(|index| !alive.clone().any(|(_, ours)| ours == index))
        {
            datapath.detach_pod(index)?;
        }
        Ok(())
    }

    /// A pod's link as the datapath wants it.
    pub(super) fn entry(&self, link: &net::PodLink, ifindex: u32) -> bpf::PodLink {
        bpf::PodLink {
            ifindex,
            mac: link.mac.0,
            host_mac: link.host_mac.0,
            limited: link.limits.ingress_rate != 0 || self.dataplane.needs_stack(),
            sends: limit::of_sender(link),
        }
    }
}
