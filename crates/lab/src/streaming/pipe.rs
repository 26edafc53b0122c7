//! What both wires, WebSocket and SPDY, come down to: numbered streams of bytes in both directions.

use bytes::Bytes;
use tokio::sync::mpsc;

/// How many pieces wait in one direction of one stream before the sender is held up.
pub(super) const DEPTH: usize = 32;
/// The largest piece sent at once.
pub(super) const PIECE: usize = 32 << 10;

/// Bytes from the peer; its end is the end of the stream.
pub(super) type Input = mpsc::Receiver<Bytes>;

/// Something for the wire's writer.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) stream: u32,
    pub(super) bytes: Bytes,
    /// Nothing follows on this stream.
    pub(super) end: bool,
}

/// The peer is gone; nobody reads any more.
#[derive(Debug, thiserror::Error)]
#[error("the client has gone")]
pub(super) struct Gone;

/// Bytes towards the peer on one stream.
#[derive(Clone, Debug)]
pub(super) struct Output {
    stream: u32,
    wire: mpsc::Sender<Outgoing>,
}

impl Output {
    pub(super) fn new(stream: u32, wire: mpsc::Sender<Outgoing>) -> Self {
        Self { stream, wire }
    }

    /// Sends bytes, waiting while the peer is slow.
    pub(super) async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        self.put(bytes, false).await
    }

    /// Sends the last bytes.
    pub(super) async fn end(&self, bytes: Bytes) -> Result<(), Gone> {
        self.put(bytes, true).await
    }

    async fn put(&self, bytes: Bytes, end: bool) -> Result<(), Gone> {
        let outgoing = Outgoing {
            stream: self.stream,
            bytes,
            end,
        };
        self.wire.send(outgoing).await.map_err(|_| Gone)
    }
}
