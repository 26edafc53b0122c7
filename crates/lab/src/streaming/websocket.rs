//! Kubernetes' channels over WebSocket: the first byte of each message says which stream it belongs to.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::pipe::{DEPTH, Input, Outgoing};

/// A message on this channel ends the client's side of the channel named in it (v5 only).
const CLOSE: u8 = 255;
/// Clients send pieces of 32 KiB; this is far above what any is known to send at once.
const LONGEST_MESSAGE: usize = 16 << 20;

/// How a message carries its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// One byte, then the bytes.
    Binary,
    /// One digit, then base64, as text.
    Base64,
}

impl Coding {
    pub(super) fn of(protocol: &str) -> Self {
        if protocol.contains("base64.") {
            Self::Base64
        } else {
            Self::Binary
        }
    }

    fn encode(self, channel: u8, bytes: &[u8]) -> Message {
        match self {
            Self::Binary => {
                let mut message = BytesMut::with_capacity(bytes.len() + 1);
                message.extend_from_slice(&[channel]);
                message.extend_from_slice(bytes);
                Message::Binary(message.freeze())
            }
            Self::Base64 => Message::text(format!("{}{}", (b'0' + channel) as char, STANDARD.encode(bytes))),
        }
    }

    fn decode(self, message: Message) -> Option<(u8, Bytes)> {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            _ => return None,
        };
        let channel = *bytes.first()?;
        let rest = bytes.slice(1..);
        match self {
            Self::Binary => Some((channel, rest)),
            Self::Base64 => Some((channel.checked_sub(b'0')?, STANDARD.decode(rest).ok()?.into())),
        }
    }
}

/// Both directions of one client, split so that a slow one never holds up the other.
pub(super) struct Socket<T> {
    sink: SplitSink<WebSocketStream<T>, Message>,
    source: SplitStream<WebSocketStream<T>>,
    coding: Coding,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Socket<T> {
    pub(super) async fn new(transport: T, coding: Coding) -> Self {
        let (sink, source) = open(transport).await.split();
        Self { sink, source, coding }
    }

    /// Opens the client's channels; the bytes come from the inputs as long as the reader is driven.
    pub(super) fn split(self, channels: &[u8]) -> (Writer<T>, Reader<T>, HashMap<u8, Input>) {
        let (mut senders, mut inputs) = (HashMap::new(), HashMap::new());
        for channel in channels {
            let (sender, input) = mpsc::channel(DEPTH);
            senders.insert(*channel, sender);
            inputs.insert(*channel, input);
        }
        let Self { sink, source, coding } = self;
        (
            Writer { sink, coding },
            Reader {
                source,
                coding,
                senders,
            },
            inputs,
        )
    }
}

/// A WebSocket after the handshake.
pub(super) async fn open<T: AsyncRead + AsyncWrite + Unpin>(transport: T) -> WebSocketStream<T> {
    let limits = WebSocketConfig::default()
        .max_message_size(Some(LONGEST_MESSAGE))
        .max_frame_size(Some(LONGEST_MESSAGE));
    WebSocketStream::from_raw_socket(transport, Role::Server, Some(limits)).await
}

/// Towards the client.
pub(super) struct Writer<T> {
    sink: SplitSink<WebSocketStream<T>, Message>,
    coding: Coding,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Writer<T> {
    /// Writes until every sender is gone, then says goodbye.
    pub(super) async fn run(mut self, mut outgoing: mpsc::Receiver<Outgoing>) -> Result<(), Error> {
        while let Some(Outgoing { stream, bytes, end }) = outgoing.recv().await {
            if end && bytes.is_empty() {
                // There is no message for it: the client learns of the end from the status, or the goodbye.
                continue;
            }
            let channel = u8::try_from(stream).unwrap_or(CLOSE);
            self.sink.send(self.coding.encode(channel, &bytes)).await?;
        }
        let goodbye = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        self.sink.send(Message::Close(Some(goodbye))).await?;
        self.sink.close().await
    }
}

/// From the client.
pub(super) struct Reader<T> {
    source: SplitStream<WebSocketStream<T>>,
    coding: Coding,
    senders: HashMap<u8, mpsc::Sender<Bytes>>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Reader<T> {
    /// Reads until the client has gone.
    pub(super) async fn run(mut self) {
        while let Some(message) = self.source.next().await {
            let message = match message {
                Ok(Message::Close(_)) => return,
                Ok(message) => message,
                Err(error) => {
                    tracing::debug!(%error, "a WebSocket client left without goodbye");
                    return;
                }
            };
            match self.coding.decode(message) {
                Some((CLOSE, channel)) => {
                    channel.first().and_then(|channel| self.senders.remove(channel));
                }
                Some((channel, bytes)) if !bytes.is_empty() => {
                    if let Some(sender) = self.senders.get(&channel) {
                        // Nobody wants it any more, for example the input of a process that closed it.
                        let _unwanted = sender.send(bytes).await;
                    }
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::Message;

    use super::Coding;

    proptest! {
        #[test]
        fn reads_back_what_it_wrote(channel in 0u8..10, bytes: Vec<u8>, base64: bool) {
            let coding = if base64 { Coding::Base64 } else { Coding::Binary };
            prop_assert_eq!(coding.decode(coding.encode(channel, &bytes)), Some((channel, Bytes::from(bytes))));
        }

        #[test]
        fn survives_any_message(bytes: Vec<u8>, text in "\\PC{0,20}") {
            for coding in [Coding::Base64, Coding::Binary] {
                let _read_or_refused = coding.decode(Message::Binary(bytes.clone().into()));
                let _read_or_refused = coding.decode(Message::text(text.clone()));
            }
        }
    }
}
