//! Limits of what a pod receives and sends: a token bucket (TBF, tc-tbf(8)) where the packets enter the pod's link.
//!
//! ```text
//! what the pod sends:    its own side's queue, whose waiting its sockets feel; and behind it, on the host side and out of
//!                        reach of whoever is root in the pod, the hook that drops what is more (weft_packet::limit)
//! what the pod receives: the host side's queue. The datapath leaves packets of other pods of this node to the stack,
//!                        because what is delivered directly goes past every queue
//! ```
//!
//! The kernel counts whole frames; users compare a rate with what their programs get through. A rate is therefore
//! raised by what the headers of a full packet take, so that by either count, and in both families, it is met within 5 %.

use std::ops::Range;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_ECHO, NLM_F_REPLACE, Nla, NlasIterator};
use weft_model::cni::Bandwidth;

use super::PodLink;
use super::batch::Request;
use crate::bpf::Rate;

/// linux/if_ether.h: ETH_HLEN.
const ETHERNET: u64 = 14;
/// Headers of a packet: TCP's 20 bytes and IPv4's 20. IPv6 and options take more; that is part of the 5 %.
const HEADERS: u64 = 40;
/// Least MTU that a limit reckons with (RFC 791: what every host takes).
const LEAST_MTU: u32 = 576;
/// Longest wait in the queue, in milliseconds; what would wait longer is dropped.
const LATENCY: u64 = 50;
/// A burst that nobody chose lasts so long, in milliseconds: some ticks of the slowest clock (100 Hz).
const BURST: u64 = 20;
const NANOSECONDS: u64 = 1_000_000_000;
/// Or as many whole packets, at least.
const PACKETS: u64 = 10;
/// linux/pkt_sched.h: TCA_TBF_*.
const PARAMETERS: u16 = 1;
const RATE64: u16 = 4;
const BURST_BYTES: u16 = 6;
/// Where in the parameters the rate is, and the limit.
const RATE: Range<usize> = 8..12;
const LIMIT: Range<usize> = 24..28;
/// linux/pkt_sched.h: TC_LINKLAYER_ETHERNET.
const LINK_LAYER: u8 = 1;

/// What a pod may send, whatever it does to its own side's queue, which keeps to a little less: that one makes packets
/// wait, and this one drops them, so that of a pod that leaves its queue alone none is. `None` without a limit.
pub fn of_sender(pod: &PodLink) -> Option<Rate> {
    let Limit { rate, burst, limit } = Limit::out_of_pod(&pod.limits, pod.mtu)?;
    let bytes = rate.saturating_add(rate / 100);
    // What the queue lets through at once, and what packets that were kept from the hook for a while add up to.
    let room = u128::from(burst) + u128::from(limit);
    let room = room * u128::from(NANOSECONDS) / u128::from(bytes);
    Some(Rate {
        bytes,
        room: u64::try_from(room).unwrap_or(u64::MAX),
    })
}

/// A limit as the kernel is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// Bytes per second.
    rate: u64,
    /// Bytes that may be sent at once.
    burst: u32,
    /// Bytes that may wait, and be sent at once.
    limit: u32,
}

impl Limit {
    /// Of what goes into the pod.
    pub(super) fn into_pod(bandwidth: &Bandwidth, mtu: u32) -> Option<Self> {
        Self::new(bandwidth.ingress_rate, bandwidth.ingress_burst, mtu)
    }

    /// Of what comes out of the pod.
    pub(super) fn out_of_pod(bandwidth: &Bandwidth, mtu: u32) -> Option<Self> {
        Self::new(bandwidth.egress_rate, bandwidth.egress_burst, mtu)
    }

    /// From bits per second and bits; `None` without a rate.
    fn new(rate: u64, burst: u64, mtu: u32) -> Option<Self> {
        if rate == 0 {
            return None;
        }
        let mtu = u64::from(mtu.max(LEAST_MTU));
        let framed = u128::from(rate) * u128::from(mtu + ETHERNET) / u128::from(8 * (mtu - HEADERS));
        let rate = u64::try_from(framed).unwrap_or(u64::MAX).max(1);
        let in_time = |milliseconds: u64| rate.saturating_mul(milliseconds) / 1000;
        // Runtimes pass the largest number of 32 bits, or none, where the pod's owner has given a rate alone.
        let burst = match burst {
            0 => in_time(BURST),
            burst if burst >= u64::from(u32::MAX) => in_time(BURST),
            burst => burst / 8,
        };
        let burst = burst.max(PACKETS * (mtu + ETHERNET));
        let narrow = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        Some(Self {
            rate,
            burst: narrow(burst),
            limit: narrow(burst.saturating_add(in_time(LATENCY))),
        })
    }

    /// Asks for the queue that a link has.
    pub(super) fn look_up(index: u32) -> Request {
        let mut message = TcMessage::with_index(index as i32);
        message.header.parent = TcHandle::ROOT;
        Request {
            what: format!("look up the queue of link {index}"),
            message: RouteNetlinkMessage::GetQueueDiscipline(message),
            // Without this only others are told.
            flags: NLM_F_ECHO,
        }
    }

    /// Whether this queue is it.
    pub(super) fn is(&self, queue: &TcMessage) -> bool {
        // The library takes the options of this kind for one, the first of which are the parameters.
        let options = queue.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Options(options) => options.first(),
            _ => None,
        });
        let Some(TcOption::Other(options)) = options else {
            return false;
        };
        let mut bytes = vec![0; options.value_len()];
        options.emit_value(&mut bytes);
        let mut parts = NlasIterator::new(&bytes).flatten();
        let found = parts.find(|part| part.kind() == PARAMETERS);
        let Some(found) = found.as_ref().map(|part| part.value()) else {
            return false;
        };
        let kind = TcAttribute::Kind("tbf".to_owned());
        let wanted = self.parameters();
        // What the kernel reckons in its own ticks comes back otherwise.
        let same = |field: Range<usize>| found.get(field.clone()) == wanted.get(field);
        queue.attributes.contains(&kind) && same(RATE) && same(LIMIT)
    }

    /// `struct tc_tbf_qopt`: rate, peak rate, limit, and what attributes say better.
    fn parameters(&self) -> Vec<u8> {
        let narrow_rate = u32::try_from(self.rate).unwrap_or(u32::MAX);
        let mut parameters = vec![0, LINK_LAYER, 0, 0, 0, 0, 0, 0];
        parameters.extend(narrow_rate.to_ne_bytes());
        parameters.extend([0; 12]);
        parameters.extend(self.limit.to_ne_bytes());
        parameters.extend([0; 8]);
        parameters
    }

    /// The request that puts it on a link.
    pub(super) fn request(&self, index: u32) -> Request {
        let option = |kind, bytes: Vec<u8>| TcOption::Other(DefaultNla::new(kind, bytes));
        let options = vec![
            option(PARAMETERS, self.parameters()),
            option(RATE64, self.rate.to_ne_bytes().to_vec()),
            option(BURST_BYTES, self.burst.to_ne_bytes().to_vec()),
        ];
        let mut message = TcMessage::with_index(index as i32);
        message.header.parent = TcHandle::ROOT;
        message.header.handle = TcHandle { major: 1, minor: 0 };
        message.attributes = vec![TcAttribute::Kind("tbf".to_owned()), TcAttribute::Options(options)];
        Request {
            what: format!("limit link {index} to {} bytes per second", self.rate),
            message: RouteNetlinkMessage::NewQueueDiscipline(message),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_counts_what_packets_carry() {
        let limit = Limit::new(8_000_000, 800_000, 1500).unwrap();
        assert_eq!((limit.rate, limit.burst), (1_036_986, 100_000));
        assert_eq!(limit.limit, 100_000 + 51_849);
        assert_eq!(Limit::new(0, 1, 1500), None);
    }

    #[test]
    fn without_a_burst_it_is_short_but_some_packets_fit() {
        for none in [0, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(Limit::new(1_000_000_000, none, 1500).unwrap().burst, 2_592_465);
            assert_eq!(Limit::new(1, none, 1500).unwrap().burst, 15_140);
        }
        assert_eq!(Limit::new(u64::MAX, u64::MAX, 0).unwrap().burst, u32::MAX);
    }
}
