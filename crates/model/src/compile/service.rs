//! What this node does for one Service: its addresses, and which endpoints each leads to from which side.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::endpoints::Candidates;
use super::{Choice, Forwarding, Frontend, FrontendKind, Rule, SetKey, Source, Target, WhenEmpty};
use crate::state::State;
use crate::{ObjectKey, Service, ServicePort, ServiceType, SessionAffinity, TrafficPolicy};

/// What this node must do for the Service of this key. Empty where it has gone, is headless, is only a name, or
/// belongs to another proxy (KEP-2447).
pub fn service(state: &State, key: &ObjectKey) -> Forwarding {
    let mut forwarding = Forwarding::default();
    let Some(service) = state.service(key) else {
        return forwarding;
    };
    if service.headless || service.foreign || service.type_ == ServiceType::ExternalName {
        return forwarding;
    }
    let name = Arc::new(key.clone());
    for port in &service.ports {
        for ipv6 in [false, true] {
            let addresses = addresses(service, port, ipv6);
            if !addresses.is_empty() {
                Compiler::new(state, service, port, ipv6, name.clone()).put(addresses, &mut forwarding);
            }
        }
    }
    forwarding
}

/// The addresses of one port in one family. A Service has none in a family in which it has no cluster address
/// (KEP-563).
fn addresses(service: &Service, port: &ServicePort, ipv6: bool) -> Vec<(Frontend, FrontendKind)> {
    let of_family = |ips: &[IpAddr]| {
        ips.iter()
            .copied()
            .filter(|ip| ip.is_ipv6() == ipv6)
            .collect::<Vec<_>>()
    };
    let cluster_ips = of_family(&service.cluster_ips);
    if cluster_ips.is_empty() {
        return vec![];
    }
    let any = match ipv6 {
        true => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        false => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let on_nodes = matches!(service.type_, ServiceType::NodePort | ServiceType::LoadBalancer);
    let node_port = port.node_port.filter(|_| on_nodes).map(|port| (any, port));
    let load_balancers = match service.type_ {
        ServiceType::LoadBalancer => of_family(&service.load_balancer_ips),
        _ => vec![],
    };
    let at = |ips: Vec<IpAddr>, kind| ips.into_iter().map(move |ip| (ip, port.port, kind));
    at(cluster_ips, FrontendKind::ClusterIp)
        .chain(at(of_family(&service.external_ips), FrontendKind::ExternalIp))
        .chain(at(load_balancers, FrontendKind::LoadBalancer))
        .chain(node_port.map(|(ip, port)| (ip, port, FrontendKind::NodePort)))
        .map(|(ip, number, kind)| {
            let frontend = Frontend {
                ip,
                port: number,
                protocol: port.protocol,
            };
            (frontend, kind)
        })
        .collect()
}

/// One port of a Service in one family.
struct Compiler<'a> {
    state: &'a State,
    service: &'a Service,
    candidates: Candidates<'a>,
    /// The port's set of either choice.
    cluster: SetKey,
    local: SetKey,
}

impl<'a> Compiler<'a> {
    fn new(state: &'a State, service: &'a Service, port: &ServicePort, ipv6: bool, name: Arc<ObjectKey>) -> Self {
        let cluster = SetKey {
            service: name,
            port: port.port,
            protocol: port.protocol,
            ipv6,
            choice: Choice::Cluster,
        };
        let local = SetKey {
            choice: Choice::Local,
            ..cluster.clone()
        };
        Self {
            state,
            service,
            candidates: Candidates::of(state, service, port, ipv6),
            cluster,
            local,
        }
    }

    fn put(&self, addresses: Vec<(Frontend, FrontendKind)>, forwarding: &mut Forwarding) {
        for (frontend, kind) in addresses {
            if forwarding.frontends.contains_key(&frontend) {
                continue;
            }
            let rule = self.rule(kind);
            for target in [&rule.inside, &rule.outside] {
                if !forwarding.sets.contains_key(&target.set) {
                    let backends = self.candidates.choose(self.state, target.set.choice);
                    forwarding.sets.insert(target.set.clone(), backends);
                }
            }
            forwarding.frontends.insert(frontend, rule);
        }
    }

    fn rule(&self, kind: FrontendKind) -> Rule {
        let (inside, outside) = match kind {
            // The internal policy decides, wherever the packet comes from. One from outside the cluster has to come
            // back through here.
            FrontendKind::ClusterIp => {
                let policy = self.service.internal_traffic_policy;
                (
                    self.target(policy, Source::Keep),
                    self.target(policy, Source::Masquerade),
                )
            }
            // Who is inside goes to any endpoint, as if it had gone out to the load balancer and come back (KEP-1860).
            FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {
                let policy = self.service.external_traffic_policy;
                let source = match policy {
                    TrafficPolicy::Cluster => Source::Masquerade,
                    TrafficPolicy::Local => Source::Keep,
                };
                (
                    self.target(TrafficPolicy::Cluster, Source::Keep),
                    self.target(policy, source),
                )
            }
        };
        Rule {
            inside,
            outside,
            affinity: match self.service.session_affinity {
                SessionAffinity::None => None,
                SessionAffinity::ClientIp(timeout) => Some(timeout),
            },
            source_ranges: None,
            kind,
        }
    }

    fn target(&self, policy: TrafficPolicy, source: Source) -> Target {
        let (set, when_empty) = match policy {
            TrafficPolicy::Local if !self.candidates.is_empty() => (&self.local, WhenEmpty::Drop),
            TrafficPolicy::Local => (&self.local, WhenEmpty::Refuse),
            TrafficPolicy::Cluster => (&self.cluster, WhenEmpty::Refuse),
        };
        Target {
            set: set.clone(),
            when_empty,
            source,
        }
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
