//! Defaults of the kinds that own pods: Deployment, ReplicaSet, StatefulSet, DaemonSet and Job.

use serde_json::{Value, json};

use super::pod::template_spec;
use crate::api::fields::{at, at_mut, default, flag, has, is_empty, make, set, text};

/// Fills in the defaults of a Deployment.
pub(super) fn deployment(deployment: &mut Value) {
    let Some(spec) = make(deployment, "spec") else { return };
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    if let Some(strategy) = make(spec, "strategy") {
        default(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = make(strategy, "rollingUpdate")
        {
            default(rolling, "maxUnavailable", "25%");
            default(rolling, "maxSurge", "25%");
        }
    }
    template(spec);
    make(deployment, "status");
}

/// Fills in the defaults of a ReplicaSet.
pub(super) fn replica_set(set: &mut Value) {
    let Some(spec) = make(set, "spec") else { return };
    default(spec, "replicas", 1);
    template(spec);
    if let Some(status) = make(set, "status") {
        default(status, "replicas", 0);
    }
}

/// Fills in the defaults of a StatefulSet.
pub(super) fn stateful_set(set: &mut Value) {
    let Some(spec) = make(set, "spec") else { return };
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = make(spec, "updateStrategy") {
        default(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = make(strategy, "rollingUpdate")
        {
            default(rolling, "partition", 0);
        }
    }
    if let Some(policy) = make(spec, "persistentVolumeClaimRetentionPolicy") {
        default(policy, "whenDeleted", "Retain");
        default(policy, "whenScaled", "Retain");
    }
    template(spec);
    if let Some(status) = make(set, "status") {
        default(status, "replicas", 0);
        default(status, "availableReplicas", 0);
    }
}

/// Fills in the defaults of a DaemonSet.
pub(super) fn daemon_set(set: &mut Value) {
    let Some(spec) = make(set, "spec") else { return };
    default(spec, "revisionHistoryLimit", 10);
    if let Some(strategy) = make(spec, "updateStrategy") {
        default(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = make(strategy, "rollingUpdate")
        {
            default(rolling, "maxUnavailable", 1);
            default(rolling, "maxSurge", 0);
        }
    }
    template(spec);
    if let Some(status) = make(set, "status") {
        for key in [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
        ] {
            default(status, key, 0);
        }
    }
}

/// Fills in the defaults of a Job, with the selector and labels made from its uid once it has one.
pub(super) fn job(job: &mut Value) {
    let name = text(job, "metadata.name").to_owned();
    let uid = text(job, "metadata.uid").to_owned();
    let Some(spec) = make(job, "spec") else { return };
    if !has(spec, "completions") && !has(spec, "parallelism") {
        set(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    default(spec, "backoffLimit", 6);
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "podReplacementPolicy", "TerminatingOrFailed");
    default(spec, "manualSelector", false);
    if !flag(spec, "manualSelector") && !uid.is_empty() && is_empty(at(spec, "selector")) {
        set(
            spec,
            "selector",
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}),
        );
        if let Some(labels) = make(spec, "template.metadata.labels") {
            for prefix in ["", "batch.kubernetes.io/"] {
                set(labels, &format!("{prefix}controller-uid"), uid.clone());
                set(labels, &format!("{prefix}job-name"), name.clone());
            }
        }
    }
    template(spec);
    make(job, "status");
}

fn template(spec: &mut Value) {
    if let Some(template) = at_mut(spec, "template")
        && let Some(spec) = at_mut(template, "spec")
    {
        template_spec(spec);
    }
}
