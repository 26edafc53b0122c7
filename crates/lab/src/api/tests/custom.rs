//! Custom resources, as their definitions come, change and go.

use serde_json::{Value, json};

use super::Fixture;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const OLD: &str = "/apis/example.com/v1alpha1/gadgets";
const NEW: &str = "/apis/example.com/v1/gadgets";

fn version(name: &str, storage: bool) -> Value {
    json!({"name": name, "served": true, "storage": storage, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": {
        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
    }}})
}

fn definition(name: &str, kind: &str) -> Value {
    json!({"metadata": {"name": format!("{name}.example.com")}, "spec": {
        "group": "example.com", "scope": "Cluster", "names": {"plural": name, "singular": "gadget", "kind": kind, "listKind": format!("{kind}List")},
        "versions": [version("v1alpha1", true), version("v1", false)],
    }})
}

#[tokio::test]
async fn versions_show_the_same_object() {
    let api = Fixture::new();
    assert_eq!(api.get(NEW).await.0, 404);
    let (code, made) = api.post(DEFINITIONS, definition("gadgets", "Gadget")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["status"]["storedVersions"], json!(["v1alpha1"]));
    let (code, gadget) = api
        .post(
            NEW,
            json!({"metadata": {"name": "g"}, "spec": {"x": 1}, "status": {"y": 1}}),
        )
        .await;
    assert_eq!(code, 201, "{gadget}");
    assert_eq!(
        (gadget["apiVersion"].as_str(), gadget.get("status")),
        (Some("example.com/v1"), None)
    );
    let (_, old) = api.get(&format!("{OLD}/g")).await;
    assert_eq!(
        (old["apiVersion"].as_str(), old["spec"]["x"].as_i64()),
        (Some("example.com/v1alpha1"), Some(1))
    );
    let (code, status) = api.put(&format!("{NEW}/g"), json!({"metadata": {"name": "g"}})).await;
    assert_eq!(code, 422, "an update needs a version: {status}");

    let move_on = json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false}, {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]);
    let (code, moved) = api
        .patch(
            &format!("{DEFINITIONS}/gadgets.example.com"),
            "json-patch+json",
            move_on,
        )
        .await;
    assert_eq!(code, 200, "{moved}");
    let (_, list) = api.get(NEW).await;
    assert_eq!(list["items"][0]["apiVersion"], "example.com/v1");
    api.delete(&format!("{DEFINITIONS}/gadgets.example.com"), Value::Null)
        .await;
    assert_eq!(api.get(NEW).await.0, 404);
    api.post(DEFINITIONS, definition("gadgets", "Gadget")).await;
    assert!(
        api.get(NEW).await.1["items"].as_array().unwrap().is_empty(),
        "the objects went with the definition"
    );
}

#[tokio::test]
async fn a_taken_kind_is_not_served_twice() {
    let api = Fixture::new();
    api.post(DEFINITIONS, definition("gadgets", "Gadget")).await;
    let (code, second) = api.post(DEFINITIONS, definition("gizmos", "Gadget")).await;
    assert_eq!(code, 201, "{second}");
    assert_eq!(second["status"]["conditions"][0]["reason"], "NameConflict");
    assert_eq!(api.get("/apis/example.com/v1/gizmos").await.0, 404);
}

#[tokio::test]
async fn nothing_is_stored_that_cannot_be_read_back() {
    let api = Fixture::new();
    api.post(DEFINITIONS, definition("gadgets", "Gadget")).await;
    api.post(NEW, json!({"metadata": {"name": "g"}, "spec": {}})).await;
    let path = |depth: usize| format!("/spec{}", "/a".repeat(depth));
    let patch: Vec<Value> = (1..150)
        .map(|depth| json!({"op": "add", "path": path(depth), "value": {}}))
        .collect();
    let (code, _) = api
        .patch(&format!("{NEW}/g"), "json-patch+json", patch[..50].into())
        .await;
    assert_eq!(code, 200);
    let (code, status) = api.patch(&format!("{NEW}/g"), "json-patch+json", patch.into()).await;
    assert_eq!(code, 400, "{status}");
}
