//! Rules of the kinds that own pods.

use serde_json::Value;

use super::field::{Errors, Field};
use super::meta;
use super::pod;

/// Checks a Deployment.
pub(super) fn validate_deployment(errors: &mut Errors, deployment: &Field<'_>, old: Option<&Field<'_>>) {
    let spec = deployment.at("spec");
    selector_and_template(errors, &spec, "deployment");
    always(errors, &spec);
    numbers(
        errors,
        &spec,
        &[
            "replicas",
            "minReadySeconds",
            "revisionHistoryLimit",
            "progressDeadlineSeconds",
        ],
    );
    let strategy = spec.at("strategy");
    strategy.at("type").one_of(errors, &["Recreate", "RollingUpdate"]);
    let rolling = strategy.at("rollingUpdate");
    if strategy.at("type").text() == "Recreate" && !rolling.is_missing() {
        rolling.forbidden(errors, "may not be specified when strategy `type` is 'Recreate'");
    } else {
        self::rolling(errors, &rolling, true);
    }
    let (deadline, ready) = (spec.at("progressDeadlineSeconds"), spec.at("minReadySeconds"));
    if deadline.int().is_some_and(|d| d <= ready.int().unwrap_or_default()) {
        deadline.invalid(errors, "must be greater than minReadySeconds");
    }
    keep(errors, &spec, old, &["selector"]);
}

/// Checks a ReplicaSet.
pub(super) fn validate_replica_set(errors: &mut Errors, set: &Field<'_>, old: Option<&Field<'_>>) {
    let spec = set.at("spec");
    selector_and_template(errors, &spec, "replicaset");
    always(errors, &spec);
    numbers(errors, &spec, &["replicas", "minReadySeconds"]);
    keep(errors, &spec, old, &["selector"]);
}

/// Checks a StatefulSet.
pub(super) fn validate_stateful_set(errors: &mut Errors, set: &Field<'_>, old: Option<&Field<'_>>) {
    const MAY_CHANGE: &[&str] = &[
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let spec = set.at("spec");
    selector_and_template(errors, &spec, "statefulset");
    always(errors, &spec);
    numbers(errors, &spec, &["replicas", "minReadySeconds", "revisionHistoryLimit"]);
    spec.at("podManagementPolicy")
        .one_of(errors, &["OrderedReady", "Parallel"]);
    spec.at("updateStrategy.type")
        .one_of(errors, &["OnDelete", "RollingUpdate"]);
    spec.at("updateStrategy.rollingUpdate.partition").not_negative(errors);
    if let Some(old) = old {
        let rest = |spec: &Value| {
            let mut rest = spec.clone();
            if let Some(fields) = rest.as_object_mut() {
                fields.retain(|key, _| !MAY_CHANGE.contains(&key.as_str()));
            }
            rest
        };
        if rest(spec.value) != rest(old.at("spec").value) {
            spec.forbidden(errors, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
        }
    }
}

/// Checks a DaemonSet.
pub(super) fn validate_daemon_set(errors: &mut Errors, set: &Field<'_>, old: Option<&Field<'_>>) {
    let spec = set.at("spec");
    selector_and_template(errors, &spec, "daemonset");
    always(errors, &spec);
    numbers(errors, &spec, &["minReadySeconds", "revisionHistoryLimit"]);
    spec.at("updateStrategy.type")
        .one_of(errors, &["OnDelete", "RollingUpdate"]);
    rolling(errors, &spec.at("updateStrategy.rollingUpdate"), false);
    keep(errors, &spec, old, &["selector"]);
}

/// Checks a Job.
pub(super) fn validate_job(errors: &mut Errors, job: &Field<'_>, old: Option<&Field<'_>>) {
    let spec = job.at("spec");
    numbers(
        errors,
        &spec,
        &[
            "parallelism",
            "completions",
            "backoffLimit",
            "activeDeadlineSeconds",
            "ttlSecondsAfterFinished",
        ],
    );
    spec.at("completionMode").one_of(errors, &["Indexed", "NonIndexed"]);
    let selector = spec.at("selector");
    if selector.is_missing() {
        selector.required(errors, "");
    } else {
        meta::selector(errors, &selector);
        matches_template(errors, &spec);
    }
    pod::template(errors, &spec.at("template"));
    let policy = spec.at("template.spec.restartPolicy");
    match policy.text() {
        "OnFailure" | "Never" => {}
        "" | "Always" => policy.required(errors, "valid values: \"OnFailure\", \"Never\""),
        _ => policy.one_of(errors, &["OnFailure", "Never"]),
    }
    let suspended = old.is_some_and(|old| old.at("spec.suspend").value == true);
    keep(
        errors,
        &spec,
        old,
        if suspended {
            &["selector"]
        } else {
            &["selector", "template", "completionMode"]
        },
    );
}

fn selector_and_template(errors: &mut Errors, spec: &Field<'_>, kind: &str) {
    let selector = spec.at("selector");
    if selector.is_missing() {
        selector.required(errors, "");
    } else {
        meta::selector(errors, &selector);
        if selector.at("matchLabels").is_empty() && selector.at("matchExpressions").is_empty() {
            selector.invalid(errors, &format!("empty selector is invalid for {kind}"));
        } else {
            matches_template(errors, spec);
        }
    }
    pod::template(errors, &spec.at("template"));
}

fn matches_template(errors: &mut Errors, spec: &Field<'_>) {
    let labels = spec.at("template.metadata.labels");
    if !meta::selects(&spec.at("selector"), &labels) {
        labels.invalid(errors, "`selector` does not match template `labels`");
    }
}

/// Pods of long-running kinds always restart.
fn always(errors: &mut Errors, spec: &Field<'_>) {
    spec.at("template.spec.restartPolicy").one_of(errors, &["Always"]);
}

fn numbers(errors: &mut Errors, spec: &Field<'_>, fields: &[&str]) {
    for field in fields {
        spec.at(field).not_negative(errors);
    }
}

fn keep(errors: &mut Errors, spec: &Field<'_>, old: Option<&Field<'_>>, fields: &[&str]) {
    let Some(old) = old else { return };
    for field in fields {
        let before = old.at("spec").at(field);
        if !before.is_missing() {
            spec.at(field).immutable(errors, before.value);
        }
    }
}

/// `maxUnavailable` and `maxSurge`: a number or a percentage, and not both nothing (for a Deployment) or both set (for a DaemonSet).
fn rolling(errors: &mut Errors, rolling: &Field<'_>, deployment: bool) {
    if rolling.is_missing() {
        return;
    }
    let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
    for amount in [&unavailable, &surge] {
        match amount.value {
            Value::String(text) => match text.strip_suffix('%').map(str::parse::<u32>) {
                Some(Ok(percent)) if percent > 100 && amount.path.ends_with("maxUnavailable") => {
                    amount.invalid(errors, "must not be greater than 100%");
                }
                Some(Ok(_)) => {}
                _ => amount.invalid(errors, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"),
            },
            _ => amount.not_negative(errors),
        }
    }
    let zero = |field: &Field<'_>| {
        field.is_missing() || field.int() == Some(0) || field.text().trim_end_matches('%').parse::<u32>() == Ok(0)
    };
    if zero(&unavailable) && zero(&surge) {
        let detail = if deployment {
            "may not be 0 when `maxSurge` is 0"
        } else {
            "cannot be 0 when maxSurge is 0"
        };
        unavailable.invalid(errors, detail);
    } else if !deployment && !zero(&unavailable) && !zero(&surge) {
        surge.invalid(errors, "may not be set when maxUnavailable is non-zero");
    }
}
