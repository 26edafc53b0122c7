//! The HTTP side: accepts connections and gives each request to what it asks for.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;

use super::containers::Containers;
use super::query::Query;
use super::{forward, logs, remote};

/// The body of every answer; an error ends the connection.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Serves one node's containers until the future is dropped.
pub async fn serve(listener: UnixListener, containers: Arc<dyn Containers>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a streaming connection; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let containers = containers.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let containers = containers.clone();
                async move { Ok::<_, Infallible>(answer(request, containers).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a streaming connection ended early");
            }
        });
    }
}

async fn answer(request: Request<Incoming>, containers: Arc<dyn Containers>) -> Response<Body> {
    let uri = request.uri().clone();
    let path: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
    match path.as_slice() {
        ["healthz"] => text(StatusCode::OK, "ok"),
        ["containerLogs", namespace, pod, name] => {
            logs::answer(containers, [namespace, pod, name], &Query::of(&uri)).await
        }
        ["exec", namespace, pod, name] => remote::exec(request, &containers, [namespace, pod, name]),
        ["attach", namespace, pod, name] => remote::attach(request, &containers, [namespace, pod, name]),
        ["portForward", namespace, pod] => forward::answer(request, &containers, [namespace, pod]),
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// An answer of plain text.
pub(super) fn text(status: StatusCode, message: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(message.into()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}
