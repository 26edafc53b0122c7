//! A byte stream inside a WebSocket's binary messages, so that SPDY can pass proxies that know only WebSocket.

use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_tungstenite::tungstenite::Message;

use super::PIECE;
use crate::streaming::websocket;

/// The stream's near end; dropping it ends the WebSocket.
pub(super) async fn open(transport: TokioIo<Upgraded>) -> DuplexStream {
    let (near, far) = tokio::io::duplex(2 * PIECE);
    let (mut sink, mut source) = websocket::open(transport).await.split();
    let (mut read, mut write) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            let bytes: Bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Close(_) => break,
                _ => continue,
            };
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The near end may be gone already.
        let _closed = write.shutdown().await;
    });
    tokio::spawn(async move {
        loop {
            let mut buffer = BytesMut::with_capacity(PIECE);
            if !matches!(read.read_buf(&mut buffer).await, Ok(1..)) {
                break;
            }
            if sink.send(Message::Binary(buffer.freeze())).await.is_err() {
                return;
            }
        }
        // The client may be gone already.
        let _closed = sink.close().await;
    });
    near
}
