//! A small client for use inside the built-in image: asks a server once and returns what it said.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UdpSocket};

use crate::hold::Broken;
use crate::load::Report;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not one.
    #[error("\"{0}\" is not an address: give host:port, or a URL")]
    Address(String),
    /// The name has no address.
    #[error("cannot resolve {name}: {source}")]
    Resolve {
        /// The name.
        name: String,
        /// What the resolver said.
        source: std::io::Error,
    },
    /// The server cannot be reached.
    #[error("{protocol} {address}: {source}")]
    Io {
        /// How it was asked.
        protocol: &'static str,
        /// Whom.
        address: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Not HTTP, or it broke off.
    #[error("HTTP {address}: {source}")]
    Http {
        /// Whom.
        address: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// An answer that is not a success.
    #[error("HTTP {address}: status {code}: {body}")]
    Status {
        /// Whom.
        address: String,
        /// The status.
        code: u16,
        /// What came with it.
        body: String,
    },
    /// A connection that was held.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// Nothing came.
    #[error("{protocol} {address}: no answer within {seconds:.1} s")]
    Silence {
        /// How it was asked.
        protocol: &'static str,
        /// Whom.
        address: String,
        /// How long was waited.
        seconds: f64,
    },
    /// Not run in a pod with a service account.
    #[error("cannot read {path}: {source}; is this a pod with a service account token?")]
    Account {
        /// The file.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The server's certificate authority or name cannot be used.
    #[error("cannot set up TLS to {address}: {message}")]
    Tls {
        /// Whom.
        address: String,
        /// Why.
        message: String,
    },
}

/// Where a pod finds its credentials.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn io(protocol: &'static str, address: &str) -> impl Fn(std::io::Error) -> Error {
    let address = address.to_owned();
    move |source| Error::Io {
        protocol,
        address: address.clone(),
        source,
    }
}

async fn within<T>(
    patience: Duration,
    protocol: &'static str,
    address: &str,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_| {
        Err(Error::Silence {
            protocol,
            address: address.to_owned(),
            seconds: patience.as_secs_f64(),
        })
    })
}

/// Sends a line over TCP; the line that comes back.
pub async fn tcp(address: &str, patience: Duration) -> Result<String, Error> {
    let exchange = async {
        let stream = TcpStream::connect(address).await.map_err(io("TCP", address))?;
        let mut stream = BufReader::new(stream);
        stream.write_all(b"who are you?\n").await.map_err(io("TCP", address))?;
        let mut line = String::new();
        stream.read_line(&mut line).await.map_err(io("TCP", address))?;
        Ok(line)
    };
    within(patience, "TCP", address, exchange).await
}

/// Sends a datagram of at least `size` bytes from this port (0: any), again each second; the datagram that comes back.
pub async fn udp(address: &str, from_port: u16, size: usize, patience: Duration) -> Result<String, Error> {
    let exchange = async {
        let to = resolve(address)
            .await?
            .into_iter()
            .next()
            .ok_or_else(|| Error::Address(address.to_owned()))?;
        let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
        let socket = UdpSocket::bind((any, from_port)).await.map_err(io("UDP", address))?;
        socket.connect(to).await.map_err(io("UDP", address))?;
        let mut datagram = [0; 2048];
        let mut question = b"who are you?".to_vec();
        question.resize(size.max(question.len()), b' ');
        loop {
            socket.send(&question).await.map_err(io("UDP", address))?;
            let received = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut datagram)).await;
            if let Ok(received) = received {
                let length = received.map_err(io("UDP", address))?;
                return Ok(String::from_utf8_lossy(&datagram[..length]).into_owned());
            }
        }
    };
    within(patience, "UDP", address, exchange).await
}

/// Gets a URL (`http://` may be left out); the body.
pub async fn http(url: &str, patience: Duration) -> Result<String, Error> {
    let (authority, address, path) = target(url)?;
    let exchange = async {
        let stream = TcpStream::connect(&address).await.map_err(io("HTTP", &address))?;
        get(TokioIo::new(stream), authority, &format!("/{path}"), None).await
    };
    within(patience, "HTTP", &address, exchange).await
}

/// Sends `rate` requests a second for a while, each on a connection of its own to the first address of the URL's host.
pub async fn load(url: &str, rate: u32, duration: Duration) -> Result<Report, Error> {
    let (authority, address, _) = target(url)?;
    let servers = resolve(&address).await?;
    let server = servers.first().ok_or_else(|| Error::Address(url.to_owned()))?;
    Ok(crate::load::load(*server, authority, rate, duration).await)
}

/// The authority of a URL, the address to connect to (`host:port`), and the path without its slash.
fn target(url: &str) -> Result<(&str, String, &str), Error> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let uri: http::uri::Authority = authority.parse().map_err(|_| Error::Address(url.to_owned()))?;
    Ok((
        authority,
        format!("{}:{}", uri.host(), uri.port_u16().unwrap_or(80)),
        path,
    ))
}

/// Asks the API server for its version, as a program in a pod does.
pub async fn api(patience: Duration) -> Result<String, Error> {
    let variable = |name: &str, otherwise: &str| std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    let host = variable("KUBERNETES_SERVICE_HOST", "10.96.0.1");
    let port = variable("KUBERNETES_SERVICE_PORT", "443");
    let address = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let tls = |message: String| Error::Tls {
        address: address.clone(),
        message,
    };
    let read = |name: &str| {
        let path = Path::new(ACCOUNT).join(name);
        std::fs::read(&path).map_err(|source| Error::Account {
            path: path.display().to_string(),
            source,
        })
    };
    let token = String::from_utf8_lossy(&read("token")?).trim().to_owned();
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls_pki_types::CertificateDer::pem_slice_iter(&read("ca.crt")?) {
        let certificate = certificate.map_err(|error| tls(error.to_string()))?;
        roots.add(certificate).map_err(|error| tls(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls_pki_types::ServerName::try_from(host).map_err(|error| tls(error.to_string()))?;
    let exchange = async {
        let stream = TcpStream::connect(&address).await.map_err(io("HTTPS", &address))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|error| tls(error.to_string()))?;
        get(TokioIo::new(stream), &address, "/version", Some(&token)).await
    };
    within(patience, "HTTPS", &address, exchange).await
}

/// The addresses of a name, one per line.
pub async fn name(name: &str, patience: Duration) -> Result<String, Error> {
    let exchange = async {
        let mut lines: Vec<String> = resolve(&format!("{name}:0"))
            .await?
            .iter()
            .map(|address| address.ip().to_string())
            .collect();
        lines.dedup();
        Ok(lines.join("\n") + "\n")
    };
    within(patience, "DNS", name, exchange).await
}

async fn resolve(address: &str) -> Result<Vec<SocketAddr>, Error> {
    let found = tokio::net::lookup_host(address).await;
    found.map(Iterator::collect).map_err(|source| Error::Resolve {
        name: address.to_owned(),
        source,
    })
}

async fn get<S>(stream: S, authority: &str, path: &str, token: Option<&str>) -> Result<String, Error>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let failed = |source| Error::Http {
        address: authority.to_owned(),
        source,
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(failed)?;
    let connection = tokio::spawn(connection);
    let mut request = Request::get(path).header(http::header::HOST, authority);
    if let Some(token) = token {
        request = request.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|_| Error::Address(format!("{authority}{path}")))?;
    let response = sender.send_request(request).await.map_err(failed)?;
    let code = response.status();
    let body = response.into_body().collect().await.map_err(failed)?.to_bytes();
    connection.abort();
    let body = String::from_utf8_lossy(&body).into_owned();
    match code.is_success() {
        true => Ok(body),
        false => Err(Error::Status {
            address: authority.to_owned(),
            code: code.as_u16(),
            body: body.trim().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn says_what_went_wrong() {
        let patience = Duration::from_millis(200);
        assert!(matches!(http("http://a b/", patience).await, Err(Error::Address(_))));
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let error = udp(&address, 0, 0, patience).await.unwrap_err().to_string();
        assert_eq!(error, format!("UDP {address}: no answer within 0.2 s"));
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let error = tcp(&closed, patience).await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("TCP {closed}: Connection refused")),
            "{error}"
        );
        assert!(name("localhost", Duration::from_secs(5)).await.unwrap().lines().count() >= 1);
    }
}
