//! The controllers under bad conditions: an API that fails, watches that break, objects that make no sense, many objects.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use http::Response;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use serde_json::{Value, json};

use super::cluster::{Cluster, endpoints, service, template, workload};
use crate::client::{Client, Handler, Patch, Res, full};
use crate::controllers::kinds::{
    DAEMON_SETS, DEPLOYMENTS, ENDPOINT_SLICES, NODES, PODS, REPLICA_SETS, SERVICES, STATEFUL_SETS,
};
use crate::controllers::object::{condition, is_true, list, text};
use crate::controllers::{Config, pods};

/// One request in five fails, half of those after they have been carried out; each watch breaks after a few events.
fn unreliable(handler: Handler) -> Handler {
    let count = Arc::new(AtomicUsize::new(0));
    Arc::new(move |request| {
        // Scattered, and the same in every run.
        let n = count.fetch_add(1, Ordering::SeqCst).wrapping_mul(2_654_435_761) >> 7;
        let watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let answer = (n % 10 != 3).then(|| handler(request));
        async move {
            let failure = || Response::builder().status(503).body(full("{}")).unwrap();
            let Some(answer) = answer else { return failure() };
            let answer = answer.await;
            if n % 10 == 7 {
                return failure();
            }
            if watch {
                return answer.map(|body| StreamBody::new(BodyStream::new(body).take(3)).boxed_unsync());
            }
            answer
        }
        .boxed()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreliable_api() {
    let cluster = Cluster::with(Config::default(), unreliable).await;
    for name in ["node-1", "node-2"] {
        cluster.add_node(name, json!({})).await;
    }
    cluster.create(&SERVICES, service("web", json!({}))).await;
    cluster
        .create(&DEPLOYMENTS, workload("Deployment", "web", json!({"replicas": 5})))
        .await;
    cluster
        .create(&STATEFUL_SETS, workload("StatefulSet", "db", json!({"replicas": 2})))
        .await;
    cluster
        .create(&DAEMON_SETS, workload("DaemonSet", "agent", json!({})))
        .await;
    cluster.until_ready("app=web", 5).await;
    cluster.until_ready("app=db", 2).await;
    cluster.until_ready("app=agent", 2).await;
    cluster
        .patch(
            &DEPLOYMENTS,
            "web",
            json!({"spec": {"replicas": 2, "template": template("web", "two")}}),
        )
        .await;
    cluster
        .until(|| async {
            let pods = cluster.list(&PODS, "app=web").await;
            let slices = cluster.list(&ENDPOINT_SLICES, "kubernetes.io/service-name=web").await;
            let done = pods.len() == 2 && pods.iter().all(|pod| text(pod, "/spec/containers/0/image") == "two");
            let known = endpoints(&slices).len();
            if done && known == 2 {
                Ok(())
            } else {
                Err(format!("{} pods, {known} endpoints", pods.len()))
            }
        })
        .await;
    cluster.delete(&DEPLOYMENTS, "web", "").await;
    cluster.until_count(&PODS, "app=web", 0).await;
    cluster.until_count(&REPLICA_SETS, "", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_cannot_work_harms_no_other() {
    let cluster = Cluster::new().await;
    // Its pods are refused: the account does not exist.
    let mut bad = workload("Deployment", "bad", json!({"replicas": 3}));
    bad["spec"]["template"]["spec"]["serviceAccountName"] = "nobody".into();
    cluster.create(&DEPLOYMENTS, bad).await;
    cluster
        .create(&DEPLOYMENTS, workload("Deployment", "good", json!({"replicas": 2})))
        .await;
    cluster.until_ready("app=good", 2).await;
    let sets = cluster
        .until(|| async {
            let sets = cluster.list(&REPLICA_SETS, "app=bad").await;
            let said = sets
                .first()
                .is_some_and(|set| condition(set, "ReplicaFailure").is_some());
            if said { Ok(sets) } else { Err(format!("{sets:#?}")) }
        })
        .await;
    let message = text(condition(&sets[0], "ReplicaFailure").unwrap(), "/message");
    assert!(message.contains("serviceaccount \"nobody\" not found"), "{message}");
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": "default"}});
    cluster.create(&Res::new("", "v1", "serviceaccounts"), account).await;
    cluster.until_ready("app=bad", 3).await;
}

/// A kubelet that is well: it renews its lease and says so.
async fn heartbeat(client: Client) {
    let leases = Res::new("coordination.k8s.io", "v1", "leases");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "node-1", "namespace": "kube-node-lease"}, "spec": {"holderIdentity": "node-1"},
    });
    client.create(&leases, "kube-node-lease", &lease).await.unwrap();
    for beat in 0.. {
        let renewal = Patch::Merge(json!({"spec": {"renewTime": format!("2026-01-01T00:00:00.{beat:06}Z")}}));
        client
            .patch(&leases, "kube-node-lease", "node-1", None, &renewal)
            .await
            .unwrap();
        let ready = Patch::Merge(json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
        client
            .patch(&NODES, "", "node-1", Some("status"), &ready)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_given_up_and_comes_back() {
    let grace = Config {
        node_grace: Duration::from_millis(600),
        ..Config::default()
    };
    let cluster = Cluster::with(grace, |handler| handler).await;
    cluster.add_node("node-1", json!({})).await;
    cluster.create(&SERVICES, service("p", json!({}))).await;
    let mut pod = template("p", "one");
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "p".into();
    pod["metadata"]["namespace"] = "default".into();
    pod["spec"]["tolerations"] = json!([{"operator": "Exists", "effect": "NoExecute"}]);
    cluster.create(&PODS, pod).await;
    cluster.until_object(&PODS, "p", pods::is_ready).await;
    cluster.until_object(&PODS, "p", |pod| !pods::is_ready(pod)).await;
    cluster
        .until(|| async {
            let slices = cluster.list(&ENDPOINT_SLICES, "kubernetes.io/service-name=p").await;
            let endpoints = endpoints(&slices);
            let gone = endpoints.len() == 1 && endpoints[0]["conditions"]["ready"] == false;
            if gone { Ok(()) } else { Err(format!("{endpoints:#?}")) }
        })
        .await;
    let node = cluster.client.get(&NODES, "", "node-1").await.unwrap();
    assert_eq!(condition(&node, "Ready").unwrap()["status"], "Unknown");
    let tainted = |node: &Value| {
        list(node, "/spec/taints")
            .iter()
            .any(|t| t["key"] == "node.kubernetes.io/unreachable")
    };
    cluster
        .until(|| async {
            let node = cluster.client.get(&NODES, "", "node-1").await.unwrap();
            if tainted(&node) {
                Ok(())
            } else {
                Err(format!("{node:#}"))
            }
        })
        .await;
    let beats = tokio::spawn(heartbeat(cluster.client.clone()));
    cluster
        .until(|| async {
            let node = cluster.client.get(&NODES, "", "node-1").await.unwrap();
            let back = is_true(&node, "Ready") && !tainted(&node);
            if back { Ok(()) } else { Err(format!("{node:#}")) }
        })
        .await;
    beats.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_services() {
    let cluster = Cluster::new().await;
    cluster
        .create(&DEPLOYMENTS, workload("Deployment", "web", json!({"replicas": 2})))
        .await;
    cluster.until_ready("app=web", 2).await;
    let start = Instant::now();
    for i in 0..1000 {
        cluster
            .create(
                &SERVICES,
                service(&format!("s{i}"), json!({"selector": {"app": "web"}})),
            )
            .await;
    }
    eprintln!("1000 services after {:?}", start.elapsed());
    cluster
        .until(|| async {
            let known = endpoints(
                &cluster
                    .list(&ENDPOINT_SLICES, "endpointslice.kubernetes.io/managed-by")
                    .await,
            )
            .len();
            if known == 2000 {
                Ok(())
            } else {
                Err(format!("{known} endpoints"))
            }
        })
        .await;
    eprintln!("their endpoints after {:?}", start.elapsed());
}
