//! One container of a pod: started, watched, ended, started again.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::backoff::{Backoff, CrashLoop};
use super::record::{End, Instance, Record};
use super::{PodEvent, containers};
use crate::kubelet::lookup::View;
use crate::kubelet::node::{Node, reference};
use crate::kubelet::probes::{self, Verdict};
use crate::kubelet::rootfs;
use crate::kubelet::runtime::{Exit, Process};
use crate::kubelet::stdio::{self, Pump, Wanted};
use crate::streaming::{self, RunState};

/// What part a container has in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Runs to its end before the next one.
    Init,
    /// An init container that stays (`restartPolicy: Always`).
    Sidecar,
    /// One of the pod's own.
    Main,
    /// Added later, to look around.
    Ephemeral,
}

/// A container of a pod, with all that the kubelet knows of it.
pub(super) struct Member {
    pub(super) role: Role,
    pub(super) spec: Container,
    pub(super) dir: PathBuf,
    pub(super) log_dir: PathBuf,
    pub(super) record: Record,
    /// Why it does not run, where it is not simply at its end.
    pub(super) waiting: Option<(&'static str, String)>,
    pub(super) pump: Option<Pump>,
    pub(super) started: bool,
    pub(super) ready: bool,
    pub(super) crashes: CrashLoop,
    /// For what keeps it from being started at all: its image, its configuration.
    pub(super) retry: Backoff,
    /// Ends the probes when dropped.
    pub(super) probes: Option<AbortOnDrop>,
    /// Ends the attempt to stop it when dropped.
    pub(super) stopper: Option<AbortOnDrop>,
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Member {
    /// All containers of a pod, in the order they start.
    pub(super) fn all(node: &Node, pod: &Pod) -> Vec<Self> {
        let mut members: Vec<Self> = containers(pod)
            .map(|(list, spec)| {
                let role = match (list, spec.restart_policy.as_deref()) {
                    ("initContainers", Some("Always")) => Role::Sidecar,
                    ("initContainers", _) => Role::Init,
                    _ => Role::Main,
                };
                Self::new(node, pod, role, spec.clone())
            })
            .collect();
        Self::join_ephemeral(&mut members, node, pod);
        members
    }

    /// Adds ephemeral containers that are not known yet.
    pub(super) fn join_ephemeral(members: &mut Vec<Self>, node: &Node, pod: &Pod) {
        let spec = pod.spec.iter();
        for ephemeral in spec.flat_map(|spec| spec.ephemeral_containers.iter().flatten()) {
            if members.iter().all(|member| member.spec.name != ephemeral.name) {
                members.push(Self::new(node, pod, Role::Ephemeral, plain(ephemeral)));
            }
        }
    }

    fn new(node: &Node, pod: &Pod, role: Role, spec: Container) -> Self {
        let metadata = &pod.metadata;
        let uid = metadata.uid.as_deref().unwrap_or_default();
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let name = metadata.name.as_deref().unwrap_or_default();
        let second = std::time::Duration::from_secs(1);
        let dir = node.config.pod_dir(uid).join("c").join(&spec.name);
        Self {
            role,
            record: Record::load(&dir).unwrap_or_else(|| earlier(pod, &spec.name)),
            log_dir: node.config.pod_log_dir(namespace, name, uid).join(&spec.name),
            dir,
            spec,
            waiting: None,
            pump: None,
            started: false,
            ready: false,
            crashes: CrashLoop::new(),
            retry: Backoff::new(second, 10 * second),
            probes: None,
            stopper: None,
        }
    }

    /// What events about it name.
    pub(super) fn field_path(&self) -> String {
        let list = match self.role {
            Role::Init | Role::Sidecar => "initContainers",
            Role::Main => "containers",
            Role::Ephemeral => "ephemeralContainers",
        };
        format!("spec.{list}{{{}}}", self.spec.name)
    }

    /// What the streaming server is shown.
    pub(super) fn view(&self) -> View {
        let current = self.record.current.as_ref();
        let state = match (&self.waiting, current) {
            (None, Some(Instance { end: None, .. })) => RunState::Running,
            (None, Some(_)) => RunState::Terminated,
            (Some(_), Some(_)) => RunState::Terminated,
            (Some((reason, _)), None) => RunState::Waiting((*reason).to_owned()),
            (None, None) => RunState::Waiting("ContainerCreating".to_owned()),
        };
        let number = current.map(|current| current.number);
        let previous = number
            .and_then(|number| number.checked_sub(1))
            .map(|number| self.log(number));
        View {
            container: streaming::Container {
                id: current.map(|current| current.id.clone()).unwrap_or_default(),
                state,
                log: number.map(|number| self.log(number)),
                previous_log: previous.filter(|log| log.exists()),
                tty: self.spec.tty == Some(true),
                stdin: self.spec.stdin == Some(true),
            },
            streams: self.pump.as_ref().map(|pump| pump.streams.clone()),
        }
    }

    /// The log of a run.
    pub(super) fn log(&self, number: u32) -> PathBuf {
        self.log_dir.join(format!("{number}.log"))
    }

    /// What streams it wants.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            stdin: self.spec.stdin == Some(true),
            stdin_once: self.spec.stdin_once == Some(true),
            tty: self.spec.tty == Some(true),
        }
    }

    /// Takes over a run that an earlier kubelet started.
    pub(super) fn adopt(&mut self, node: &Node, events: &mpsc::UnboundedSender<PodEvent>) {
        let Some(running) = self.record.running().cloned() else {
            return;
        };
        if !self.wanted().tty {
            self.pump = stdio::resume(&self.dir, self.log(running.number), self.wanted())
                .inspect_err(|error| tracing::warn!(id = running.id, %error, "output of an adopted container is lost"))
                .ok();
        }
        tracing::info!(
            container = self.spec.name,
            id = running.id,
            node = node.config.node_name,
            "container adopted"
        );
        self.watch_exit(node, &running, events);
    }

    /// Reports the end of a run as an event.
    pub(super) fn watch_exit(&self, node: &Node, instance: &Instance, events: &mpsc::UnboundedSender<PodEvent>) {
        let keeper = node.runtime.keeper.clone();
        let (pid, ticks) = (instance.pid, instance.ticks);
        let (id, events) = (instance.id.clone(), events.clone());
        let process = Process::open(instance.pid, instance.ticks);
        tokio::spawn(async move {
            let exit = match process {
                Some(process) => process.wait(keeper.as_ref()).await,
                // Ended before it was looked at.
                None => match &keeper {
                    Some(keeper) => keeper.exit(pid, ticks).await,
                    None => Exit::Unknown,
                },
            };
            events.send(PodEvent::Exited { id, exit }).ok();
        });
    }

    /// Starts the probes of a run.
    pub(super) fn watch_health(
        &mut self,
        node: &Node,
        pod: &Arc<Pod>,
        pod_ip: Option<IpAddr>,
        events: &mpsc::UnboundedSender<PodEvent>,
    ) {
        let Some(running) = self.record.running() else { return };
        let no_probes = matches!(self.role, Role::Init | Role::Ephemeral);
        self.started = no_probes || self.spec.startup_probe.is_none();
        self.ready = self.started && (no_probes || self.spec.readiness_probe.is_none());
        if no_probes {
            return;
        }
        let (id, events) = (running.id.clone(), events.clone());
        let subject = probes::Subject {
            node: node.clone(),
            about: reference(pod),
            field_path: self.field_path(),
            id: id.clone(),
            container: self.spec.clone(),
            host: pod_ip,
            started_at: running.started_at,
            say: Arc::new(move |verdict: Verdict| {
                let id = id.clone();
                events.send(PodEvent::Probed { id, verdict }).ok();
            }),
        };
        self.probes = probes::start(subject).map(AbortOnDrop);
    }

    /// The run `id` has ended: keeps its last words and clears away what it leaves.
    pub(super) async fn clear(&mut self, node: &Node, exit: Exit) {
        self.probes = None;
        self.stopper = None;
        self.ready = false;
        self.started = false;
        if let Some(pump) = self.pump.take() {
            pump.finish().await;
        }
        let Some(current) = &mut self.record.current else {
            return;
        };
        let (code, signal) = match exit {
            Exit::Code { code, signal } => (code, signal),
            Exit::Unknown => (137, None),
        };
        let reason = match exit {
            Exit::Unknown => "ContainerStatusUnknown",
            Exit::Code { code: 0, .. } => "Completed",
            Exit::Code { .. } => "Error",
        };
        let message = match exit {
            Exit::Unknown => Some("The container could not be located when the kubelet came back".to_owned()),
            Exit::Code { .. } => rootfs::last_words(&self.spec, &self.dir, &self.log_dir, current.number, code),
        };
        let at = Timestamp::now();
        current.end = Some(End {
            code,
            signal,
            reason: reason.to_owned(),
            message,
            at,
        });
        let ran = at.duration_since(current.started_at).unsigned_abs();
        let id = current.id.clone();
        self.crashes.ended(ran);
        self.record.save(&self.dir);
        node.runtime.delete(&id).await;
        rootfs::unmount(&self.dir);
    }
}

/// What the API server knows of runs before this node's memory begins.
fn earlier(pod: &Pod, name: &str) -> Record {
    let status = pod.status.as_ref();
    let lists = status.map(|status| [&status.init_container_statuses, &status.container_statuses]);
    let known = lists
        .into_iter()
        .flatten()
        .flat_map(|list| list.iter().flatten())
        .find(|known| known.name == name);
    let ran = known.filter(|known| known.container_id.as_ref().is_some_and(|id| !id.is_empty()));
    Record {
        base: ran.map_or(0, |known| u32::try_from(known.restart_count).unwrap_or(0) + 1),
        ..Record::default()
    }
}

/// An ephemeral container as an ordinary one.
fn plain(from: &EphemeralContainer) -> Container {
    let value = serde_json::to_value(from).unwrap_or_default();
    serde_json::from_value(value).unwrap_or_else(|_| Container {
        name: from.name.clone(),
        image: from.image.clone(),
        ..Container::default()
    })
}
