//! `/containerLogs`: a container's log, from where the caller asks, and on until the container ends.

mod line;
mod tail;

use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;

use super::containers::{Container, Containers, LookupError, RunState};
use super::query::Query;
use super::server::{Body, text};
use line::{Filter, Source};

/// How often a followed log is looked at.
const PERIOD: Duration = Duration::from_millis(40);
/// How much is read at once.
const CHUNK: usize = 64 << 10;
/// A longer line cannot be one the kubelet wrote (it splits at 16 KiB); it is dropped rather than kept in memory.
const LONGEST_LINE: usize = 1 << 20;

/// What the caller wants of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Options {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail: Option<u64>,
    limit: Option<u64>,
    since: Option<Timestamp>,
    source: Option<Source>,
}

impl Options {
    fn parse(query: &Query, now: Timestamp) -> Result<Self, String> {
        let number = |name: &str, least: u64| match query.get(name) {
            None => Ok(None),
            Some(value) => match value.parse::<u64>() {
                Ok(number) if number >= least => Ok(Some(number)),
                _ => Err(format!(
                    "{name}: Invalid value: {value:?}: must be a whole number, at least {least}"
                )),
            },
        };
        let since_seconds = number("sinceSeconds", 1)?;
        let since_time = match query.get("sinceTime") {
            None => None,
            Some(value) => Some(
                value
                    .parse::<Timestamp>()
                    .map_err(|_| format!("sinceTime: Invalid value: {value:?}: must be a time in RFC 3339"))?,
            ),
        };
        let since = match (since_seconds, since_time) {
            (Some(_), Some(_)) => return Err("at most one of `sinceTime` or `sinceSeconds` may be specified".into()),
            (Some(seconds), None) => {
                let ago = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
                Some(now.checked_sub(ago).unwrap_or(Timestamp::MIN))
            }
            (None, time) => time,
        };
        let source = match query.get("stream") {
            None | Some("" | "All") => None,
            Some("Stdout") => Some(Source::Stdout),
            Some("Stderr") => Some(Source::Stderr),
            Some(other) => {
                return Err(format!(
                    "stream: Unsupported value: {other:?}: supported values: \"All\", \"Stdout\", \"Stderr\""
                ));
            }
        };
        Ok(Self {
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            tail: number("tailLines", 0)?,
            limit: number("limitBytes", 1)?,
            since,
            source,
        })
    }
}

/// Answers a request for a log.
pub(super) async fn answer(containers: Arc<dyn Containers>, names: [&str; 3], query: &Query) -> Response<Body> {
    let [namespace, pod, name] = names;
    let options = match Options::parse(query, Timestamp::now()) {
        Ok(options) => options,
        Err(message) => return text(StatusCode::UNPROCESSABLE_ENTITY, message),
    };
    let container = match containers.container(namespace, pod, name) {
        Ok(container) => container,
        Err(LookupError::NoContainer(_)) => {
            let message = format!("container {name:?} not found in pod {pod:?}");
            return text(StatusCode::NOT_FOUND, message);
        }
        Err(error) => return text(StatusCode::NOT_FOUND, error.to_string()),
    };
    let path = match log_of(&container, pod, name, options.previous) {
        Ok(path) => path,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let file = match File::open(&path).await {
        Ok(file) => file,
        Err(error) => {
            let message = format!("failed to open log file {:?}: {error}", path.display().to_string());
            return text(StatusCode::INTERNAL_SERVER_ERROR, message);
        }
    };
    let (sender, receiver) = mpsc::channel(16);
    let follow = options.follow && !options.previous;
    let [namespace, pod, name] = names.map(str::to_owned);
    let id = container.id;
    let alive = move || {
        follow
            && containers
                .container(&namespace, &pod, &name)
                .is_ok_and(|now| now.id == id && now.state == RunState::Running)
    };
    tokio::spawn(async move {
        if let Err(error) = copy(file, &options, &sender, alive).await {
            tracing::warn!(%error, log = %path.display(), "cannot read a container's log to its end");
            let _gone = sender.send(Err(error)).await;
        }
    });
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        let piece: std::io::Result<Bytes> = receiver.recv().await?;
        Some((piece.map(Frame::data), receiver))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let plain = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}

/// Which file to read, or why there is none, in the kubelet's words.
fn log_of(container: &Container, pod: &str, name: &str, previous: bool) -> Result<PathBuf, String> {
    if previous {
        let missing = || format!("previous terminated container {name:?} in pod {pod:?} not found");
        return container.previous_log.clone().ok_or_else(missing);
    }
    if let Some(log) = &container.log {
        return Ok(log.clone());
    }
    let waiting = format!("container {name:?} in pod {pod:?} is waiting to start");
    Err(match &container.state {
        RunState::Waiting(reason) if reason == "ErrImagePull" => format!("{waiting}: image can't be pulled"),
        RunState::Waiting(reason) if reason == "ImagePullBackOff" => {
            format!("{waiting}: trying and failing to pull image")
        }
        RunState::Waiting(reason) => format!("{waiting}: {reason}"),
        RunState::Running => format!("{waiting} - no logs yet"),
        RunState::Terminated => format!("container {name:?} in pod {pod:?} is terminated"),
    })
}

/// Sends the log through the filter until its end; while `alive`, its end is only a pause.
async fn copy(
    mut file: File,
    options: &Options,
    sender: &mpsc::Sender<std::io::Result<Bytes>>,
    alive: impl Fn() -> bool,
) -> std::io::Result<()> {
    if let Some(lines) = options.tail {
        let start = tail::start(&mut file, lines).await?;
        file.seek(SeekFrom::Start(start)).await?;
    }
    let mut filter = Filter::new(options.timestamps, options.since, options.source, options.limit);
    let mut pending = Vec::new();
    let mut last_look = false;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).await?;
        if !chunk.is_empty() {
            pending.extend_from_slice(&chunk);
            let complete = pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let mut out = Vec::with_capacity(complete);
            for line in pending[..complete].split_inclusive(|byte| *byte == b'\n') {
                filter.push(line, &mut out);
            }
            pending.drain(..complete);
            if pending.len() > LONGEST_LINE {
                pending.clear();
            }
            if !out.is_empty() && sender.send(Ok(out.into())).await.is_err() {
                return Ok(());
            }
            if filter.is_full() {
                return Ok(());
            }
            if chunk.len() == CHUNK {
                continue;
            }
        }
        if last_look || filter.is_full() {
            return Ok(());
        }
        if !options.follow || options.previous {
            return Ok(());
        }
        // The container's last words may still be on their way into the file when it is already known to have ended.
        last_look = !alive();
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = sender.closed() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
