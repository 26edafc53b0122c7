//! Numbers for the templates that a Deployment has had, which `kubectl rollout history` and `undo` go by.

use serde_json::{Map, Value, json};

use super::super::cache::Object;
use super::super::context::Context;
use super::super::error::Error;
use super::super::kinds;
use super::super::object::{annotation, name, namespace, owner_reference};
use super::HASH;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const EARLIER: &str = "deployment.kubernetes.io/revision-history";
/// Annotations of a Deployment that are about itself and not for its ReplicaSets.
const OWN: [&str; 3] = [REVISION, EARLIER, "kubectl.kubernetes.io/last-applied-configuration"];

/// The revision of a Deployment or ReplicaSet; 0 where it has none.
pub(super) fn of(object: &Value) -> i64 {
    annotation(object, REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// A ReplicaSet for the present template.
pub(super) fn new_set(deployment: &Value, hash: &str, replicas: i64, revision: i64) -> Value {
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"][HASH] = hash.into();
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][HASH] = hash.into();
    let mut annotations = inherited(deployment);
    annotations.insert(REVISION.into(), revision.to_string().into());
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", name(deployment)),
            "namespace": namespace(deployment),
            "labels": template["metadata"]["labels"],
            "annotations": annotations,
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {
            "replicas": replicas,
            "minReadySeconds": deployment["spec"]["minReadySeconds"].as_i64().unwrap_or(0),
            "selector": selector,
            "template": template,
        },
    })
}

/// Makes the set of the present template the newest revision, and hands it the Deployment's annotations.
pub(super) async fn raise(ctx: &Context, deployment: &Value, set: &Object, newest: i64) -> Result<Object, Error> {
    let mut wish = inherited(deployment);
    let present = of(set);
    if present < newest {
        wish.insert(REVISION.into(), newest.to_string().into());
        if present > 0 {
            let earlier = match annotation(set, EARLIER) {
                Some(earlier) => format!("{earlier},{present}"),
                None => present.to_string(),
            };
            wish.insert(EARLIER.into(), earlier.into());
        }
    }
    let wait = deployment["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
    let same_wait = set["spec"]["minReadySeconds"].as_i64().unwrap_or(0) == wait;
    if same_wait
        && wish
            .iter()
            .all(|(key, value)| set["metadata"]["annotations"][key] == *value)
    {
        return Ok(set.clone());
    }
    let patch = json!({"metadata": {"annotations": wish}, "spec": {"minReadySeconds": wait}});
    Ok(Object::new(ctx.patch(&kinds::REPLICA_SETS, set, patch).await?))
}

fn inherited(deployment: &Value) -> Map<String, Value> {
    let all = deployment["metadata"]["annotations"].as_object();
    let all = all.into_iter().flatten();
    all.filter(|(key, _)| !OWN.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
