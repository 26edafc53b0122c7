//! Binding, eviction, scale, tokens and reviews.

use serde_json::{Value, json};

use super::{Fixture, PODS, pod};

#[tokio::test]
async fn a_pod_is_bound_once() {
    let api = Fixture::new();
    api.post(PODS, pod("p")).await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let path = format!("{PODS}/p/binding");
    let (code, status) = api.post(&path, binding.clone()).await;
    assert_eq!(code, 201, "{status}");
    let (_, bound) = api.get(&format!("{PODS}/p")).await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(api.post(&path, binding).await.0, 409);
    assert_eq!(api.post(&path, json!({"target": {}})).await.0, 422);
    let (code, _) = api
        .post(
            &format!("{PODS}/p/eviction"),
            json!({"metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 3}}),
        )
        .await;
    assert_eq!(code, 201);
    assert_eq!(
        api.get(&format!("{PODS}/p")).await.1["metadata"]["deletionGracePeriodSeconds"],
        3
    );
}

#[tokio::test]
async fn scale_is_the_same_for_all() {
    let api = Fixture::new();
    let sets = "/apis/apps/v1/namespaces/default/statefulsets";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let set = json!({"metadata": {"name": "s"}, "spec": {"serviceName": "s", "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let (code, made) = api.post(sets, set).await;
    assert_eq!(code, 201, "{made}");
    let path = format!("{sets}/s/scale");
    let (_, scale) = api.get(&path).await;
    assert_eq!(
        (scale["kind"].as_str(), scale["spec"]["replicas"].as_i64()),
        (Some("Scale"), Some(1))
    );
    assert_eq!(scale["status"]["selector"], "a=b");
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = 4.into();
    assert_eq!(api.put(&path, wanted.clone()).await.1["spec"]["replicas"], 4);
    assert_eq!(api.put(&path, wanted).await.0, 409);
    let (_, after) = api
        .patch(&path, "merge-patch+json", json!({"spec": {"replicas": 0}}))
        .await;
    assert_eq!(after["spec"]["replicas"], 0);
    assert_eq!(
        api.patch(&path, "merge-patch+json", json!({"spec": {"replicas": -1}}))
            .await
            .0,
        422
    );
    let (_, set) = api.get(&format!("{sets}/s")).await;
    assert_eq!(
        (set["spec"]["replicas"].as_i64(), set["metadata"]["generation"].as_i64()),
        (Some(0), Some(3))
    );
}

#[tokio::test]
async fn tokens_are_signed_and_reviewed() {
    let api = Fixture::new();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    api.post(accounts, json!({"metadata": {"name": "robot"}})).await;
    let (code, answer) = api
        .post(
            &format!("{accounts}/robot/token"),
            json!({"spec": {"expirationSeconds": 600}}),
        )
        .await;
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].clone();
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (_, review) = api.post(reviews, json!({"spec": {"token": token}})).await;
    assert_eq!(
        review["status"]["user"]["username"],
        "system:serviceaccount:default:robot"
    );
    let forged = format!("{}x", token.as_str().unwrap());
    let (_, review) = api.post(reviews, json!({"spec": {"token": forged}})).await;
    assert_eq!(review["status"]["authenticated"], false);
    assert_eq!(
        api.post(
            &format!("{accounts}/robot/token"),
            json!({"spec": {"expirationSeconds": 5}})
        )
        .await
        .0,
        422
    );
    assert_eq!(api.post(&format!("{accounts}/robot/token"), json!([])).await.0, 400);
}

#[tokio::test]
async fn everything_is_allowed() {
    let api = Fixture::new();
    let attributes = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let (_, review) = api
        .post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", attributes)
        .await;
    assert_eq!(review["status"]["allowed"], true);
    let (_, review) = api
        .post("/apis/authentication.k8s.io/v1/selfsubjectreviews", Value::Null)
        .await;
    assert_eq!(review["status"]["userInfo"]["username"], "admin");
}
