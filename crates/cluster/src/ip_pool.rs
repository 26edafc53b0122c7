//! `IPPool` (`weft.dev/v1alpha1`): addresses that nodes get in blocks. Its author writes the spec, the controller
//! the status and the finalizer.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use serde_json::{Value, json};
use weft_model::ipam::spec::Condition;
use weft_model::ipam::{IpPool, PoolSpec, PoolStatus};

use crate::client::Client;
use crate::custom::{self, Part};
use crate::error::Error;
use crate::field::{BadField, Field};

/// Keeps a pool until no node has any of its addresses.
const FINALIZER: &str = "weft.dev/addresses-in-use";

pub(crate) fn resource() -> ApiResource {
    custom::resource("IPPool", "ippools")
}

/// The CustomResourceDefinition. What a schema cannot say (overlaps, blocks and networks that do not fit) the
/// controller says in the condition `Ready`.
pub fn definition() -> Value {
    let number = |description: &str, default: u32| json!({"type": "integer", "format": "int32", "minimum": 0, "maximum": 65_536, "default": default, "description": description});
    let prefix = |least: u8, most: u8, default: u8| json!({"type": "integer", "format": "int32", "minimum": least, "maximum": most, "default": default});
    let requirement = json!({
        "type": "object",
        "required": ["key", "operator"],
        "properties": {
            "key": {"type": "string", "minLength": 1},
            "operator": {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
            "values": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "atomic"}
        }
    });
    let selector = |description: &str| {
        json!({
            "type": "object",
            "description": description,
            "properties": {
                "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
                "matchExpressions": {"type": "array", "items": requirement, "x-kubernetes-list-type": "atomic"}
            }
        })
    };
    let spec = json!({
        "type": "object",
        "required": ["cidrs"],
        "properties": {
            "cidrs": {
                "type": "array", "minItems": 1, "maxItems": 256, "x-kubernetes-list-type": "set",
                "description": "The networks, of one family or both; no two pools may share addresses.",
                "items": {"type": "string", "minLength": 4, "maxLength": 43, "pattern": "^[0-9a-fA-F:.]+/[0-9]{1,3}$"}
            },
            "blockSize": {
                "type": "object", "default": {},
                "description": "Prefix length of what a node gets at a time; 32 and 128 are single addresses. Fixed once nodes have any.",
                "properties": {"ipv4": prefix(16, 32, 28), "ipv6": prefix(112, 128, 124)}
            },
            "nodeSelector": selector("The nodes that may use the pool; all where it is empty."),
            "namespaceSelector": selector("The namespaces whose pods use the pool without asking for it by its name."),
            "preAllocate": number("How many addresses of each family a node keeps free.", 8),
            "minAllocate": number("How many addresses of each family a node has at least.", 0),
            "maxAboveWatermark": number("How many addresses beyond those a node may keep before it gives blocks back.", 8),
            "provider": {
                "type": "object",
                "description": "Who really has the addresses, where they are not this cluster's to give.",
                "required": ["http"],
                "properties": {"http": {
                    "type": "object",
                    "required": ["url"],
                    "properties": {"url": {"type": "string", "pattern": "^https?://[^/ ][^ ]*$", "maxLength": 2048}}
                }}
            }
        }
    });
    let count = json!({"type": "object", "properties": {
        "ipv4": {"type": "integer", "format": "int64"}, "ipv6": {"type": "integer", "format": "int64"}
    }});
    let text = json!({"type": "string"});
    let condition = json!({
        "type": "object",
        "required": ["type", "status", "reason", "message"],
        "properties": {
            "type": text, "reason": text, "message": text,
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "lastTransitionTime": {"type": "string", "format": "date-time"}
        }
    });
    let status = json!({
        "type": "object",
        "properties": {
            "observedGeneration": {"type": "integer", "format": "int64"},
            "inForce": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "description": "The last spec that was found good: what nodes go by."
            },
            "capacity": count, "allocated": count,
            "nodes": {"type": "integer", "format": "int32"},
            "conditions": {"type": "array", "items": condition, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
        }
    });
    let columns = [
        ["CIDRs", "string", ".spec.cidrs"],
        ["IPv4", "integer", ".status.allocated.ipv4"],
        ["of", "integer", ".status.capacity.ipv4"],
        ["IPv6", "integer", ".status.allocated.ipv6"],
        ["Nodes", "integer", ".status.nodes"],
        ["Ready", "string", ".status.conditions[?(@.type==\"Ready\")].status"],
        ["Message", "string", ".status.conditions[?(@.type==\"Ready\")].message"],
        ["Age", "date", ".metadata.creationTimestamp"],
    ];
    let schema = json!({
        "type": "object",
        "description": "Addresses for pods, which nodes get in blocks and give back.",
        "required": ["spec"],
        "properties": {"spec": spec, "status": status}
    });
    custom::definition(&resource(), "ipp", &columns, schema)
}

pub(crate) fn from_object(metadata: &ObjectMeta, body: &Value) -> Result<IpPool, BadField> {
    let root = Field::root(body);
    let created = metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
    let finalizers = metadata.finalizers.as_deref().unwrap_or_default();
    Ok(IpPool {
        name: metadata.name.clone().unwrap_or_default(),
        version: version(metadata)?,
        generation: metadata.generation.unwrap_or_default(),
        created: created.unwrap_or_default(),
        deleting: metadata.deletion_timestamp.is_some(),
        held: finalizers.iter().any(|name| name == FINALIZER),
        spec: root.get("spec").read::<PoolSpec>("an IPPool's spec")?,
        status: root.get("status").read::<PoolStatus>("an IPPool's status")?,
    })
}

/// Versions of one object are numbers, and the later the greater (KEP-5504); so are those of every server there is.
pub(crate) fn version(metadata: &ObjectMeta) -> Result<u64, BadField> {
    let text = metadata.resource_version.as_deref().unwrap_or_default();
    text.parse().map_err(|_| BadField {
        path: "metadata.resourceVersion".into(),
        problem: format!("expected a number, found {text:?}"),
    })
}

/// Writes the status of a pool, if it is still at this version. `None`: it is not, or it has gone. When each
/// condition last changed is filled in.
pub async fn write_status(client: &Client, pool: &IpPool, status: &PoolStatus) -> Result<Option<IpPool>, Error> {
    let mut status = status.clone();
    for condition in &mut status.conditions {
        let same = |before: &&Condition| before.type_ == condition.type_ && before.status == condition.status;
        let before = pool
            .status
            .conditions
            .iter()
            .find(same)
            .map(|before| before.last_transition_time.clone());
        let now = || format!("{:.0}", Timestamp::now());
        condition.last_transition_time = before.filter(|time| !time.is_empty()).unwrap_or_else(now);
    }
    let written = custom::replace(client, &resource(), &pool.name, pool.version, Part::Status, &status).await?;
    written.map(|object| read(client, &object)).transpose()
}

/// Keeps the pool from going while nodes have its addresses (`held`), or lets it go. Other finalizers stay.
pub async fn set_held(client: &Client, pool: &IpPool, held: bool) -> Result<Option<IpPool>, Error> {
    let api = Api::<DynamicObject>::all_with(client.kube.clone(), &resource());
    let failed = |source| client.failed(format!("write the finalizers of IPPool {}", pool.name), source);
    let found = tokio::time::timeout(custom::WRITE_LIMIT, api.get_opt(&pool.name)).await;
    let found = found.map_err(|_| client.silent(format!("read IPPool {}", pool.name), custom::WRITE_LIMIT))?;
    let Some(object) = found.map_err(failed)? else {
        return Ok(None);
    };
    let mut finalizers = object.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|name| name != FINALIZER);
    if held {
        finalizers.push(FINALIZER.into());
    }
    let metadata = json!({"resourceVersion": object.metadata.resource_version, "finalizers": finalizers});
    let patch = Patch::Merge(json!({"metadata": metadata}));
    let written = tokio::time::timeout(
        custom::WRITE_LIMIT,
        api.patch(&pool.name, &PatchParams::default(), &patch),
    )
    .await;
    match written {
        Ok(Ok(object)) => read(client, &object).map(Some),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(None),
        Ok(Err(source)) => Err(failed(source)),
        Err(_) => Err(client.silent(
            format!("write the finalizers of IPPool {}", pool.name),
            custom::WRITE_LIMIT,
        )),
    }
}

fn read(client: &Client, object: &DynamicObject) -> Result<IpPool, Error> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    from_object(&object.metadata, &object.data).map_err(|bad| client.malformed(&format!("IPPool {name}"), bad))
}
