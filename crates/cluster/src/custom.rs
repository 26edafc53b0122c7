//! What Weft's own kinds have in common: their group, their definitions, and how one part of an object is written
//! at one version of it.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use kube::Resource as _;
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use serde::Serialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::Error;
use crate::{ip_pool, node_addresses, node_network};

pub(crate) const GROUP: &str = "weft.dev";
pub(crate) const VERSION: &str = "v1alpha1";

/// How long a write may take, on the server too: what a controller that has been deposed still has under way ends
/// before its successor begins (see `lease`).
pub(crate) const WRITE_LIMIT: Duration = Duration::from_secs(4);

/// Every CustomResourceDefinition of Weft, to be applied once per cluster.
pub fn definitions() -> Vec<Value> {
    vec![
        node_network::definition(),
        ip_pool::definition(),
        node_addresses::definition(),
    ]
}

/// A kind of ours.
pub(crate) fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, kind), plural)
}

/// The definition of a cluster-scoped kind with a status. Columns are name, type and path.
pub(crate) fn definition(resource: &ApiResource, short: &str, columns: &[[&str; 3]], schema: Value) -> Value {
    let column = |[name, type_, path]: &[&str; 3]| json!({"name": name, "type": type_, "jsonPath": path});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{GROUP}", resource.plural)},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "plural": resource.plural,
                "singular": resource.kind.to_lowercase(),
                "kind": resource.kind,
                "listKind": format!("{}List", resource.kind),
                "shortNames": [short]
            },
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns.iter().map(column).collect::<Vec<_>>(),
                "schema": {"openAPIV3Schema": schema}
            }]
        }
    })
}

/// A part of an object that has a resource of its own, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Spec,
    Status,
}

/// Replaces one part of an object, if it is still at this version. `None`: it is not, or it has gone; what is
/// there now has to be read, and the change decided again.
pub(crate) async fn replace(
    client: &Client,
    resource: &ApiResource,
    name: &str,
    version: u64,
    part: Part,
    value: &impl Serialize,
) -> Result<Option<DynamicObject>, Error> {
    let (path, subresource) = match part {
        Part::Spec => ("/spec", ""),
        Part::Status => ("/status", "/status"),
    };
    let patch = json!([
        {"op": "replace", "path": "/metadata/resourceVersion", "value": version.to_string()},
        {"op": "add", "path": path, "value": value},
    ]);
    let what = format!("write {}{subresource} {name}", resource.kind);
    let collection = DynamicObject::url_path(resource, None);
    let uri = format!("{collection}/{name}{subresource}?timeout={}s", WRITE_LIMIT.as_secs());
    let request = http::Request::patch(uri)
        .header(CONTENT_TYPE, "application/json-patch+json")
        .body(patch.to_string().into_bytes())
        .map_err(|source| client.failed(&what, kube::Error::HttpError(source)))?;
    match tokio::time::timeout(WRITE_LIMIT, client.kube.request::<DynamicObject>(request)).await {
        Ok(Ok(object)) => Ok(Some(object)),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(None),
        Ok(Err(source)) => Err(client.failed(what, source)),
        Err(_) => Err(client.silent(what, WRITE_LIMIT)),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    use weft_model::ipam::{NodeAddressesSpec, NodeAddressesStatus, PoolSpec, PoolStatus};

    use super::*;

    #[test]
    fn the_definitions_are_such_that_an_api_server_takes() {
        let parsed: Vec<CustomResourceDefinition> = definitions()
            .into_iter()
            .map(|definition| serde_json::from_value(definition).unwrap())
            .collect();
        let names: Vec<_> = parsed
            .iter()
            .map(|definition| definition.metadata.name.as_deref().unwrap())
            .collect();
        assert_eq!(
            names,
            ["nodenetworks.weft.dev", "ippools.weft.dev", "nodeaddresses.weft.dev"]
        );
        assert!(parsed.iter().all(|definition| definition.spec.versions.len() == 1));
    }

    /// A field that the schema does not have would be pruned by the server, without a word.
    #[test]
    fn every_field_that_is_written_is_in_the_schema() {
        let schema = |definition: Value, part: &str| {
            definition
                .pointer("/spec/versions/0/schema/openAPIV3Schema/properties")
                .unwrap()[part]["properties"]
                .clone()
        };
        let check = |schema: Value, value: Value| {
            for field in value.as_object().unwrap().keys() {
                assert!(schema.get(field).is_some(), "{field}");
            }
        };
        let pool = || ip_pool::definition();
        let in_force = Some(PoolSpec::default());
        check(schema(pool(), "spec"), json!(PoolSpec::default()));
        check(
            schema(pool(), "status"),
            json!(PoolStatus {
                in_force,
                ..PoolStatus::default()
            }),
        );
        let node = || node_addresses::definition();
        check(schema(node(), "spec"), json!(NodeAddressesSpec::default()));
        check(schema(node(), "status"), json!(NodeAddressesStatus::default()));
    }
}
