//! What the network reads: endpoints, addresses, and what happens to them as pods come and go.

use serde_json::{Value, json};

use super::cluster::{Cluster, endpoints, service, workload};
use crate::controllers::kinds::{DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, SERVICES};
use crate::controllers::object::{list, text};

async fn until_endpoints(cluster: &Cluster, service: &str, count: usize) -> Vec<Value> {
    let labels = format!("kubernetes.io/service-name={service}");
    cluster
        .until(|| async {
            let endpoints = endpoints(&cluster.list(&ENDPOINT_SLICES, &labels).await);
            let ready = endpoints.iter().filter(|e| e["conditions"]["ready"] == true).count();
            if ready == count && endpoints.len() == count {
                Ok(endpoints)
            } else {
                Err(format!("{endpoints:#?}"))
            }
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_follow_pods() {
    let cluster = Cluster::new().await;
    cluster
        .create(&SERVICES, service("web", json!({"ipFamilyPolicy": "RequireDualStack"})))
        .await;
    cluster
        .create(&DEPLOYMENTS, workload("Deployment", "web", json!({"replicas": 3})))
        .await;
    let both = until_endpoints(&cluster, "web", 6).await;
    assert_eq!(both.iter().filter(|e| text(e, "/addresses/0").contains(':')).count(), 3);
    assert!(
        both.iter()
            .all(|e| e["zone"].is_string() && e["nodeName"].is_string() && e["targetRef"]["kind"] == "Pod")
    );
    let legacy = cluster
        .until_object(&ENDPOINTS, "web", |e| list(e, "/subsets/0/addresses").len() == 3)
        .await;
    assert_eq!(legacy["subsets"][0]["ports"][0]["port"], 8080);
    cluster
        .patch(&DEPLOYMENTS, "web", json!({"spec": {"replicas": 1}}))
        .await;
    until_endpoints(&cluster, "web", 2).await;
    cluster.delete(&SERVICES, "web", "").await;
    cluster
        .until_count(&ENDPOINT_SLICES, "kubernetes.io/service-name=web", 0)
        .await;
    cluster.until_object(&ENDPOINTS, "web", Value::is_null).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slice_that_somebody_breaks_is_put_right() {
    let cluster = Cluster::new().await;
    cluster.create(&SERVICES, service("web", json!({}))).await;
    cluster
        .create(&DEPLOYMENTS, workload("Deployment", "web", json!({"replicas": 1})))
        .await;
    until_endpoints(&cluster, "web", 1).await;
    let slices = cluster.list(&ENDPOINT_SLICES, "kubernetes.io/service-name=web").await;
    let name = text(&slices[0], "/metadata/name").to_owned();
    cluster.patch(&ENDPOINT_SLICES, &name, json!({"endpoints": []})).await;
    until_endpoints(&cluster, "web", 1).await;
    cluster.delete(&ENDPOINT_SLICES, &name, "").await;
    until_endpoints(&cluster, "web", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_write_themselves_is_left_alone() {
    let cluster = Cluster::new().await;
    cluster
        .create(&SERVICES, service("own", json!({"selector": null})))
        .await;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "own-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "own"}},
        "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": true}}], "ports": [{"port": 80}],
    });
    cluster.create(&ENDPOINT_SLICES, slice).await;
    cluster
        .create(&DEPLOYMENTS, workload("Deployment", "other", json!({"replicas": 1})))
        .await;
    cluster.until_ready("app=other", 1).await;
    assert_eq!(
        until_endpoints(&cluster, "own", 1).await[0]["addresses"][0],
        "192.0.2.1"
    );
    assert!(cluster.get(&ENDPOINTS, "own").await.is_null());
    assert!(!cluster.get(&ENDPOINTS, "kubernetes").await.is_null());
}
