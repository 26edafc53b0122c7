//! Requests to rtnetlink that go to the kernel together, from the calling thread: one system call for all of them.
//!
//! The kernel serves them in order, inside the call. What an ADD needs is a handful of such calls instead of thirty
//! requests that each wake two threads.

use std::io;
use std::sync::Arc;

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::{Socket, protocols::NETLINK_ROUTE};

use super::NetError;

/// Room for one datagram of answers: the kernel sends no larger one.
const LONGEST: usize = 32 * 1024;

/// One request, and what it is for.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// As in "cannot ...".
    pub(super) what: String,
    pub(super) message: RouteNetlinkMessage,
    /// `NLM_F_*`, besides those that every request has.
    pub(super) flags: u16,
}

/// A blocking connection to the rtnetlink of the namespace that the calling thread is in when it is made.
#[derive(Clone)]
pub(super) struct Connection {
    socket: Arc<Socket>,
    sequence: u32,
}

/// What came back for a request: of the kernel's messages one, or that it is done with it.
pub(super) enum Answer {
    Message(RouteNetlinkMessage),
    Done(io::Result<()>),
}

impl Connection {
    pub(super) fn open() -> Result<Self, NetError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            // An error need not repeat the request.
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|error| NetError::Netlink(error.to_string()))?;
        Ok(Self {
            socket: Arc::new(socket),
            sequence: 0,
        })
    }

    /// Has the kernel serve all of these, and gives what it answered. All are served, also behind one that fails; the
    /// first failure is the one that is told.
    pub(super) fn serve(&mut self, requests: Vec<Request>) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        let (bytes, first) = self.encode(&requests);
        self.send(&bytes)?;
        let (mut messages, mut failure, mut open) = (vec![], None, requests.len());
        while open > 0 {
            for (sequence, answer) in self.receive()? {
                match answer {
                    Answer::Message(message) => messages.push(message),
                    Answer::Done(result) => {
                        open = open.saturating_sub(1);
                        if let (Err(source), None) = (result, &failure) {
                            let request = requests.get(sequence.wrapping_sub(first) as usize);
                            let what = request.map_or_else(String::new, |request| request.what.clone());
                            failure = Some(NetError::Kernel { what, source });
                        }
                    }
                }
            }
        }
        failure.map_or(Ok(messages), Err)
    }

    /// The requests as the kernel reads them, and the number of the first.
    pub(super) fn encode(&mut self, requests: &[Request]) -> (Vec<u8>, u32) {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = vec![];
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            let mut message = NetlinkMessage::from(request.message.clone());
            message.header.flags = NLM_F_REQUEST | NLM_F_ACK | request.flags;
            message.header.sequence_number = self.sequence;
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..start + message.buffer_len()]);
        }
        (bytes, first)
    }

    /// Blocks until the kernel has served everything; its answers wait to be received.
    pub(super) fn send(&self, bytes: &[u8]) -> Result<(), NetError> {
        self.socket.send(bytes, 0).map(drop).map_err(broken)
    }

    /// The next answers, each with the number of its request.
    pub(super) fn receive(&self) -> Result<Vec<(u32, Answer)>, NetError> {
        let mut buffer = Vec::with_capacity(LONGEST);
        self.socket.recv(&mut buffer, 0).map_err(broken)?;
        let mut answers = vec![];
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let malformed = |error: String| NetError::Netlink(format!("the kernel's answer makes no sense: {error}"));
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(|e| malformed(e.to_string()))?;
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length.max(4)..).unwrap_or_default();
            let answer = match message.payload {
                NetlinkPayload::InnerMessage(inner) => Answer::Message(inner),
                NetlinkPayload::Error(error) if error.code.is_some() => Answer::Done(Err(error.to_io())),
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => Answer::Done(Ok(())),
                _ => continue,
            };
            answers.push((message.header.sequence_number, answer));
        }
        Ok(answers)
    }
}

fn broken(error: io::Error) -> NetError {
    NetError::Netlink(error.to_string())
}
