//! What all pods of a node share.

use std::net::IpAddr;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, Service};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};

use super::cni::{self, Cni};
use super::config::Config;
use super::downward::Downward;
use super::images::Images;
use super::lookup::Lookup;
use super::runtime::Runtime;
use super::sandbox::Sandbox;
use crate::client::{Client, Event, ListOptions, Res};
use crate::events::Recorder;

/// How many containers are being started at a time: a start is all CPU, so more would only make each of them slower.
const STARTS: usize = 4;

/// How often the network configuration is looked at, and how often while pods wait for one.
const LOOK: Duration = Duration::from_millis(300);
const LOOK_EAGERLY: Duration = Duration::from_millis(20);
/// How often its plugins are asked how they are: as often as a kubelet asks its runtime.
const ASK: Duration = Duration::from_secs(5);

/// One node's means. Everything in it is shared.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) config: Arc<Config>,
    pub(super) client: Client,
    pub(super) runtime: Runtime,
    pub(super) cni: Cni,
    pub(super) images: Images,
    pub(super) recorder: Recorder,
    pub(super) lookup: Lookup,
    /// All services of the cluster, for pods' variables.
    pub(super) services: Arc<RwLock<Vec<Service>>>,
    /// Room to start containers.
    pub(super) starts: Arc<Semaphore>,
    /// Whether pods can be given a network now, and if not, why.
    pub(super) network: watch::Receiver<Result<(), String>>,
}

impl Node {
    /// Gathers them and starts following services and the network configuration. Returns when services are known.
    pub(super) async fn new(config: Config, client: Client, runtime: Runtime) -> Self {
        let cni = Cni {
            conf_dir: config.cni_conf_dir.clone(),
            bin_dir: config.cni_bin_dir.clone(),
        };
        let services = Arc::new(RwLock::new(Vec::new()));
        let known = follow_services(&client, services.clone());
        let network = follow_network(cni.clone());
        if known.await.is_err() {
            tracing::warn!("services are not known: pods start without variables for them");
        }
        Self {
            recorder: Recorder::new(client.clone(), "kubelet", Some(&config.node_name)),
            lookup: Lookup::new(runtime.info().clone()),
            images: Images::new(config.image_dir()),
            starts: Arc::new(Semaphore::new(STARTS)),
            config: Arc::new(config),
            client,
            runtime,
            cni,
            services,
            network,
        }
    }

    /// Tells the network which sandboxes there are, so that it frees what belongs to none: before any pod is worked on.
    pub(super) async fn collect_garbage(&self) {
        let Ok(network) = self.cni.network() else { return };
        let in_use = Sandbox::attachments(&self.config.state_dir.join("pods"));
        if let Err(error) = self.cni.gc(&network, &in_use).await {
            tracing::warn!(%error, "what earlier pods have left in the network stays until the next start");
        }
    }

    /// The downward API for a pod with these addresses.
    pub(super) fn downward<'a>(&'a self, pod: &'a Pod, pod_ips: &'a [IpAddr]) -> Downward<'a> {
        let (cpus, memory) = machine();
        Downward {
            pod,
            pod_ips,
            host_ips: &self.config.addresses,
            node_cpu_milli: i128::from(cpus) * 1000,
            node_memory: i128::from(memory),
        }
    }
}

/// Count of processors and bytes of memory.
pub(super) fn machine() -> (u64, u64) {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
    });
    (cpus, kib.unwrap_or(0) * 1024)
}

fn follow_services(client: &Client, to: Arc<RwLock<Vec<Service>>>) -> tokio::sync::oneshot::Receiver<()> {
    let mut events = client.informer(Res::new("", "v1", "services"), "", ListOptions::default());
    let (synced, known) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut synced = Some(synced);
        while let Some(event) = events.recv().await {
            let (object, gone) = match event {
                Event::Applied(object) => (object, false),
                Event::Deleted(object) => (object, true),
                Event::Synced => {
                    synced.take().map(|synced| synced.send(()));
                    continue;
                }
            };
            let Ok(service) = serde_json::from_value::<Service>(object) else {
                continue;
            };
            let mut all = to.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            let name = |service: &Service| (service.metadata.namespace.clone(), service.metadata.name.clone());
            all.retain(|other| name(other) != name(&service));
            if !gone {
                all.push(service);
            }
        }
    });
    known
}

/// Follows whether there is a configuration, and whether its plugins say that they could add a pod.
fn follow_network(cni: Cni) -> watch::Receiver<Result<(), String>> {
    let (sender, receiver) = watch::channel(cni.network().map(drop).map_err(|error| error.to_string()));
    tokio::spawn(async move {
        let mut asked = None;
        while !sender.is_closed() {
            let usable = sender.borrow().is_ok();
            let now = match (cni.network(), &asked) {
                (Ok(network), Some((same, at))) if network == *same && Instant::elapsed(at) < ASK => None,
                (Ok(network), _) => {
                    let said = cni.status(&network).await;
                    // One that says no is asked again at once.
                    asked = said.is_ok().then(|| (network, Instant::now()));
                    Some(said)
                }
                (Err(error), _) => Some(Err(error)),
            };
            if let Some(now) = now.map(|now| now.map_err(|error: cni::Error| error.to_string())) {
                sender.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
            }
            tokio::time::sleep(if usable { LOOK } else { LOOK_EAGERLY }).await;
        }
    });
    receiver
}

/// What an event needs to know of the pod it is about.
pub(super) fn reference(pod: &Pod) -> Value {
    let metadata = &pod.metadata;
    serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
        "name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid,
        "resourceVersion": metadata.resource_version}})
}
