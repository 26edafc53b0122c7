//! What the streaming server needs to know of a node's pods; the kubelet answers.

use std::path::PathBuf;

use bytes::Bytes;
use tokio::sync::{broadcast, mpsc};

/// The kubelet's pods, as the streaming server sees them. Answers come from memory: nothing here blocks.
pub trait Containers: Send + Sync + 'static {
    /// One container of a pod, by the names the API knows.
    fn container(&self, namespace: &str, pod: &str, container: &str) -> Result<Container, LookupError>;

    /// The network namespace of a pod, as a path that can be opened, for example `/run/netns/<sandbox id>`.
    /// The node's own for a pod on the host network.
    fn netns(&self, namespace: &str, pod: &str) -> Result<PathBuf, LookupError>;

    /// Taps the standard streams of a container's main process. Fails with [`LookupError::NotRunning`] when it has
    /// none to tap.
    fn attach(&self, namespace: &str, pod: &str, container: &str) -> Result<Attachment, LookupError>;

    /// The OCI runtime that started the containers.
    fn runtime(&self) -> Runtime;
}

/// One container, now.
#[derive(Clone, Debug)]
pub struct Container {
    /// The runtime's id of the container that runs or ran last; empty when none was ever created.
    pub id: String,
    /// What it is doing.
    pub state: RunState,
    /// Its log in CRI format; none before the first start.
    pub log: Option<PathBuf>,
    /// The log of the instance before this one, after a restart.
    pub previous_log: Option<PathBuf>,
    /// The main process has a terminal (`tty: true`).
    pub tty: bool,
    /// The main process has a standard input (`stdin: true`).
    pub stdin: bool,
}

/// The three states of a container's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Not started, with the reason of its status, for example `ErrImagePull` or `ContainerCreating`.
    Waiting(String),
    /// The main process lives.
    Running,
    /// The main process has ended.
    Terminated,
}

/// How to call the OCI runtime.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The binary, for example `/usr/bin/crun`.
    pub program: PathBuf,
    /// Its `--root`.
    pub root: PathBuf,
}

/// A tap on a container's standard streams.
#[derive(Debug)]
pub struct Attachment {
    /// What the process writes from now on; closed when the process has ended and all is delivered.
    pub output: broadcast::Receiver<AttachOutput>,
    /// Towards its standard input, when it has one. An empty message is the end of the input (for `stdinOnce`).
    pub stdin: Option<mpsc::Sender<Bytes>>,
    /// Towards its terminal, when it has one.
    pub resize: Option<mpsc::Sender<WindowSize>>,
}

/// A piece of a container's output.
#[derive(Clone, Debug)]
pub enum AttachOutput {
    /// From standard output, or the terminal.
    Stdout(Bytes),
    /// From standard error.
    Stderr(Bytes),
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Columns.
    pub width: u16,
    /// Lines.
    pub height: u16,
}

/// Why there is nothing to stream to.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LookupError {
    /// The node runs no such pod.
    #[error("pod does not exist")]
    NoPod,
    /// The pod's spec has no such container.
    #[error("container not found (\"{0}\")")]
    NoContainer(String),
    /// There is such a container, but no process in it now.
    #[error("container \"{0}\" is not running")]
    NotRunning(String),
    /// The pod has no network namespace (yet, or any more).
    #[error("pod \"{0}\" has no network namespace: its sandbox is not running")]
    NoSandbox(String),
}
