//! Tables of the cluster's own kinds: Node, Namespace, Event, Lease and CustomResourceDefinition.

use jiff::Timestamp;
use serde_json::Value;

use super::duration::{age, since, time};
use super::{AGE, Column, NAME, Table, name, or_none};
use crate::api::fields::{flag, has, int, labels, list, text};

/// The table of Nodes.
pub(super) const NODE: Table = Table {
    columns: &[
        NAME,
        Column("Status", "string", 0, "The status of the node"),
        Column("Roles", "string", 0, "The roles of the node"),
        AGE,
        Column("Version", "string", 0, "Kubelet Version reported by the node."),
        Column("Internal-IP", "string", 1, "Address of the node inside the cluster."),
        Column("External-IP", "string", 1, "Address of the node outside the cluster."),
        Column("OS-Image", "string", 1, "OS Image reported by the node."),
        Column("Kernel-Version", "string", 1, "Kernel Version reported by the node."),
        Column(
            "Container-Runtime",
            "string",
            1,
            "Container runtime and its version reported by the node.",
        ),
    ],
    cells: |object, now| {
        let known = |path: &str| match text(object, path) {
            "" => "<unknown>".into(),
            value => Value::from(value),
        };
        vec![
            name(object),
            node_status(object).into(),
            or_none(node_roles(object)),
            age(object, now).into(),
            text(object, "status.nodeInfo.kubeletVersion").into(),
            or_none(node_address(object, "InternalIP")),
            or_none(node_address(object, "ExternalIP")),
            known("status.nodeInfo.osImage"),
            known("status.nodeInfo.kernelVersion"),
            known("status.nodeInfo.containerRuntimeVersion"),
        ]
    },
};

/// The table of Namespaces.
pub(super) const NAMESPACE: Table = Table {
    columns: &[NAME, Column("Status", "string", 0, "The status of the namespace"), AGE],
    cells: |object, now| {
        vec![
            name(object),
            text(object, "status.phase").into(),
            age(object, now).into(),
        ]
    },
};

/// The table of Events.
pub(super) const EVENT: Table = Table {
    columns: &[
        Column("Last Seen", "string", 0, "Time since the event was last seen."),
        Column("Type", "string", 0, "Normal or Warning."),
        Column("Reason", "string", 0, "Short machine-understandable reason."),
        Column("Object", "string", 0, "The object that the event is about."),
        Column(
            "Subobject",
            "string",
            1,
            "The part of the object that the event is about.",
        ),
        Column("Source", "string", 1, "The component that reports the event."),
        Column("Message", "string", 0, "What happened."),
        Column("First Seen", "string", 1, "Time since the event was first seen."),
        Column("Count", "integer", 1, "How often the event has happened."),
        Column("Name", "string", 1, "Name of the event."),
    ],
    cells: event,
};

/// The table of Leases.
pub(super) const LEASE: Table = Table {
    columns: &[
        NAME,
        Column("Holder", "string", 0, "The identity of the current holder."),
        AGE,
    ],
    cells: |object, now| {
        vec![
            name(object),
            text(object, "spec.holderIdentity").into(),
            age(object, now).into(),
        ]
    },
};

/// The table of CustomResourceDefinitions.
pub(super) const CUSTOM_RESOURCE_DEFINITION: Table = Table {
    columns: &[NAME, Column("Created At", "date", 0, "When the object was created.")],
    cells: |object, _| vec![name(object), text(object, "metadata.creationTimestamp").into()],
};

fn node_status(node: &Value) -> String {
    let ready = list(node, "status.conditions")
        .iter()
        .find(|c| text(c, "type") == "Ready");
    let status = match ready.map(|c| text(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = if flag(node, "spec.unschedulable") {
        ",SchedulingDisabled"
    } else {
        ""
    };
    format!("{status}{cordoned}")
}

fn node_roles(node: &Value) -> String {
    let mut roles: Vec<&str> = labels(node, "metadata.labels")
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => Some(value),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    roles.join(",")
}

fn node_address<'a>(node: &'a Value, kind: &str) -> &'a str {
    list(node, "status.addresses")
        .iter()
        .find(|a| text(a, "type") == kind)
        .map_or("", |a| text(a, "address"))
}

fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let ago = |paths: &[&str]| {
        let path = paths.iter().find(|path| time(event, path).is_some());
        path.map_or_else(|| "<unknown>".to_owned(), |path| since(event, path, now))
    };
    let first = ago(&["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"]);
    let last = ago(&[
        "series.lastObservedTime",
        "lastTimestamp",
        "deprecatedLastTimestamp",
        "firstTimestamp",
        "deprecatedFirstTimestamp",
        "eventTime",
    ]);
    let count = if has(event, "series") {
        int(event, "series.count")
    } else {
        int(event, "count").max(1)
    };
    let about = if has(event, "involvedObject") {
        "involvedObject"
    } else {
        "regarding"
    };
    let kind = text(event, &format!("{about}.kind")).to_lowercase();
    let target = match text(event, &format!("{about}.name")) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = match text(event, "source.component") {
        "" => text(event, "reportingComponent"),
        component => component,
    };
    let source = match text(event, "source.host") {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    };
    let message = if has(event, "message") {
        text(event, "message")
    } else {
        text(event, "note")
    };
    vec![
        last.into(),
        text(event, "type").into(),
        text(event, "reason").into(),
        target.into(),
        text(event, &format!("{about}.fieldPath")).into(),
        source.into(),
        message.trim().into(),
        first.into(),
        count.into(),
        name(event),
    ]
}
