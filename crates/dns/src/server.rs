//! The loops that read questions from sockets and write answers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::forward::Forwarder;
use crate::respond::{Outcome, Responder, Transport};

/// How long a TCP connection may be silent, or take to send or to receive.
const IDLE: Duration = Duration::from_secs(10);

/// TCP connections at a time on one listener; the next ones wait in its backlog.
const MAX_CONNECTIONS: usize = 256;

/// What answers questions.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) responder: Arc<Responder>,
    pub(crate) forwarder: Arc<Forwarder>,
}

/// Answers datagrams for ever. What the zone knows is answered here and now; the rest waits beside.
pub(crate) async fn udp(socket: UdpSocket, service: Service) {
    let socket = Arc::new(socket);
    let mut waiting = JoinSet::new();
    let mut buffer = vec![0; 4096];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An earlier answer came back as an ICMP error: the client has gone.
            Err(error) => {
                tracing::debug!(%error, "receiving a question failed");
                if error.kind() != io::ErrorKind::ConnectionRefused {
                    sleep(Duration::from_millis(10)).await;
                }
                continue;
            }
        };
        while waiting.try_join_next().is_some() {}
        match service.responder.handle(&buffer[..length], Transport::Udp) {
            Outcome::Silence => {}
            Outcome::Answer(bytes) => send(&socket, &bytes, client).await,
            Outcome::Forward(pending) => {
                let (socket, forwarder) = (Arc::clone(&socket), Arc::clone(&service.forwarder));
                waiting.spawn(async move { send(&socket, &forwarder.answer(*pending).await, client).await });
            }
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if bytes.is_empty() {
        return;
    }
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!(%client, %error, "an answer could not be sent");
    }
}

/// Serves connections for ever.
pub(crate) async fn tcp(listener: TcpListener, service: Service) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, client)) => {
                let service = service.clone();
                connections.spawn(async move {
                    if let Err(error) = converse(stream, &service).await {
                        tracing::debug!(%client, %error, "a TCP connection ended");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a TCP connection failed; trying again");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One connection: questions one after the other, each behind its length (RFC 7766).
async fn converse(mut stream: TcpStream, service: &Service) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let length = match timeout(IDLE, stream.read_u16()).await {
            Ok(Ok(length)) => length,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        buffer.resize(usize::from(length), 0);
        timeout(IDLE, stream.read_exact(&mut buffer)).await??;
        let bytes = match service.responder.handle(&buffer, Transport::Tcp) {
            Outcome::Silence => return Ok(()),
            Outcome::Answer(bytes) => bytes,
            Outcome::Forward(pending) => service.forwarder.answer(*pending).await,
        };
        if bytes.is_empty() {
            return Ok(());
        }
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        timeout(
            IDLE,
            stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat()),
        )
        .await??;
    }
}
