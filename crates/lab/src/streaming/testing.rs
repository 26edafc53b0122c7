//! A node with one pod, `web`, whose only container, `main`, is this machine: its runtime runs commands as they are.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::containers::{AttachOutput, Attachment, Container, Containers, LookupError, RunState, Runtime};
use super::serve;

/// `--root R --log L exec ID command...`, as the server calls it.
const RUNTIME: &str = "#!/bin/sh
log=$4; shift 6
command -v \"$1\" >/dev/null || { echo \"executable file \\`$1\\` not found in \\$PATH\" >\"$log\"; exit 255; }
exec \"$@\"
";

pub(super) struct Fixture {
    dir: TempDir,
    node: Arc<Node>,
    _server: AbortOnDropHandle<()>,
}

struct Node {
    dir: PathBuf,
    state: Mutex<RunState>,
    output: Mutex<Option<broadcast::Sender<AttachOutput>>>,
    stdin: mpsc::Sender<Bytes>,
}

impl Fixture {
    pub(super) async fn new() -> Self {
        Self::with_stdin(mpsc::channel(1).0).await
    }

    /// What clients attach to the container's input arrives at `stdin`.
    pub(super) async fn with_stdin(stdin: mpsc::Sender<Bytes>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = dir.path().join("runtime");
        std::fs::write(&runtime, RUNTIME).unwrap();
        std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o755)).unwrap();
        let node = Arc::new(Node {
            dir: dir.path().to_owned(),
            state: Mutex::new(RunState::Running),
            output: Mutex::new(Some(broadcast::Sender::new(64))),
            stdin,
        });
        let listener = UnixListener::bind(dir.path().join("kubelet.sock")).unwrap();
        let _server = AbortOnDropHandle::new(tokio::spawn(serve(listener, node.clone())));
        Self { dir, node, _server }
    }

    pub(super) fn log(&self) -> PathBuf {
        self.node.log()
    }

    pub(super) fn set_state(&self, state: RunState) {
        if state != RunState::Running {
            self.node.output.lock().unwrap().take();
        }
        *self.node.state.lock().unwrap() = state;
    }

    /// The container says something; false when nobody is attached.
    pub(super) fn say(&self, output: AttachOutput) -> bool {
        let sender = self.node.output.lock().unwrap();
        sender.as_ref().is_some_and(|sender| sender.send(output).is_ok())
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.path().join("kubelet.sock")
    }

    pub(super) async fn get(&self, path: &str) -> (u16, String) {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = http::Request::get(path)
            .header("host", "node")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        drop(connection);
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

impl Node {
    fn log(&self) -> PathBuf {
        self.dir.join("0.log")
    }

    fn find(namespace: &str, pod: &str, container: &str) -> Result<(), LookupError> {
        match (namespace, pod, container) {
            ("default", "web", "main") => Ok(()),
            ("default", "web", _) => Err(LookupError::NoContainer(container.into())),
            _ => Err(LookupError::NoPod),
        }
    }
}

impl Containers for Node {
    fn container(&self, namespace: &str, pod: &str, container: &str) -> Result<Container, LookupError> {
        Self::find(namespace, pod, container)?;
        let log = self.log();
        Ok(Container {
            id: "id".into(),
            state: self.state.lock().unwrap().clone(),
            log: log.exists().then_some(log),
            previous_log: None,
            tty: false,
            stdin: true,
        })
    }

    fn netns(&self, namespace: &str, pod: &str) -> Result<PathBuf, LookupError> {
        Self::find(namespace, pod, "main").map(|()| "/proc/self/ns/net".into())
    }

    fn attach(&self, namespace: &str, pod: &str, container: &str) -> Result<Attachment, LookupError> {
        Self::find(namespace, pod, container)?;
        let output = self.output.lock().unwrap();
        let sender = output
            .as_ref()
            .ok_or_else(|| LookupError::NotRunning(container.into()))?;
        Ok(Attachment {
            output: sender.subscribe(),
            stdin: Some(self.stdin.clone()),
            resize: None,
        })
    }

    fn runtime(&self) -> Runtime {
        Runtime {
            program: self.dir.join("runtime"),
            root: self.dir.clone(),
        }
    }
}
