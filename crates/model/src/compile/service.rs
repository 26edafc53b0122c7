//! What this node does for one Service: its addresses, and which endpoints each leads to from which side.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::endpoints::{Candidates, Endpoints};
use super::{AddressField, Choice, Forwarding, Frontend, FrontendKind, Problem, Rule, SetKey, Source, Target};
use super::{WhenEmpty, trust};
use crate::{IpMode, ObjectKey, Service, ServicePort, ServiceType, SessionAffinity, State, TrafficPolicy};

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
    let addresses = addresses(state, service, &mut forwarding.problems);
    let endpoints = Endpoints::of(state, key);
    forwarding.problems.extend(endpoints.problems(key));
    let mut seen = HashSet::new();
    for port in &service.ports {
        if !seen.insert((port.port, port.protocol)) {
            forwarding.problems.push(Problem::SamePort {
                number: port.port,
                protocol: port.protocol,
                on_nodes: false,
            });
            continue;
        }
        for ipv6 in [false, true] {
            let of_family: Vec<&Address> = addresses.iter().filter(|a| a.ip.is_ipv6() == ipv6).collect();
            if !of_family.is_empty() {
                let set = SetKey {
                    service: name.clone(),
                    port: port.port,
                    protocol: port.protocol,
                    ipv6,
                    choice: Choice::Cluster,
                };
                let candidates = endpoints.candidates(port, ipv6);
                let port = Port {
                    state,
                    service,
                    port,
                    candidates,
                    set,
                };
                port.put(&of_family, &mut forwarding);
            }
        }
    }
    forwarding
}

/// An address at which every port of a Service is served.
struct Address {
    ip: IpAddr,
    kind: FrontendKind,
    source_ranges: Option<Vec<IpNet>>,
}

/// The addresses of a Service. It has none in a family in which it has no cluster address (KEP-563). One that is
/// there twice is a load balancer's rather than an external one, so that its source ranges hold.
fn addresses(state: &State, service: &Service, problems: &mut Vec<Problem>) -> Vec<Address> {
    let of_cluster = service.cluster_ips.iter().map(|ip| (*ip, AddressField::ClusterIps));
    let balanced = service
        .load_balancer_ips
        .iter()
        .filter(|entry| entry.mode == IpMode::Vip);
    let balanced = balanced.filter(|_| service.type_ == ServiceType::LoadBalancer);
    let balanced = balanced.map(|entry| (entry.ip, AddressField::Ingress));
    let external = service.external_ips.iter().map(|ip| (*ip, AddressField::ExternalIps));
    let in_family = |ip: &IpAddr| service.cluster_ips.iter().any(|other| other.is_ipv6() == ip.is_ipv6());

    let mut found: Vec<Address> = vec![];
    for (ip, field) in of_cluster.chain(balanced).chain(external) {
        let (kind, why) = match field {
            AddressField::ClusterIps => (FrontendKind::ClusterIp, trust::never(ip)),
            AddressField::Ingress => (FrontendKind::LoadBalancer, trust::outside(state, ip)),
            AddressField::ExternalIps => (FrontendKind::ExternalIp, trust::outside(state, ip)),
        };
        if let Some(why) = why {
            problems.push(Problem::Address { field, ip, why });
        } else if in_family(&ip) && found.iter().all(|known| known.ip != ip) {
            let source_ranges = match kind {
                FrontendKind::LoadBalancer => source_ranges(state, service, ip, problems),
                _ => None,
            };
            found.push(Address {
                ip,
                kind,
                source_ranges,
            });
        }
    }
    if matches!(service.type_, ServiceType::NodePort | ServiceType::LoadBalancer) {
        let any = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
        found.extend(any.into_iter().filter(in_family).map(|ip| Address {
            ip,
            kind: FrontendKind::NodePort,
            source_ranges: None,
        }));
    }
    found
}

/// Who may connect to a load balancer's address. Where this node may, it may also by the name of that address: some
/// load balancers give it to the nodes, and a node that connects to its own address has it as source.
fn source_ranges(state: &State, service: &Service, ip: IpAddr, problems: &mut Vec<Problem>) -> Option<Vec<IpNet>> {
    let all = &service.load_balancer_source_ranges;
    if all.is_empty() {
        return None;
    }
    let is_ipv6 = |range: &IpNet| matches!(range, IpNet::V6(_));
    let mut ranges: Vec<IpNet> = all
        .iter()
        .copied()
        .filter(|range| is_ipv6(range) == ip.is_ipv6())
        .collect();
    if ranges.is_empty() {
        problems.push(Problem::Unrestricted(ip));
        return None;
    }
    let own = state.local().map_or(&[][..], |node| &node.internal_ips);
    if own.iter().any(|own| ranges.iter().any(|range| range.contains(own))) {
        ranges.push(IpNet::from(ip));
    }
    ranges.sort();
    ranges.dedup();
    Some(ranges)
}

/// One port of a Service in one family.
struct Port<'a> {
    state: &'a State,
    service: &'a Service,
    port: &'a ServicePort,
    candidates: Candidates<'a>,
    /// The port's set, of whichever choice.
    set: SetKey,
}

impl Port<'_> {
    fn put(&self, addresses: &[&Address], forwarding: &mut Forwarding) {
        for address in addresses {
            let number = match address.kind {
                FrontendKind::NodePort => self.port.node_port,
                _ => Some(self.port.port),
            };
            let Some(number) = number else { continue };
            let frontend = Frontend {
                ip: address.ip,
                port: number,
                protocol: self.port.protocol,
            };
            if forwarding.frontends.contains_key(&frontend) {
                let same = Problem::SamePort {
                    number,
                    protocol: frontend.protocol,
                    on_nodes: true,
                };
                // Once for both families.
                if !forwarding.problems.contains(&same) {
                    forwarding.problems.push(same);
                }
                continue;
            }
            let rule = self.rule(address);
            for target in [&rule.inside, &rule.outside] {
                if !forwarding.sets.contains_key(&target.set) {
                    let backends = self.candidates.choose(self.state, target.set.choice);
                    forwarding.sets.insert(target.set.clone(), backends);
                }
            }
            forwarding.frontends.insert(frontend, rule);
        }
    }

    fn rule(&self, address: &Address) -> Rule {
        let (inside, outside) = match address.kind {
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
            source_ranges: address.source_ranges.clone(),
            kind: address.kind,
        }
    }

    /// A policy that excludes all endpoints drops; where there is none at all, the connection is refused.
    fn target(&self, policy: TrafficPolicy, source: Source) -> Target {
        let (choice, when_empty) = match policy {
            TrafficPolicy::Cluster => (Choice::Cluster, WhenEmpty::Refuse),
            TrafficPolicy::Local if self.candidates.is_empty() => (Choice::Local, WhenEmpty::Refuse),
            TrafficPolicy::Local => (Choice::Local, WhenEmpty::Drop),
        };
        Target {
            set: SetKey {
                choice,
                ..self.set.clone()
            },
            when_empty,
            source,
        }
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
