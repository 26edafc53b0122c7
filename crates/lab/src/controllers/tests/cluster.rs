//! A cluster in a test: API server, controllers, three nodes and their pretended kubelets.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::kubelet;
use crate::api::{ApiServer, Config};
use crate::client::{Client, Handler, ListOptions, Patch, Res};
use crate::controllers::object::list;
use crate::controllers::{self, kinds};
use crate::families::Families;

pub(super) struct Cluster {
    pub(super) client: Client,
    pub(super) server: std::sync::Arc<ApiServer>,
    tasks: JoinSet<()>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// Three nodes, two zones.
    pub(super) async fn new() -> Self {
        let cluster = Self::empty().await;
        for i in 1..=3 {
            cluster
                .add_node(
                    &format!("node-{i}"),
                    json!({"topology.kubernetes.io/zone": format!("z{}", i % 2)}),
                )
                .await;
        }
        cluster
    }

    pub(super) async fn empty() -> Self {
        Self::with(controllers::Config::default(), |handler| handler).await
    }

    /// A cluster whose controllers are told `config`, and reach the API through what `wrap` makes of it.
    pub(super) async fn with(config: controllers::Config, wrap: impl FnOnce(Handler) -> Handler) -> Self {
        let told = controllers::Config {
            ca_pem: "the CA".to_owned(),
            ..config
        };
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            database: dir.path().join("api.redb"),
            lab_dir: dir.path().to_owned(),
            advertise: SocketAddr::from((Ipv4Addr::new(10, 89, 0, 1), 6443)),
            families: Families::Dual,
            token_key: b"not much of a secret".to_vec(),
        };
        let server = ApiServer::open(config).unwrap();
        let client = Client::local(server.handler());
        let mut tasks = JoinSet::new();
        let between = Client::local(wrap(server.handler()));
        tasks.spawn(controllers::run(between, told));
        tasks.spawn(kubelet::run(client.clone()));
        Self {
            client,
            server,
            tasks,
            _dir: dir,
        }
    }

    /// Stops the controllers and kubelets, and starts new ones.
    pub(super) async fn restart(&mut self) {
        self.tasks.shutdown().await;
        self.tasks
            .spawn(controllers::run(self.client.clone(), controllers::Config::default()));
        self.tasks.spawn(kubelet::run(self.client.clone()));
    }

    pub(super) async fn add_node(&self, name: &str, labels: Value) {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
            "status": {
                "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        self.client.create(&kinds::NODES, "", &node).await.unwrap();
    }

    pub(super) async fn create(&self, res: &Res, object: Value) -> Value {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        self.client.create(res, &namespace, &object).await.unwrap()
    }

    pub(super) async fn get(&self, res: &Res, name: &str) -> Value {
        self.client.get(res, "default", name).await.unwrap_or_default()
    }

    pub(super) async fn list(&self, res: &Res, labels: &str) -> Vec<Value> {
        self.client
            .list(res, "default", &ListOptions::labels(labels))
            .await
            .unwrap()
            .items
    }

    pub(super) async fn patch(&self, res: &Res, name: &str, patch: Value) -> Value {
        self.client
            .patch(res, "default", name, None, &Patch::Merge(patch))
            .await
            .unwrap()
    }

    pub(super) async fn delete(&self, res: &Res, name: &str, policy: &str) {
        let namespace = "default";
        // The client has no word for the policy; it is a finalizer in the end.
        let finalizer = match policy {
            "Foreground" => Some("foregroundDeletion"),
            "Orphan" => Some("orphan"),
            _ => None,
        };
        if let Some(finalizer) = finalizer {
            self.patch(res, name, json!({"metadata": {"finalizers": [finalizer]}}))
                .await;
        }
        self.client.delete(res, namespace, name, None, None).await.unwrap();
    }

    /// Waits until `check` is satisfied; fails with what it last said.
    pub(super) async fn until<F: Future<Output = Result<T, String>>, T>(&self, check: impl Fn() -> F) -> T {
        let start = Instant::now();
        loop {
            match check().await {
                Ok(result) => return result,
                Err(why) if start.elapsed() > Duration::from_secs(60) => panic!("{why}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Waits until an object satisfies `check`.
    pub(super) async fn until_object(&self, res: &Res, name: &str, check: impl Fn(&Value) -> bool) -> Value {
        self.until(|| async {
            let object = self.get(res, name).await;
            if check(&object) {
                Ok(object)
            } else {
                Err(format!("{name} is {object:#}"))
            }
        })
        .await
    }

    /// Waits until there are this many such objects.
    pub(super) async fn until_count(&self, res: &Res, labels: &str, count: usize) -> Vec<Value> {
        self.until(|| async {
            let items = self.list(res, labels).await;
            if items.len() == count {
                Ok(items)
            } else {
                Err(format!("{} of {labels}, not {count}", items.len()))
            }
        })
        .await
    }

    /// Waits until this many such pods are ready and no others are left.
    pub(super) async fn until_ready(&self, labels: &str, count: usize) -> Vec<Value> {
        self.until(|| async {
            let pods = self.list(&kinds::PODS, labels).await;
            let ready = pods.iter().filter(|pod| controllers::pods::is_ready(pod)).count();
            if ready == count && pods.len() == count {
                Ok(pods)
            } else {
                Err(format!("{ready} of {}", pods.len()))
            }
        })
        .await
    }

    /// What events of this reason say.
    pub(super) async fn events(&self, reason: &str) -> Vec<String> {
        let events = self
            .client
            .list(&Res::new("", "v1", "events"), "", &ListOptions::default())
            .await
            .unwrap();
        let of_reason = events.items.iter().filter(|event| event["reason"] == reason);
        of_reason
            .map(|event| event["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

/// A pod template with a label `app`.
pub(super) fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "main", "image": image}]}})
}

pub(super) fn workload(kind: &str, name: &str, change: Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template(name, "one")},
    });
    for (field, value) in change.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    object
}

pub(super) fn service(name: &str, change: Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    for (field, value) in change.as_object().into_iter().flatten() {
        service["spec"][field] = value.clone();
    }
    service
}

/// The endpoints of slices, each with the slice's ports.
pub(super) fn endpoints(slices: &[Value]) -> Vec<Value> {
    slices
        .iter()
        .flat_map(|slice| list(slice, "/endpoints").to_vec())
        .collect()
}
