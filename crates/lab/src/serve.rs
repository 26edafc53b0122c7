//! The test server of the built-in image: says over HTTP, TCP and UDP which pod it is and whom it sees.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where the server listens; port 0 is any free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// HTTP.
    pub http: u16,
    /// Lines over TCP and datagrams over UDP.
    pub line: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { http: 8080, line: 9000 }
    }
}

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port is taken, or needs a privilege.
    #[error("cannot listen on {protocol} port {port}: {source}; choose another with {flag}")]
    Listen {
        /// `TCP` or `UDP`.
        protocol: &'static str,
        /// The port.
        port: u16,
        /// The flag that chooses it.
        flag: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Signals cannot be received.
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] std::io::Error),
}

/// How long requests in progress may take once the server has been told to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who this server is.
#[derive(Clone, Debug)]
struct Identity {
    pod: String,
    namespace: String,
    node: String,
}

impl Identity {
    /// From the variables `POD_NAME`, `POD_NAMESPACE` and `NODE_NAME`; without them from the host name.
    fn of_process() -> Self {
        let hostname = || {
            nix::unistd::gethostname()
                .ok()
                .and_then(|name| name.into_string().ok())
                .unwrap_or_default()
        };
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            pod: variable("POD_NAME").unwrap_or_else(hostname),
            namespace: variable("POD_NAMESPACE").unwrap_or_default(),
            node: variable("NODE_NAME").unwrap_or_default(),
        }
    }

    fn line(&self, client: SocketAddr) -> String {
        format!("pod={} node={} client={}\n", self.pod, self.node, plain(client))
    }
}

/// Serves until SIGTERM or SIGINT, then finishes what is in progress.
pub async fn serve(ports: Ports) -> Result<(), Error> {
    let identity = Arc::new(Identity::of_process());
    let web = listen(ports.http, "--http").await?;
    let lines = listen(ports.line, "--line").await?;
    let datagrams = socket(ports.line).await?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    println!(
        "{} serves HTTP on {}, lines over TCP and UDP on {}",
        identity.pod, ports.http, ports.line
    );

    let (end, connections) = (CancellationToken::new(), TaskTracker::new());
    let for_lines = tokio::spawn(serve_lines(lines, identity.clone()));
    let for_datagrams = tokio::spawn(serve_datagrams(datagrams, identity.clone()));
    loop {
        let accepted = tokio::select! {
            accepted = web.accept() => accepted,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        let Ok((stream, client)) = accepted else {
            // Out of descriptors, or the client has gone already: the next one may have more luck.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        stream.set_nodelay(true).ok();
        connections.spawn(converse(stream, client, identity.clone(), end.clone()));
    }
    drop(web);
    for_lines.abort();
    for_datagrams.abort();
    end.cancel();
    connections.close();
    tokio::time::timeout(PATIENCE, connections.wait()).await.ok();
    Ok(())
}

/// Serves one HTTP connection; once `end` comes, the request in progress is its last.
async fn converse(stream: TcpStream, client: SocketAddr, identity: Arc<Identity>, end: CancellationToken) {
    let service = service_fn(move |request| {
        let response = answer(&identity, client, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // A client that breaks off is its own business.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = end.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await.ok();
}

async fn listen(port: u16, flag: &'static str) -> Result<TcpListener, Error> {
    let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    };
    listener.map_err(|source| Error::Listen {
        protocol: "TCP",
        port,
        flag,
        source,
    })
}

async fn socket(port: u16) -> Result<UdpSocket, Error> {
    let socket = match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(socket) => Ok(socket),
        Err(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    };
    socket.map_err(|source| Error::Listen {
        protocol: "UDP",
        port,
        flag: "--line",
        source,
    })
}

fn answer(identity: &Identity, client: SocketAddr, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let (kind, body) = match request.uri().path() {
        "/healthz" => ("text/plain", "ok\n".to_owned()),
        path => {
            let body = json!({
                "pod": identity.pod, "namespace": identity.namespace, "node": identity.node,
                "client": plain(client).to_string(), "host": host.unwrap_or_default(),
                "method": request.method().as_str(), "path": path,
            });
            ("application/json", format!("{body}\n"))
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::OK;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

async fn serve_lines(listener: TcpListener, identity: Arc<Identity>) {
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        stream.set_nodelay(true).ok();
        let line = identity.line(client);
        tokio::spawn(async move {
            // A client that breaks off is its own business.
            echo(stream, &line).await.ok();
        });
    }
}

async fn echo(stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).await? != 0 {
        line.clear();
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

async fn serve_datagrams(socket: UdpSocket, identity: Arc<Identity>) {
    let mut datagram = [0; 2048];
    loop {
        // An error here is about a datagram sent before (its port was closed), not about the socket.
        if let Ok((_, client)) = socket.recv_from(&mut datagram).await {
            socket.send_to(identity.line(client).as_bytes(), client).await.ok();
        }
    }
}

/// An IPv4 address that came through an IPv6 socket, as IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask;

    /// Ports that are free now; nothing else on the machine takes them in between, as far as one can know.
    fn free_ports() -> Ports {
        let port = || {
            std::net::TcpListener::bind("[::]:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port()
        };
        Ports {
            http: port(),
            line: port(),
        }
    }

    #[tokio::test]
    async fn answers_on_every_protocol() {
        let ports = free_ports();
        let server = tokio::spawn(serve(ports));
        let patience = Duration::from_secs(5);
        let http = format!("http://127.0.0.1:{}/some/path?x=1", ports.http);
        let line = format!("127.0.0.1:{}", ports.line);
        let mut answer = ask::http(&http, patience).await;
        while answer.is_err() && !server.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            answer = ask::http(&http, patience).await;
        }
        let answer: serde_json::Value = serde_json::from_str(&answer.unwrap()).unwrap();
        assert_eq!(
            (answer["path"].as_str(), answer["host"].as_str()),
            (Some("/some/path"), http[7..].split('/').next())
        );
        assert!(answer["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{answer}");
        assert_eq!(
            ask::http(&format!("127.0.0.1:{}/healthz", ports.http), patience)
                .await
                .unwrap(),
            "ok\n"
        );
        for said in [
            ask::tcp(&line, patience).await.unwrap(),
            ask::udp(&line, 0, 0, patience).await.unwrap(),
        ] {
            assert!(
                said.starts_with("pod=") && said.contains(" client=127.0.0.1:"),
                "{said}"
            );
        }
        let taken = serve(ports).await.unwrap_err().to_string();
        assert!(
            taken.contains("cannot listen on TCP port") && taken.ends_with("--http"),
            "{taken}"
        );
        server.abort();
    }
}
