//! One port, as little HTTP as load balancers need: whoever keeps it busy or says nothing cannot harm the agent.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::debug;

use super::answer::Answer;

/// Connections at a time; more wait.
const MOST: usize = 64;
/// How long a client may take for its question and for our answer.
const PATIENCE: Duration = Duration::from_secs(10);
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Answers for ever. Whoever ends this ends its connections too.
pub(super) async fn serve<F>(listener: TcpListener, answer: F)
where
    F: Fn(&str) -> Answer + Clone + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MOST {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                drop(connections.spawn(tokio::time::timeout(PATIENCE, converse(stream, answer.clone()))))
            }
            Err(error) => {
                debug!(%error, "cannot accept a connection about health");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse<F: Fn(&str) -> Answer + Send>(stream: TcpStream, answer: F) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(answer(request.uri().path()));
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        debug!(%error, "a connection about health ended");
    }
}

fn respond(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(weight) = answer.weight {
        headers.insert(WEIGHT, HeaderValue::from(weight));
    }
    response
}
