//! Owners, dependents and namespaces: what goes with what.

use serde_json::{Value, json};

use super::cluster::{Cluster, service, workload};
use crate::client::{Patch, Res};
use crate::controllers::kinds::{
    CONFIG_MAPS, CRDS, DEPLOYMENTS, NAMESPACES, PODS, REPLICA_SETS, SERVICE_ACCOUNTS, SERVICES,
};
use crate::controllers::object::{controller_of, name};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_go_with_their_owner() {
    let cluster = Cluster::new().await;
    for policy in ["", "Foreground"] {
        cluster
            .create(&DEPLOYMENTS, workload("Deployment", "web", json!({"replicas": 2})))
            .await;
        cluster.until_ready("app=web", 2).await;
        cluster.delete(&DEPLOYMENTS, "web", policy).await;
        cluster.until_count(&PODS, "app=web", 0).await;
        cluster.until_count(&REPLICA_SETS, "app=web", 0).await;
        cluster.until_object(&DEPLOYMENTS, "web", Value::is_null).await;
    }
}

/// Deleting a Deployment in the foreground ends when its pods have gone, though they are its ReplicaSet's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_foreground_reaches_all_the_way_down() {
    let cluster = Cluster::new().await;
    cluster
        .create(&DEPLOYMENTS, workload("Deployment", "web", json!({"replicas": 1})))
        .await;
    let pods = cluster.until_ready("app=web", 1).await;
    let held = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    cluster
        .patch(&PODS, name(&pods[0]), held(json!(["example.com/hold"])))
        .await;
    cluster.delete(&DEPLOYMENTS, "web", "Foreground").await;
    cluster
        .until_object(&PODS, name(&pods[0]), |pod| {
            !pod["metadata"]["deletionTimestamp"].is_null()
        })
        .await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!cluster.get(&DEPLOYMENTS, "web").await.is_null());
    assert_eq!(cluster.list(&REPLICA_SETS, "app=web").await.len(), 1);
    cluster.patch(&PODS, name(&pods[0]), held(Value::Null)).await;
    cluster.until_object(&DEPLOYMENTS, "web", Value::is_null).await;
    assert!(cluster.list(&PODS, "app=web").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_stay_and_are_taken_in_again() {
    let cluster = Cluster::new().await;
    cluster
        .create(&DEPLOYMENTS, workload("Deployment", "web", json!({"replicas": 2})))
        .await;
    let before = cluster.until_ready("app=web", 2).await;
    cluster.delete(&DEPLOYMENTS, "web", "Orphan").await;
    cluster.until_object(&DEPLOYMENTS, "web", Value::is_null).await;
    let sets = cluster.until_count(&REPLICA_SETS, "app=web", 1).await;
    assert!(controller_of(&sets[0]).is_none());
    cluster
        .create(&DEPLOYMENTS, workload("Deployment", "web", json!({"replicas": 2})))
        .await;
    cluster
        .until(|| async {
            let sets = cluster.list(&REPLICA_SETS, "app=web").await;
            if sets.len() == 1 && controller_of(&sets[0]).is_some() {
                Ok(())
            } else {
                Err(format!("{sets:#?}"))
            }
        })
        .await;
    let after = cluster.until_ready("app=web", 2).await;
    let names = |pods: &[Value]| pods.iter().map(|pod| name(pod).to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_leaves_its_set_is_replaced() {
    let cluster = Cluster::new().await;
    cluster
        .create(&REPLICA_SETS, workload("ReplicaSet", "web", json!({"replicas": 2})))
        .await;
    let pods = cluster.until_ready("app=web", 2).await;
    cluster
        .patch(&PODS, name(&pods[0]), json!({"metadata": {"labels": {"app": "other"}}}))
        .await;
    cluster.until_ready("app=web", 2).await;
    let left = cluster
        .until_object(&PODS, name(&pods[0]), |pod| controller_of(pod).is_none())
        .await;
    cluster
        .patch(&PODS, name(&left), json!({"metadata": {"labels": {"app": "web"}}}))
        .await;
    // Three are one too many.
    cluster.until_ready("app=web", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_furnished_and_emptied() {
    let cluster = Cluster::new().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    cluster.create(&NAMESPACES, namespace).await;
    let client = &cluster.client;
    cluster
        .until(|| async {
            client
                .get(&SERVICE_ACCOUNTS, "shop", "default")
                .await
                .map_err(|error| error.to_string())?;
            let bundle = client
                .get(&CONFIG_MAPS, "shop", "kube-root-ca.crt")
                .await
                .map_err(|error| error.to_string())?;
            assert_eq!(bundle["data"]["ca.crt"], "the CA");
            Ok(())
        })
        .await;
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "carts.shop.example"},
        "spec": {
            "group": "shop.example", "scope": "Namespaced", "names": {"plural": "carts", "kind": "Cart"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    });
    cluster.create(&CRDS, definition).await;
    let carts = Res::new("shop.example", "v1", "carts");
    let cart = |finalizers: Value| {
        json!({
            "apiVersion": "shop.example/v1", "kind": "Cart",
            "metadata": {"name": "c", "namespace": "shop", "finalizers": finalizers},
        })
    };
    cluster
        .until(|| async {
            client
                .create(&carts, "shop", &cart(json!(["example.com/wait"])))
                .await
                .map_err(|error| error.to_string())
        })
        .await;
    for object in [
        (&DEPLOYMENTS, workload("Deployment", "web", json!({"replicas": 2}))),
        (&SERVICES, service("web", json!({}))),
    ] {
        let (res, mut object) = object;
        object["metadata"]["namespace"] = "shop".into();
        cluster.create(res, object).await;
    }
    client.delete(&NAMESPACES, "", "shop", None, None).await.unwrap();
    cluster
        .until(|| async {
            let pods = client.list(&PODS, "shop", &Default::default()).await.unwrap().items;
            let namespace = client.get(&NAMESPACES, "", "shop").await.unwrap();
            let text = namespace["status"].to_string();
            let waiting = pods.is_empty() && text.contains("carts.shop.example has 1 resource instances");
            if waiting && text.contains("example.com/wait") {
                Ok(())
            } else {
                Err(text)
            }
        })
        .await;
    client
        .patch(
            &carts,
            "shop",
            "c",
            None,
            &Patch::Merge(json!({"metadata": {"finalizers": []}})),
        )
        .await
        .unwrap();
    cluster
        .until(|| async {
            match client.get(&NAMESPACES, "", "shop").await {
                Err(error) if error.is_not_found() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_resources_are_collected_too() {
    let cluster = Cluster::empty().await;
    let owner = cluster
        .create(
            &CONFIG_MAPS,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "o", "namespace": "default"}}),
        )
        .await;
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "carts.shop.example"},
        "spec": {
            "group": "shop.example", "scope": "Namespaced", "names": {"plural": "carts", "kind": "Cart"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    });
    cluster.create(&CRDS, definition).await;
    let carts = Res::new("shop.example", "v1", "carts");
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": owner["metadata"]["uid"]});
    let cart = json!({
        "apiVersion": "shop.example/v1", "kind": "Cart",
        "metadata": {"name": "c", "namespace": "default", "ownerReferences": [reference]},
    });
    cluster
        .until(|| async {
            cluster
                .client
                .create(&carts, "default", &cart)
                .await
                .map_err(|error| error.to_string())
        })
        .await;
    cluster.delete(&CONFIG_MAPS, "o", "").await;
    cluster.until_count(&carts, "", 0).await;
}
