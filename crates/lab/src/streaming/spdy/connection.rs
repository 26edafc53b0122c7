//! A SPDY connection: hands out the streams the peer opens, and carries their bytes.
//!
//! Windows: this side grants the peer what it has consumed, but does not hold back for the peer's grants, because the
//! library in every Kubernetes client never sends any. TCP holds back instead.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::super::pipe::{DEPTH, Input, Outgoing, Output};
use super::frame::{Decoder, Encoder, Error, Frame};
use super::headers::Headers;

/// More streams than this at once, and new ones are refused.
const MOST_STREAMS: usize = 1024;
/// Consumed bytes are granted again in steps of this size; half the window every peer starts with.
const GRANT: u32 = 32 << 10;
/// How long a client may take to hang up after the goodbye.
const HANG_UP: Duration = Duration::from_secs(1);
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 3;

/// A stream that the peer opened.
#[derive(Debug)]
pub(in crate::streaming) struct Stream {
    headers: Headers,
    pub(in crate::streaming) input: Input,
    pub(in crate::streaming) output: Output,
}

impl Stream {
    /// A header of the stream, for example `streamtype`.
    pub(in crate::streaming) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// The peer's streams as it opens them. Dropping it stops reading; what is on the way out is still written.
pub(in crate::streaming) struct Connection {
    streams: mpsc::Receiver<Stream>,
    /// Keeps the writer: a stream of the peer may still come.
    wire: mpsc::Sender<Outgoing>,
    reader: AbortOnDropHandle<()>,
    writer: JoinHandle<()>,
}

/// The end of a connection that is still writing.
pub(in crate::streaming) struct Closing {
    writer: JoinHandle<()>,
    reader: AbortOnDropHandle<()>,
}

impl Connection {
    /// Speaks SPDY over a connection of any kind.
    pub(in crate::streaming) fn serve<T>(transport: T) -> Result<Self, Error>
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(transport);
        let (opened, streams) = mpsc::channel(DEPTH);
        let (wire, outgoing) = mpsc::channel(DEPTH);
        let (control, frames) = mpsc::channel(DEPTH);
        let encoder = Encoder::new()?;
        let writer = tokio::spawn(async move {
            if let Err(error) = write_all(write, encoder, frames, outgoing).await {
                tracing::debug!(%error, "cannot write to a SPDY client");
            }
        });
        let mut reader = Reader {
            open: HashMap::new(),
            control,
            opened,
            wire: wire.downgrade(),
            consumed: 0,
        };
        let reader = tokio::spawn(async move {
            if let Err(error) = reader.run(read).await {
                tracing::debug!(%error, "a SPDY connection ended early");
            }
        });
        Ok(Self {
            streams,
            wire,
            reader: AbortOnDropHandle::new(reader),
            writer,
        })
    }

    /// The next stream that the peer opens; none when the connection has ended.
    pub(in crate::streaming) async fn next(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Takes no more streams. The connection ends when every [`Output`] is dropped and written.
    pub(in crate::streaming) fn close(self) -> Closing {
        let Self {
            streams,
            wire,
            reader,
            writer,
        } = self;
        drop((streams, wire));
        Closing { writer, reader }
    }
}

impl Closing {
    /// Waits until everything is written, and a moment for the peer to hang up: what it is still sending, perhaps a
    /// key just pressed, would otherwise meet a closed connection and fail.
    pub(in crate::streaming) async fn wait(self) {
        if let Err(error) = self.writer.await
            && error.is_panic()
        {
            tracing::error!("writing to a SPDY client failed without an answer");
        }
        if tokio::time::timeout(HANG_UP, self.reader).await.is_err() {
            tracing::debug!("a SPDY client did not hang up");
        }
    }
}

/// The reading side.
struct Reader {
    open: HashMap<u32, Incoming>,
    control: mpsc::Sender<Frame>,
    opened: mpsc::Sender<Stream>,
    wire: mpsc::WeakSender<Outgoing>,
    consumed: u32,
}

/// What the peer still may send on a stream.
struct Incoming {
    sender: mpsc::Sender<Bytes>,
    consumed: u32,
}

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Protocol(#[from] Error),
    #[error(transparent)]
    Transport(#[from] io::Error),
    #[error("the writing side has ended")]
    Writer,
}

impl Reader {
    async fn run<T: AsyncRead>(&mut self, mut read: ReadHalf<T>) -> Result<(), Broken> {
        let (mut decoder, mut buffer) = (Decoder::new(), BytesMut::new());
        loop {
            while let Some(frame) = decoder.take(&mut buffer)? {
                if !self.frame(frame).await? {
                    return Ok(());
                }
            }
            buffer.reserve(GRANT as usize);
            if read.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn answer(&self, frame: Frame) -> Result<(), Broken> {
        self.control.send(frame).await.map_err(|_| Broken::Writer)
    }

    /// Acts on one frame; false when the peer has said goodbye.
    async fn frame(&mut self, frame: Frame) -> Result<bool, Broken> {
        match frame {
            Frame::SynStream { id, fin, headers } => self.syn(id, fin, headers).await?,
            Frame::Data { id, fin, bytes } => self.data(id, fin, bytes).await?,
            Frame::Reset { id, .. } => {
                self.open.remove(&id);
            }
            Frame::Headers { id, fin: true, .. } => {
                self.open.remove(&id);
            }
            // Odd numbers are the client's own questions.
            Frame::Ping { id } if id % 2 == 1 => self.answer(Frame::Ping { id }).await?,
            Frame::GoAway { .. } => return Ok(false),
            Frame::SynReply { .. }
            | Frame::Headers { .. }
            | Frame::Ping { .. }
            | Frame::WindowUpdate { .. }
            | Frame::Ignored => {}
        }
        Ok(true)
    }

    async fn syn(&mut self, id: u32, fin: bool, headers: Headers) -> Result<(), Broken> {
        if id.is_multiple_of(2) || self.open.contains_key(&id) {
            let status = PROTOCOL_ERROR;
            return self.answer(Frame::Reset { id, status }).await;
        }
        self.open.retain(|_, incoming| !incoming.sender.is_closed());
        let Some(wire) = self.wire.upgrade() else {
            return Err(Broken::Writer);
        };
        if self.open.len() >= MOST_STREAMS {
            let status = REFUSED_STREAM;
            return self.answer(Frame::Reset { id, status }).await;
        }
        let reply = Frame::SynReply {
            id,
            fin: false,
            headers: Vec::new(),
        };
        self.answer(reply).await?;
        let (sender, input) = mpsc::channel(DEPTH);
        if !fin {
            self.open.insert(id, Incoming { sender, consumed: 0 });
        }
        let output = Output::new(id, wire);
        let stream = Stream { headers, input, output };
        // Nobody wants more streams: the stream is dropped, and with it both its directions.
        let _unwanted = self.opened.send(stream).await;
        Ok(())
    }

    async fn data(&mut self, id: u32, fin: bool, bytes: Bytes) -> Result<(), Broken> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if let Some(incoming) = self.open.get_mut(&id) {
            // A stream that nobody reads any more swallows what still comes.
            if !bytes.is_empty() {
                let _unwanted = incoming.sender.send(bytes).await;
            }
            incoming.consumed = incoming.consumed.saturating_add(length);
            if fin {
                self.open.remove(&id);
            } else if incoming.consumed >= GRANT {
                let delta = std::mem::take(&mut incoming.consumed);
                self.answer(Frame::WindowUpdate { id, delta }).await?;
            }
        }
        self.consumed = self.consumed.saturating_add(length);
        if self.consumed >= GRANT {
            let delta = std::mem::take(&mut self.consumed);
            self.answer(Frame::WindowUpdate { id: 0, delta }).await?;
        }
        Ok(())
    }
}

async fn write_all<T: AsyncWrite>(
    mut write: WriteHalf<T>,
    mut encoder: Encoder,
    mut control: mpsc::Receiver<Frame>,
    mut outgoing: mpsc::Receiver<Outgoing>,
) -> Result<(), Broken> {
    let mut buffer = BytesMut::new();
    let mut control_open = true;
    loop {
        let frame = tokio::select! {
            biased;
            frame = control.recv(), if control_open => match frame {
                Some(frame) => frame,
                None => { control_open = false; continue; }
            },
            outgoing = outgoing.recv() => match outgoing {
                Some(Outgoing { stream, bytes, end }) => Frame::Data { id: stream, fin: end, bytes },
                None => break,
            },
        };
        encoder.put(&frame, &mut buffer)?;
        write.write_all_buf(&mut buffer).await?;
        write.flush().await?;
    }
    encoder.put(&Frame::GoAway { last: 0, status: 0 }, &mut buffer)?;
    write.write_all_buf(&mut buffer).await?;
    write.shutdown().await?;
    Ok(())
}
