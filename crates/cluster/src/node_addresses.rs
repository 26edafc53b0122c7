//! `NodeAddresses` (`weft.dev/v1alpha1`): which blocks of which pools a node has, and what it wants. The controller
//! writes the spec, the node's agent the status.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, PostParams, Preconditions};
use kube::core::ApiResource;
use serde_json::{Value, json};
use weft_model::ipam::{NodeAddresses, NodeAddressesSpec, NodeAddressesStatus};

use crate::client::Client;
use crate::custom::{self, Part};
use crate::error::Error;
use crate::field::{BadField, Field};
use crate::ip_pool::version;

pub(crate) fn resource() -> ApiResource {
    custom::resource("NodeAddresses", "nodeaddresses")
}

/// The CustomResourceDefinition.
pub fn definition() -> Value {
    let text = json!({"type": "string"});
    let number = json!({"type": "integer", "format": "int64", "minimum": 0});
    let list = |item: Value, key: &str| json!({"type": "array", "items": item, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]});
    let of_pool = |fields: Value| {
        let mut properties = json!({"pool": text});
        if let (Some(all), Value::Object(fields)) = (properties.as_object_mut(), fields) {
            all.extend(fields);
        }
        list(
            json!({"type": "object", "required": ["pool"], "properties": properties}),
            "pool",
        )
    };
    let blocks = json!({"cidrs": {"type": "array", "items": text}});
    let schema = json!({
        "type": "object",
        "description": "What a node has of the cluster's pools, and what it wants. Written by Weft's controller (spec) and agents (status).",
        "properties": {
            "spec": {"type": "object", "properties": {
                "allocated": of_pool(blocks.clone()),
                "refused": of_pool(json!({"message": text}))
            }},
            "status": {"type": "object", "properties": {
                "session": text,
                "requested": of_pool(json!({"ipv4": number, "ipv6": number})),
                "wanted": {"type": "array", "items": text},
                "releasing": of_pool(blocks),
                "used": of_pool(json!({"used": number, "capacity": number}))
            }}
        }
    });
    let columns = [
        ["Pools", "string", ".spec.allocated[*].pool"],
        ["Used", "string", ".status.used[*].used"],
        ["Capacity", "string", ".status.used[*].capacity"],
        ["Refused", "string", ".spec.refused[*].message"],
        ["Age", "date", ".metadata.creationTimestamp"],
    ];
    custom::definition(&resource(), "na", &columns, schema)
}

pub(crate) fn from_object(metadata: &ObjectMeta, body: &Value) -> Result<NodeAddresses, BadField> {
    let root = Field::root(body);
    Ok(NodeAddresses {
        node: metadata.name.clone().unwrap_or_default(),
        version: version(metadata)?,
        spec: root.get("spec").read::<NodeAddressesSpec>("a NodeAddresses' spec")?,
        status: root
            .get("status")
            .read::<NodeAddressesStatus>("a NodeAddresses' status")?,
    })
}

/// Begins a run of a node's agent: the object as it is, created where there is none, with the session of this run
/// in its status. After that no write of an earlier run can land, so what the returned status does not give back
/// may be given to pods.
pub async fn open(client: &Client, node: &str, session: &str) -> Result<NodeAddresses, Error> {
    loop {
        let found = match get(client, node).await? {
            Some(found) => found,
            None => {
                create(client, node).await?;
                continue;
            }
        };
        let status = NodeAddressesStatus {
            session: session.to_owned(),
            ..found.status.clone()
        };
        if let Some(opened) = write_status(client, &found, &status).await? {
            return Ok(opened);
        }
    }
}

/// The object of a node.
pub async fn get(client: &Client, node: &str) -> Result<Option<NodeAddresses>, Error> {
    let api = Api::<DynamicObject>::all_with(client.kube.clone(), &resource());
    let found = tokio::time::timeout(custom::WRITE_LIMIT, api.get_opt(node)).await;
    let found = found.map_err(|_| client.silent(format!("read NodeAddresses {node}"), custom::WRITE_LIMIT))?;
    let found = found.map_err(|source| client.failed(format!("read NodeAddresses {node}"), source))?;
    found.map(|object| read(client, &object)).transpose()
}

/// Writes what a node wants, if its object is still at this version. `None`: it is not, or it has gone.
pub async fn write_status(
    client: &Client,
    at: &NodeAddresses,
    status: &NodeAddressesStatus,
) -> Result<Option<NodeAddresses>, Error> {
    let written = custom::replace(client, &resource(), &at.node, at.version, Part::Status, status).await?;
    written.map(|object| read(client, &object)).transpose()
}

/// Writes what a node has, if its object is still at this version. `None`: it is not, or it has gone.
pub async fn write_spec(
    client: &Client,
    at: &NodeAddresses,
    spec: &NodeAddressesSpec,
) -> Result<Option<NodeAddresses>, Error> {
    let written = custom::replace(client, &resource(), &at.node, at.version, Part::Spec, spec).await?;
    written.map(|object| read(client, &object)).transpose()
}

/// Removes the object of a node, if the node has gone and the object is still at this version. True where there is
/// no such node.
pub async fn collect(client: &Client, at: &NodeAddresses) -> Result<bool, Error> {
    let what = format!("collect NodeAddresses {}", at.node);
    let work = async {
        let node = Api::<core::Node>::all(client.kube.clone())
            .get_metadata_opt(&at.node)
            .await?;
        if node.is_some() {
            return Ok(false);
        }
        let preconditions = Preconditions {
            resource_version: Some(at.version.to_string()),
            uid: None,
        };
        let params = DeleteParams {
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        let api = Api::<DynamicObject>::all_with(client.kube.clone(), &resource());
        match api.delete(&at.node, &params).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(true),
            other => other.map(|_| true),
        }
    };
    match tokio::time::timeout(custom::WRITE_LIMIT, work).await {
        Ok(result) => result.map_err(|source| client.failed(what, source)),
        Err(_) => Err(client.silent(what, custom::WRITE_LIMIT)),
    }
}

/// The object belongs to the Node, so that it goes when the Node goes.
async fn create(client: &Client, node: &str) -> Result<(), Error> {
    let owner = Api::<core::Node>::all(client.kube.clone()).get(node).await;
    let owner = owner.map_err(|source| client.failed(format!("read node {node}"), source))?;
    let mut object = DynamicObject::new(node, &resource());
    object.metadata.owner_references = owner.metadata.uid.map(|uid| {
        vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node.into(),
            uid,
            ..Default::default()
        }]
    });
    object.data = json!({"spec": {"allocated": []}});
    let api = Api::<DynamicObject>::all_with(client.kube.clone(), &resource());
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Err(Error::NoDefinition {
            server: client.server.clone(),
        }),
        Err(source) => Err(client.failed(format!("create NodeAddresses {node}"), source)),
    }
}

fn read(client: &Client, object: &DynamicObject) -> Result<NodeAddresses, Error> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    from_object(&object.metadata, &object.data).map_err(|bad| client.malformed(&format!("NodeAddresses {name}"), bad))
}
