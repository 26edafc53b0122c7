//! Asks an upstream resolver: UDP first, TCP for what does not fit, the next server when one does not answer.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::respond::{Pending, Responder};

/// How long one server has. Stub resolvers give up after five seconds; two servers fit into that.
const PATIENCE: Duration = Duration::from_secs(2);

/// Questions that may wait at a time: each holds a socket.
const MAX_WAITING: usize = 512;

/// The way to the outside.
#[derive(Debug)]
pub(crate) struct Forwarder {
    responder: Arc<Responder>,
    upstreams: Vec<SocketAddr>,
    /// The server that answered last: a dead one costs its patience once, not each time.
    preferred: AtomicUsize,
    waiting: Semaphore,
    said_nobody: AtomicBool,
    said_loop: AtomicBool,
}

impl Forwarder {
    pub(crate) fn new(responder: Arc<Responder>, upstreams: Vec<SocketAddr>) -> Self {
        Self {
            responder,
            upstreams,
            preferred: AtomicUsize::new(0),
            waiting: Semaphore::new(MAX_WAITING),
            said_nobody: AtomicBool::new(false),
            said_loop: AtomicBool::new(false),
        }
    }

    /// Gets the rest of an answer, or SERVFAIL.
    pub(crate) async fn answer(&self, pending: Pending) -> Vec<u8> {
        let Ok(_permit) = self.waiting.try_acquire() else {
            return pending.finish(None);
        };
        let said = self.ask_in_turn(&pending).await;
        pending.finish(said)
    }

    async fn ask_in_turn(&self, pending: &Pending) -> Option<Message> {
        let first = self.preferred.load(Ordering::Relaxed);
        let (mut refused, mut asked) = (None, false);
        for turn in 0..self.upstreams.len() {
            let index = (first + turn) % self.upstreams.len();
            let server = self.upstreams[index];
            if self.is_loop(server) {
                continue;
            }
            asked = true;
            match ask(server, &pending.request()).await {
                Ok(answer) if gave_up(&answer) => refused = Some(answer),
                Ok(answer) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Some(answer);
                }
                Err(error) => tracing::debug!(%server, %error, "upstream resolver did not answer"),
            }
        }
        if !asked && !self.said_nobody.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "no upstream resolver: names outside the cluster get SERVFAIL; name one in resolv.conf or with --upstream"
            );
        }
        refused
    }

    /// An upstream that is the cluster's own DNS Service would send every question back here.
    fn is_loop(&self, server: SocketAddr) -> bool {
        let looped = self.responder.is_server(server.ip());
        if looped && !self.said_loop.swap(true, Ordering::Relaxed) {
            tracing::warn!(upstream = %server, "not forwarding to this upstream: it is the cluster's DNS Service, a loop; \
                 point --resolv-conf at the node's own file");
        }
        looped
    }
}

/// Answers that another server may better.
fn gave_up(answer: &Message) -> bool {
    matches!(
        answer.metadata.response_code,
        ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp
    )
}

async fn ask(server: SocketAddr, request: &Message) -> io::Result<Message> {
    let bytes = request.to_vec().map_err(io::Error::other)?;
    let answer = timeout(PATIENCE, over_udp(server, request, &bytes)).await??;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    // A truncated answer is still better than none.
    Ok(timeout(PATIENCE, over_tcp(server, request, &bytes))
        .await
        .unwrap_or_else(|e| Err(e.into()))
        .unwrap_or(answer))
}

async fn over_udp(server: SocketAddr, request: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // A socket, hence a port, for each question; connected, so that only the server is heard.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    hear_routers(&socket, server)?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = matching(request, &buffer[..length]) {
            return Ok(answer);
        }
    }
}

/// Lets "network unreachable" from a router on the way end the wait; without this only "port unreachable" does.
fn hear_routers(socket: &UdpSocket, server: SocketAddr) -> io::Result<()> {
    match server {
        SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4RecvErr, &true)?,
        SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvErr, &true)?,
    }
    Ok(())
}

async fn over_tcp(server: SocketAddr, request: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    matching(request, &buffer).ok_or_else(|| io::Error::other("an answer to another question"))
}

/// The message, if it is the answer to this request.
fn matching(request: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let same = answer.metadata.id == request.metadata.id && answer.queries == request.queries;
    (same && answer.metadata.message_type == MessageType::Response).then_some(answer)
}
