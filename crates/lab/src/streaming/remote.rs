//! `/exec` and `/attach`: the standard streams of a process over either wire.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use super::attach;
use super::containers::{Attachment, Containers, LookupError, RunState};
use super::exec::Exec;
use super::pipe::{DEPTH, Input, Output};
use super::query::Query;
use super::server::{Body, text};
use super::spdy::Connection;
use super::status::StatusFormat;
use super::upgrade::{Offer, Wire, agree};
use super::websocket::{Coding, Socket};

const OFFER: Offer = Offer {
    websocket: &[
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
    ],
    spdy: &[
        "v4.channel.k8s.io",
        "v3.channel.k8s.io",
        "v2.channel.k8s.io",
        "channel.k8s.io",
    ],
};
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// How long a SPDY client may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);

/// The client's ends of a process's streams; those it did not ask for are absent.
pub(super) struct Streams {
    pub(super) stdin: Option<Input>,
    pub(super) stdout: Option<Output>,
    pub(super) stderr: Option<Output>,
    pub(super) resize: Option<Input>,
}

/// Which streams the client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wanted {
    /// The kubelet's names of the streams, or the API's.
    fn of(query: &Query) -> Result<Self, &'static str> {
        let tty = query.flag("tty");
        let wanted = Self {
            stdin: query.flag("input") || query.flag("stdin"),
            stdout: query.flag("output") || query.flag("stdout"),
            // A terminal has one output.
            stderr: !tty && (query.flag("error") || query.flag("stderr")),
            tty,
        };
        if wanted.stdin || wanted.stdout || wanted.stderr {
            return Ok(wanted);
        }
        Err("you must specify at least 1 of stdin, stdout, stderr")
    }
}

/// What the streams are connected to.
enum Process {
    Exec(Exec),
    Attach(Attachment),
}

impl Process {
    /// Runs to the end; the exit code, or why there is none.
    async fn run(self, streams: Streams) -> Result<i32, String> {
        match self {
            Self::Exec(exec) => exec.run(streams).await.map_err(|error| error.to_string()),
            Self::Attach(attachment) => {
                attach::run(attachment, streams).await;
                Ok(0)
            }
        }
    }
}

/// Runs a command in a container.
pub(super) fn exec(
    request: Request<Incoming>,
    containers: &Arc<dyn Containers>,
    [namespace, pod, name]: [&str; 3],
) -> Response<Body> {
    let query = Query::of(request.uri());
    let found = containers.container(namespace, pod, name).and_then(|container| {
        let running = container.state == RunState::Running;
        // The kubelet does not find a container that does not run.
        running
            .then_some(container)
            .ok_or_else(|| LookupError::NoContainer(name.into()))
    });
    let container = match found {
        Ok(container) => container,
        Err(error) => return refusal(&error),
    };
    let command = query.all("command");
    if command.is_empty() {
        return text(
            StatusCode::BAD_REQUEST,
            "you must specify at least one command for the container",
        );
    }
    let exec = Exec {
        runtime: containers.runtime(),
        container: container.id,
        command,
        tty: query.flag("tty"),
    };
    start(request, &query, Process::Exec(exec))
}

/// Connects to a container's main process.
pub(super) fn attach(
    request: Request<Incoming>,
    containers: &Arc<dyn Containers>,
    [namespace, pod, name]: [&str; 3],
) -> Response<Body> {
    let query = Query::of(request.uri());
    match containers.attach(namespace, pod, name) {
        Ok(attachment) => start(request, &query, Process::Attach(attachment)),
        Err(error) => refusal(&error),
    }
}

fn refusal(error: &LookupError) -> Response<Body> {
    let status = match error {
        LookupError::NoPod => StatusCode::NOT_FOUND,
        LookupError::NoContainer(_) | LookupError::NotRunning(_) | LookupError::NoSandbox(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    text(status, error.to_string())
}

fn start(mut request: Request<Incoming>, query: &Query, process: Process) -> Response<Body> {
    let wanted = match Wanted::of(query) {
        Ok(wanted) => wanted,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let agreement = match agree(request.headers(), OFFER) {
        Ok(agreement) => agreement,
        Err(refusal) => return *refusal,
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let (wire, protocol) = (agreement.wire, agreement.protocol);
    tokio::spawn(async move {
        let Some(transport) = upgraded(upgrade).await else {
            return;
        };
        match wire {
            Wire::WebSocket => websocket(transport, protocol, wanted, process).await,
            Wire::Spdy => spdy(transport, protocol, wanted, process).await,
        }
    });
    agreement.response
}

/// The connection after the answer has switched it to another protocol.
pub(super) async fn upgraded(upgrade: OnUpgrade) -> Option<TokioIo<Upgraded>> {
    match upgrade.await {
        Ok(transport) => Some(TokioIo::new(transport)),
        Err(error) => {
            tracing::debug!(%error, "a client left while switching protocols");
            None
        }
    }
}

async fn websocket(transport: TokioIo<Upgraded>, protocol: &'static str, wanted: Wanted, process: Process) {
    let socket = Socket::new(transport, Coding::of(protocol)).await;
    let mut channels = Vec::new();
    channels.extend(wanted.stdin.then_some(STDIN));
    channels.extend(wanted.tty.then_some(RESIZE));
    let (writer, reader, mut inputs) = socket.split(&channels);
    let (wire, outgoing) = mpsc::channel(DEPTH);
    let writer = tokio::spawn(writer.run(outgoing));
    let output = |channel: u8| Output::new(u32::from(channel), wire.clone());
    // Tells the client that the connection stands, before there is anything to say.
    let first = [(wanted.stdout, STDOUT), (wanted.stderr, STDERR), (true, ERROR)];
    let first = first
        .into_iter()
        .find_map(|(wanted, channel)| wanted.then_some(channel));
    let greeting = output(first.unwrap_or(ERROR)).send(Bytes::new()).await;
    let streams = Streams {
        stdin: inputs.remove(&STDIN),
        stdout: wanted.stdout.then(|| output(STDOUT)),
        stderr: wanted.stderr.then(|| output(STDERR)),
        resize: inputs.remove(&RESIZE),
    };
    if greeting.is_ok() {
        tokio::select! {
            ended = process.run(streams) => report(StatusFormat::of(protocol), &ended, &output(ERROR)).await,
            () = reader.run() => tracing::debug!("a client left before its process ended"),
        }
    }
    drop(wire);
    if let Ok(Err(error)) = writer.await {
        tracing::debug!(%error, "cannot write to a WebSocket client");
    }
}

async fn spdy(transport: TokioIo<Upgraded>, protocol: &'static str, wanted: Wanted, process: Process) {
    let mut connection = match Connection::serve(transport) {
        Ok(connection) => connection,
        Err(error) => return tracing::warn!(%error, "cannot speak SPDY"),
    };
    let resizes = wanted.tty && matches!(protocol, "v3.channel.k8s.io" | "v4.channel.k8s.io");
    let wanted_types = [
        (true, "error"),
        (wanted.stdin, "stdin"),
        (wanted.stdout, "stdout"),
        (wanted.stderr, "stderr"),
        (resizes, "resize"),
    ];
    let mut missing: Vec<&str> = wanted_types
        .iter()
        .filter_map(|(wanted, kind)| wanted.then_some(*kind))
        .collect();
    let mut opened = HashMap::new();
    let opening = async {
        while !missing.is_empty() {
            let Some(stream) = connection.next().await else {
                return false;
            };
            let Some(at) = missing
                .iter()
                .position(|kind| stream.header("streamtype") == Some(*kind))
            else {
                continue;
            };
            opened.insert(missing.swap_remove(at), stream);
        }
        true
    };
    if !matches!(tokio::time::timeout(OPENING, opening).await, Ok(true)) {
        return tracing::debug!(?missing, "a SPDY client did not open all of its streams");
    }
    let Some(error) = opened.remove("error") else { return };
    let mut input = |kind| opened.remove(kind).map(|stream| stream.input);
    let (stdin, resize) = (input("stdin"), input("resize"));
    let mut output = |kind| opened.remove(kind).map(|stream| stream.output);
    let (stdout, stderr) = (output("stdout"), output("stderr"));
    let both = [stdout.clone(), stderr.clone()];
    let streams = Streams {
        stdin,
        stdout,
        stderr,
        resize,
    };
    tokio::select! {
        ended = process.run(streams) => {
            for output in both.into_iter().flatten() {
                let _gone = output.end(Bytes::new()).await;
            }
            report(StatusFormat::of(protocol), &ended, &error.output).await;
        }
        // No more streams are expected: this is the end of the connection.
        () = left(&mut connection) => tracing::debug!("a client left before its process ended"),
    }
    drop(error);
    connection.close().wait().await;
}

/// Over when the client has gone.
async fn left(connection: &mut Connection) {
    while connection.next().await.is_some() {}
}

/// The last word on the error stream.
async fn report(format: StatusFormat, ended: &Result<i32, String>, output: &Output) {
    let bytes = format.encode(ended).unwrap_or_default();
    if output.end(bytes).await.is_err() {
        tracing::debug!("a client left before it could hear how its process ended");
    }
}
