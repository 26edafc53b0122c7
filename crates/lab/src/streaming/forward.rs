//! `/portForward`: connections to a pod's own ports, over SPDY (bare, or inside a WebSocket) or WebSocket channels.

mod tunnel;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::containers::{Containers, LookupError};
use super::netns;
use super::pipe::{DEPTH, Input, Output, PIECE};
use super::query::Query;
use super::remote::upgraded;
use super::server::{Body, text};
use super::spdy::{Connection, Stream};
use super::upgrade::{Offer, Wire, agree};
use super::websocket::{Coding, Socket};

/// SPDY's own frames inside binary messages.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const OFFER: Offer = Offer {
    websocket: &[
        TUNNEL,
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "portforward.k8s.io",
    ],
    spdy: &["portforward.k8s.io"],
};
/// Every port takes two of the 256 channels, the last of which has a meaning of its own.
const MOST_PORTS: usize = 127;
/// A client that opens halves of connections and never the other is cut off.
const MOST_HALVES: usize = 256;

/// Answers a request to forward ports.
pub(super) fn answer(
    mut request: Request<Incoming>,
    containers: &Arc<dyn Containers>,
    [namespace, pod]: [&str; 2],
) -> Response<Body> {
    let netns = match containers.netns(namespace, pod) {
        Ok(netns) => netns,
        Err(error @ LookupError::NoPod) => return text(StatusCode::NOT_FOUND, error.to_string()),
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let agreement = match agree(request.headers(), OFFER) {
        Ok(agreement) => agreement,
        Err(refusal) => return *refusal,
    };
    let (wire, protocol) = (agreement.wire, agreement.protocol);
    let by_channel = wire == Wire::WebSocket && protocol != TUNNEL;
    let ports = match ports(&Query::of(request.uri())) {
        Ok(ports) => ports,
        Err(message) if by_channel => return text(StatusCode::BAD_REQUEST, message),
        Err(_) => Vec::new(),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let what = format!("pod {pod}_{namespace}");
    tokio::spawn(async move {
        let Some(transport) = upgraded(upgrade).await else {
            return;
        };
        let target = Arc::new(Target { netns, what });
        match wire {
            Wire::Spdy => spdy(transport, target).await,
            Wire::WebSocket if by_channel => channels(transport, Coding::of(protocol), &ports, target).await,
            Wire::WebSocket => spdy(tunnel::open(transport).await, target).await,
        }
    });
    agreement.response
}

/// The ports in the query, under the kubelet's name or the API's.
fn ports(query: &Query) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for list in query.all("port").into_iter().chain(query.all("ports")) {
        for port in list.split(',') {
            match port.trim().parse::<u16>() {
                Ok(number @ 1..) => ports.push(number),
                _ => return Err(format!("port {port:?} must be a number from 1 to 65535")),
            }
        }
    }
    match ports.len() {
        0 => Err("query parameter \"port\" is required".into()),
        1..=MOST_PORTS => Ok(ports),
        _ => Err(format!(
            "at most {MOST_PORTS} ports can be forwarded over one connection"
        )),
    }
}

/// The pod whose ports are forwarded.
struct Target {
    netns: PathBuf,
    what: String,
}

impl Target {
    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let connected = netns::connect(Path::new(&self.netns), port).await;
        connected.map_err(|error| format!("error forwarding port {port} to {}: {error}", self.what))
    }
}

/// Pairs of streams, one for data and one for errors, joined by their request's number.
async fn spdy<T: AsyncRead + AsyncWrite + Send + 'static>(transport: T, target: Arc<Target>) {
    let mut connection = match Connection::serve(transport) {
        Ok(connection) => connection,
        Err(error) => return tracing::warn!(%error, "cannot speak SPDY"),
    };
    let mut halves: HashMap<String, Stream> = HashMap::new();
    let mut forwards = JoinSet::new();
    while let Some(stream) = connection.next().await {
        while forwards.try_join_next().is_some() {}
        let port = stream.header("port").and_then(|port| port.parse::<u16>().ok());
        let kind = stream.header("streamtype").unwrap_or_default();
        let (Some(port @ 1..), "data" | "error") = (port, kind) else {
            let message = "a stream needs the headers streamtype (data or error) and port (1 to 65535)";
            let _gone = stream.output.end(Bytes::from_static(message.as_bytes())).await;
            continue;
        };
        let request = stream.header("requestid").unwrap_or_default().to_owned();
        let Some(other) = halves.remove(&request) else {
            if halves.len() >= MOST_HALVES {
                tracing::warn!(
                    target = target.what,
                    "a client opens streams for port-forward without their other half"
                );
                break;
            }
            halves.insert(request, stream);
            continue;
        };
        let (data, error) = match (kind, other.header("streamtype")) {
            ("data", Some("error")) => (stream, other),
            ("error", Some("data")) => (other, stream),
            _ => continue,
        };
        let target = target.clone();
        forwards.spawn(async move {
            let complaint = match target.connect(port).await {
                Ok(tcp) => {
                    carry(tcp, data.input, &data.output).await;
                    Bytes::new()
                }
                Err(message) => {
                    tracing::debug!(message, "cannot forward a port");
                    message.into()
                }
            };
            // The client waits for the error stream before it takes the data as complete.
            let _gone = error.output.end(complaint).await;
            let _gone = data.output.end(Bytes::new()).await;
        });
    }
    drop(halves);
    forwards.shutdown().await;
    connection.close().wait().await;
}

/// Two channels for each port: data, then errors; each begins with the port's number.
async fn channels(transport: TokioIo<Upgraded>, coding: Coding, ports: &[u16], target: Arc<Target>) {
    let socket = Socket::new(transport, coding).await;
    let numbers: Vec<u8> = (0..ports.len() as u8).map(|index| index * 2).collect();
    let (writer, reader, mut inputs) = socket.split(&numbers);
    let (wire, outgoing) = mpsc::channel(DEPTH);
    let writer = tokio::spawn(writer.run(outgoing));
    let mut forwards = JoinSet::new();
    for (port, number) in ports.iter().copied().zip(numbers) {
        let Some(input) = inputs.remove(&number) else { continue };
        let data = Output::new(u32::from(number), wire.clone());
        let error = Output::new(u32::from(number) + 1, wire.clone());
        let target = target.clone();
        forwards.spawn(async move {
            let greeting = Bytes::copy_from_slice(&port.to_le_bytes());
            if data.send(greeting.clone()).await.is_err() || error.send(greeting).await.is_err() {
                return;
            }
            match target.connect(port).await {
                Ok(tcp) => carry(tcp, input, &data).await,
                Err(message) => {
                    let _gone = error.end(message.into()).await;
                }
            }
        });
    }
    drop(wire);
    tokio::select! {
        () = reader.run() => {}
        () = async { while forwards.join_next().await.is_some() {} } => {}
    }
    forwards.shutdown().await;
    if let Ok(Err(error)) = writer.await {
        tracing::debug!(%error, "cannot write to a WebSocket client");
    }
}

/// Carries bytes both ways until both sides have ended, or one is gone.
async fn carry(mut tcp: TcpStream, mut input: Input, output: &Output) {
    let (mut read, mut write) = tcp.split();
    let towards_pod = async {
        while let Some(bytes) = input.recv().await {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The pod may have closed already.
        let _closed = write.shutdown().await;
    };
    let from_pod = async {
        loop {
            let mut buffer = BytesMut::with_capacity(PIECE);
            if !matches!(read.read_buf(&mut buffer).await, Ok(1..)) || output.send(buffer.freeze()).await.is_err() {
                return;
            }
        }
    };
    // When the pod has said everything, what the client still sends has no reader that matters.
    tokio::pin!(towards_pod);
    tokio::pin!(from_pod);
    tokio::select! {
        () = &mut from_pod => {}
        () = &mut towards_pod => from_pod.await,
    }
}
