//! What the streaming server is told of this node's pods: where logs are, how to run a command in a container, and
//! its live streams. The pods' tasks keep it current.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::{broadcast, mpsc};

use crate::streaming::{AttachOutput, Attachment, Container, Containers, LookupError, Runtime, WindowSize};

/// The live streams of a running container.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    /// What it writes. Its last clone goes when the container has ended and its output is drained.
    pub(super) output: broadcast::Sender<AttachOutput>,
    /// Towards its standard input.
    pub(super) stdin: Option<mpsc::Sender<Bytes>>,
    /// Towards its terminal.
    pub(super) resize: Option<mpsc::Sender<WindowSize>>,
}

/// One container of a pod.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) container: Container,
    pub(super) streams: Option<Streams>,
}

/// One pod of this node.
#[derive(Clone, Debug, Default)]
pub(super) struct PodView {
    pub(super) uid: String,
    /// The network namespace; `None` while there is no sandbox.
    pub(super) netns: Option<PathBuf>,
    /// All containers by name: init, ordinary and ephemeral.
    pub(super) containers: HashMap<String, View>,
    /// The container that is meant where none is named.
    pub(super) default: String,
}

/// Pods by namespace and name.
type Pods = HashMap<(String, String), PodView>;

/// Finds pods by namespace and name. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    runtime: Runtime,
    pods: Arc<RwLock<Pods>>,
}

impl Lookup {
    /// Knows no pod yet.
    pub(super) fn new(runtime: Runtime) -> Self {
        Self {
            runtime,
            pods: Arc::default(),
        }
    }

    /// Makes a pod known, or its newest state.
    pub(super) fn set(&self, namespace: &str, name: &str, view: PodView) {
        let mut pods = self.pods.write().unwrap_or_else(PoisonError::into_inner);
        pods.insert((namespace.to_owned(), name.to_owned()), view);
    }

    /// Forgets a pod, unless a newer one of the same name has taken its place.
    pub(super) fn remove(&self, namespace: &str, name: &str, uid: &str) {
        let mut pods = self.pods.write().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), name.to_owned());
        if pods.get(&key).is_some_and(|view| view.uid == uid) {
            pods.remove(&key);
        }
    }

    fn pod<T>(
        &self,
        namespace: &str,
        pod: &str,
        look: impl FnOnce(&PodView) -> Result<T, LookupError>,
    ) -> Result<T, LookupError> {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        look(
            pods.get(&(namespace.to_owned(), pod.to_owned()))
                .ok_or(LookupError::NoPod)?,
        )
    }

    fn view<T>(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        look: impl FnOnce(&View) -> Result<T, LookupError>,
    ) -> Result<T, LookupError> {
        self.pod(namespace, pod, |pod| {
            let name = if container.is_empty() { &pod.default } else { container };
            look(
                pod.containers
                    .get(name)
                    .ok_or_else(|| LookupError::NoContainer(name.to_owned()))?,
            )
        })
    }
}

impl Containers for Lookup {
    fn container(&self, namespace: &str, pod: &str, container: &str) -> Result<Container, LookupError> {
        self.view(namespace, pod, container, |view| Ok(view.container.clone()))
    }

    fn netns(&self, namespace: &str, pod: &str) -> Result<PathBuf, LookupError> {
        self.pod(namespace, pod, |view| {
            view.netns.clone().ok_or_else(|| LookupError::NoSandbox(pod.to_owned()))
        })
    }

    fn attach(&self, namespace: &str, pod: &str, container: &str) -> Result<Attachment, LookupError> {
        self.view(namespace, pod, container, |view| {
            let streams = view
                .streams
                .as_ref()
                .ok_or_else(|| LookupError::NotRunning(container.to_owned()))?;
            Ok(Attachment {
                output: streams.output.subscribe(),
                stdin: streams.stdin.clone(),
                resize: streams.resize.clone(),
            })
        })
    }

    fn runtime(&self) -> Runtime {
        self.runtime.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streaming::RunState;

    #[test]
    fn finds_what_there_is() {
        let lookup = Lookup::new(Runtime {
            program: "/crun".into(),
            root: "/x".into(),
        });
        let container = Container {
            id: "i".into(),
            state: RunState::Running,
            log: None,
            previous_log: None,
            tty: false,
            stdin: false,
        };
        let view = PodView {
            uid: "u".into(),
            netns: None,
            containers: [(
                "c".to_owned(),
                View {
                    container,
                    streams: None,
                },
            )]
            .into(),
            default: "c".into(),
        };
        lookup.set("n", "p", view);
        assert_eq!(lookup.container("n", "p", "").unwrap().id, "i");
        assert_eq!(
            lookup.container("n", "p", "x").unwrap_err(),
            LookupError::NoContainer("x".into())
        );
        assert_eq!(lookup.container("n", "q", "").unwrap_err(), LookupError::NoPod);
        assert_eq!(lookup.netns("n", "p").unwrap_err(), LookupError::NoSandbox("p".into()));
        assert!(matches!(lookup.attach("n", "p", "c"), Err(LookupError::NotRunning(_))));
        lookup.remove("n", "p", "another");
        assert!(lookup.container("n", "p", "c").is_ok());
        lookup.remove("n", "p", "u");
        assert!(lookup.container("n", "p", "c").is_err());
    }
}
