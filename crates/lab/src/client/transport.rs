//! How a request reaches the API server: as a function call, or over its unix socket.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::Error;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of every request and answer.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
/// The API server as a function.
pub type Handler = Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// A body with nothing in it.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is known whole.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

#[derive(Clone)]
pub(super) enum Transport {
    Local(Handler),
    Unix(Arc<Path>),
}

impl Transport {
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        match self {
            Transport::Local(handler) => Ok(handler(request).await),
            Transport::Unix(path) => over_unix(path, request).await,
        }
    }
}

/// One connection per request: on a unix socket that costs tens of microseconds, and needs no pool to go stale.
async fn over_unix(path: &Path, request: Request<Body>) -> Result<Response<Body>, Error> {
    let connect = |source| Error::Connect {
        path: path.display().to_string(),
        source,
    };
    let stream = UnixStream::connect(path).await.map_err(connect)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the API server ended");
        }
    });
    let response = sender.send_request(request).await?;
    Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
}
