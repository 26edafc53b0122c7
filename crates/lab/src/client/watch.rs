//! A watch: one JSON document per line, for as long as the server keeps talking.

use std::pin::Pin;

use bytes::{Buf as _, BytesMut};
use futures::{Stream, stream};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::Value;

use super::{Body, Error};

/// One event of a watch.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
pub enum WatchEvent {
    /// An object appeared.
    Added(Value),
    /// An object changed.
    Modified(Value),
    /// An object has gone; this is its last state.
    Deleted(Value),
    /// Nothing changed, but the watch has come this far.
    Bookmark(Value),
    /// The watch failed; a Status object.
    Error(Value),
}

/// The events of one watch; ends when the server closes it.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Error>> + Send>>;

pub(super) fn stream(body: Body) -> WatchStream {
    Box::pin(stream::try_unfold(
        (body, BytesMut::new()),
        |(mut body, mut buffer)| async move {
            loop {
                if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    let line = buffer.split_to(end);
                    buffer.advance(1);
                    if line.iter().all(u8::is_ascii_whitespace) {
                        continue;
                    }
                    let event = match serde_json::from_slice(&line).map_err(Error::Decode)? {
                        WatchEvent::Error(status) => {
                            let code = status["code"]
                                .as_u64()
                                .and_then(|code| u16::try_from(code).ok())
                                .unwrap_or(500);
                            return Err(Error::status(code, status.to_string().as_bytes()));
                        }
                        event => event,
                    };
                    return Ok(Some((event, (body, buffer))));
                }
                match body.frame().await {
                    None => return Ok(None),
                    Some(frame) => {
                        if let Ok(data) = frame.map_err(Error::Body)?.into_data() {
                            buffer.extend_from_slice(&data);
                        }
                    }
                }
            }
        },
    ))
}
