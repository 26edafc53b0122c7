//! OpenAPI documents of the served kinds, built in and custom.
//!
//! Clients use version 3: `kubectl explain` shows the schemas, and `kubectl apply` and `create` look in the paths for
//! whether the server checks fields itself. No path offers a strategic merge patch, because these schemas lack the
//! merge keys: `kubectl` then uses those that it has built in.

mod closure;
mod paths;
pub mod schemas;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::kinds::Resource;
use super::registry::Registry;

/// The body of `/openapi/v3`: the path of each group version's document.
pub fn v3_index(registry: &Registry) -> Value {
    let all: BTreeSet<String> = registry.all().iter().map(|resource| group_version(resource)).collect();
    let paths: Map<String, Value> = all
        .into_iter()
        .map(|path| {
            let url = format!("/openapi/v3/{path}");
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({ "paths": paths })
}

/// The body of `/openapi/v3/<group_version>`, where it is `api/v1` or `apis/<group>/<version>`.
pub fn v3_document(registry: &Registry, group_version: &str) -> Option<Value> {
    let resources: Vec<&Resource> = registry
        .all()
        .iter()
        .map(AsRef::as_ref)
        .filter(|resource| self::group_version(resource) == group_version)
        .collect();
    if resources.is_empty() {
        return None;
    }
    let mut paths = Map::new();
    let mut components = Map::new();
    for resource in resources {
        paths::add(&mut paths, resource);
        closure::add_kind(&mut components, resource);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "components": {"schemas": components},
    }))
}

/// The body of `/openapi/v2`: an empty document, since every client that is supported reads version 3.
pub fn v2() -> Value {
    json!({ "swagger": "2.0", "info": { "title": "Kubernetes", "version": "unversioned" }, "paths": {}, "definitions": {} })
}

/// The same document as protobuf (`openapi.v2.Document`: swagger is field 1, info 2 with title 1 and version 2, paths 8).
pub const V2_PROTOBUF: &[u8] = b"\x0a\x032.0\x12\x19\x0a\x0aKubernetes\x12\x0bunversioned\x42\x00";
/// The media type of [`V2_PROTOBUF`].
pub const V2_PROTOBUF_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `api/v1` or `apis/apps/v1`.
fn group_version(resource: &Resource) -> String {
    match resource.group.as_str() {
        "" => format!("api/{}", resource.version),
        group => format!("apis/{group}/{}", resource.version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Value {
        json!({"spec": {"group": "example.com", "scope": "Cluster", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "description": "A thing.", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}}]},
            "status": {"conditions": [{"type": "Established", "status": "True"}]}})
    }

    #[test]
    fn every_group_version_has_a_document_without_dangling_references() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    map.values().for_each(|v| references(v, found));
                }
                Value::Array(items) => items.iter().for_each(|v| references(v, found)),
                _ => {}
            }
        }
        let definition = definition();
        let registry = Registry::new([&definition]);
        let index = v3_index(&registry);
        let paths = index["paths"].as_object().expect("an object");
        assert!(
            paths.contains_key("api/v1") && paths.contains_key("apis/example.com/v1"),
            "{index}"
        );
        for group_version in paths.keys() {
            let document = v3_document(&registry, group_version).expect("a document");
            let mut all = Vec::new();
            references(&document, &mut all);
            for reference in all {
                let pointer = reference.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{group_version}: {reference}");
            }
        }
        assert_eq!(v3_document(&registry, "apis/none/v1"), None);
    }

    #[test]
    fn documents_tell_kinds_and_server_side_field_validation() {
        let definition = definition();
        let registry = Registry::new([&definition]);
        let pods = v3_document(&registry, "api/v1").expect("a document");
        let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
        assert_eq!(
            pods["components"]["schemas"]["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"],
            json!([kind])
        );
        let patch = &pods["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"], kind);
        assert!(
            patch["parameters"]
                .as_array()
                .is_some_and(|all| all.iter().any(|p| p["name"] == "fieldValidation"))
        );
        assert!(!patch.to_string().contains("strategic"));
        let things = v3_document(&registry, "apis/example.com/v1").expect("a document");
        let thing = &things["components"]["schemas"]["com.example.v1.Thing"];
        assert_eq!(thing["properties"]["spec"]["properties"]["size"]["type"], "integer");
        assert_eq!(
            thing["properties"]["metadata"]["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
    }
}
