//! What controllers ask of pods, and how a pod is made from a template.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use super::cache::Object;
use super::context::Context;
use super::error::Error;
use super::object::{
    age_seconds, annotation, condition, controller_of, deleting, int, is_true, list, name, namespace, owner_reference,
    text, uid,
};
use super::{index, kinds, selector};
use crate::events::Recorder;

/// Finished: it will not run again.
pub(crate) fn is_finished(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Neither finished nor on its way out.
pub(crate) fn is_active(pod: &Value) -> bool {
    !is_finished(pod) && !deleting(pod)
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    is_true(pod, "Ready")
}

/// Ready for at least this long.
pub(crate) fn is_available(pod: &Value, min_ready_seconds: i64) -> bool {
    is_ready(pod) && available_in(pod, min_ready_seconds).is_zero()
}

/// How long a ready pod still needs until it counts as available.
pub(crate) fn available_in(pod: &Value, min_ready_seconds: i64) -> Duration {
    if min_ready_seconds <= 0 {
        return Duration::ZERO;
    }
    let since = condition(pod, "Ready").and_then(|c| age_seconds(&c["lastTransitionTime"]));
    Duration::try_from_secs_f64(min_ready_seconds as f64 - since.unwrap_or(0.0)).unwrap_or(Duration::ZERO)
}

/// When the next of these pods becomes available only by waiting.
pub(crate) fn next_available<'a>(pods: impl Iterator<Item = &'a Object>, min_ready_seconds: i64) -> Option<Duration> {
    pods.filter(|pod| is_ready(pod))
        .map(|pod| available_in(pod, min_ready_seconds))
        .filter(|wait| !wait.is_zero())
        .min()
}

/// A pod as `template` describes it, controlled by `owner`; it still needs a name.
pub(crate) fn from_template(template: &Value, owner: &Value) -> Value {
    let mut metadata = json!({
        "namespace": namespace(owner),
        "labels": template["metadata"]["labels"],
        "ownerReferences": [owner_reference(owner)],
    });
    for field in ["annotations", "finalizers"] {
        if !template["metadata"][field].is_null() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// The pods that `owner` controls, after taking in matching ones that nobody controls and letting go of those that no
/// longer match.
pub(crate) async fn claim(ctx: &Context, owner: &Value) -> Result<Vec<Object>, Error> {
    let cache = ctx.cache(&kinds::PODS);
    let wanted = &owner["spec"]["selector"];
    let fits = |pod: &Object| selector::fits(wanted, &pod["metadata"]["labels"]);
    let owned = cache.indexed(&index::by_controller(uid(owner)));
    let (mut mine, strangers): (Vec<Object>, Vec<Object>) = owned.into_iter().partition(fits);
    if deleting(owner) {
        return Ok(mine);
    }
    for pod in strangers.iter().filter(|pod| !deleting(pod)) {
        release(ctx, owner, pod).await?;
    }
    for orphan in candidates(ctx, owner) {
        if controller_of(&orphan).is_none() && fits(&orphan) && is_active(&orphan) {
            mine.push(adopt(ctx, owner, &orphan).await?);
        }
    }
    Ok(mine)
}

/// Pods that may match an owner's selector, found by one of its labels.
fn candidates(ctx: &Context, owner: &Value) -> Vec<Object> {
    let cache = ctx.cache(&kinds::PODS);
    let exact = owner["spec"]["selector"]["matchLabels"].as_object();
    match exact.and_then(|labels| labels.iter().next()) {
        Some((key, value)) => {
            let value = value.as_str().unwrap_or_default();
            cache.indexed(&index::by_label(namespace(owner), key, value))
        }
        None => cache.in_namespace(namespace(owner)),
    }
}

async fn adopt(ctx: &Context, owner: &Value, pod: &Value) -> Result<Object, Error> {
    let mut owners = list(pod, "/metadata/ownerReferences").to_vec();
    owners.push(owner_reference(owner));
    // The uid makes sure that it is still the same pod.
    let patch = json!({"metadata": {"uid": uid(pod), "ownerReferences": owners}});
    Ok(Object::new(ctx.patch(&kinds::PODS, pod, patch).await?))
}

async fn release(ctx: &Context, owner: &Value, pod: &Value) -> Result<(), Error> {
    let all = list(pod, "/metadata/ownerReferences").iter();
    let others: Vec<&Value> = all.filter(|o| o["uid"].as_str() != Some(uid(owner))).collect();
    let patch = json!({"metadata": {"uid": uid(pod), "ownerReferences": others}});
    ctx.patch(&kinds::PODS, pod, patch).await?;
    Ok(())
}

/// Creates pods side by side, and tells about each.
pub(crate) async fn create(ctx: &Context, events: &Recorder, owner: &Value, pods: Vec<Value>) -> Result<(), Error> {
    let results = join_all(pods.iter().map(|pod| ctx.create(&kinds::PODS, pod))).await;
    for result in &results {
        match result {
            Ok(pod) => events.normal(owner, "SuccessfulCreate", format!("Created pod: {}", name(pod))),
            Err(error) => events.warning(owner, "FailedCreate", format!("Error creating: {error}")),
        }
    }
    Error::all(results)
}

/// Deletes pods side by side, and tells about each.
pub(crate) async fn delete(ctx: &Context, events: &Recorder, owner: &Value, pods: &[Object]) -> Result<(), Error> {
    let results = join_all(pods.iter().map(|pod| ctx.delete(&kinds::PODS, pod, None))).await;
    for (pod, result) in pods.iter().zip(&results) {
        match result {
            Ok(()) => events.normal(owner, "SuccessfulDelete", format!("Deleted pod: {}", name(pod))),
            Err(error) => events.warning(owner, "FailedDelete", format!("Error deleting: {error}")),
        }
    }
    Error::all(results)
}

/// Orders pods so that those whose loss costs least come first: not placed, not running, not ready, cheap by annotation,
/// crowded on their node, young.
pub(crate) fn order_for_deletion(pods: &mut [Object]) {
    let mut crowds: HashMap<String, usize> = HashMap::new();
    for pod in pods.iter() {
        *crowds.entry(text(pod, "/spec/nodeName").to_owned()).or_default() += 1;
    }
    let cost = |pod: &Value| {
        let cost = annotation(pod, "controller.kubernetes.io/pod-deletion-cost");
        cost.and_then(|cost| cost.parse::<i32>().ok()).unwrap_or(0)
    };
    let phase = |pod: &Value| match text(pod, "/status/phase") {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let restarts = |pod: &Value| {
        let counts = list(pod, "/status/containerStatuses").iter();
        counts.filter_map(|c| int(c, "/restartCount")).max().unwrap_or(0)
    };
    pods.sort_by_cached_key(|pod| {
        let node = text(pod, "/spec/nodeName");
        let created = pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default();
        (
            !node.is_empty(),
            phase(pod),
            is_ready(pod),
            cost(pod),
            Reverse(crowds.get(node).copied().unwrap_or(0)),
            Reverse(restarts(pod)),
            Reverse(created.to_owned()),
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str, phase: &str, ready: &str) -> Object {
        Object::new(json!({
            "metadata": {"name": name}, "spec": {"nodeName": node},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        }))
    }

    #[test]
    fn what_costs_least_goes_first() {
        let mut pods = vec![
            pod("alone", "n1", "Running", "True"),
            pod("crowded-1", "n2", "Running", "True"),
            pod("crowded-2", "n2", "Running", "True"),
            pod("unready", "n3", "Running", "False"),
            pod("pending", "n3", "Pending", "False"),
        ];
        pods.push(Object::new(json!({"metadata": {"name": "unplaced"}})));
        order_for_deletion(&mut pods);
        let names: Vec<&str> = pods.iter().map(|pod| name(pod)).collect();
        assert_eq!(names[..3], ["unplaced", "pending", "unready"]);
        assert_eq!(names[5], "alone");
    }
}
