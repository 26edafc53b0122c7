//! Whether nodes live: a node whose Lease is not renewed for 40 seconds is not ready, its pods are no endpoints any more,
//! and taints keep new pods away and, after their patience, drive old ones off.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cache::Object;
use super::context::Context;
use super::error::Error;
use super::object::{Condition, Key, age_seconds, condition, deleting, list, name, now, set_condition, text};
use super::pods;
use super::queue::{Queue, Reconcile, work};
use super::scheduler::fit::tolerated;
use super::{index, kinds};
use crate::events::Recorder;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const LEASES_IN: &str = "kube-node-lease";

/// When each node was last heard of, by our own clock: after an outage of the API, every node has its full grace again.
type Heard = Arc<Mutex<HashMap<String, Instant>>>;

fn lock(heard: &Heard) -> MutexGuard<'_, HashMap<String, Instant>> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct NodeLives {
    ctx: Context,
    events: Recorder,
    heard: Heard,
}

pub(crate) async fn run(ctx: Context) {
    let (queue, heard) = (Arc::new(Queue::default()), Heard::default());
    ctx.enqueue(&kinds::NODES, &queue);
    let (leases, memory, grace) = (queue.clone(), heard.clone(), ctx.config.node_grace);
    ctx.cache(&kinds::LEASES).subscribe(move |change| {
        let Some(lease) = change
            .new
            .filter(|lease| text(lease, "/metadata/namespace") == LEASES_IN)
        else {
            return;
        };
        let renewed = |lease: &Object| lease["spec"]["renewTime"].clone();
        if change.old.map(renewed) != change.new.map(renewed) {
            let before = lock(&memory).insert(name(lease).to_owned(), Instant::now());
            // A node that was given up is looked at when it is back; for others the next look is planned already.
            if before.is_none_or(|before| before.elapsed() > grace) {
                leases.add(Key::new("", name(lease)));
            }
        }
    });
    ctx.synced(&[&kinds::NODES, &kinds::LEASES, &kinds::PODS]).await;
    let events = ctx.recorder("node-controller");
    work(Arc::new(NodeLives { ctx, events, heard }), queue, 4).await;
}

impl Reconcile for NodeLives {
    fn name(&self) -> &'static str {
        "nodelife"
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(node) = self.ctx.cache(&kinds::NODES).get(key) else {
            lock(&self.heard).remove(&key.name);
            return Ok(None);
        };
        let heard = *lock(&self.heard).entry(key.name.clone()).or_insert_with(Instant::now);
        let grace = self.ctx.config.node_grace;
        let silent = heard.elapsed() >= grace;
        let node = if silent { self.give_up(node).await? } else { node };
        let node = self.taint(node).await?;
        let eviction = self.evict(&node).await?;
        let next = if silent {
            grace
        } else {
            grace.saturating_sub(heard.elapsed())
        };
        Ok(Some(eviction.unwrap_or(next).min(next).max(Duration::from_millis(50))))
    }
}

impl NodeLives {
    /// Nobody answers for the node any more: say so, and that its pods are not ready.
    async fn give_up(&self, node: Object) -> Result<Object, Error> {
        let mut conditions = list(&node, "/status/conditions").to_vec();
        let known = condition(&node, "Ready").is_some_and(|c| c["status"] != "Unknown");
        if !known && condition(&node, "Ready").is_some() {
            return Ok(node);
        }
        let unknown = Condition {
            kind: "Ready",
            status: "Unknown",
            reason: "NodeStatusUnknown",
            message: "Kubelet stopped posting node status.",
            update_time: false,
        };
        set_condition(&mut conditions, unknown);
        self.events.normal(
            &node,
            "NodeNotReady",
            format!("Node {} status is now: NodeNotReady", name(&node)),
        );
        let patch = json!({"status": {"conditions": conditions}});
        let node = self.ctx.patch_part(&kinds::NODES, &node, Some("status"), patch).await?;
        for pod in self.ctx.cache(&kinds::PODS).indexed(&index::by_node(name(&node))) {
            self.unready(&pod).await?;
        }
        Ok(Object::new(node))
    }

    async fn unready(&self, pod: &Value) -> Result<(), Error> {
        if !pods::is_ready(pod) {
            return Ok(());
        }
        let mut conditions = list(pod, "/status/conditions").to_vec();
        for condition in conditions.iter_mut().filter(|c| c["type"] == "Ready") {
            condition["status"] = "False".into();
            condition["reason"] = "NodeNotReady".into();
            condition["lastTransitionTime"] = now().into();
        }
        let patch = json!({"status": {"conditions": conditions}});
        match self.ctx.patch_part(&kinds::PODS, pod, Some("status"), patch).await {
            Err(error) if error.is_not_found() => Ok(()),
            result => Ok(result.map(drop)?),
        }
    }

    /// Makes the taints say what the Ready condition says.
    async fn taint(&self, node: Object) -> Result<Object, Error> {
        let wanted = match condition(&node, "Ready").and_then(|c| c["status"].as_str()) {
            Some("True") => None,
            Some("Unknown") => Some(UNREACHABLE),
            _ => Some(NOT_READY),
        };
        let present = list(&node, "/spec/taints");
        let about_life = |taint: &Value| matches!(text(taint, "/key"), NOT_READY | UNREACHABLE);
        let fits = |taint: &&Value| !about_life(taint) || wanted.is_some_and(|key| text(taint, "/key") == key);
        let mut taints: Vec<Value> = present.iter().filter(fits).cloned().collect();
        for effect in ["NoSchedule", "NoExecute"] {
            let Some(key) = wanted else { break };
            let there = taints
                .iter()
                .any(|t| text(t, "/key") == key && text(t, "/effect") == effect);
            if !there {
                taints.push(json!({"key": key, "effect": effect, "timeAdded": now()}));
            }
        }
        if taints == present {
            return Ok(node);
        }
        let version = &node["metadata"]["resourceVersion"];
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
        Ok(Object::new(self.ctx.patch(&kinds::NODES, &node, patch).await?))
    }

    /// Deletes pods that no longer tolerate the node; says when the next one's patience ends.
    async fn evict(&self, node: &Value) -> Result<Option<Duration>, Error> {
        let driving = list(node, "/spec/taints")
            .iter()
            .filter(|taint| text(taint, "/effect") == "NoExecute");
        let driving: Vec<&Value> = driving.collect();
        if driving.is_empty() {
            return Ok(None);
        }
        let mut next = None;
        for pod in self.ctx.cache(&kinds::PODS).indexed(&index::by_node(name(node))) {
            if deleting(&pod) || pods::is_finished(&pod) {
                continue;
            }
            match patience(&pod, &driving) {
                None => {}
                Some(left) if left.is_zero() => {
                    self.events.normal(
                        &pod,
                        "TaintManagerEviction",
                        format!("Marking for deletion Pod {}", Key::of(&pod)),
                    );
                    self.ctx.delete(&kinds::PODS, &pod, None).await?;
                }
                Some(left) => next = Some(next.unwrap_or(left).min(left)),
            }
        }
        Ok(next)
    }
}

/// How long a pod may stay under these taints; `None` is for ever.
fn patience(pod: &Value, taints: &[&Value]) -> Option<Duration> {
    let tolerations = list(pod, "/spec/tolerations");
    let of = |taint: &&Value| {
        let fitting = tolerations
            .iter()
            .filter(|t| tolerated(std::slice::from_ref(*t), taint));
        let mut seconds = None;
        let mut any = false;
        for toleration in fitting {
            any = true;
            if let Some(limit) = toleration["tolerationSeconds"].as_i64() {
                seconds = Some(seconds.unwrap_or(limit).min(limit));
            }
        }
        match (any, seconds) {
            (false, _) => Some(Duration::ZERO),
            (true, None) => None,
            (true, Some(seconds)) => {
                let since = age_seconds(&taint["timeAdded"]).unwrap_or(0.0);
                Some(Duration::try_from_secs_f64(seconds as f64 - since).unwrap_or(Duration::ZERO))
            }
        }
    };
    taints.iter().filter_map(of).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_what_the_tolerations_say() {
        let taint = json!({"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": now()});
        let pod = |tolerations: Value| json!({"spec": {"tolerations": tolerations}});
        assert_eq!(patience(&pod(json!([])), &[&taint]), Some(Duration::ZERO));
        let forever = pod(json!([{"key": UNREACHABLE, "operator": "Exists"}]));
        assert_eq!(patience(&forever, &[&taint]), None);
        let usual =
            pod(json!([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]));
        let left = patience(&usual, &[&taint]).unwrap();
        assert!(
            left > Duration::from_secs(290) && left <= Duration::from_secs(301),
            "{left:?}"
        );
    }
}
