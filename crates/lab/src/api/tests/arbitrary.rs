//! Whatever clients send, the server answers: never with a panic, and never with an error of its own.

use http::{Method, Request};
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use super::Fixture;
use crate::client::full;

/// Any JSON, with the words and numbers that the server looks at among it.
fn value() -> impl Strategy<Value = Value> {
    let words = [
        "",
        "a",
        "x/y",
        "10.0.0.1",
        "8080",
        "ClusterIP",
        "TCP",
        "v1",
        "2020-01-01T00:00:00Z",
        "é",
        "..",
        "Always",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2_i64..70000).prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        proptest::sample::select(words.to_vec()).prop_map(Value::from),
        "\\PC{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let keys = ["name", "key", "$patch", "type", "metadata", "spec", "port", "a"];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(proptest::sample::select(keys.to_vec()), inner, 0..3)
                .prop_map(|map| json!(map)),
        ]
    })
}

/// Objects that are valid before something in them is replaced.
fn samples() -> Vec<(&'static str, Value)> {
    let pod = json!({"containers": [{
        "name": "c", "image": "i", "ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "b"}],
        "resources": {"limits": {"cpu": "1"}}, "livenessProbe": {"httpGet": {"port": 80}},
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    }], "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "k"}], "nodeName": "n"});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod});
    let selector = json!({"matchLabels": {"a": "b"}});
    let metadata = json!({"name": "x", "labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": ["a.b/c"]});
    let object = |fields: Value| {
        let mut object = json!({ "metadata": metadata });
        if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
            object.extend(fields);
        }
        object
    };
    let names = json!({"plural": "ws", "singular": "w", "kind": "W", "listKind": "WList"});
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object"}}}});
    let versions = json!([{"name": "v1", "served": true, "storage": true, "schema": schema}]);
    let mut definition =
        object(json!({"spec": {"group": "e.io", "scope": "Namespaced", "names": names, "versions": versions}}));
    definition["metadata"]["name"] = "ws.e.io".into();
    vec![
        (
            "/api/v1/namespaces/default/pods",
            object(json!({ "spec": pod, "status": {"phase": "Running", "conditions": [{"type": "Ready"}]} })),
        ),
        (
            "/api/v1/namespaces/default/services",
            object(
                json!({"spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80, "targetPort": "x"}]}}),
            ),
        ),
        (
            "/api/v1/namespaces/default/configmaps",
            object(json!({"data": {"a": "b"}})),
        ),
        (
            "/api/v1/namespaces/default/secrets",
            object(json!({"data": {"a": "Yg=="}, "type": "Opaque"})),
        ),
        (
            "/api/v1/namespaces/default/endpoints",
            object(json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]})),
        ),
        (
            "/api/v1/nodes",
            object(
                json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}),
            ),
        ),
        ("/api/v1/namespaces", object(json!({}))),
        (
            "/apis/apps/v1/namespaces/default/deployments",
            object(json!({"spec": {"replicas": 1, "selector": selector, "template": template}})),
        ),
        (
            "/apis/apps/v1/namespaces/default/statefulsets",
            object(json!({"spec": {"serviceName": "s", "selector": selector, "template": template}})),
        ),
        (
            "/apis/apps/v1/namespaces/default/daemonsets",
            object(json!({"spec": {"selector": selector, "template": template}})),
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            object(
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}], "ports": [{"port": 80}]}),
            ),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            object(
                json!({"spec": {"podSelector": selector, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 80}]}]}}),
            ),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            object(
                json!({"spec": {"rules": [{"host": "a.b", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}}),
            ),
        ),
        (
            "/apis/events.k8s.io/v1/namespaces/default/events",
            object(
                json!({"regarding": {"kind": "Pod", "name": "p", "namespace": "default"}, "note": "n", "reason": "r", "type": "Normal"}),
            ),
        ),
        ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition),
    ]
}

/// Every place in a value, as JSON pointers.
fn places(value: &Value, path: &str, into: &mut Vec<String>) {
    into.push(path.to_owned());
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(key, value)| places(value, &format!("{path}/{key}"), into)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(n, value)| places(value, &format!("{path}/{n}"), into)),
        _ => {}
    }
}

async fn send(api: &Fixture, method: Method, path: &str, kind: &str, body: &str) -> Result<(), TestCaseError> {
    for accept in ["application/json", "application/json;as=Table;v=v1;g=meta.k8s.io"] {
        let request = Request::builder()
            .method(&method)
            .uri(path)
            .header("content-type", kind)
            .header("accept", accept);
        let request = request
            .body(full(body.to_owned()))
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        let response = (api.handler)(request).await;
        let code = response.status().as_u16();
        let _ = response.into_body().collect().await;
        prop_assert!(code < 500, "{method} {path} ({kind}) answered {code} to {body}");
    }
    Ok(())
}

#[test]
fn nothing_makes_the_server_fall() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let samples = samples();
    let strategy = (0..samples.len(), any::<prop::sample::Index>(), value(), 0..4_usize);
    let mut runner = TestRunner::new(Config {
        cases: 400,
        failure_persistence: None,
        ..Config::default()
    });
    let api = runtime.block_on(async { Fixture::new() });
    let outcome = runner.run(&strategy, |(sample, place, value, how)| {
        let (collection, valid) = &samples[sample];
        let mut all = Vec::new();
        places(valid, "", &mut all);
        let place = &all[place.index(all.len())];
        let mut odd = valid.clone();
        if let Some(target) = odd.pointer_mut(place) {
            *target = value;
        }
        let name = valid["metadata"]["name"].as_str().unwrap_or_default();
        let object = format!("{collection}/{name}");
        let (odd, valid) = (odd.to_string(), valid.to_string());
        runtime.block_on(async {
            send(&api, Method::POST, collection, "application/json", &odd).await?;
            send(&api, Method::POST, collection, "application/json", &valid).await?;
            let json = format!(
                "application/{}",
                [
                    "strategic-merge-patch+json",
                    "merge-patch+json",
                    "apply-patch+yaml",
                    "json-patch+json"
                ][how]
            );
            send(
                &api,
                Method::PATCH,
                &format!("{object}?fieldManager=m&force=true"),
                &json,
                &odd,
            )
            .await?;
            send(
                &api,
                Method::PATCH,
                &format!("{object}/status?fieldManager=n"),
                &json,
                &odd,
            )
            .await?;
            send(&api, Method::PUT, &object, "application/json", &odd).await?;
            send(&api, Method::GET, collection, "application/json", "").await?;
            send(&api, Method::DELETE, &object, "application/json", &odd).await?;
            send(&api, Method::DELETE, &object, "application/json", "").await
        })
    });
    outcome.unwrap();
}
