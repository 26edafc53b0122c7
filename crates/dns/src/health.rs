//! `/health`: the process lives. `/ready`: it knows the whole cluster.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::respond::Responder;

/// Serves the two paths for ever.
pub(crate) async fn serve(listener: TcpListener, responder: Arc<Responder>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let responder = Arc::clone(&responder);
        connections.spawn(async move {
            let answer = service_fn(move |request| {
                let response = respond(&request, responder.synced());
                async move { Ok::<_, Infallible>(response) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10));
            if let Err(error) = http.serve_connection(TokioIo::new(stream), answer).await {
                tracing::debug!(%error, "a health connection ended");
            }
        });
    }
}

fn respond<B>(request: &Request<B>, synced: bool) -> Response<Full<Bytes>> {
    let (status, text) = match (request.uri().path(), synced) {
        ("/health", _) | ("/ready", true) => (StatusCode::OK, "OK\n"),
        ("/ready", false) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "waiting for the first list of Services\n",
        ),
        _ => (StatusCode::NOT_FOUND, "there are /health and /ready\n"),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
