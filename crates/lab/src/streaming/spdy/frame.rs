//! SPDY/3.1 frames: bytes to frames and back. Holds at most one control frame; data passes through in pieces.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::headers::{Compressor, Decompressor, Headers};

const FIN: u8 = 1;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// A longer control frame is refused.
const LONGEST_CONTROL: usize = 64 << 10;
/// The lower 31 bits of a stream's number.
const ID: u32 = 0x7fff_ffff;

/// What the peer did wrong.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::streaming) enum Error {
    /// The headers cannot be decompressed or parsed; nothing after them can be read either.
    #[error("malformed SPDY header block")]
    HeaderBlock,
    /// The frame is shorter than its type allows, or longer than is sensible.
    #[error("SPDY control frame of type {kind} has a wrong length: {length} bytes")]
    Length { kind: u16, length: usize },
    /// Not version 3.
    #[error("SPDY version {0} is not spoken here; only 3 (3.1) is")]
    Version(u16),
}

/// One frame; a data frame may arrive in several pieces, the last of which carries `fin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    SynStream {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    SynReply {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    Headers {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    Reset {
        id: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
        status: u32,
    },
    WindowUpdate {
        id: u32,
        delta: u32,
    },
    Data {
        id: u32,
        fin: bool,
        bytes: Bytes,
    },
    /// Settings, and types this side has no use for.
    Ignored,
}

/// Writes frames.
pub(super) struct Encoder(Compressor);

impl Encoder {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self(Compressor::new()?))
    }

    /// Appends a frame. Data must be shorter than 16 MiB.
    pub(super) fn put(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), Error> {
        let flag = |fin: &bool| if *fin { FIN } else { 0 };
        match frame {
            Frame::SynStream { id, fin, headers } => {
                let block = self.0.block(headers)?;
                control(SYN_STREAM, flag(fin), 10 + block.len(), out);
                out.put_u32(id & ID);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&block);
            }
            Frame::SynReply { id, fin, headers } | Frame::Headers { id, fin, headers } => {
                let kind = if matches!(frame, Frame::Headers { .. }) {
                    HEADERS
                } else {
                    SYN_REPLY
                };
                let block = self.0.block(headers)?;
                control(kind, flag(fin), 4 + block.len(), out);
                out.put_u32(id & ID);
                out.put_slice(&block);
            }
            Frame::Reset { id, status } => pair(RST_STREAM, *id, *status, out),
            Frame::GoAway { last, status } => pair(GOAWAY, *last, *status, out),
            Frame::WindowUpdate { id, delta } => pair(WINDOW_UPDATE, *id, *delta, out),
            Frame::Ping { id } => {
                control(PING, 0, 4, out);
                out.put_u32(*id);
            }
            Frame::Data { id, fin, bytes } => {
                out.put_u32(id & ID);
                out.put_u32((u32::from(flag(fin)) << 24) | (bytes.len() as u32 & 0x00ff_ffff));
                out.put_slice(bytes);
            }
            Frame::Ignored => {}
        }
        Ok(())
    }
}

fn pair(kind: u16, first: u32, second: u32, out: &mut BytesMut) {
    control(kind, 0, 8, out);
    out.put_u32(first & ID);
    out.put_u32(second);
}

fn control(kind: u16, flags: u8, length: usize, out: &mut BytesMut) {
    out.put_u16(0x8003);
    out.put_u16(kind);
    out.put_u32((u32::from(flags) << 24) | (length as u32 & 0x00ff_ffff));
}

/// Reads frames.
pub(super) struct Decoder {
    headers: Decompressor,
    data: Option<Rest>,
}

/// What is still to come of a data frame.
#[derive(Clone, Copy)]
struct Rest {
    id: u32,
    fin: bool,
    left: usize,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            headers: Decompressor::new(),
            data: None,
        }
    }

    /// Takes the next frame, or piece of a data frame, off the buffer; none until more has been read into it.
    pub(super) fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Error> {
        if self.data.is_none() {
            let Some(head) = buffer.first_chunk::<8>() else {
                return Ok(None);
            };
            let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
            let fin = head[4] & FIN != 0;
            if first & !ID != 0 {
                return self.control(first, fin, length, buffer);
            }
            buffer.advance(8);
            self.data = Some(Rest {
                id: first,
                fin,
                left: length,
            });
        }
        let Some(rest) = self.data else { return Ok(None) };
        if buffer.is_empty() && rest.left > 0 {
            return Ok(None);
        }
        let bytes = buffer.split_to(rest.left.min(buffer.len())).freeze();
        let left = rest.left - bytes.len();
        self.data = (left > 0).then_some(Rest { left, ..rest });
        Ok(Some(Frame::Data {
            id: rest.id,
            fin: rest.fin && left == 0,
            bytes,
        }))
    }

    fn control(&mut self, first: u32, fin: bool, length: usize, buffer: &mut BytesMut) -> Result<Option<Frame>, Error> {
        let (version, kind) = ((first >> 16) as u16 & 0x7fff, first as u16);
        if version != 3 {
            return Err(Error::Version(version));
        }
        if length > LONGEST_CONTROL {
            return Err(Error::Length { kind, length });
        }
        if buffer.len() < 8 + length {
            return Ok(None);
        }
        buffer.advance(8);
        let mut body = buffer.split_to(length);
        let least = match kind {
            SYN_STREAM => 10,
            RST_STREAM | GOAWAY | WINDOW_UPDATE => 8,
            SYN_REPLY | HEADERS | PING => 4,
            _ => return Ok(Some(Frame::Ignored)),
        };
        if length < least {
            return Err(Error::Length { kind, length });
        }
        let id = body.get_u32();
        Ok(Some(match kind {
            PING => Frame::Ping { id },
            RST_STREAM => Frame::Reset {
                id: id & ID,
                status: body.get_u32(),
            },
            GOAWAY => Frame::GoAway {
                last: id & ID,
                status: body.get_u32(),
            },
            WINDOW_UPDATE => Frame::WindowUpdate {
                id: id & ID,
                delta: body.get_u32(),
            },
            _ => {
                let id = id & ID;
                if kind == SYN_STREAM {
                    body.advance(6);
                }
                let headers = self.headers.headers(&body)?;
                match kind {
                    SYN_STREAM => Frame::SynStream { id, fin, headers },
                    SYN_REPLY => Frame::SynReply { id, fin, headers },
                    _ => Frame::Headers { id, fin, headers },
                }
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;

    use super::{Decoder, Encoder, Frame};

    fn frame() -> impl Strategy<Value = Frame> {
        let id = || 0u32..0x8000_0000;
        let headers = || prop::collection::vec(("[a-z]{1,12}", "[ -~]{0,40}"), 0..4);
        prop_oneof![
            (id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynStream { id, fin, headers }),
            (id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynReply { id, fin, headers }),
            (id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::Headers { id, fin, headers }),
            (id(), any::<u32>()).prop_map(|(id, status)| Frame::Reset { id, status }),
            any::<u32>().prop_map(|id| Frame::Ping { id }),
            (id(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
            (id(), any::<u32>()).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
            (id(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(id, fin, bytes)| {
                Frame::Data {
                    id,
                    fin,
                    bytes: bytes.into(),
                }
            }),
        ]
    }

    /// Joins the pieces of data frames, so that how the bytes were cut does not matter.
    fn joined(frames: Vec<Frame>) -> Vec<Frame> {
        let mut out: Vec<Frame> = Vec::new();
        for frame in frames {
            if let Frame::Data { id, fin, bytes } = &frame
                && let Some(Frame::Data {
                    id: last,
                    fin: ended,
                    bytes: before,
                }) = out.last_mut()
                && last == id
                && !*ended
            {
                *before = Bytes::from([before.as_ref(), bytes.as_ref()].concat());
                *ended = *fin;
                continue;
            }
            out.push(frame);
        }
        out
    }

    fn decode(bytes: &[u8], step: usize) -> Result<Vec<Frame>, super::Error> {
        let (mut decoder, mut buffer, mut frames) = (Decoder::new(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decoder.take(&mut buffer)? {
                frames.push(frame);
            }
            assert!(buffer.len() <= super::LONGEST_CONTROL + 8 + step, "the decoder hoards");
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn reads_back_what_it_wrote_however_it_is_cut(frames in prop::collection::vec(frame(), 1..12), step in 1usize..300) {
            let (mut encoder, mut out) = (Encoder::new().unwrap(), BytesMut::new());
            for frame in &frames {
                encoder.put(frame, &mut out).unwrap();
            }
            prop_assert_eq!(joined(decode(&out, step).unwrap()), joined(frames));
        }

        #[test]
        fn survives_any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..4000), control: bool, step in 1usize..300) {
            if control && bytes.len() > 4 {
                bytes[..2].copy_from_slice(&[0x80, 0x03]);
                bytes[2] = 0;
                bytes[3] %= 12;
            }
            let _read_or_refused = decode(&bytes, step);
        }
    }
}
