//! What the zone says to a question, before it becomes a message.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::TTL;

/// The zone's word on a question.
#[derive(Debug)]
pub enum Lookup {
    /// Not a name of the cluster: ask upstream.
    NotOurs,
    /// The cluster's answer.
    Ours(Answer),
}

/// An answer of the cluster's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// NXDOMAIN where the name does not exist, NOERROR where it does (though perhaps not with this type).
    pub code: ResponseCode,
    /// The records asked for; a CNAME before what it leads to.
    pub answers: Vec<Record>,
    /// The SOA of the zone, where there is nothing to answer with.
    pub authorities: Vec<Record>,
    /// Addresses of the hosts that SRV records name.
    pub additionals: Vec<Record>,
    /// The CNAME leads out of the cluster, to this name.
    pub outside: Option<Name>,
}

impl Answer {
    /// Adds one record for `owner`.
    pub(super) fn push(&mut self, owner: &Name, data: RData) {
        self.answers.push(Record::from_rdata(owner.clone(), TTL, data));
    }

    /// Adds the addresses that have the type asked for, each once.
    pub(super) fn push_addresses(&mut self, owner: &Name, kind: RecordType, mut ips: Vec<IpAddr>) {
        ips.sort_unstable();
        ips.dedup();
        ips.into_iter()
            .filter(|ip| record_type(ip) == kind)
            .for_each(|ip| self.push(owner, address(ip)));
    }
}

/// The data of an address record.
pub(super) fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

fn record_type(ip: &IpAddr) -> RecordType {
    match ip {
        IpAddr::V4(_) => RecordType::A,
        IpAddr::V6(_) => RecordType::AAAA,
    }
}
