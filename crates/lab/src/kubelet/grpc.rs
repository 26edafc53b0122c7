//! The gRPC health check (`grpc.health.v1.Health/Check`), as a probe makes it.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::http::reason;

/// `HealthCheckResponse.status` of a server that serves.
const SERVING: u8 = 1;

/// Asks a server for the health of a service; the empty name means all of it.
pub(super) async fn check(authority: &str, service: &str) -> Result<(), String> {
    let stream = TcpStream::connect(authority).await.map_err(|error| {
        format!(
            "timeout: failed to connect service \"{authority}\" within its time: {}",
            reason(&error)
        )
    })?;
    let failed = |error: hyper::Error| format!("error: health rpc failed: {error}");
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header("te", "trailers")
        .body(Full::new(message(service)))
        .map_err(|error| format!("error: health rpc failed: {error}"))?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let refused = response.headers().get("grpc-status").cloned();
        let body = response.into_body().collect().await?;
        let trailer = body
            .trailers()
            .and_then(|trailers| trailers.get("grpc-status").cloned());
        Ok((refused.or(trailer), body.to_bytes()))
    };
    let answer = answer.await.map_err(failed);
    connection.abort();
    let (status, body) = answer?;
    match status {
        Some(status) if status != "0" => Err(format!("error: health rpc failed with grpc-status {status:?}")),
        _ if serves(&body) => Ok(()),
        _ => Err("service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
    }
}

/// A length-prefixed `HealthCheckRequest`.
fn message(service: &str) -> Bytes {
    let mut request = Vec::new();
    if !service.is_empty() {
        // Names of services are far shorter than 128 bytes; longer ones are cut rather than sent malformed.
        let name = &service.as_bytes()[..service.len().min(127)];
        request.extend([0x0a, name.len() as u8]);
        request.extend(name);
    }
    let mut framed = vec![0];
    framed.extend((request.len() as u32).to_be_bytes());
    framed.extend(request);
    framed.into()
}

/// Whether a length-prefixed `HealthCheckResponse` says that the service serves.
fn serves(body: &[u8]) -> bool {
    body.get(5..).is_some_and(|message| message == [0x08, SERVING])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert!(serves(&[0, 0, 0, 0, 2, 8, 1]));
        assert!(!serves(&[0, 0, 0, 0, 2, 8, 2]) && !serves(&[0, 0, 0, 0, 0]) && !serves(&[]));
    }
}
