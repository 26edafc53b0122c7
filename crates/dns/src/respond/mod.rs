//! From the bytes of a question to the bytes of an answer, or to the question to put upstream. No sockets.

use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};

use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use rand::seq::SliceRandom;
use weft_model::Change;

use crate::zone::{Lookup, Zone};

/// The largest UDP answer: what fits an Ethernet frame with any header. More goes over TCP.
pub(crate) const UDP_LIMIT: u16 = 1232;

/// What a client without EDNS may be sent over UDP (RFC 1035).
const PLAIN_LIMIT: u16 = 512;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// In a datagram; the answer must fit one.
    Udp,
    /// On a stream.
    Tcp,
}

/// What to do about a question.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Say nothing: these bytes are no question, and answering them could start a quarrel.
    Silence,
    /// Send this, unless it is empty.
    Answer(Vec<u8>),
    /// Ask upstream, and finish with what it says.
    Forward(Box<Pending>),
}

/// The zone behind a lock that is held for one answer or one change.
#[derive(Debug)]
pub(crate) struct Responder {
    zone: RwLock<Zone>,
}

impl Responder {
    pub(crate) fn new(zone: Zone) -> Self {
        Self {
            zone: RwLock::new(zone),
        }
    }

    /// Applies a change to the zone.
    pub(crate) fn apply(&self, change: &Change) {
        self.zone.write().unwrap_or_else(PoisonError::into_inner).apply(change);
    }

    /// Whether the zone is whole.
    pub(crate) fn synced(&self) -> bool {
        self.read(Zone::synced)
    }

    /// Whether clients of the cluster ask this address for names.
    pub(crate) fn is_server(&self, ip: IpAddr) -> bool {
        self.read(|zone| zone.server_addresses().contains(&ip))
    }

    /// Handles the bytes of one message. Any bytes: it never panics.
    pub(crate) fn handle(&self, bytes: &[u8], transport: Transport) -> Outcome {
        let Ok(header) = Header::read(&mut BinDecoder::new(bytes)) else {
            return Outcome::Silence;
        };
        let asked = header.metadata;
        if asked.message_type == MessageType::Response {
            return Outcome::Silence;
        }
        let refuse = |code| {
            let mut reply = Reply::new(asked, None, transport);
            reply.message.metadata.response_code = code;
            Outcome::Answer(reply.finish())
        };
        if asked.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        if header.counts.queries != 1 {
            return refuse(ResponseCode::FormErr);
        }
        match Message::from_vec(bytes) {
            Ok(request) => self.question(request, transport),
            Err(_) => refuse(ResponseCode::FormErr),
        }
    }

    fn question(&self, mut request: Message, transport: Transport) -> Outcome {
        let Some(query) = request.queries.pop() else {
            return Outcome::Silence;
        };
        let edns = request.edns.take();
        let version = edns.as_ref().map_or(0, Edns::version);
        let mut reply = Reply::new(request.metadata, edns, transport);
        reply.message.add_query(query.clone());
        let code = match (version, query.query_class(), query.query_type()) {
            (1.., _, _) => ResponseCode::BADVERS,
            (_, DNSClass::IN, RecordType::AXFR | RecordType::IXFR) => ResponseCode::Refused,
            (_, DNSClass::IN, _) => ResponseCode::NoError,
            _ => ResponseCode::Refused,
        };
        if code != ResponseCode::NoError {
            reply.message.metadata.response_code = code;
            return Outcome::Answer(reply.finish());
        }
        match self.read(|zone| (zone.synced(), zone.lookup(query.name(), query.query_type()))) {
            (_, Lookup::NotOurs) => Outcome::Forward(Box::new(Pending { reply, query })),
            (synced, Lookup::Ours(mut answer)) => {
                // What is known before the first sync may be half of the truth, and what is missing proves nothing.
                if !synced {
                    reply.message.metadata.response_code = ResponseCode::ServFail;
                    return Outcome::Answer(reply.finish());
                }
                reply.message.metadata.authoritative = true;
                reply.message.metadata.response_code = answer.code;
                spread(&mut answer.answers);
                reply.message.answers = answer.answers;
                reply.message.authorities = answer.authorities;
                reply.message.additionals = answer.additionals;
                match answer.outside {
                    None => Outcome::Answer(reply.finish()),
                    Some(target) => {
                        let query = Query::query(target, query.query_type());
                        Outcome::Forward(Box::new(Pending { reply, query }))
                    }
                }
            }
        }
    }

    fn read<T>(&self, look: impl FnOnce(&Zone) -> T) -> T {
        look(&self.zone.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Changes the order of the addresses, which many clients take for an order of preference.
fn spread(answers: &mut [Record]) {
    let start = answers
        .iter()
        .position(|r| r.record_type() != RecordType::CNAME)
        .unwrap_or(answers.len());
    answers[start..].shuffle(&mut rand::rng());
}

/// A question that waits for an upstream resolver.
#[derive(Debug)]
pub(crate) struct Pending {
    /// The answer so far: the CNAMEs that led out of the cluster.
    reply: Reply,
    /// What to ask.
    query: Query,
}

impl Pending {
    /// The question for upstream, under a number that cannot be guessed.
    pub(crate) fn request(&self) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = self.reply.message.metadata.recursion_desired;
        message.metadata.checking_disabled = self.reply.message.metadata.checking_disabled;
        message.add_query(self.query.clone());
        if let Some(asked) = &self.reply.message.edns {
            message.edns = Some(own_edns(asked.flags().dnssec_ok));
        }
        message
    }

    /// The answer for the client. `None` if no upstream could be had.
    pub(crate) fn finish(self, upstream: Option<Message>) -> Vec<u8> {
        let Self { mut reply, .. } = self;
        let message = &mut reply.message;
        match upstream {
            Some(said) => {
                message.metadata.response_code = said.metadata.response_code;
                message.metadata.recursion_available = said.metadata.recursion_available;
                message.metadata.authentic_data = said.metadata.authentic_data && message.answers.is_empty();
                message.metadata.truncation = said.metadata.truncation;
                message.answers.extend(said.answers);
                message.authorities = said.authorities;
                message.additionals = said.additionals;
            }
            None => {
                message.answers.clear();
                message.metadata.authoritative = false;
                message.metadata.response_code = ResponseCode::ServFail;
            }
        }
        reply.finish()
    }
}

/// A response being written, with the size it may have.
#[derive(Debug)]
struct Reply {
    message: Message,
    limit: usize,
}

impl Reply {
    fn new(asked: Metadata, edns: Option<Edns>, transport: Transport) -> Self {
        let mut message = Message::response(asked.id, asked.op_code);
        message.metadata.recursion_desired = asked.recursion_desired;
        message.metadata.checking_disabled = asked.checking_disabled;
        message.metadata.recursion_available = true;
        let limit = match (&edns, transport) {
            (_, Transport::Tcp) => u16::MAX,
            (None, Transport::Udp) => PLAIN_LIMIT,
            (Some(edns), Transport::Udp) => edns.max_payload().clamp(PLAIN_LIMIT, UDP_LIMIT),
        };
        message.edns = edns.map(|e| own_edns(e.flags().dnssec_ok));
        Self {
            message,
            limit: usize::from(limit),
        }
    }

    /// The bytes. What does not fit is left out: the additional section silently (RFC 2181, 9), answers with
    /// the TC bit, which sends the client to TCP.
    fn finish(mut self) -> Vec<u8> {
        let message = &mut self.message;
        loop {
            match message.to_vec() {
                Ok(bytes) if bytes.len() <= self.limit => return bytes,
                _ if !message.additionals.is_empty() => message.additionals.clear(),
                _ if !message.answers.is_empty() || !message.authorities.is_empty() => {
                    message.metadata.truncation = true;
                    message.authorities.clear();
                    message.answers.truncate(message.answers.len() / 2);
                }
                // A header, a question and an OPT record: always under 512 octets.
                Ok(bytes) => return bytes,
                Err(error) => {
                    tracing::warn!(%error, "a DNS answer could not be written; the client will ask again");
                    return Vec::new();
                }
            }
        }
    }
}

fn own_edns(dnssec_ok: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_LIMIT).set_version(0).set_dnssec_ok(dnssec_ok);
    edns
}

#[cfg(test)]
mod tests;
