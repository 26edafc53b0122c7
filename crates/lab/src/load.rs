//! A steady load on an HTTP server: so many new connections a second, each with one request. What kill tests and
//! users watch while something else is being killed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Requests sent.
    pub sent: u64,
    /// Requests without a 2xx answer.
    pub failed: u64,
    /// What went wrong first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
    /// The longest that a request took, in milliseconds.
    pub longest_ms: u64,
}

/// At most so many requests wait for an answer at a time; a server slower than that slows the load down.
const MOST_AT_ONCE: usize = 256;
/// A request without an answer for so long has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends `rate` requests a second to `server` for `duration`, each on a connection of its own.
pub async fn load(server: SocketAddr, host: &str, rate: u32, duration: Duration) -> Report {
    let room = Arc::new(Semaphore::new(MOST_AT_ONCE));
    let mut requests = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let end = Instant::now() + duration;
    let mut report = Report::default();
    while Instant::now() < end {
        ticks.tick().await;
        // The semaphore is never closed.
        let Ok(place) = room.clone().acquire_owned().await else {
            break;
        };
        let host = host.to_owned();
        requests.spawn(async move {
            let started = Instant::now();
            let result = tokio::time::timeout(PATIENCE, request(server, &host)).await;
            drop(place);
            (
                started.elapsed(),
                result.unwrap_or_else(|_| Err(format!("no answer for {} s", PATIENCE.as_secs()))),
            )
        });
        while let Some(Ok(done)) = requests.try_join_next() {
            report.add(done);
        }
    }
    while let Some(Ok(done)) = requests.join_next().await {
        report.add(done);
    }
    report
}

impl Report {
    fn add(&mut self, (took, result): (Duration, Result<(), String>)) {
        self.sent += 1;
        self.longest_ms = self.longest_ms.max(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        if let Err(reason) = result {
            self.failed += 1;
            self.first_failure.get_or_insert(reason);
        }
    }
}

async fn request(server: SocketAddr, host: &str) -> Result<(), String> {
    let stream = TcpStream::connect(server)
        .await
        .map_err(|error| format!("connect: {error}"))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| format!("handshake: {error}"))?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get("/")
        .header(http::header::HOST, host)
        .body(Empty::<Bytes>::new());
    let response = sender.send_request(request.map_err(|error| error.to_string())?).await;
    let response = response.map_err(|error| format!("request: {error}"))?;
    let status = response.status();
    response
        .into_body()
        .collect()
        .await
        .map_err(|error| format!("body: {error}"))?;
    drop(sender);
    let _ = connection.await;
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("HTTP status {status}"))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers every second connection and closes the others.
    #[tokio::test]
    async fn counts_what_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                if number % 2 == 0 {
                    let _ = stream.read(&mut [0; 512]).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            }
        });
        let report = load(server, "test", 100, Duration::from_millis(200)).await;
        assert!(report.sent >= 10, "{report:?}");
        assert!(report.failed.abs_diff(report.sent / 2) <= 1, "{report:?}");
        assert!(report.first_failure.is_some());
    }
}
