//! What a Deployment says about itself; `kubectl rollout status` reads it.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::cache::Object;
use super::super::object::{Condition, age_seconds, condition, int, list, name, set_condition};
use super::plan;

/// All pods are of the present template and available, and no others are left.
pub(super) fn is_complete(deployment: &Value, new: Option<&Value>, old: &[Object]) -> bool {
    let wanted = int(deployment, "/spec/replicas").unwrap_or(1);
    let updated = new.map_or(0, |set| sum([set], "/status/replicas"));
    let available = new.map_or(0, |set| sum([set], "/status/availableReplicas"));
    let observed = new.is_some_and(|set| set["status"]["observedGeneration"] == set["metadata"]["generation"]);
    let others = sum(old.iter().map(|set| &**set), "/status/replicas");
    new.is_some() && observed && updated == wanted && available == wanted && others == 0
}

fn sum<'a>(sets: impl IntoIterator<Item = &'a Value>, pointer: &str) -> i64 {
    sets.into_iter().filter_map(|set| int(set, pointer)).sum()
}

/// The status that follows from the ReplicaSets.
pub(super) fn of(deployment: &Value, new: Option<&Value>, old: &[Object]) -> Value {
    let all = || old.iter().map(|set| &**set).chain(new);
    let total = sum(all(), "/status/replicas");
    let available = sum(all(), "/status/availableReplicas");
    let mut status = json!({
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": total,
        "updatedReplicas": sum(new, "/status/replicas"),
        "readyReplicas": sum(all(), "/status/readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": (sum(all(), "/spec/replicas") - available).max(0),
        "collisionCount": deployment["status"]["collisionCount"],
    });
    if let Some(fields) = status.as_object_mut() {
        fields.retain(|_, value| *value != 0 && !value.is_null());
    }
    status["conditions"] = conditions(deployment, new, old, &status).into();
    status
}

fn conditions(deployment: &Value, new: Option<&Value>, old: &[Object], status: &Value) -> Vec<Value> {
    let mut conditions = list(deployment, "/status/conditions").to_vec();
    let replicas = int(deployment, "/spec/replicas").unwrap_or(1);
    let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
    let (_, max_unavailable) = plan::limits(replicas, &rolling["maxSurge"], &rolling["maxUnavailable"]);
    let recreate = deployment["spec"]["strategy"]["type"] == "Recreate";
    let least = if recreate { replicas } else { replicas - max_unavailable };
    let enough = int(status, "/availableReplicas").unwrap_or(0) >= least;
    let say = |kind, status, reason, message| Condition {
        kind,
        status,
        reason,
        message,
        update_time: true,
    };
    let available = if enough {
        say(
            "Available",
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        let message = "Deployment does not have minimum availability.";
        say("Available", "False", "MinimumReplicasUnavailable", message)
    };
    set_condition(&mut conditions, available);
    let failure = new.and_then(|set| condition(set, "ReplicaFailure")).cloned();
    conditions.retain(|c| c["type"] != "ReplicaFailure");
    conditions.extend(failure);
    if deployment["spec"]["paused"] == true {
        let message = "Deployment is paused";
        set_condition(
            &mut conditions,
            say("Progressing", "Unknown", "DeploymentPaused", message),
        );
        return conditions;
    }
    let set = new.map_or_else(
        || format!("Deployment {:?}", name(deployment)),
        |set| format!("ReplicaSet {:?}", name(set)),
    );
    let before = condition(deployment, "Progressing");
    let reason_before = before.and_then(|c| c["reason"].as_str()).unwrap_or_default();
    let progress = |status: &Value| {
        ["updatedReplicas", "readyReplicas", "availableReplicas", "replicas"].map(|field| status[field].as_i64())
    };
    if is_complete(deployment, new, old) {
        let message = format!("{set} has successfully progressed.");
        set_condition(
            &mut conditions,
            say("Progressing", "True", "NewReplicaSetAvailable", &message),
        );
    } else if progress(status) != progress(&deployment["status"]) || before.is_none() {
        let message = format!("{set} is progressing.");
        // Its time is the last moment at which something moved.
        conditions.retain(|c| c["type"] != "Progressing");
        set_condition(
            &mut conditions,
            say("Progressing", "True", "ReplicaSetUpdated", &message),
        );
        let transition = before
            .filter(|c| c["status"] == "True")
            .map(|c| &c["lastTransitionTime"]);
        if let (Some(time), Some(last)) = (transition, conditions.last_mut()) {
            last["lastTransitionTime"] = time.clone();
        }
    } else if reason_before == "NewReplicaSetAvailable" || reason_before == "DeploymentPaused" {
        let message = format!("{set} is progressing.");
        set_condition(
            &mut conditions,
            say("Progressing", "True", "ReplicaSetUpdated", &message),
        );
    } else if left(deployment, before).is_some_and(|left| left <= 0.0) {
        let message = format!("{set} has timed out progressing.");
        set_condition(
            &mut conditions,
            say("Progressing", "False", "ProgressDeadlineExceeded", &message),
        );
    }
    conditions
}

/// Seconds until the progress deadline.
fn left(deployment: &Value, progressing: Option<&Value>) -> Option<f64> {
    let deadline = int(deployment, "/spec/progressDeadlineSeconds")?;
    let age = age_seconds(&progressing?["lastUpdateTime"])?;
    Some(deadline as f64 - age)
}

/// When to look again whether the progress deadline has passed.
pub(super) fn deadline(deployment: &Value, status: &Value) -> Option<Duration> {
    let conditions = list(status, "/conditions");
    let progressing = conditions.iter().find(|c| c["type"] == "Progressing")?;
    if progressing["reason"] != "ReplicaSetUpdated" {
        return None;
    }
    Duration::try_from_secs_f64(left(deployment, Some(progressing))?.max(0.0) + 1.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(replicas: i64, available: i64) -> Value {
        json!({
            "metadata": {"name": "web-abc", "generation": 1}, "spec": {"replicas": replicas},
            "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available, "observedGeneration": 1},
        })
    }

    #[test]
    fn progress_then_success() {
        let mut deployment = json!({
            "metadata": {"name": "web", "generation": 4},
            "spec": {"replicas": 3, "progressDeadlineSeconds": 600, "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}},
        });
        let first = of(&deployment, Some(&set(3, 1)), &[]);
        let reason = |status: &Value, kind: &str| {
            condition(&json!({ "status": status }), kind)
                .map(|c| c["reason"].as_str().unwrap().to_owned())
                .unwrap()
        };
        assert_eq!(reason(&first, "Available"), "MinimumReplicasUnavailable");
        assert_eq!(reason(&first, "Progressing"), "ReplicaSetUpdated");
        assert_eq!(first["unavailableReplicas"], 2);
        assert!(deadline(&deployment, &first).unwrap() > Duration::from_secs(590));
        deployment["status"] = first;
        let last = of(&deployment, Some(&set(3, 3)), &[]);
        assert_eq!(reason(&last, "Available"), "MinimumReplicasAvailable");
        assert_eq!(reason(&last, "Progressing"), "NewReplicaSetAvailable");
        assert_eq!(deadline(&deployment, &last), None);
    }

    #[test]
    fn no_progress_for_too_long() {
        let mut deployment = json!({"metadata": {"name": "web", "generation": 1}, "spec": {"replicas": 1, "progressDeadlineSeconds": 60}});
        deployment["status"] = of(&deployment, Some(&set(1, 0)), &[]);
        let conditions = deployment["status"]["conditions"].as_array_mut().unwrap();
        conditions
            .iter_mut()
            .for_each(|c| c["lastUpdateTime"] = "2020-01-01T00:00:00Z".into());
        let status = of(&deployment, Some(&set(1, 0)), &[]);
        assert_eq!(
            condition(&json!({ "status": status }), "Progressing").unwrap()["reason"],
            "ProgressDeadlineExceeded"
        );
    }
}
