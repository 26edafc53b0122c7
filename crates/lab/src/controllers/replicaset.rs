//! ReplicaSets: as many pods as asked for.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::cache::Object;
use super::context::Context;
use super::error::Error;
use super::object::{Condition, Key, deleting, int, list, name, namespace, set_condition};
use super::queue::{Queue, Reconcile, work};
use super::{index, kinds, pods, selector};
use crate::events::Recorder;

/// Pods created or deleted in one go.
const BURST: usize = 500;

pub(crate) struct ReplicaSets {
    ctx: Context,
    events: Recorder,
}

pub(crate) async fn run(ctx: Context) {
    let queue = Arc::new(Queue::default());
    ctx.enqueue(&kinds::REPLICA_SETS, &queue);
    ctx.enqueue_controller(&kinds::PODS, "ReplicaSet", &queue);
    enqueue_adopters(&ctx, &queue);
    ctx.synced(&[&kinds::REPLICA_SETS, &kinds::PODS]).await;
    let events = ctx.recorder("replicaset-controller");
    work(Arc::new(ReplicaSets { ctx, events }), queue, 8).await;
}

/// A pod that nobody controls concerns each ReplicaSet that could take it in.
fn enqueue_adopters(ctx: &Context, queue: &Arc<Queue>) {
    let (queue, sets) = (queue.clone(), ctx.cache(&kinds::REPLICA_SETS));
    ctx.cache(&kinds::PODS).subscribe(move |change| {
        let Some(pod) = change.new.filter(|pod| super::object::controller_of(pod).is_none()) else {
            return;
        };
        for set in sets.in_namespace(namespace(pod)) {
            if selector::fits(&set["spec"]["selector"], &pod["metadata"]["labels"]) {
                queue.add(Key::of(&set));
            }
        }
    });
}

impl Reconcile for ReplicaSets {
    fn name(&self) -> &'static str {
        "replicaset"
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(set) = self.ctx.cache(&kinds::REPLICA_SETS).get(key) else {
            return Ok(None);
        };
        let mut mine = pods::claim(&self.ctx, &set).await?;
        mine.retain(|pod| pods::is_active(pod));
        let scaled = if deleting(&set) {
            Ok(())
        } else {
            self.scale(&set, mine).await
        };
        let now = self
            .ctx
            .cache(&kinds::PODS)
            .indexed(&index::by_controller(super::object::uid(&set)));
        let status = status(&set, &now, scaled.as_ref().err());
        self.ctx.update_status(&kinds::REPLICA_SETS, &set, status).await?;
        scaled?;
        Ok(pods::next_available(
            now.iter(),
            int(&set, "/spec/minReadySeconds").unwrap_or(0),
        ))
    }
}

impl ReplicaSets {
    async fn scale(&self, set: &Value, mut mine: Vec<Object>) -> Result<(), Error> {
        let wanted = usize::try_from(int(set, "/spec/replicas").unwrap_or(1)).unwrap_or(0);
        if mine.len() < wanted {
            let mut pod = pods::from_template(&set["spec"]["template"], set);
            pod["metadata"]["generateName"] = format!("{}-", name(set)).into();
            let new = vec![pod; (wanted - mine.len()).min(BURST)];
            return pods::create(&self.ctx, &self.events, set, new).await;
        }
        let surplus = (mine.len() - wanted).min(BURST);
        if surplus == 0 {
            return Ok(());
        }
        pods::order_for_deletion(&mut mine);
        pods::delete(&self.ctx, &self.events, set, &mine[..surplus]).await
    }
}

fn status(set: &Value, pods: &[Object], failure: Option<&Error>) -> Value {
    let min_ready = int(set, "/spec/minReadySeconds").unwrap_or(0);
    let active: Vec<&Object> = pods.iter().filter(|pod| pods::is_active(pod)).collect();
    let template = &set["spec"]["template"]["metadata"]["labels"];
    let labeled = |pod: &Value| {
        let labels = template.as_object();
        labels.is_none_or(|labels| selector::fits_map(labels, &pod["metadata"]["labels"]))
    };
    let mut status = json!({
        "replicas": active.len(),
        "fullyLabeledReplicas": active.iter().filter(|pod| labeled(pod)).count(),
        "readyReplicas": active.iter().filter(|pod| pods::is_ready(pod)).count(),
        "availableReplicas": active.iter().filter(|pod| pods::is_available(pod, min_ready)).count(),
        "observedGeneration": set["metadata"]["generation"],
    });
    // Zeros are left out, except for `replicas`, as in Kubernetes.
    if let Some(fields) = status.as_object_mut() {
        fields.retain(|field, value| field == "replicas" || *value != 0);
    }
    let mut conditions = list(set, "/status/conditions").to_vec();
    match failure {
        None => conditions.retain(|c| c["type"] != "ReplicaFailure"),
        Some(error) => {
            let message = &error.to_string();
            let condition = Condition {
                kind: "ReplicaFailure",
                status: "True",
                reason: "FailedCreate",
                message,
                update_time: false,
            };
            set_condition(&mut conditions, condition);
        }
    }
    if !conditions.is_empty() {
        status["conditions"] = conditions.into();
    }
    status
}
