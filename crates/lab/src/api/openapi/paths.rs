//! The paths of a kind, with as much about each operation as clients look for.

use serde_json::{Map, Value, json};

use super::{group_version, schemas};
use crate::api::kinds::Resource;

/// Adds the paths of a kind: of its lists, of its objects and of their subresources.
pub(super) fn add(paths: &mut Map<String, Value>, resource: &Resource) {
    let base = format!("/{}", group_version(resource));
    let plural = &resource.plural;
    let name = schemas::name_of(resource);
    let (one, many) = (content(&name), content(&format!("{name}List")));
    let operation = |action: &str, body: &Value| {
        json!({
            "description": format!("{action} {plural}"),
            "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"},
                "description": "What to do with fields that the kind does not have: Ignore, Warn or Strict."}],
            "responses": {"200": {"description": "OK", "content": body}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind":
                {"group": resource.group, "version": resource.version, "kind": resource.kind},
        })
    };
    let with_body = |action: &str, types: &[&str]| {
        let mut operation = operation(action, &one);
        let body: Map<String, Value> = types
            .iter()
            .map(|kind| ((*kind).to_owned(), json!({"schema": {}})))
            .collect();
        operation["requestBody"] = json!({"required": true, "content": body});
        operation
    };
    let lists = if resource.namespaced {
        paths.insert(format!("{base}/{plural}"), json!({"get": operation("list", &many)}));
        format!("{base}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("{base}/{plural}")
    };
    let object = json!({
        "get": operation("get", &one),
        "put": with_body("put", &["application/json"]),
        "patch": with_body("patch", &["application/json-patch+json", "application/merge-patch+json"]),
        "delete": operation("delete", &one),
    });
    let item = format!("{lists}/{{name}}");
    if resource.has_status {
        paths.insert(format!("{item}/status"), json!({"get": operation("get", &one)}));
    }
    paths.insert(item, object);
    let collection = json!({"get": operation("list", &many), "post": with_body("post", &["application/json"])});
    paths.insert(lists, collection);
}

fn content(schema: &str) -> Value {
    json!({"application/json": {"schema": {"$ref": format!("{}{schema}", schemas::REFERENCE_PREFIX)}}})
}
