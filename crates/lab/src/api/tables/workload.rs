//! Tables of the kinds that own pods: Deployment, ReplicaSet, StatefulSet, DaemonSet, Job and ControllerRevision.

use jiff::Timestamp;
use serde_json::Value;

use super::duration::{age, human_duration, seconds_between, time};
use super::selector::{map, selector};
use super::{AGE, CONTAINERS, Column, IMAGES, NAME, SELECTOR, Table, name, or_none};
use crate::api::fields::{flag, has, int, list, text};

/// The table of Deployments.
pub(super) const DEPLOYMENT: Table = Table {
    columns: &[
        NAME,
        Column("Ready", "string", 0, "Number of the pod with ready state"),
        Column("Up-to-date", "integer", 0, "Pods that have the desired template spec."),
        Column(
            "Available",
            "integer",
            0,
            "Pods that have been ready for at least minReadySeconds.",
        ),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let mut cells = vec![
            name(object),
            ready(object),
            int(object, "status.updatedReplicas").into(),
            int(object, "status.availableReplicas").into(),
            age(object, now).into(),
        ];
        cells.extend(containers(object));
        cells.push(selector(object, "spec.selector").into());
        cells
    },
};

/// The table of ReplicaSets.
pub(super) const REPLICA_SET: Table = Table {
    columns: &[
        NAME,
        Column("Desired", "integer", 0, "The number of desired pods."),
        Column("Current", "integer", 0, "The most recently observed number of pods."),
        Column("Ready", "integer", 0, "The number of pods that are ready."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let mut cells = vec![
            name(object),
            int(object, "spec.replicas").into(),
            int(object, "status.replicas").into(),
            int(object, "status.readyReplicas").into(),
            age(object, now).into(),
        ];
        cells.extend(containers(object));
        cells.push(selector(object, "spec.selector").into());
        cells
    },
};

/// The table of StatefulSets.
pub(super) const STATEFUL_SET: Table = Table {
    columns: &[
        NAME,
        Column("Ready", "string", 0, "Number of the pod with ready state"),
        AGE,
        CONTAINERS,
        IMAGES,
    ],
    cells: |object, now| {
        let mut cells = vec![name(object), ready(object), age(object, now).into()];
        cells.extend(containers(object));
        cells
    },
};

/// The table of DaemonSets.
pub(super) const DAEMON_SET: Table = Table {
    columns: &[
        NAME,
        Column("Desired", "integer", 0, "The number of nodes that should run the pod."),
        Column(
            "Current",
            "integer",
            0,
            "The number of nodes that run the pod and should.",
        ),
        Column(
            "Ready",
            "integer",
            0,
            "The number of nodes that should run the pod and have it ready.",
        ),
        Column(
            "Up-to-date",
            "integer",
            0,
            "The number of nodes that run the pod of the present template.",
        ),
        Column(
            "Available",
            "integer",
            0,
            "The number of nodes whose pod has been ready for minReadySeconds.",
        ),
        Column(
            "Node Selector",
            "string",
            0,
            "Labels of the nodes that should run the pod.",
        ),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let mut cells = vec![
            name(object),
            int(object, "status.desiredNumberScheduled").into(),
            int(object, "status.currentNumberScheduled").into(),
            int(object, "status.numberReady").into(),
            int(object, "status.updatedNumberScheduled").into(),
            int(object, "status.numberAvailable").into(),
            map(object, "spec.template.spec.nodeSelector").into(),
            age(object, now).into(),
        ];
        cells.extend(containers(object));
        cells.push(selector(object, "spec.selector").into());
        cells
    },
};

/// The table of Jobs.
pub(super) const JOB: Table = Table {
    columns: &[
        NAME,
        Column("Status", "string", 0, "Status of the job."),
        Column(
            "Completions",
            "string",
            0,
            "Pods that have succeeded, of those that should.",
        ),
        Column("Duration", "string", 0, "Time required to complete the job."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let mut cells = vec![
            name(object),
            job_status(object).into(),
            completions(object).into(),
            job_duration(object, now).into(),
            age(object, now).into(),
        ];
        cells.extend(containers(object));
        cells.push(selector(object, "spec.selector").into());
        cells
    },
};

/// The table of ControllerRevisions.
pub(super) const CONTROLLER_REVISION: Table = Table {
    columns: &[
        NAME,
        Column("Controller", "string", 0, "Controller of the object"),
        Column(
            "Revision",
            "integer",
            0,
            "The revision of the state that the object holds.",
        ),
        AGE,
    ],
    cells: |object, now| {
        let owner = list(object, "metadata.ownerReferences")
            .iter()
            .find(|o| flag(o, "controller"));
        let owner = owner.map(|owner| {
            let group = text(owner, "apiVersion").split_once('/').map_or("", |(group, _)| group);
            format!("{}.{group}/{}", text(owner, "kind").to_lowercase(), text(owner, "name"))
        });
        vec![
            name(object),
            or_none(owner.unwrap_or_default()),
            int(object, "revision").into(),
            age(object, now).into(),
        ]
    },
};

/// `ready/desired` of a scalable kind.
fn ready(object: &Value) -> Value {
    format!(
        "{}/{}",
        int(object, "status.readyReplicas"),
        int(object, "spec.replicas")
    )
    .into()
}

/// The cells of the container names and of their images.
fn containers(object: &Value) -> [Value; 2] {
    let join = |field: &str| {
        let all: Vec<&str> = list(object, "spec.template.spec.containers")
            .iter()
            .map(|c| text(c, field))
            .collect();
        all.join(",")
    };
    [join("name").into(), join("image").into()]
}

fn completions(job: &Value) -> String {
    let done = int(job, "status.succeeded");
    if has(job, "spec.completions") {
        return format!("{done}/{}", int(job, "spec.completions"));
    }
    match int(job, "spec.parallelism") {
        many if many > 1 => format!("{done}/1 of {many}"),
        _ => format!("{done}/1"),
    }
}

fn job_duration(job: &Value, now: Timestamp) -> String {
    match time(job, "status.startTime") {
        Some(start) => human_duration(seconds_between(
            start,
            time(job, "status.completionTime").unwrap_or(now),
        )),
        None => String::new(),
    }
}

fn job_status(job: &Value) -> &'static str {
    let is = |kind: &str| {
        list(job, "status.conditions")
            .iter()
            .any(|c| text(c, "type") == kind && text(c, "status") == "True")
    };
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if has(job, "metadata.deletionTimestamp") {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}
