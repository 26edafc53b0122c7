//! Workloads as people drive them: `kubectl rollout`, `scale`, `wait` and `events`, over TLS as in a lab.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use tokio::process::Command;

use super::cluster::{Cluster, workload};
use crate::api::pki;
use crate::api::serve::bind;

/// A cluster that listens, and a directory with its kubeconfig.
struct Terminal {
    _cluster: Cluster,
    dir: tempfile::TempDir,
}

impl Terminal {
    async fn new() -> Self {
        let cluster = Cluster::new().await;
        let dir = tempfile::tempdir().unwrap();
        let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        pki::ensure(dir.path(), "test", listener.local_addr().unwrap().port()).unwrap();
        let (server, tls) = (cluster.server.clone(), pki::tls(dir.path()).unwrap());
        tokio::spawn(async move { server.serve_tls(listener, tls).await });
        Self { _cluster: cluster, dir }
    }

    /// What a command that must succeed prints.
    async fn kubectl(&self, args: &[&str]) -> String {
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(self.dir.path().join("kubeconfig"))
            .args(args);
        let output = command
            .env("HOME", self.dir.path())
            .env_remove("KUBECONFIG")
            .output()
            .await;
        let output = output.expect("kubectl 1.31 or newer is needed on the PATH");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn apply(&self, object: &Value) {
        let file = self.dir.path().join("object.json");
        std::fs::write(&file, object.to_string()).unwrap();
        self.kubectl(&["apply", "-f", file.to_str().unwrap()]).await;
    }

    async fn rollout(&self, verb: &str, of: &str, more: &[&str]) -> String {
        self.kubectl(&[&["rollout", verb, of], more].concat()).await
    }
}

/// Updates, looks at the history, goes back and restarts.
async fn roll(kind: &str) {
    let terminal = Terminal::new().await;
    let spec = if kind == "DaemonSet" {
        json!({})
    } else {
        json!({"replicas": 3})
    };
    terminal.apply(&workload(kind, "web", spec)).await;
    let of = &format!("{}/web", kind.to_lowercase());
    let wait = || terminal.rollout("status", of, &["--timeout=30s"]);
    let said = wait().await;
    assert!(said.contains("success") || said.contains("complete"), "{said}");
    terminal.kubectl(&["set", "image", of, "main=two"]).await;
    wait().await;
    let history = terminal.rollout("history", of, &[]).await;
    assert!(history.lines().any(|line| line.starts_with('2')), "{history}");
    let first = terminal.rollout("history", of, &["--revision=1"]).await;
    assert!(first.contains("Image:\tone"), "{first}");
    terminal.rollout("undo", of, &[]).await;
    wait().await;
    let image = "jsonpath={.spec.template.spec.containers[0].image}";
    assert_eq!(terminal.kubectl(&["get", of, "-o", image]).await, "one");
    terminal.rollout("restart", of, &[]).await;
    wait().await;
    let pods: Value =
        serde_json::from_str(&terminal.kubectl(&["get", "pods", "-l", "app=web", "-o", "json"]).await).unwrap();
    let pods = pods["items"].as_array().unwrap().iter();
    let live: Vec<&Value> = pods
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .collect();
    let restarted = |pod: &Value| pod["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"].is_string();
    assert!(live.len() == 3 && live.iter().all(|pod| restarted(pod)), "{live:#?}");
    terminal
        .kubectl(&["delete", of, "--cascade=foreground", "--timeout=30s"])
        .await;
    assert_eq!(
        terminal.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]).await,
        ""
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls() {
    roll("Deployment").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_rolls() {
    roll("StatefulSet").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_rolls() {
    roll("DaemonSet").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scale_wait_and_events() {
    let terminal = Terminal::new().await;
    terminal
        .kubectl(&["create", "deployment", "web", "--image=one", "--replicas=2"])
        .await;
    terminal
        .kubectl(&["wait", "deployment/web", "--for=condition=Available", "--timeout=30s"])
        .await;
    terminal.kubectl(&["scale", "deployment/web", "--replicas=4"]).await;
    terminal
        .kubectl(&["rollout", "status", "deployment/web", "--timeout=30s"])
        .await;
    terminal
        .kubectl(&["expose", "deployment/web", "--port=80", "--target-port=8080"])
        .await;
    let events = terminal.kubectl(&["events", "--for", "deployment/web"]).await;
    assert!(
        events.contains("Scaled up replica set web-") && events.contains("from 0 to 2"),
        "{events}"
    );
    let described = terminal.kubectl(&["describe", "deployment", "web"]).await;
    assert!(
        described.contains("4 desired | 4 updated | 4 total | 4 available | 0 unavailable"),
        "{described}"
    );
    terminal.kubectl(&["rollout", "pause", "deployment/web"]).await;
    terminal.kubectl(&["set", "image", "deployment/web", "one=two"]).await;
    terminal.kubectl(&["rollout", "resume", "deployment/web"]).await;
    terminal
        .kubectl(&["rollout", "status", "deployment/web", "--timeout=30s"])
        .await;
    terminal.kubectl(&["create", "namespace", "shop"]).await;
    terminal
        .kubectl(&["-n", "shop", "create", "deployment", "web", "--image=one"])
        .await;
    terminal
        .kubectl(&["delete", "namespace", "shop", "--wait", "--timeout=30s"])
        .await;
    terminal.kubectl(&["cordon", "node-1", "node-2", "node-3"]).await;
    terminal.kubectl(&["run", "late", "--image=one"]).await;
    terminal
        .kubectl(&[
            "wait",
            "pod/late",
            "--for=condition=PodScheduled=False",
            "--timeout=10s",
        ])
        .await;
    terminal.kubectl(&["uncordon", "node-1", "node-2", "node-3"]).await;
    terminal
        .kubectl(&["wait", "pod/late", "--for=condition=Ready", "--timeout=10s"])
        .await;
}
