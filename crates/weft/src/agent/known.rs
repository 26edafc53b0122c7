//! What the API server says of this node's pods and of their namespaces: kept from a watch, and asked for where the
//! runtime is faster than the watch.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use weft_cluster::{Client, ask};
use weft_model::cni::{CniError, Request, code};
use weft_model::{Change, Namespace, ObjectKey, PodMeta};

use super::node::Node;
use super::pods::pod_of;

/// A pod that the API server has, and its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) pod: PodMeta,
    pub(super) namespace: Namespace,
}

/// What the watch has said.
#[derive(Debug, Default)]
pub(super) struct Objects {
    synced: bool,
    pods: HashMap<ObjectKey, PodMeta>,
    namespaces: HashMap<String, Namespace>,
}

impl Objects {
    /// Takes in what the watch said.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::PodMeta(pod) => drop(self.pods.insert(pod.key.clone(), pod)),
            Change::PodMetaGone(key) => drop(self.pods.remove(&key)),
            Change::Namespace(namespace) => drop(self.namespaces.insert(namespace.name.clone(), namespace)),
            Change::NamespaceGone(name) => drop(self.namespaces.remove(&name)),
            Change::Synced => self.synced = true,
            _ => {}
        }
    }

    /// The pod of this name, unless it is another one than the runtime means.
    pub(super) fn pod(&self, key: &ObjectKey, uid: Option<&str>) -> Option<&PodMeta> {
        self.pods.get(key).filter(|pod| uid.is_none_or(|uid| uid == pod.uid))
    }

    /// True where everything has been listed, so that a pod that is not here does not exist.
    pub(super) fn synced(&self) -> bool {
        self.synced
    }
}

/// Follows the watch for ever.
pub(super) async fn follow(node: Arc<Node>, mut changes: mpsc::Receiver<Change>) {
    while let Some(change) = changes.recv().await {
        node.objects().apply(change);
    }
}

/// The API server, as far as a single question goes. A trait, so that a test can be one.
pub(super) trait Api: Send + Sync {
    /// The pod, or `None` where there is none.
    fn pod<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<PodMeta>, String>>;
    /// The namespace, or `None` where there is none.
    fn namespace<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Namespace>, String>>;
    /// True where what the watch of pods said last is still so.
    fn is_fresh(&self) -> bool;
}

impl Api for Client {
    fn pod<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<PodMeta>, String>> {
        Box::pin(async move { ask::pod(self, key).await.map_err(|error| error.to_string()) })
    }

    fn namespace<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Namespace>, String>> {
        Box::pin(async move { ask::namespace(self, name).await.map_err(|error| error.to_string()) })
    }

    fn is_fresh(&self) -> bool {
        self.health().broken.is_empty()
    }
}

/// An API server without pods: what a runtime other than a kubelet's deals with.
pub(super) struct NoPods;

impl Api for NoPods {
    fn pod<'a>(&'a self, _: &'a ObjectKey) -> BoxFuture<'a, Result<Option<PodMeta>, String>> {
        Box::pin(async { Ok(None) })
    }

    fn namespace<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Namespace>, String>> {
        Box::pin(async { Ok(None) })
    }

    fn is_fresh(&self) -> bool {
        false
    }
}

impl Node {
    /// The pod that a request is for. `None` where the API server has no such pod, as with podman, or where the
    /// runtime names none. To ask costs a millisecond and is certain, so a watch that is behind is not waited for.
    pub(super) async fn identify(&self, request: &Request) -> Result<Option<Known>, CniError> {
        let Some(key) = pod_of(request) else { return Ok(None) };
        let seen = self.objects().pod(&key, request.arg("K8S_POD_UID")).cloned();
        let unknown = |why: String| {
            CniError::new(
                code::TRY_AGAIN,
                format!("node {} does not know pod {key} yet", self.name),
                format!(
                    "{why}; its annotations decide which addresses it gets, so it waits until the API server answers"
                ),
            )
        };
        let pod = match seen {
            Some(pod) => pod,
            None => match self.api.pod(&key).await.map_err(unknown)? {
                Some(pod) => pod,
                None => return Ok(None),
            },
        };
        let seen = self.objects().namespaces.get(&key.namespace).cloned();
        let namespace = match seen {
            Some(namespace) => namespace,
            None => {
                let found = self.api.namespace(&key.namespace).await.map_err(unknown)?;
                found.unwrap_or_default()
            }
        };
        Ok(Some(Known { pod, namespace }))
    }
}
