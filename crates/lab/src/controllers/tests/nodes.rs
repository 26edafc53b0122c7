//! Nodes: their pod CIDRs, what is placed on them, and what happens when they go.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::cluster::{Cluster, template};
use crate::controllers::kinds::{NODES, PODS};
use crate::controllers::object::{condition, list, text};

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = template("p", "one");
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["namespace"] = "default".into();
    for (field, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod
}

async fn until_cidrs(cluster: &Cluster, count: usize) -> BTreeSet<String> {
    cluster
        .until(|| async {
            let nodes = cluster
                .client
                .list(&NODES, "", &Default::default())
                .await
                .unwrap()
                .items;
            let all: Vec<String> = nodes
                .iter()
                .flat_map(|n| list(n, "/spec/podCIDRs"))
                .map(|c| c.as_str().unwrap().to_owned())
                .collect();
            let set: BTreeSet<String> = all.iter().cloned().collect();
            assert_eq!(all.len(), set.len(), "a CIDR twice: {all:?}");
            if set.len() == count {
                Ok(set)
            } else {
                Err(format!("{set:?}"))
            }
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_cidrs_are_kept_over_a_restart() {
    let mut cluster = Cluster::new().await;
    let before = until_cidrs(&cluster, 6).await;
    assert!(
        before.contains("10.244.0.0/23") && before.contains("fd00:10:244::/64"),
        "{before:?}"
    );
    cluster.restart().await;
    cluster.client.delete(&NODES, "", "node-2", None, None).await.unwrap();
    cluster.add_node("node-4", json!({})).await;
    cluster.add_node("node-5", json!({})).await;
    let after = until_cidrs(&cluster, 8).await;
    assert!(before.is_subset(&after) && after.contains("10.244.6.0/23"), "{after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_until_it_does() {
    let cluster = Cluster::new().await;
    cluster
        .create(&PODS, pod("picky", json!({"nodeSelector": {"disk": "ssd"}})))
        .await;
    let expected = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. preemption: 0/3 nodes are \
                    available: 3 Preemption is not helpful for scheduling.";
    let told = |pod: &Value| condition(pod, "PodScheduled").is_some_and(|c| c["message"] == expected);
    let pod = cluster.until_object(&PODS, "picky", told).await;
    let said = condition(&pod, "PodScheduled").unwrap();
    assert_eq!(
        (&said["status"], &said["reason"]),
        (&json!("False"), &json!("Unschedulable"))
    );
    cluster
        .until(|| async {
            let events = cluster.events("FailedScheduling").await;
            // Before the nodes are known, another one may come first.
            if events.iter().filter(|event| *event == expected).count() == 1 {
                Ok(())
            } else {
                Err(format!("{events:?}"))
            }
        })
        .await;
    cluster
        .client
        .patch(
            &NODES,
            "",
            "node-2",
            None,
            &crate::client::Patch::Merge(json!({"metadata": {"labels": {"disk": "ssd"}}})),
        )
        .await
        .unwrap();
    let pod = cluster
        .until_object(&PODS, "picky", crate::controllers::pods::is_ready)
        .await;
    assert_eq!(text(&pod, "/spec/nodeName"), "node-2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cordoned_nodes_take_no_pods() {
    let cluster = Cluster::new().await;
    for node in ["node-1", "node-3"] {
        let cordon = crate::client::Patch::Merge(json!({"spec": {"unschedulable": true}}));
        cluster.client.patch(&NODES, "", node, None, &cordon).await.unwrap();
    }
    for i in 0..4 {
        cluster.create(&PODS, pod(&format!("p{i}"), json!({}))).await;
    }
    let pods = cluster.until_ready("app=p", 4).await;
    assert!(pods.iter().all(|pod| text(pod, "/spec/nodeName") == "node-2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_goes_takes_its_pods_along() {
    let cluster = Cluster::new().await;
    cluster.create(&PODS, pod("lost", json!({"nodeName": "node-3"}))).await;
    cluster
        .create(&PODS, pod("stray", json!({"nodeName": "nowhere"})))
        .await;
    cluster
        .until_object(&PODS, "lost", crate::controllers::pods::is_ready)
        .await;
    cluster.client.delete(&NODES, "", "node-3", None, None).await.unwrap();
    cluster.until_count(&PODS, "app=p", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_ready_is_tainted() {
    let cluster = Cluster::empty().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    cluster.create(&NODES, node).await;
    cluster.create(&PODS, pod("p", json!({}))).await;
    let pod = cluster
        .until_object(&PODS, "p", |pod| condition(pod, "PodScheduled").is_some())
        .await;
    let said = text(condition(&pod, "PodScheduled").unwrap(), "/message");
    assert!(
        said.contains("had untolerated taint {node.kubernetes.io/not-ready: }"),
        "{said}"
    );
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    cluster
        .client
        .patch(&NODES, "", "n", Some("status"), &crate::client::Patch::Merge(ready))
        .await
        .unwrap();
    cluster
        .until_object(&PODS, "p", crate::controllers::pods::is_ready)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_joins_the_one_it_waits_for() {
    let cluster = Cluster::new().await;
    let near =
        json!([{"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"app": "first"}}}]);
    let near = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": near}});
    cluster.create(&PODS, pod("second", json!({ "affinity": near }))).await;
    cluster
        .until_object(&PODS, "second", |pod| condition(pod, "PodScheduled").is_some())
        .await;
    let mut first = pod("first", json!({"nodeName": "node-2"}));
    first["metadata"]["labels"]["app"] = "first".into();
    cluster.create(&PODS, first).await;
    let second = cluster
        .until_object(&PODS, "second", crate::controllers::pods::is_ready)
        .await;
    assert_eq!(text(&second, "/spec/nodeName"), "node-2", "the only node of its zone");
}
