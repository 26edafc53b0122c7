//! Limits of what a pod receives and sends: a token bucket (TBF, tc-tbf(8)) where the packets enter the pod's link.
//!
//! ```text
//! what the pod sends:    its own side's queue
//! what the pod receives: the host side's queue. The datapath leaves packets of other pods of this node to the stack,
//!                        because what is delivered directly goes past every queue
//! ```
//!
//! The kernel counts whole frames; users compare a rate with what their programs get through. A rate is therefore
//! raised by what the headers of a full packet take, so that by either count, and in both families, it is met within 5 %.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use weft_model::cni::Bandwidth;

use super::batch::Request;

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
/// Or as many whole packets, at least.
const PACKETS: u64 = 10;
/// linux/pkt_sched.h: TCA_TBF_*.
const PARAMETERS: u16 = 1;
const RATE64: u16 = 4;
const BURST_BYTES: u16 = 6;
/// linux/pkt_sched.h: TC_LINKLAYER_ETHERNET.
const LINK_LAYER: u8 = 1;

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

    /// The request that puts it on a link.
    pub(super) fn request(&self, index: u32) -> Request {
        let narrow_rate = u32::try_from(self.rate).unwrap_or(u32::MAX);
        // struct tc_tbf_qopt: rate, peak rate, limit, and what the attribute after it says better.
        let mut parameters = vec![0, LINK_LAYER, 0, 0, 0, 0, 0, 0];
        parameters.extend(narrow_rate.to_ne_bytes());
        parameters.extend([0; 12]);
        parameters.extend(self.limit.to_ne_bytes());
        parameters.extend([0; 8]);
        let option = |kind, bytes: Vec<u8>| TcOption::Other(DefaultNla::new(kind, bytes));
        let options = vec![
            option(PARAMETERS, parameters),
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
