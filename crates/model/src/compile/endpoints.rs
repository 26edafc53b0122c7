//! Which endpoints of a service port a connection may go to: conditions, families, topology and traffic policy.

use std::collections::BTreeMap;

use super::{Backend, Choice};
use crate::state::State;
use crate::{Endpoint, EndpointSlice, Service, ServicePort};

/// The usable endpoints of one port and family, before any policy.
pub(super) struct Candidates<'a>(BTreeMap<Backend, Candidate<'a>>);

/// How usable an endpoint is; the higher, the better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Condition {
    /// Going away, but still answers: the last resort (KEP-1669).
    Draining,
    Ready,
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    condition: Condition,
    endpoint: &'a Endpoint,
}

impl<'a> Candidates<'a> {
    /// Every usable endpoint of the family that serves this port. An endpoint that is in two slices, as happens while
    /// one replaces the other, counts once and in its better condition.
    pub(super) fn of(state: &'a State, service: &Service, port: &ServicePort, ipv6: bool) -> Self {
        let mut found: BTreeMap<Backend, Candidate<'a>> = BTreeMap::new();
        for slice in state.slices_of(&service.key) {
            let Some(target) = target_port(slice, port) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let Some(condition) = condition(endpoint) else { continue };
                let Some(ip) = endpoint.addresses.first().filter(|ip| ip.is_ipv6() == ipv6) else {
                    continue;
                };
                let backend = Backend { ip: *ip, port: target };
                if found.get(&backend).is_none_or(|known| known.condition < condition) {
                    found.insert(backend, Candidate { condition, endpoint });
                }
            }
        }
        Self(found)
    }

    /// True where the Service has no endpoint anywhere.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that traffic under this policy may go to, in order.
    pub(super) fn choose(&self, state: &State, choice: Choice) -> Vec<Backend> {
        let mut left: Vec<(Backend, Candidate<'a>)> =
            self.0.iter().map(|(backend, found)| (*backend, *found)).collect();
        match choice {
            Choice::Local => {
                left.retain(|(_, candidate)| candidate.endpoint.node_name.as_deref() == Some(state.local_node()));
            }
            Choice::Cluster => prefer_hinted(state, &mut left),
        }
        let best = left.iter().map(|(_, candidate)| candidate.condition).max();
        left.retain(|(_, candidate)| Some(candidate.condition) == best);
        left.into_iter().map(|(backend, _)| backend).collect()
    }
}

fn target_port(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    slice
        .ports
        .iter()
        .find(|p| p.name == port.name && p.protocol == port.protocol)?
        .port
}

fn condition(endpoint: &Endpoint) -> Option<Condition> {
    match endpoint {
        Endpoint { ready: true, .. } => Some(Condition::Ready),
        Endpoint {
            serving: true,
            terminating: true,
            ..
        } => Some(Condition::Draining),
        _ => None,
    }
}

/// Hints hold only when every ready endpoint carries them and one names this node (or its zone); nodes come before
/// zones (KEP-3015). They never empty the list.
fn prefer_hinted(state: &State, candidates: &mut Vec<(Backend, Candidate<'_>)>) {
    let node = state.local_node();
    let zone = state.node(node).and_then(|node| node.zone.as_deref());
    let for_node = |endpoint: &Endpoint| endpoint.for_nodes.iter().any(|name| name == node);
    let for_zone = |endpoint: &Endpoint| endpoint.for_zones.iter().any(|name| Some(name.as_str()) == zone);
    let ready: Vec<&Endpoint> = candidates
        .iter()
        .filter(|(_, c)| c.condition == Condition::Ready)
        .map(|(_, c)| c.endpoint)
        .collect();
    if ready.iter().all(|e| !e.for_nodes.is_empty()) && ready.iter().any(|e| for_node(e)) {
        candidates.retain(|(_, candidate)| for_node(candidate.endpoint));
    } else if ready.iter().all(|e| !e.for_zones.is_empty()) && ready.iter().any(|e| for_zone(e)) {
        candidates.retain(|(_, candidate)| for_zone(candidate.endpoint));
    }
}
