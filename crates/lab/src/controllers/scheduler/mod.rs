//! The scheduler: each pod without a node gets one, spread over those that fit.

mod affinity;
pub(super) mod fit;
mod usage;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::cache::Object;
use super::context::Context;
use super::error::Error;
use super::kinds;
use super::object::{Condition, Key, condition, deleting, list, name, namespace, set_condition, text, uid};
use super::pods;
use crate::events::Recorder;
use usage::{Ledger, Needs};

/// How long a pod whose binding failed waits for the next attempt.
const RETRY: Duration = Duration::from_millis(200);

enum Signal {
    Pod(Key),
    Nodes,
}

/// How an attempt to bind ended.
struct Bound {
    pod: Object,
    node: Object,
    result: Result<(), Error>,
}

/// Why a pod waits.
struct Waiting {
    /// What was told.
    reason: String,
    /// Another pod may be what it waits for.
    for_pods: bool,
}

/// What a change of a pod means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum News {
    /// It needs a node.
    Unplaced,
    /// It is on a node.
    Placed,
    /// It gave back what it had.
    Freed,
    Nothing,
}

struct Scheduler {
    ctx: Context,
    events: Recorder,
    nodes: BTreeMap<String, Object>,
    ledger: Ledger,
    /// Pods that fit nowhere at the moment.
    waiting: HashMap<Key, Waiting>,
    /// Pods that are being bound: the uid, so that a namesake is not mistaken for them.
    binding: HashMap<Key, String>,
    bindings: JoinSet<Bound>,
    retries: JoinSet<Key>,
}

pub(crate) async fn run(ctx: Context) {
    ctx.synced(&[&kinds::NODES, &kinds::PODS]).await;
    let (sender, mut signals) = mpsc::unbounded_channel();
    let pods = sender.clone();
    ctx.cache(&kinds::NODES)
        .subscribe(move |_| drop(sender.send(Signal::Nodes)));
    ctx.cache(&kinds::PODS).subscribe(move |change| {
        if let Some(pod) = change.object() {
            let _ = pods.send(Signal::Pod(Key::of(pod)));
        }
    });
    let mut scheduler = Scheduler {
        events: ctx.recorder("default-scheduler"),
        ctx,
        nodes: BTreeMap::new(),
        ledger: Ledger::default(),
        waiting: HashMap::new(),
        binding: HashMap::new(),
        bindings: JoinSet::new(),
        retries: JoinSet::new(),
    };
    loop {
        tokio::select! {
            signal = signals.recv() => {
                let Some(signal) = signal else { return };
                let mut batch = vec![signal];
                while let Ok(more) = signals.try_recv() {
                    batch.push(more);
                }
                scheduler.take(batch);
            }
            Some(Ok(bound)) = scheduler.bindings.join_next() => scheduler.bound(bound),
            Some(Ok(key)) = scheduler.retries.join_next() => scheduler.look_at(key),
        }
    }
}

impl Scheduler {
    /// Takes in what changed: first where everything is, then who needs a place.
    fn take(&mut self, batch: Vec<Signal>) {
        let mut nodes_changed = false;
        let mut keys = HashSet::new();
        let mut ordered = Vec::new();
        for signal in batch {
            match signal {
                Signal::Nodes => nodes_changed = true,
                Signal::Pod(key) => {
                    if keys.insert(key.clone()) {
                        ordered.push(key);
                    }
                }
            }
        }
        let mut news = HashSet::new();
        if nodes_changed {
            let nodes = self.ctx.cache(&kinds::NODES).all();
            let nodes = nodes.into_iter().filter(|node| !deleting(node));
            self.nodes = nodes.map(|node| (name(&node).to_owned(), node)).collect();
            news.insert(News::Freed);
        }
        ordered.retain(|key| {
            let what = self.account(key);
            news.insert(what);
            what == News::Unplaced
        });
        let again =
            |waiting: &Waiting| news.contains(&News::Freed) || (waiting.for_pods && news.contains(&News::Placed));
        let waiting = self
            .waiting
            .iter()
            .filter(|(key, waiting)| !keys.contains(key) && again(waiting));
        ordered.extend(waiting.map(|(key, _)| key.clone()));
        for key in ordered {
            self.look_at(key);
        }
    }

    /// Books what the pod takes or gives back.
    fn account(&mut self, key: &Key) -> News {
        let pod = self.ctx.cache(&kinds::PODS).get(key);
        let Some(pod) = pod.filter(|pod| !pods::is_finished(pod)) else {
            self.waiting.remove(key);
            self.binding.remove(key);
            return if self.ledger.remove(key) {
                News::Freed
            } else {
                News::Nothing
            };
        };
        let node = text(&pod, "/spec/nodeName");
        if !node.is_empty() {
            self.waiting.remove(key);
            self.binding.remove(key);
            self.ledger.place(key.clone(), node, Needs::of(&pod));
            return News::Placed;
        }
        let being_bound = self.binding.get(key).is_some_and(|bound| bound == uid(&pod));
        if being_bound { News::Nothing } else { News::Unplaced }
    }

    /// Finds a place for a pod that may need one.
    fn look_at(&mut self, key: Key) {
        let Some(pod) = self.ctx.cache(&kinds::PODS).get(&key).filter(|pod| is_ours(pod)) else {
            self.waiting.remove(&key);
            return;
        };
        if self.binding.get(&key).is_some_and(|bound| bound == uid(&pod)) {
            return;
        }
        let needs = Needs::of(&pod);
        let nodes: Vec<&Value> = self.nodes.values().map(|node| &**node).collect();
        match fit::choose(&pod, &needs, &nodes, &self.ledger) {
            Ok(chosen) => {
                let Some(node) = self.nodes.get(chosen).cloned() else {
                    return;
                };
                self.waiting.remove(&key);
                self.ledger.place(key.clone(), name(&node), needs);
                self.binding.insert(key, uid(&pod).to_owned());
                self.bindings.spawn(bind(self.ctx.clone(), pod, node));
            }
            Err(reason) => {
                let for_pods = !needs.near.is_empty();
                self.refuse(key, pod, Waiting { reason, for_pods });
            }
        }
    }

    fn refuse(&mut self, key: Key, pod: Object, why: Waiting) {
        let reason = why.reason.clone();
        self.waiting.insert(key, why);
        if condition(&pod, "PodScheduled").is_some_and(|c| c["message"] == *reason) {
            return;
        }
        self.events.warning(&pod, "FailedScheduling", reason.clone());
        tokio::spawn(tell_unschedulable(self.ctx.clone(), pod, reason));
    }

    fn bound(&mut self, bound: Bound) {
        let Bound { pod, node, result } = bound;
        let key = Key::of(&pod);
        match result {
            Ok(()) => {
                let message = format!("Successfully assigned {key} to {}", name(&node));
                self.events.normal(&pod, "Scheduled", message);
            }
            Err(error) => {
                if self.binding.get(&key).is_some_and(|bound| bound == uid(&pod)) {
                    self.binding.remove(&key);
                    self.ledger.remove(&key);
                }
                tracing::debug!(pod = %key, %error, "binding failed; trying again");
                self.retries.spawn(async move {
                    tokio::time::sleep(RETRY).await;
                    key
                });
            }
        }
    }
}

/// Is it up to this scheduler to place the pod now?
fn is_ours(pod: &Value) -> bool {
    let scheduler = text(pod, "/spec/schedulerName");
    text(pod, "/spec/nodeName").is_empty()
        && !deleting(pod)
        && !pods::is_finished(pod)
        && matches!(scheduler, "" | "default-scheduler")
        && list(pod, "/spec/schedulingGates").is_empty()
}

async fn bind(ctx: Context, pod: Object, node: Object) -> Bound {
    let result = try_bind(&ctx, &pod, &node).await;
    Bound { pod, node, result }
}

async fn try_bind(ctx: &Context, pod: &Value, node: &Value) -> Result<(), Error> {
    // What was decided on is still so: a node that was cordoned a moment ago takes no more pods.
    let now = ctx.client.get(&kinds::NODES, "", name(node)).await?;
    let closed = |node: &Value| (node["spec"]["unschedulable"] == true, node["spec"]["taints"].clone());
    if closed(&now) != closed(node) {
        return Err(Error::NotYet(format!("node {} has changed", name(node))));
    }
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": name(pod), "namespace": namespace(pod), "uid": uid(pod)},
        "target": {"apiVersion": "v1", "kind": "Node", "name": name(node)},
    });
    let (namespace, name) = (namespace(pod), name(pod));
    ctx.client
        .create_subresource(&kinds::PODS, namespace, name, "binding", &binding)
        .await?;
    Ok(())
}

async fn tell_unschedulable(ctx: Context, pod: Object, reason: String) {
    let mut conditions = list(&pod, "/status/conditions").to_vec();
    let condition = Condition {
        kind: "PodScheduled",
        status: "False",
        reason: "Unschedulable",
        message: &reason,
        update_time: false,
    };
    set_condition(&mut conditions, condition);
    // The version makes sure that it says so about the pod as it was judged; a newer one is judged again.
    let version = &pod["metadata"]["resourceVersion"];
    let patch = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": conditions}});
    if let Err(error) = ctx.patch_part(&kinds::PODS, &pod, Some("status"), patch).await {
        tracing::debug!(pod = %Key::of(&pod), %error, "PodScheduled not written");
    }
}

#[cfg(test)]
mod tests;
