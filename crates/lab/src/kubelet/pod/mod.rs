//! One task per pod. It compares what the pod should be with what runs, does the next steps, and tells the API
//! server; everything that happens to the pod reaches it as an event.

mod backoff;
mod bring_up;
mod container;
mod end;
mod record;
mod start;
mod status;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::config::write_atomically;
use super::lookup::PodView;
use super::node::{Node, reference};
use super::probes::Verdict;
use super::runtime::Exit;
use super::sandbox::{self, Sandbox};
use super::volumes;
use crate::client::Patch;
use backoff::Backoff;
use container::Member;

/// What happens to a pod.
#[derive(Debug)]
pub(super) enum PodEvent {
    /// The API server has a newer version of it.
    Changed(Arc<Pod>),
    /// A container's first process has ended.
    Exited { id: String, exit: Exit },
    /// A probe says something new about a container.
    Probed { id: String, verdict: Verdict },
    /// An object that a volume shows has changed.
    Refresh,
}

/// That the pod has to go, and how much time its containers get.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stop {
    /// When the pod was told to go.
    pub(super) since: Instant,
    /// How long the containers may take.
    pub(super) grace: Duration,
    /// The API server has forgotten the pod.
    pub(super) gone: bool,
}

impl Stop {
    /// When what still runs is killed.
    pub(super) fn deadline(&self) -> Instant {
        self.since + self.grace
    }
}

/// How others reach a pod's task.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) namespace: String,
    pub(super) events: mpsc::UnboundedSender<PodEvent>,
    pub(super) stop: watch::Sender<Option<Stop>>,
    /// ConfigMaps and Secrets its volumes show.
    pub(super) shows: (BTreeSet<String>, BTreeSet<String>),
}

/// A pod's task.
pub(super) struct Worker {
    node: Node,
    pod: Arc<Pod>,
    sandbox: Option<Sandbox>,
    /// The pod's addresses; a pod that has ended is still told by them.
    ips: Vec<IpAddr>,
    members: Vec<Member>,
    events: mpsc::UnboundedReceiver<PodEvent>,
    sender: mpsc::UnboundedSender<PodEvent>,
    stop: watch::Receiver<Option<Stop>>,
    started_at: Timestamp,
    volumes_ready: bool,
    renew_volumes: volumes::RenewAt,
    /// For the sandbox and the volumes.
    retry: Backoff,
    /// The pod has reached its end: `Succeeded` or `Failed`, with reason and message where it was the kubelet's doing.
    verdict: Option<status::Final>,
    /// The status the API server has.
    published: Value,
    /// The API server could not be told.
    unpublished: Backoff,
}

impl Worker {
    /// Makes the task of a pod, which continues what an earlier kubelet did, and starts it. `done` hears its uid
    /// when nothing is left of the pod.
    pub(super) fn spawn(node: Node, pod: Arc<Pod>, done: mpsc::UnboundedSender<String>) -> Handle {
        let (sender, events) = mpsc::unbounded_channel();
        let (stop_sender, stop) = watch::channel(None);
        let metadata = &pod.metadata;
        let handle = Handle {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            events: sender.clone(),
            stop: stop_sender,
            shows: volumes::references(&pod),
        };
        let members = Member::all(&node, &pod);
        let worker = Self {
            sandbox: None,
            ips: Vec::new(),
            members,
            events,
            sender,
            stop,
            started_at: earlier_start(&pod).unwrap_or_else(Timestamp::now),
            volumes_ready: false,
            renew_volumes: None,
            retry: Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
            verdict: status::Final::earlier(&pod),
            published: Value::Null,
            unpublished: Backoff::new(Duration::from_millis(100), Duration::from_secs(2)),
            node,
            pod,
        };
        tokio::spawn(async move {
            let uid = worker.uid().to_owned();
            worker.run().await;
            done.send(uid).ok();
        });
        handle
    }

    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    fn dir(&self) -> std::path::PathBuf {
        self.node.config.pod_dir(self.uid())
    }

    fn is_stopping(&self) -> bool {
        self.stop.borrow().is_some()
    }

    /// Tells an event about the pod.
    fn tell(&self, warning: bool, reason: &'static str, message: impl Into<String>) {
        self.node
            .recorder
            .part(&reference(&self.pod), "", warning, reason, message);
    }

    /// Tells an event about one container.
    fn tell_of(&self, member: &Member, warning: bool, reason: &'static str, message: impl Into<String>) {
        self.node
            .recorder
            .part(&reference(&self.pod), &member.field_path(), warning, reason, message);
    }

    async fn run(mut self) {
        self.adopt();
        loop {
            if self.is_stopping() {
                return self.terminate().await;
            }
            let mut wake = self.bring_up().await;
            if self.is_stopping() {
                continue;
            }
            self.publish().await;
            if let Some(retry) = self.unpublished.waiting() {
                wake = Some(wake.map_or(retry, |wake| wake.min(retry)));
            }
            self.wait(wake).await;
        }
    }

    /// Waits until something happens, and takes it in.
    async fn wait(&mut self, wake: Option<Instant>) {
        let sleep = async {
            match wake {
                Some(wake) => tokio::time::sleep_until(wake).await,
                None => std::future::pending().await,
            }
        };
        let needs_network = self.sandbox.is_none();
        tokio::select! {
            Some(event) = self.events.recv() => self.take(event).await,
            changed = self.stop.changed() => if changed.is_err() {
                // The kubelet itself ends: the pod stays as it is.
                std::future::pending::<()>().await;
            },
            Ok(()) = self.node.network.changed(), if needs_network => self.retry.reset(),
            () = sleep => {}
        }
        while let Ok(event) = self.events.try_recv() {
            self.take(event).await;
        }
    }

    /// Takes one event in; acting on it is `bring_up`'s or `terminate`'s.
    async fn take(&mut self, event: PodEvent) {
        match event {
            PodEvent::Changed(pod) => {
                let known = self.members.len();
                self.pod = pod;
                Member::join_ephemeral(&mut self.members, &self.node, &self.pod);
                if known != self.members.len() {
                    self.remember_pod();
                }
                // Labels and annotations may be shown in files.
                self.renew_downward().await;
            }
            PodEvent::Exited { id, exit } => self.ended(&id, exit).await,
            PodEvent::Probed { id, verdict } => self.probed(&id, verdict),
            PodEvent::Refresh => self.refresh_volumes().await,
        }
    }

    async fn renew_downward(&mut self) {
        let spec = self.pod.spec.as_ref();
        let mut volumes = spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let shows_itself = volumes.any(|volume| {
            let projected = volume
                .projected
                .iter()
                .flat_map(|projected| projected.sources.iter().flatten());
            volume.downward_api.is_some() || projected.into_iter().any(|source| source.downward_api.is_some())
        });
        if shows_itself {
            self.refresh_volumes().await;
        }
    }

    async fn refresh_volumes(&mut self) {
        if !self.volumes_ready || self.verdict.is_some() {
            return;
        }
        match volumes::refresh(&self.node, &self.pod).await {
            Ok(renew) => self.renew_volumes = renew,
            // What the pod has stays; the API server or the object will be back.
            Err(error) => {
                tracing::info!(pod = self.name(), %error, "volumes not refreshed");
                self.renew_volumes = Some(Instant::now() + Duration::from_secs(10));
            }
        }
    }

    /// Takes over what an earlier kubelet left of this pod.
    fn adopt(&mut self) {
        let sandbox = std::fs::read(self.dir().join(sandbox::FILE)).ok();
        self.sandbox = sandbox.and_then(|text| serde_json::from_slice(&text).ok());
        self.volumes_ready = false;
        for member in &mut self.members {
            member.adopt(&self.node, &self.sender);
        }
        match &self.sandbox {
            Some(sandbox) => self.ips.clone_from(&sandbox.ips),
            None => self.ips = earlier_ips(&self.pod),
        }
        let pod_ip = self.ips.first().copied();
        for member in &mut self.members {
            member.watch_health(&self.node, &self.pod, pod_ip, &self.sender);
        }
        self.show();
    }

    /// Writes the pod down, for a kubelet that finds its sandbox but no longer the pod itself.
    fn remember_pod(&self) {
        let (dir, text) = (self.dir(), serde_json::to_vec(&*self.pod).unwrap_or_default());
        let written = std::fs::create_dir_all(&dir).and_then(|()| write_atomically(&dir.join("pod.json"), &text));
        if let Err(error) = written {
            tracing::warn!(pod = self.name(), %error, "cannot write the pod down");
        }
    }

    fn remember_sandbox(&self) {
        let path = self.dir().join(sandbox::FILE);
        let written = match &self.sandbox {
            Some(sandbox) => write_atomically(&path, &serde_json::to_vec(sandbox).unwrap_or_default()),
            None => std::fs::remove_file(&path),
        };
        if let Err(error) = written {
            tracing::warn!(pod = self.name(), %error, "cannot write the sandbox down");
        }
    }

    /// Tells the API server what has changed in the pod's status.
    async fn publish(&mut self) {
        self.show();
        if self.stop.borrow().as_ref().is_some_and(|stop| stop.gone) {
            return;
        }
        let status = self.status();
        if self.unpublished.waiting().is_some() {
            return;
        }
        let Some(patch) = status::difference(&self.published, &status, &self.pod) else {
            return;
        };
        let pods = crate::client::Res::new("", "v1", "pods");
        let patch = Patch::Merge(patch);
        let client = self.node.client.clone();
        match client
            .patch(&pods, self.namespace(), self.name(), Some("status"), &patch)
            .await
        {
            Ok(_) => {
                self.published = status;
                self.unpublished.reset();
            }
            // Gone, or another pod of the same name: the informer will say so.
            Err(error) if error.is_not_found() || error.is_conflict() => self.published = status,
            Err(error) => {
                tracing::debug!(pod = self.name(), %error, "status not published");
                self.unpublished.fail();
            }
        }
    }

    /// Shows the streaming server what there is.
    fn show(&self) {
        let (namespace, name) = (self.namespace(), self.name());
        let views = self
            .members
            .iter()
            .map(|member| (member.spec.name.clone(), member.view()));
        let spec = self.pod.spec.as_ref();
        let annotations = self.pod.metadata.annotations.as_ref();
        let preferred = annotations.and_then(|all| all.get("kubectl.kubernetes.io/default-container"));
        let first = spec
            .and_then(|spec| spec.containers.first())
            .map(|container| &container.name);
        let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
        let netns = |sandbox: &Sandbox| {
            sandbox
                .netns
                .clone()
                .or(host_network.then(|| "/proc/self/ns/net".into()))
        };
        let view = PodView {
            uid: self.uid().to_owned(),
            netns: self.sandbox.as_ref().and_then(netns),
            containers: views.collect(),
            default: preferred.or(first).cloned().unwrap_or_default(),
        };
        self.node.lookup.set(namespace, name, view);
    }
}

/// What the API server knows of a pod that has ended; one that starts anew gets new addresses.
fn earlier_ips(pod: &Pod) -> Vec<IpAddr> {
    let status = pod.status.as_ref().filter(|_| status::Final::earlier(pod).is_some());
    let ips = status.and_then(|status| status.pod_ips.as_ref());
    ips.into_iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect()
}

fn earlier_start(pod: &Pod) -> Option<Timestamp> {
    Some(pod.status.as_ref()?.start_time.as_ref()?.0)
}

/// The containers of a pod, init ones first, with the names of their lists.
fn containers(pod: &Pod) -> impl Iterator<Item = (&'static str, &Container)> {
    let spec = pod.spec.iter();
    let init = spec.clone().flat_map(|spec| spec.init_containers.iter().flatten());
    init.map(|container| ("initContainers", container)).chain(
        spec.flat_map(|spec| &spec.containers)
            .map(|container| ("containers", container)),
    )
}
