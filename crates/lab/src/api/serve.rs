//! Listeners: TLS for everyone with credentials, and a unix socket for the lab itself.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::call::User;
use super::status::Status;
use super::{ApiServer, respond};
use crate::client::{Body, BoxError};

/// After a failure to accept, which is most likely a lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Why the server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A TCP address cannot be listened on.
    #[error("cannot listen on {address}: {source}; is another lab using the port?")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A network namespace cannot be entered.
    #[error("cannot enter the network namespace {path}: {source}; does the lab still exist?")]
    Namespace {
        /// The namespace's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The unix socket cannot be listened on.
    #[error("cannot listen on {path}: {source}")]
    Unix {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Listens on a TCP address in the present network namespace.
pub fn bind(address: SocketAddr) -> Result<StdListener, ServeError> {
    let tcp = |source| ServeError::Tcp { address, source };
    let listener = StdListener::bind(address).map_err(tcp)?;
    listener.set_nonblocking(true).map_err(tcp)?;
    Ok(listener)
}

/// Listens on a TCP address inside the network namespace of the file `netns`. The calling thread stays where it is.
pub fn bind_in(netns: &Path, address: SocketAddr) -> Result<StdListener, ServeError> {
    let namespace = |source| ServeError::Namespace {
        path: netns.to_owned(),
        source,
    };
    let file = File::open(netns).map_err(namespace)?;
    std::thread::scope(|scope| {
        let enter = || {
            nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET).map_err(|e| namespace(e.into()))?;
            bind(address)
        };
        let thread = std::thread::Builder::new()
            .spawn_scoped(scope, enter)
            .map_err(namespace)?;
        thread
            .join()
            .map_err(|_| namespace(io::Error::other("the helper thread died")))?
    })
}

impl ApiServer {
    /// Serves TLS on a listener, until the task is dropped. Clients show a certificate of the lab's authority or
    /// a bearer token.
    pub async fn serve_tls(self: Arc<Self>, listener: StdListener, tls: ServerConfig) -> Result<(), ServeError> {
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let address = listener
            .local_addr()
            .unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        let failed = |source| ServeError::Tcp { address, source };
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let _ = stream.set_nodelay(true);
            let (server, acceptor) = (self.clone(), acceptor.clone());
            tokio::spawn(async move {
                let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await else {
                    return;
                };
                // rustls has verified the certificate against the lab's authority, which signs only the admin's.
                let certified = stream
                    .get_ref()
                    .1
                    .peer_certificates()
                    .is_some_and(|chain| !chain.is_empty());
                let tokens = server.clone();
                let user = move |request: &Request<Incoming>| {
                    if certified {
                        return Some(User::admin());
                    }
                    let header = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
                    tokens.tokens.user(header.strip_prefix("Bearer ")?.trim())
                };
                server.connection(stream, user).await;
            });
        }
    }

    /// Serves plain HTTP on a unix socket, until the task is dropped. Who may open it is the admin.
    pub async fn serve_unix(self: Arc<Self>, path: &Path) -> Result<(), ServeError> {
        let unix = |source| ServeError::Unix {
            path: path.to_owned(),
            source,
        };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unix(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(unix)?;
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let server = self.clone();
            tokio::spawn(async move { server.connection(stream, |_| Some(User::admin())).await });
        }
    }

    async fn connection<S, U>(self: Arc<Self>, stream: S, user: U)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        U: Fn(&Request<Incoming>) -> Option<User> + Clone + Send + Sync + 'static,
    {
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (server, user) = (self.clone(), user(&request));
            async move {
                let Some(user) = user else {
                    return Ok::<Response<Body>, Infallible>(respond::error(&Status::unauthorized()));
                };
                request.extensions_mut().insert(user);
                Ok(server
                    .handle(request.map(|body| body.map_err(BoxError::from).boxed_unsync()))
                    .await)
            }
        });
        let builder = Builder::new(TokioExecutor::new());
        if let Err(error) = builder
            .serve_connection_with_upgrades(TokioIo::new(stream), service)
            .await
        {
            tracing::debug!(%error, "connection ended");
        }
    }
}
