//! Server-side tables: which columns `kubectl get` shows for a kind, and what is in them.

mod cluster;
mod config;
mod custom;
mod duration;
mod network;
mod pod;
mod selector;
mod workload;

use jiff::Timestamp;
use serde_json::{Value, json};

pub use duration::{age, human_duration};

use super::kinds::Resource;

/// One column: name, type, priority (0 is always shown, 1 with `-o wide`) and description.
struct Column(&'static str, &'static str, u8, &'static str);

/// The table of one kind.
struct Table {
    columns: &'static [Column],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

const NAME: Column = Column(
    "Name",
    "string",
    0,
    "Name of the object, unique within its namespace and kind.",
);
const AGE: Column = Column("Age", "string", 0, "Time since the object was created.");
const CONTAINERS: Column = Column("Containers", "string", 1, "Names of each container in the template.");
const IMAGES: Column = Column(
    "Images",
    "string",
    1,
    "Images referenced by each container in the template.",
);
const SELECTOR: Column = Column(
    "Selector",
    "string",
    1,
    "Label selector of the pods that belong to the object.",
);

const PLAIN: Table = Table {
    columns: &[NAME, AGE],
    cells: |object, now| vec![name(object), age(object, now).into()],
};

fn table(kind: &str) -> &'static Table {
    match kind {
        "Pod" => &pod::POD,
        "Deployment" => &workload::DEPLOYMENT,
        "ReplicaSet" => &workload::REPLICA_SET,
        "StatefulSet" => &workload::STATEFUL_SET,
        "DaemonSet" => &workload::DAEMON_SET,
        "Job" => &workload::JOB,
        "ControllerRevision" => &workload::CONTROLLER_REVISION,
        "Service" => &network::SERVICE,
        "Endpoints" => &network::ENDPOINTS,
        "EndpointSlice" => &network::ENDPOINT_SLICE,
        "Ingress" => &network::INGRESS,
        "IngressClass" => &network::INGRESS_CLASS,
        "NetworkPolicy" => &network::NETWORK_POLICY,
        "ServiceCIDR" => &network::SERVICE_CIDR,
        "Node" => &cluster::NODE,
        "Namespace" => &cluster::NAMESPACE,
        "Event" => &cluster::EVENT,
        "Lease" => &cluster::LEASE,
        "CustomResourceDefinition" => &cluster::CUSTOM_RESOURCE_DEFINITION,
        "ConfigMap" => &config::CONFIG_MAP,
        "Secret" => &config::SECRET,
        "ServiceAccount" => &config::SERVICE_ACCOUNT,
        _ => &PLAIN,
    }
}

/// The `columnDefinitions` of a table of `resource`; priority 0 is always shown, 1 with `-o wide`.
pub fn columns(resource: &Resource) -> Vec<Value> {
    if let Some(version) = resource.custom.as_deref() {
        return custom::columns(version);
    }
    table(&resource.kind).columns.iter().map(definition).collect()
}

/// The cells of one row, in the order of [`columns`].
pub fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    match resource.custom.as_deref() {
        Some(version) => custom::cells(version, object, now),
        None => (table(&resource.kind).cells)(object, now),
    }
}

fn definition(Column(name, kind, priority, description): &Column) -> Value {
    let format = if *name == "Name" { "name" } else { "" };
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

/// The name of an object, as a cell.
fn name(object: &Value) -> Value {
    super::fields::text(object, "metadata.name").into()
}

/// The text, or `<none>` where it is empty.
fn or_none(text: impl Into<String>) -> Value {
    let text = text.into();
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// The first three of a list joined by commas, with the number of the rest: `a,b,c + 2 more...`.
fn first_three(items: &[String], none: &str) -> Value {
    const SHOWN: usize = 3;
    if items.is_empty() {
        return none.into();
    }
    let shown = items.get(..SHOWN.min(items.len())).unwrap_or_default().join(",");
    if items.len() > SHOWN {
        format!("{shown} + {} more...", items.len() - SHOWN).into()
    } else {
        shown.into()
    }
}

#[cfg(test)]
mod tests;
