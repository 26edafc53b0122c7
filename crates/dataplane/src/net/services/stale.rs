//! Flows of UDP that lead to backends that have gone: the kernel would go on leading a client there that keeps its
//! port, for as long as it sends. Connections of TCP and SCTP end by themselves, and are never touched; nor is what
//! goes to an address that is no Service's.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use tracing::warn;
use weft_model::Protocol;
use weft_model::compile::{Backend, Frontend};

use super::{Before, Services};
use crate::net::conntrack::{self, Flow};

impl Services {
    /// After a change: forgets flows to what has lost a backend, has come or has gone.
    pub(super) fn forget_flows_since(&self, before: &Before) {
        let lost = before.sets.iter().any(|(key, old)| {
            let new = self.sets.get(key).map_or(&[][..], |slots| &slots.backends);
            let old = old.iter().flat_map(|slots| &slots.backends);
            key.protocol == Protocol::Udp && old.into_iter().any(|backend| !new.contains(backend))
        });
        let udp = |frontend: &&Frontend| frontend.protocol == Protocol::Udp;
        let changed = before.frontends.keys().filter(udp);
        let changed: Vec<&Frontend> = changed
            .filter(|frontend| self.frontends.contains_key(frontend) != before.had(frontend))
            .collect();
        let gone = changed.iter().filter(|frontend| !self.frontends.contains_key(frontend));
        if lost || !changed.is_empty() {
            self.forget_stale(&gone.map(|frontend| **frontend).collect());
        }
    }

    /// After everything has been written: forgets flows to what has gone while nobody looked.
    pub(super) fn forget_all_stale_flows(&self) {
        if self.frontends.keys().any(|frontend| frontend.protocol == Protocol::Udp) {
            self.forget_stale(&BTreeSet::new());
        }
    }

    fn forget_stale(&self, gone: &BTreeSet<Frontend>) {
        let own: BTreeSet<IpAddr> = match getifaddrs() {
            Ok(links) => links.filter_map(|link| ip(link.address?)).collect(),
            Err(_) => BTreeSet::new(),
        };
        let is_stale = |flow: &Flow| self.is_stale(flow, gone, &own);
        if let Err(error) = conntrack::forget_flows([true, false], is_stale) {
            warn!("{error}; clients that keep their port may go on sending to endpoints that have gone");
        }
    }

    fn is_stale(&self, flow: &Flow, gone: &BTreeSet<Frontend>, own: &BTreeSet<IpAddr>) -> bool {
        let at = |ip: IpAddr| Frontend {
            ip,
            port: flow.to.port(),
            protocol: Protocol::Udp,
        };
        let any = match flow.to.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let node_port = own.contains(&flow.to.ip()).then(|| at(any));
        let frontends = [Some(at(flow.to.ip())), node_port];
        let answers = Backend {
            ip: flow.answer_from.ip(),
            port: flow.answer_from.port(),
        };
        match frontends.iter().flatten().find_map(|frontend| self.backends(frontend)) {
            Some(mut backends) => !backends.any(|backend| *backend == answers),
            // Its Service has gone; what was never translated is somebody else's.
            None => flow.answer_from != flow.to && frontends.iter().flatten().any(|frontend| gone.contains(frontend)),
        }
    }
}

fn ip(address: nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}
