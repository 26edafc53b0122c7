//! Creates, updates, patches and deletes.

use serde_json::{Value, json};

use super::{Fixture, MAPS, PODS, map, pod};

#[tokio::test]
async fn an_object_lives() {
    let api = Fixture::new();
    let (code, made) = api.post(MAPS, map("m")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["kind"], "ConfigMap");
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string());
    let (code, again) = api.post(MAPS, map("m")).await;
    assert_eq!((code.as_u16(), again["reason"].as_str()), (409, Some("AlreadyExists")));
    assert_eq!(again["message"], "configmaps \"m\" already exists");

    let mut changed = made.clone();
    changed["data"]["a"] = "2".into();
    let (code, second) = api.put(&format!("{MAPS}/m"), changed.clone()).await;
    assert_eq!(code, 200, "{second}");
    let (code, stale) = api.put(&format!("{MAPS}/m"), changed).await;
    assert_eq!((code.as_u16(), stale["reason"].as_str()), (409, Some("Conflict")));

    let (_, list) = api.get(&format!("{MAPS}?labelSelector=")).await;
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(list["items"][0], second);
    let (code, gone) = api.delete(&format!("{MAPS}/m"), Value::Null).await;
    assert_eq!((code.as_u16(), gone["status"].as_str()), (200, Some("Success")));
    let (code, missing) = api.get(&format!("{MAPS}/m")).await;
    assert_eq!(code, 404);
    assert_eq!(missing["message"], "configmaps \"m\" not found");
    assert_eq!(missing["details"], json!({"name": "m", "kind": "configmaps"}));
}

#[tokio::test]
async fn a_pod_on_a_node_is_given_time_to_end() {
    let api = Fixture::new();
    api.post(PODS, pod("free")).await;
    api.delete(&format!("{PODS}/free"), Value::Null).await;
    assert_eq!(api.get(&format!("{PODS}/free")).await.0, 404);

    let mut bound = pod("bound");
    bound["spec"]["nodeName"] = "n".into();
    bound["spec"]["terminationGracePeriodSeconds"] = 7.into();
    let (code, made) = api.post(PODS, bound).await;
    assert_eq!(code, 201, "{made}");
    let (_, marked) = api.delete(&format!("{PODS}/bound"), Value::Null).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
    assert_eq!(api.get(&format!("{PODS}/bound")).await.0, 200);
    let (_, again) = api
        .delete(&format!("{PODS}/bound"), json!({"gracePeriodSeconds": 20}))
        .await;
    assert_eq!(
        again["metadata"]["deletionTimestamp"],
        marked["metadata"]["deletionTimestamp"]
    );
    api.delete(&format!("{PODS}/bound"), json!({"gracePeriodSeconds": 0}))
        .await;
    assert_eq!(api.get(&format!("{PODS}/bound")).await.0, 404);
}

#[tokio::test]
async fn the_namespace_must_be_there_and_stay() {
    let api = Fixture::new();
    let (code, status) = api.post("/api/v1/namespaces/nope/configmaps", map("m")).await;
    assert_eq!(
        (code.as_u16(), status["message"].as_str()),
        (404, Some("namespaces \"nope\" not found"))
    );

    api.post("/api/v1/namespaces", json!({"metadata": {"name": "team"}}))
        .await;
    let (_, going) = api.delete("/api/v1/namespaces/team", Value::Null).await;
    assert_eq!(going["status"]["phase"], "Terminating");
    let (code, status) = api.post("/api/v1/namespaces/team/configmaps", map("m")).await;
    assert_eq!(code, 403);
    assert_eq!(status["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let (code, _) = api
        .put(
            "/api/v1/namespaces/team/finalize",
            json!({"metadata": {"name": "team"}, "spec": {}}),
        )
        .await;
    assert_eq!(code, 200);
    assert_eq!(api.get("/api/v1/namespaces/team").await.0, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object() {
    let api = Fixture::new();
    let mut held = map("m");
    held["metadata"]["finalizers"] = json!(["example.com/wait"]);
    api.post(MAPS, held).await;
    let (_, marked) = api.delete(&format!("{MAPS}/m"), Value::Null).await;
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let more = json!({"metadata": {"finalizers": ["example.com/wait", "example.com/more"]}});
    assert_eq!(api.patch(&format!("{MAPS}/m"), "merge-patch+json", more).await.0, 422);
    let none = json!({"metadata": {"finalizers": null}});
    assert_eq!(api.patch(&format!("{MAPS}/m"), "merge-patch+json", none).await.0, 200);
    assert_eq!(api.get(&format!("{MAPS}/m")).await.0, 404);
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let api = Fixture::new();
    let path = format!("{PODS}/p");
    api.post(PODS, pod("p")).await;
    let (_, after) = api
        .patch(&path, "merge-patch+json", json!({"status": {"phase": "Running"}}))
        .await;
    assert_eq!(after["status"]["phase"], "Pending");
    let patch = json!({"status": {"phase": "Running"}, "spec": {"nodeName": "n"}});
    let (code, after) = api.patch(&format!("{path}/status"), "merge-patch+json", patch).await;
    assert_eq!(code, 200, "{after}");
    assert_eq!(after["status"]["phase"], "Running");
    assert!(after["spec"].get("nodeName").is_none());
}

#[tokio::test]
async fn names_are_made_up() {
    let api = Fixture::new();
    let body = json!({"metadata": {"generateName": "m-"}});
    let (_, one) = api.post(MAPS, body.clone()).await;
    let (_, two) = api.post(MAPS, body).await;
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name(&one).starts_with("m-") && name(&one).len() == 7 && name(&one) != name(&two));
    let (code, _) = api.post(MAPS, json!({"metadata": {}})).await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn a_dry_run_leaves_nothing() {
    let api = Fixture::new();
    let (code, made) = api.post(&format!("{MAPS}?dryRun=All"), map("m")).await;
    assert_eq!(code, 201);
    assert!(made["metadata"]["uid"].is_string() && made["metadata"].get("resourceVersion").is_none());
    assert_eq!(api.get(&format!("{MAPS}/m")).await.0, 404);
    api.post(MAPS, map("m")).await;
    api.delete(&format!("{MAPS}/m?dryRun=All"), Value::Null).await;
    assert_eq!(api.get(&format!("{MAPS}/m")).await.0, 200);
}

#[tokio::test]
async fn deletes_can_be_conditional() {
    let api = Fixture::new();
    let (_, made) = api.post(MAPS, map("m")).await;
    let path = format!("{MAPS}/m");
    let (code, status) = api.delete(&path, json!({"preconditions": {"uid": "other"}})).await;
    assert_eq!((code.as_u16(), status["reason"].as_str()), (409, Some("Conflict")));
    assert_eq!(
        api.delete(&path, json!({"preconditions": {"resourceVersion": "1"}}))
            .await
            .0,
        409
    );
    let now = json!({"uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]});
    assert_eq!(api.delete(&path, json!({"preconditions": now})).await.0, 200);
}

#[tokio::test]
async fn a_collection_goes_by_selector() {
    let api = Fixture::new();
    for name in ["a", "b"] {
        api.post(PODS, pod(name)).await;
    }
    assert_eq!(
        api.delete(&format!("{PODS}?labelSelector=app=a"), Value::Null).await.0,
        200
    );
    let (_, list) = api.get(PODS).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(list["items"][0]["metadata"]["name"], "b");
}

#[tokio::test]
async fn propagation_becomes_a_finalizer() {
    let api = Fixture::new();
    api.post(MAPS, map("m")).await;
    let path = format!("{MAPS}/m");
    let (_, marked) = api.delete(&path, json!({"propagationPolicy": "Foreground"})).await;
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(api.delete(&path, json!({"propagationPolicy": "Sideways"})).await.0, 400);
    api.delete(&path, json!({"propagationPolicy": "Background"})).await;
    assert_eq!(api.get(&path).await.0, 404);
}

#[tokio::test]
async fn the_generation_counts_changes_of_the_spec() {
    let api = Fixture::new();
    let policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    let (code, made) = api
        .post(
            policies,
            json!({"metadata": {"name": "p"}, "spec": {"podSelector": {}}}),
        )
        .await;
    assert_eq!(code, 201, "{made}");
    let path = format!("{policies}/p");
    let merge = "merge-patch+json";
    let (_, labelled) = api
        .patch(&path, merge, json!({"metadata": {"labels": {"a": "b"}}}))
        .await;
    let (_, changed) = api.patch(&path, merge, json!({"spec": {"ingress": [{}]}})).await;
    let generation = |object: &Value| object["metadata"]["generation"].as_i64().unwrap();
    assert_eq!([&made, &labelled, &changed].map(generation), [1, 1, 2]);
}

#[tokio::test]
async fn bad_bodies_are_told_apart() {
    let api = Fixture::new();
    let wrong = |body: Value| api.post(MAPS, body);
    let (code, status) = wrong(json!({"apiVersion": "v2", "metadata": {"name": "m"}})).await;
    assert_eq!(code, 400);
    let text = "the API version in the data (v2) does not match the expected API version (v1)";
    assert_eq!(status["message"], text);
    let (code, status) = wrong(json!({"metadata": {"name": "m", "namespace": "other"}})).await;
    assert_eq!(code, 400);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("does not match the namespace sent on the request")
    );
    assert_eq!(wrong(json!([1])).await.0, 400);
    assert_eq!(wrong(json!({"metadata": "x"})).await.0, 400);
    assert_eq!(wrong(json!({"metadata": {"name": "a/b"}})).await.0, 422);
    let (code, _) = api.call(http::Method::POST, MAPS, "text/plain", &json!({})).await;
    assert_eq!(code, 415);
    let (code, _) = api
        .call(http::Method::POST, &format!("{MAPS}/m"), "application/json", &json!({}))
        .await;
    assert_eq!(code, 405);
    assert_eq!(api.post("/api/v1/configmaps", map("m")).await.0, 405);
    assert_eq!(api.delete("/api/v1/configmaps", Value::Null).await.0, 405);
    assert_eq!(api.get("/apis/nope/v1/things").await.0, 404);
    assert_eq!(api.get("/api/v1/namespaces/default/nodes").await.0, 404);
}

#[tokio::test]
async fn unknown_fields_are_refused_or_warned_of() {
    let api = Fixture::new();
    let mut odd = map("m");
    odd["spice"] = 1.into();
    let (code, status) = api.post(&format!("{MAPS}?fieldValidation=Strict"), odd.clone()).await;
    assert_eq!(code, 400);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("strict decoding error: unknown field"),
        "{status}"
    );
    let request = http::Request::post(MAPS)
        .body(crate::client::full(odd.to_string()))
        .unwrap();
    let response = (api.handler)(request).await;
    assert_eq!(response.headers()["warning"], r#"299 - "unknown field \"spice\"""#);
}

#[tokio::test]
async fn patches_of_every_kind() {
    let api = Fixture::new();
    let mut two = pod("p");
    two["spec"]["containers"] = json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]);
    api.post(PODS, two).await;
    let path = format!("{PODS}/p");
    let images = |object: &Value| {
        let containers = object["spec"]["containers"].as_array().unwrap();
        containers
            .iter()
            .map(|c| format!("{}{}", c["name"].as_str().unwrap(), c["image"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    let strategic = json!({"spec": {"containers": [{"name": "b", "image": "2"}], "$setElementOrder/containers": [{"name": "a"}, {"name": "b"}]}});
    let (code, after) = api.patch(&path, "strategic-merge-patch+json", strategic).await;
    assert_eq!(code, 200, "{after}");
    assert_eq!(images(&after), ["a1", "b2"]);
    let (code, after) = api
        .patch(
            &path,
            "json-patch+json",
            json!([{"op": "replace", "path": "/spec/containers/0/image", "value": "3"}]),
        )
        .await;
    assert_eq!(code, 200, "{after}");
    assert_eq!(images(&after), ["a3", "b2"]);
    let (code, _) = api
        .patch(
            &path,
            "json-patch+json",
            json!([{"op": "test", "path": "/spec/containers/0/image", "value": "9"}]),
        )
        .await;
    assert_eq!(code, 422);
    let doubling = (0..30).map(|n| json!({"op": "copy", "from": "", "path": format!("/a{n}")}));
    let (code, _) = api.patch(&path, "json-patch+json", doubling.collect()).await;
    assert_eq!(code, 413);
    assert_eq!(api.patch(&path, "nonsense+json", json!({})).await.0, 415);
    let stale = json!({"metadata": {"resourceVersion": "1", "labels": {"x": "y"}}});
    assert_eq!(api.patch(&path, "merge-patch+json", stale).await.0, 409);
}

#[tokio::test]
async fn old_events_go() {
    let api = Fixture::new();
    let events = "/api/v1/namespaces/default/events";
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "reason": "R", "message": "m", "type": "Normal", "lastTimestamp": "2020-01-01T00:00:00Z", "firstTimestamp": "2020-01-01T00:00:00Z"});
    let (code, made) = api.post(events, event).await;
    assert_eq!(code, 201, "{made}");
    api.server.forget_events(jiff::Timestamp::now());
    assert_eq!(api.get(&format!("{events}/e")).await.0, 200, "just made");
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(2);
    api.server.forget_events(later);
    assert_eq!(api.get(&format!("{events}/e")).await.0, 404);
}

#[tokio::test]
async fn a_service_that_is_no_load_balancer_any_more_has_none_of_its_addresses() {
    let api = Fixture::new();
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "a"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    assert_eq!(api.post(services, service).await.0, 201);
    let path = format!("{services}/a");
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    let (code, balanced) = api.patch(&format!("{path}/status"), "merge-patch+json", status).await;
    assert_eq!(code, 200);
    assert_eq!(
        balanced["status"]["loadBalancer"]["ingress"],
        json!([{"ip": "192.0.2.1", "ipMode": "VIP"}])
    );
    let (code, inner) = api
        .patch(&path, "merge-patch+json", json!({"spec": {"type": "ClusterIP"}}))
        .await;
    assert_eq!(code, 200, "{inner}");
    assert_eq!(inner["status"]["loadBalancer"], json!({}));
}
