//! DaemonSets: one pod on every node that fits.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::cache::Object;
use super::context::Context;
use super::error::Error;
use super::object::{Key, deleting, int, list, name, text};
use super::queue::{Queue, Reconcile, work};
use super::revision::{self, Revisions};
use super::{kinds, pods};
use crate::events::Recorder;
use plan::{Place, target_node};

pub(crate) struct DaemonSets {
    ctx: Context,
    events: Recorder,
}

pub(crate) async fn run(ctx: Context) {
    let queue = Arc::new(Queue::default());
    ctx.enqueue(&kinds::DAEMON_SETS, &queue);
    ctx.enqueue_controller(&kinds::PODS, "DaemonSet", &queue);
    let (nodes, sets) = (queue.clone(), ctx.cache(&kinds::DAEMON_SETS));
    ctx.cache(&kinds::NODES).subscribe(move |change| {
        let what = |node: &Object| (node["spec"].clone(), node["metadata"]["labels"].clone());
        if change.old.map(what) != change.new.map(what) {
            sets.all().iter().for_each(|set| nodes.add(Key::of(set)));
        }
    });
    let all = [
        &kinds::DAEMON_SETS,
        &kinds::PODS,
        &kinds::NODES,
        &kinds::CONTROLLER_REVISIONS,
    ];
    ctx.synced(&all).await;
    let events = ctx.recorder("daemonset-controller");
    work(Arc::new(DaemonSets { ctx, events }), queue, 4).await;
}

impl Reconcile for DaemonSets {
    fn name(&self) -> &'static str {
        "daemonset"
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(set) = self
            .ctx
            .cache(&kinds::DAEMON_SETS)
            .get(key)
            .filter(|set| !deleting(set))
        else {
            return Ok(None);
        };
        let mine = pods::claim(&self.ctx, &set).await?;
        let used: Vec<&str> = mine
            .iter()
            .filter_map(|pod| super::object::label(pod, revision::HASH))
            .collect();
        let revisions = revision::sync(&self.ctx, &set, &used).await?;
        let nodes = self.ctx.cache(&kinds::NODES).all();
        let done = self.manage(&set, &nodes, &mine, &revisions).await;
        let mine = pods::claim(&self.ctx, &set).await?;
        let status = status(&set, &nodes, &mine, &revisions);
        self.ctx.update_status(&kinds::DAEMON_SETS, &set, status).await?;
        done?;
        Ok(pods::next_available(
            mine.iter(),
            int(&set, "/spec/minReadySeconds").unwrap_or(0),
        ))
    }
}

impl DaemonSets {
    async fn manage(&self, set: &Value, nodes: &[Object], mine: &[Object], revisions: &Revisions) -> Result<(), Error> {
        let template = &set["spec"]["template"];
        let probe = plan::pod(set, template, revisions.hash(), "");
        let min_ready = int(set, "/spec/minReadySeconds").unwrap_or(0);
        let mut by_node: HashMap<&str, Vec<&Object>> = HashMap::new();
        for pod in mine {
            by_node.entry(target_node(pod)).or_default().push(pod);
        }
        let (mut create, mut delete, mut outdated) = (Vec::new(), Vec::new(), Vec::new());
        let (mut wanted, mut unavailable) = (0, 0);
        for node in nodes.iter().filter(|node| !deleting(node)) {
            let there = by_node.remove(name(node)).unwrap_or_default();
            let place = plan::place(&probe, node);
            if place != Place::Run {
                if place == Place::Leave {
                    delete.extend(there.into_iter().filter(|pod| !deleting(pod)).cloned());
                }
                continue;
            }
            wanted += 1;
            for failed in there.iter().filter(|pod| pods::is_finished(pod) && !deleting(pod)) {
                let message = format!(
                    "Found failed daemon pod {} on node {}, will try to kill it",
                    Key::of(failed),
                    name(node)
                );
                self.events.warning(set, "FailedDaemonPod", message);
                delete.push(Object::clone(failed));
            }
            let mut active: Vec<&Object> = there.iter().copied().filter(|pod| pods::is_active(pod)).collect();
            // The oldest stays.
            active.sort_by_key(|pod| text(pod, "/metadata/creationTimestamp"));
            delete.extend(active.iter().skip(1).map(|pod| Object::clone(pod)));
            match active.first() {
                Some(pod) => {
                    let available = pods::is_available(pod, min_ready);
                    unavailable += i64::from(!available);
                    if super::object::label(pod, revision::HASH) != Some(revisions.hash()) {
                        outdated.push((available, Object::clone(pod)));
                    }
                }
                None => {
                    unavailable += 1;
                    // What still ends here makes place first.
                    if there.is_empty() {
                        create.push(plan::pod(set, template, revisions.hash(), name(node)));
                    }
                }
            }
        }
        // What is for a node that has gone and was never placed has no future.
        let lost = by_node.into_values().flatten();
        delete.extend(
            lost.filter(|pod| text(pod, "/spec/nodeName").is_empty() && !deleting(pod))
                .cloned(),
        );
        if text(set, "/spec/updateStrategy/type") != "OnDelete" {
            delete.extend(plan::to_replace(set, wanted, unavailable, outdated));
        }
        pods::delete(&self.ctx, &self.events, set, &delete).await?;
        pods::create(&self.ctx, &self.events, set, create).await
    }
}

fn status(set: &Value, nodes: &[Object], mine: &[Object], revisions: &Revisions) -> Value {
    let probe = plan::pod(set, &set["spec"]["template"], revisions.hash(), "");
    let min_ready = int(set, "/spec/minReadySeconds").unwrap_or(0);
    let mut count = [0_i64; 6];
    let [desired, current, misscheduled, ready, available, updated] = &mut count;
    for node in nodes.iter().filter(|node| !deleting(node)) {
        let there = mine
            .iter()
            .find(|pod| target_node(pod) == name(node) && pods::is_active(pod));
        if plan::place(&probe, node) != Place::Run {
            *misscheduled += i64::from(there.is_some());
            continue;
        }
        *desired += 1;
        if let Some(pod) = there {
            *current += 1;
            *ready += i64::from(pods::is_ready(pod));
            *available += i64::from(pods::is_available(pod, min_ready));
            *updated += i64::from(super::object::label(pod, revision::HASH) == Some(revisions.hash()));
        }
    }
    let mut status = json!({
        "currentNumberScheduled": current, "numberMisscheduled": misscheduled, "desiredNumberScheduled": desired,
        "numberReady": ready, "observedGeneration": set["metadata"]["generation"],
    });
    let optional = [
        ("updatedNumberScheduled", *updated),
        ("numberAvailable", *available),
        ("numberUnavailable", *desired - *available),
    ];
    for (field, value) in optional.into_iter().filter(|(_, value)| *value != 0) {
        status[field] = value.into();
    }
    let conditions = list(set, "/status/conditions");
    if !conditions.is_empty() {
        status["conditions"] = conditions.into();
    }
    status
}
