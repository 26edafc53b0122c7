//! One Service in the words of those who know kube-proxy: what each of its modes would install on a node for what
//! [`crate::compile`] decided there, and why each endpoint is in a set or out of it. Text to learn from: nothing of it
//! is ever installed.
//!
//! The three modes differ in how they choose, not in what: one in turn with a rising probability for each endpoint
//! (iptables), a scheduler of the kernel (ipvs), a random number into a map (nftables).

mod endpoints;
mod iptables;
mod ipvs;
mod name;
mod nftables;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::compile::{Backend, Choice, Forwarding, Frontend, FrontendKind, Rule, SetKey, Target};
use crate::{Protocol, Service, ServicePort};

pub use endpoints::{Verdict, verdicts};
pub use iptables::iptables;
pub use ipvs::ipvs;
pub use nftables::nftables;

/// What kube-proxy would know of its node.
#[derive(Clone, Debug, Default)]
pub struct Here {
    /// The addresses at which the node has its node ports.
    pub addresses: Vec<IpAddr>,
    /// Whose packets are those of the node's own pods (KEP-2450); without, nobody's are.
    pub pods: Vec<IpNet>,
}

impl Here {
    fn pods(&self, ipv6: bool) -> Option<&IpNet> {
        self.pods.iter().find(|range| range.addr().is_ipv6() == ipv6)
    }
}

/// One port of a Service in one family.
struct Port<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    /// Endpoints under traffic policy Cluster; `None` where nothing leads to them.
    cluster: Option<&'a [Backend]>,
    /// The same under policy Local.
    local: Option<&'a [Backend]>,
    frontends: Vec<(&'a Frontend, &'a Rule)>,
}

/// The ports that have an address in this family.
fn ports<'a>(service: &'a Service, forwarding: &'a Forwarding, ipv6: bool) -> Vec<Port<'a>> {
    let of_port = |port: &'a ServicePort| {
        let ours = |set: &SetKey| set.port == port.port && set.protocol == port.protocol && set.ipv6 == ipv6;
        let backends = |choice: Choice| {
            let mut sets = forwarding.sets.iter();
            let found = sets.find(|(set, _)| ours(set) && set.choice == choice);
            found.map(|(_, backends)| backends.as_slice())
        };
        let frontends: Vec<_> = forwarding
            .frontends
            .iter()
            .filter(|(_, rule)| ours(&rule.inside.set))
            .collect();
        Port {
            service,
            port,
            cluster: backends(Choice::Cluster),
            local: backends(Choice::Local),
            frontends,
        }
    };
    let all = service.ports.iter().map(of_port);
    all.filter(|port| !port.frontends.is_empty()).collect()
}

impl<'a> Port<'a> {
    /// `namespace/name:port`, as kube-proxy calls it.
    fn name(&self) -> String {
        match self.port.name.is_empty() {
            true => self.service.key.to_string(),
            false => format!("{}:{}", self.service.key, self.port.name),
        }
    }

    fn protocol(&self) -> &'static str {
        match self.port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    fn backends(&self, target: &Target) -> &'a [Backend] {
        let found = match target.set.choice {
            Choice::Cluster => self.cluster,
            Choice::Local => self.local,
        };
        found.unwrap_or_default()
    }

    /// Addresses that are reached from outside the cluster, all with the external traffic policy.
    fn external(&self) -> impl Iterator<Item = (&'a Frontend, &'a Rule)> {
        let all = self.frontends.iter().copied();
        all.filter(|(_, rule)| rule.kind != FrontendKind::ClusterIp)
    }

    /// Every endpoint that something leads to, once.
    fn endpoints(&self) -> Vec<Backend> {
        let both = [self.cluster, self.local].into_iter().flatten().flatten();
        let mut all: Vec<Backend> = both.copied().collect();
        all.sort();
        all.dedup();
        all
    }
}

/// `address:port`, with brackets where there are colons in it.
fn socket(backend: &Backend) -> String {
    std::net::SocketAddr::new(backend.ip, backend.port).to_string()
}

#[cfg(test)]
mod tests;
