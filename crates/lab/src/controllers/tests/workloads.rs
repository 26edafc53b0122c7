//! Deployments, StatefulSets, DaemonSets and Jobs.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use super::cluster::{Cluster, template, workload};
use crate::controllers::kinds::{
    CONTROLLER_REVISIONS, DAEMON_SETS, DEPLOYMENTS, JOBS, PODS, REPLICA_SETS, STATEFUL_SETS,
};
use crate::controllers::object::{condition, name, text};

fn available(deployment: &Value, n: i64) -> bool {
    let status = &deployment["status"];
    status["availableReplicas"] == n && status["updatedReplicas"] == n && status["replicas"] == n
}

fn per_node(pods: &[Value]) -> BTreeMap<&str, usize> {
    let mut count = BTreeMap::new();
    for pod in pods {
        *count.entry(text(pod, "/spec/nodeName")).or_default() += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_comes_up_fast_and_spread() {
    let cluster = Cluster::new().await;
    let start = Instant::now();
    cluster
        .create(&DEPLOYMENTS, workload("Deployment", "web", json!({"replicas": 6})))
        .await;
    let pods = cluster.until_ready("app=web", 6).await;
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    assert_eq!(
        per_node(&pods),
        BTreeMap::from([("node-1", 2), ("node-2", 2), ("node-3", 2)])
    );
    let deployment = cluster.until_object(&DEPLOYMENTS, "web", |d| available(d, 6)).await;
    assert_eq!(condition(&deployment, "Available").unwrap()["status"], "True");
    cluster
        .until_object(&DEPLOYMENTS, "web", |d| {
            condition(d, "Progressing").unwrap()["reason"] == "NewReplicaSetAvailable"
        })
        .await;
    assert_eq!(
        deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "1"
    );
    let scaled = cluster
        .until(|| async { Ok::<_, String>(cluster.events("ScalingReplicaSet").await) })
        .await;
    assert!(scaled[0].ends_with("from 0 to 6"), "{scaled:?}");
    assert_eq!(cluster.list(&REPLICA_SETS, "").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_update_and_back() {
    let cluster = Cluster::new().await;
    let spec = json!({"replicas": 4, "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}});
    cluster.create(&DEPLOYMENTS, workload("Deployment", "web", spec)).await;
    cluster.until_ready("app=web", 4).await;
    let image = |image: &str| json!({"spec": {"template": template("web", image)}});
    cluster.patch(&DEPLOYMENTS, "web", image("two")).await;
    cluster
        .until(|| async {
            let pods = cluster.list(&PODS, "app=web").await;
            let ready = pods
                .iter()
                .filter(|pod| crate::controllers::pods::is_ready(pod))
                .count();
            assert!(ready >= 4, "an update made {ready} of 4");
            let done = pods.len() == 4 && pods.iter().all(|pod| text(pod, "/spec/containers/0/image") == "two");
            if done {
                Ok(())
            } else {
                Err("not all are new".to_owned())
            }
        })
        .await;
    let revision = "deployment.kubernetes.io/revision";
    let at = |n: &'static str| move |d: &Value| d["metadata"]["annotations"][revision] == n && available(d, 4);
    cluster.until_object(&DEPLOYMENTS, "web", at("2")).await;
    cluster.patch(&DEPLOYMENTS, "web", image("one")).await;
    cluster.until_object(&DEPLOYMENTS, "web", at("3")).await;
    let sets = cluster.list(&REPLICA_SETS, "app=web").await;
    assert_eq!(sets.len(), 2, "the old template's set is used again");
    cluster
        .patch(&DEPLOYMENTS, "web", json!({"spec": {"revisionHistoryLimit": 0}}))
        .await;
    cluster.until_count(&REPLICA_SETS, "app=web", 1).await;
    cluster
        .patch(&DEPLOYMENTS, "web", json!({"spec": {"replicas": 1}}))
        .await;
    cluster.until_ready("app=web", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreate_and_pause() {
    let cluster = Cluster::new().await;
    let spec = json!({"replicas": 2, "strategy": {"type": "Recreate"}});
    cluster.create(&DEPLOYMENTS, workload("Deployment", "web", spec)).await;
    cluster.until_ready("app=web", 2).await;
    cluster
        .patch(
            &DEPLOYMENTS,
            "web",
            json!({"spec": {"template": template("web", "two")}}),
        )
        .await;
    cluster
        .until(|| async {
            let pods = cluster.list(&PODS, "app=web").await;
            let images: std::collections::BTreeSet<&str> =
                pods.iter().map(|pod| text(pod, "/spec/containers/0/image")).collect();
            assert!(images.len() < 2, "old and new at once");
            if images.contains("two") && pods.len() == 2 {
                Ok(())
            } else {
                Err(format!("{images:?}"))
            }
        })
        .await;
    cluster
        .patch(
            &DEPLOYMENTS,
            "web",
            json!({"spec": {"paused": true, "template": template("web", "three")}}),
        )
        .await;
    cluster
        .patch(&DEPLOYMENTS, "web", json!({"spec": {"replicas": 3}}))
        .await;
    let pods = cluster.until_ready("app=web", 3).await;
    assert!(pods.iter().all(|pod| text(pod, "/spec/containers/0/image") == "two"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_pods() {
    let cluster = Cluster::new().await;
    cluster
        .create(&DEPLOYMENTS, workload("Deployment", "web", json!({"replicas": 300})))
        .await;
    let start = Instant::now();
    cluster.until_ready("app=web", 300).await;
    eprintln!("300 pods after {:?}", start.elapsed());
    cluster
        .patch(&DEPLOYMENTS, "web", json!({"spec": {"replicas": 0}}))
        .await;
    cluster.until_count(&PODS, "app=web", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_keeps_its_names() {
    let cluster = Cluster::new().await;
    let spec = json!({"replicas": 3, "serviceName": "db"});
    cluster
        .create(&STATEFUL_SETS, workload("StatefulSet", "db", spec))
        .await;
    let pods = cluster.until_ready("app=db", 3).await;
    let names: Vec<&str> = pods.iter().map(name).collect();
    assert_eq!(names, ["db-0", "db-1", "db-2"]);
    assert_eq!(text(&pods[1], "/spec/hostname"), "db-1");
    assert_eq!(text(&pods[1], "/spec/subdomain"), "db");
    cluster
        .until_object(&STATEFUL_SETS, "db", |s| s["status"]["readyReplicas"] == 3)
        .await;
    cluster
        .patch(
            &STATEFUL_SETS,
            "db",
            json!({"spec": {"template": template("db", "two")}}),
        )
        .await;
    let done = |set: &Value| {
        let status = &set["status"];
        status["currentRevision"] == status["updateRevision"]
            && status["updatedReplicas"] == 3
            && status["readyReplicas"] == 3
    };
    cluster
        .until(|| async {
            let set = cluster.get(&STATEFUL_SETS, "db").await;
            let pods = cluster.list(&PODS, "app=db").await;
            let new = pods.iter().all(|pod| text(pod, "/spec/containers/0/image") == "two");
            if new && done(&set) {
                Ok(())
            } else {
                Err(format!("{:#}", set["status"]))
            }
        })
        .await;
    assert_eq!(cluster.list(&CONTROLLER_REVISIONS, "app=db").await.len(), 2);
    cluster
        .patch(&STATEFUL_SETS, "db", json!({"spec": {"replicas": 1}}))
        .await;
    assert_eq!(name(&cluster.until_ready("app=db", 1).await[0]), "db-0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_covers_the_nodes() {
    let cluster = Cluster::new().await;
    cluster
        .create(&DAEMON_SETS, workload("DaemonSet", "agent", json!({})))
        .await;
    let pods = cluster.until_ready("app=agent", 3).await;
    assert!(per_node(&pods).values().all(|n| *n == 1));
    cluster.add_node("node-4", json!({})).await;
    cluster.until_ready("app=agent", 4).await;
    cluster
        .patch(
            &DAEMON_SETS,
            "agent",
            json!({"spec": {"template": template("agent", "two")}}),
        )
        .await;
    cluster
        .until_object(&DAEMON_SETS, "agent", |set| {
            let status = &set["status"];
            status["observedGeneration"] == set["metadata"]["generation"]
                && status["updatedNumberScheduled"] == 4
                && status["numberAvailable"] == 4
        })
        .await;
    let pods = cluster.until_ready("app=agent", 4).await;
    assert!(pods.iter().all(|pod| text(pod, "/spec/containers/0/image") == "two"));
    cluster
        .patch(
            &DAEMON_SETS,
            "agent",
            json!({"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}}),
        )
        .await;
    cluster.until_count(&PODS, "app=agent", 0).await;
}

fn job(name: &str, change: Value) -> Value {
    let mut template = template(name, "work");
    template["spec"]["restartPolicy"] = "Never".into();
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": template},
    });
    for (field, value) in change.as_object().into_iter().flatten() {
        job["spec"][field] = value.clone();
    }
    job
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_end() {
    let cluster = Cluster::new().await;
    let spec = json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed"});
    cluster.create(&JOBS, job("sum", spec)).await;
    let complete = |job: &Value| condition(job, "Complete").is_some_and(|c| c["status"] == "True");
    let done = cluster.until_object(&JOBS, "sum", complete).await;
    assert_eq!(
        (&done["status"]["succeeded"], &done["status"]["completedIndexes"]),
        (&json!(4), &json!("0-3"))
    );
    cluster
        .create(&JOBS, job("short", json!({"ttlSecondsAfterFinished": 0})))
        .await;
    cluster.until_count(&JOBS, "", 1).await;
    let mut bad = job("bad", json!({"backoffLimit": 0}));
    bad["spec"]["template"]["metadata"]["labels"]["test"] = "fails".into();
    cluster.create(&JOBS, bad).await;
    let failed = |job: &Value| condition(job, "Failed").is_some_and(|c| c["reason"] == "BackoffLimitExceeded");
    cluster.until_object(&JOBS, "bad", failed).await;
}
