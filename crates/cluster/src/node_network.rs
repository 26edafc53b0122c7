//! `NodeNetwork` (`weft.dev/v1alpha1`): the object in which each node reports how its network is doing.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use serde_json::{Value, json};
use weft_model::report::NodeReport;

use crate::client::Client;
use crate::custom::{self, GROUP, VERSION};
use crate::error::Error;

const KIND: &str = "NodeNetwork";

fn resource() -> ApiResource {
    custom::resource(KIND, "nodenetworks")
}

/// The CustomResourceDefinition, to be applied once per cluster.
pub fn definition() -> Value {
    let text = json!({"type": "string"});
    let layer = json!({
        "type": "object",
        "required": ["name", "state", "message"],
        "properties": {
            "name": text,
            "state": {"type": "string", "enum": ["ok", "degraded", "failed"]},
            "message": text,
            "remedy": text
        }
    });
    let status = json!({
        "type": "object",
        "properties": {
            "heartbeat": {"type": "string", "format": "date-time"},
            "agent": {"type": "object", "properties": {"version": text, "pid": {"type": "integer"}}},
            "healthy": {"type": "boolean"},
            "problem": text,
            "layers": {"type": "array", "items": layer, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
        }
    });
    let columns = [
        ["Healthy", "boolean", ".status.healthy"],
        ["Problem", "string", ".status.problem"],
        ["Heartbeat", "date", ".status.heartbeat"],
        ["Agent", "string", ".status.agent.version"],
    ];
    let schema = json!({
        "type": "object",
        "description": "What a node says about its network. Written by Weft's agent, read by weft status.",
        "properties": {"status": status}
    });
    custom::definition(&resource(), "nn", &columns, schema)
}

/// Writes the report of a node; creates its object first where there is none.
pub async fn write(client: &Client, node: &str, report: &NodeReport) -> Result<(), Error> {
    let api = Api::<DynamicObject>::all_with(client.kube.clone(), &resource());
    let patch = json!({"apiVersion": format!("{GROUP}/{VERSION}"), "kind": KIND, "status": report});
    let send = || async {
        api.patch_status(node, &PatchParams::default(), &Patch::Merge(&patch))
            .await
    };
    match send().await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            create(client, &api, node).await?;
            send()
                .await
                .map_err(|source| client.failed(format!("report the status of node {node}"), source))?;
            Ok(())
        }
        Err(source) => Err(client.failed(format!("report the status of node {node}"), source)),
        Ok(_) => Ok(()),
    }
}

/// The report belongs to the Node, so that it goes when the Node goes.
async fn create(client: &Client, api: &Api<DynamicObject>, node: &str) -> Result<(), Error> {
    let owner = Api::<core::Node>::all(client.kube.clone())
        .get(node)
        .await
        .map_err(|source| client.failed(format!("read node {node}"), source))?;
    let mut object = DynamicObject::new(node, &resource());
    object.metadata.owner_references = owner.metadata.uid.map(|uid| {
        vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node.into(),
            uid,
            ..Default::default()
        }]
    });
    object.data = json!({});
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Err(Error::NoDefinition {
            server: client.server.clone(),
        }),
        Err(source) => Err(client.failed(format!("create NodeNetwork {node}"), source)),
    }
}

/// A node as `weft status` sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Condition `Ready` of the Node.
    pub ready: bool,
    /// What its agent said last; absent where it has never reported, or not in a way that can be understood.
    pub report: Option<NodeReport>,
}

/// Every Node with what its agent said last.
pub async fn read(client: &Client) -> Result<BTreeMap<String, NodeView>, Error> {
    let nodes = Api::<core::Node>::all(client.kube.clone())
        .list(&ListParams::default())
        .await
        .map_err(|source| client.failed("list nodes", source))?;
    let api = Api::<DynamicObject>::all_with(client.kube.clone(), &resource());
    let reports = match api.list(&ListParams::default()).await {
        Ok(reports) => reports.items,
        Err(kube::Error::Api(status)) if status.code == 404 => {
            return Err(Error::NoDefinition {
                server: client.server.clone(),
            });
        }
        Err(source) => return Err(client.failed("list nodenetworks.weft.dev", source)),
    };
    let mut by_node: BTreeMap<String, NodeReport> = reports
        .into_iter()
        .filter_map(|object| {
            let report = serde_json::from_value(object.data.get("status")?.clone()).ok()?;
            Some((object.metadata.name?, report))
        })
        .collect();
    let view = |node: core::Node| {
        let name = node.metadata.name.unwrap_or_default();
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        let ready = conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let report = by_node.remove(&name);
        (name, NodeView { ready, report })
    };
    Ok(nodes.items.into_iter().map(view).collect())
}
