//! Which pods this node has, and what happens to them: from the API server's watch to each pod's task.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::node::Node;
use super::pod::{Handle, PodEvent, Stop, Worker};
use crate::client::{Event, ListOptions, Res, meta};

/// Grace of a pod that says nothing.
const DEFAULT_GRACE: i64 = 30;

/// Follows the pods bound to this node, for ever.
pub(super) async fn run(node: Node) {
    let options = ListOptions::fields(format!("spec.nodeName={}", node.config.node_name));
    let mut pods = node.client.informer(Res::new("", "v1", "pods"), "", options);
    let mut config_maps = node
        .client
        .informer(Res::new("", "v1", "configmaps"), "", ListOptions::default());
    let mut secrets = node
        .client
        .informer(Res::new("", "v1", "secrets"), "", ListOptions::default());
    let (done, mut ended) = mpsc::unbounded_channel();
    let mut pods_here = Pods {
        node,
        handles: HashMap::new(),
        done,
    };
    loop {
        tokio::select! {
            event = pods.recv() => match event {
                Some(event) => pods_here.take(event),
                None => return,
            },
            Some(event) = config_maps.recv() => pods_here.refresh(&event, |handle| &handle.shows.0),
            Some(event) = secrets.recv() => pods_here.refresh(&event, |handle| &handle.shows.1),
            Some(uid) = ended.recv() => drop(pods_here.handles.remove(&uid)),
        }
    }
}

struct Pods {
    node: Node,
    handles: HashMap<String, Handle>,
    done: mpsc::UnboundedSender<String>,
}

impl Pods {
    fn take(&mut self, event: Event) {
        match event {
            Event::Applied(object) => match serde_json::from_value::<Pod>(object) {
                Ok(pod) => self.applied(pod),
                Err(error) => tracing::warn!(%error, "a pod that cannot be understood is left alone"),
            },
            Event::Deleted(object) => self.deleted(&object),
            Event::Synced => self.clear_orphans(),
        }
    }

    fn applied(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let grace = pod.metadata.deletion_timestamp.as_ref().map(|_| grace(&pod));
        let pod = Arc::new(pod);
        let handle = match self.handles.entry(uid) {
            std::collections::hash_map::Entry::Occupied(entry) => {
                let handle = entry.into_mut();
                handle.events.send(PodEvent::Changed(pod)).ok();
                handle
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Worker::spawn(self.node.clone(), pod, self.done.clone()))
            }
        };
        if let Some(grace) = grace {
            handle.stop(grace, false);
        }
    }

    fn deleted(&mut self, object: &Value) {
        let Some(handle) = self.handles.get(meta(object, "uid")) else {
            return;
        };
        // Deleted by force: whoever did it does not wait.
        let grace = object["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(1);
        handle.stop(Duration::from_secs(grace.min(1)), true);
    }

    /// What an earlier kubelet started and nobody wants any more.
    fn clear_orphans(&mut self) {
        let dir = self.node.config.state_dir.join("pods");
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if self.handles.contains_key(&uid) {
                continue;
            }
            let pod = std::fs::read(entry.path().join("pod.json")).ok();
            let Some(pod) = pod.and_then(|text| serde_json::from_slice::<Pod>(&text).ok()) else {
                continue;
            };
            tracing::info!(uid, "pod deleted while no kubelet ran");
            let handle = Worker::spawn(self.node.clone(), Arc::new(pod), self.done.clone());
            handle.stop(Duration::from_secs(1), true);
            self.handles.insert(uid, handle);
        }
    }

    fn refresh(&self, event: &Event, shown: impl Fn(&Handle) -> &std::collections::BTreeSet<String>) {
        let (Event::Applied(object) | Event::Deleted(object)) = event else {
            return;
        };
        let (namespace, name) = (meta(object, "namespace"), meta(object, "name"));
        for handle in self.handles.values() {
            if handle.namespace == namespace && shown(handle).contains(name) {
                handle.events.send(PodEvent::Refresh).ok();
            }
        }
    }
}

impl Handle {
    /// Tells the pod to go; a later word may only shorten its time.
    fn stop(&self, grace: Duration, gone: bool) {
        self.stop.send_if_modified(|stop| {
            let now = Instant::now();
            let wanted = match stop.as_ref() {
                None => Stop {
                    since: now,
                    grace,
                    gone,
                },
                Some(before) if gone => Stop {
                    since: before.since,
                    grace: before.grace.min(now.duration_since(before.since) + grace),
                    gone,
                },
                Some(before) => Stop {
                    since: before.since,
                    grace: before.grace.min(grace),
                    gone: before.gone,
                },
            };
            let changed = stop.as_ref() != Some(&wanted);
            *stop = Some(wanted);
            changed
        });
    }
}

fn grace(pod: &Pod) -> Duration {
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let seconds = pod
        .metadata
        .deletion_grace_period_seconds
        .or(own)
        .unwrap_or(DEFAULT_GRACE);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
