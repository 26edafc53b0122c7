//! From what the cluster wants to what this node's kernel must hold: pure functions of one key and what it refers to.

mod masquerade;
mod routes;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::state::State;
use crate::{Endpoint, EndpointSlice, ObjectKey, Protocol, Service, ServicePort, ServiceType, TrafficPolicy};

pub use masquerade::{Masquerade, masquerade};
pub use routes::{NextHop, Overlap, Reach, RouteTable, Routes, Routing, Underlay, ranges};

/// An address that clients of a Service connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Frontend {
    /// Address of the Service.
    pub ip: IpAddr,
    /// Port of the Service, host byte order.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// Where a connection to a frontend ends up: an endpoint's address with its target port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backend {
    /// Address of the endpoint.
    pub ip: IpAddr,
    /// Target port, host byte order.
    pub port: u16,
}

/// The frontends of one Service with the backends of each, in order and without repetition.
/// An empty list means: refuse the connection.
pub type Frontends = BTreeMap<Frontend, Vec<Backend>>;

/// What this node must do for the Service of this key. Empty where it has gone, is headless, is only a
/// name, or belongs to another proxy (KEP-2447).
pub fn service(state: &State, key: &ObjectKey) -> Frontends {
    let mut frontends = Frontends::new();
    let Some(service) = state.service(key) else {
        return frontends;
    };
    if service.headless || service.foreign || service.type_ == ServiceType::ExternalName {
        return frontends;
    }
    for port in service.ports.iter().filter(|port| port.protocol != Protocol::Sctp) {
        for ip in &service.cluster_ips {
            let frontend = Frontend {
                ip: *ip,
                port: port.port,
                protocol: port.protocol,
            };
            frontends
                .entry(frontend)
                .or_insert_with(|| backends(state, service, port, *ip));
        }
    }
    frontends
}

/// How usable an endpoint is; the higher, the better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Condition {
    /// Going away, but still answers: the last resort (KEP-1669).
    Draining,
    Ready,
}

struct Candidate<'a> {
    condition: Condition,
    endpoint: &'a Endpoint,
}

fn backends(state: &State, service: &Service, port: &ServicePort, frontend: IpAddr) -> Vec<Backend> {
    let mut candidates = candidates(state, service, port, frontend);
    if service.internal_traffic_policy == TrafficPolicy::Local {
        candidates.retain(|_, candidate| candidate.endpoint.node_name.as_deref() == Some(state.local_node()));
    } else {
        prefer_hinted(state, &mut candidates);
    }
    let best = candidates.values().map(|candidate| candidate.condition).max();
    candidates.retain(|_, candidate| Some(candidate.condition) == best);
    candidates.into_keys().collect()
}

/// Every usable endpoint of the frontend's family that serves this port. An endpoint that is in two slices,
/// as happens while one replaces the other, counts once and in its better condition.
fn candidates<'a>(
    state: &'a State,
    service: &Service,
    port: &ServicePort,
    frontend: IpAddr,
) -> BTreeMap<Backend, Candidate<'a>> {
    let mut found: BTreeMap<Backend, Candidate<'a>> = BTreeMap::new();
    for slice in state.slices_of(&service.key) {
        let Some(target) = target_port(slice, port) else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let Some(condition) = condition(endpoint) else { continue };
            let Some(ip) = endpoint
                .addresses
                .first()
                .filter(|ip| ip.is_ipv4() == frontend.is_ipv4())
            else {
                continue;
            };
            let backend = Backend { ip: *ip, port: target };
            if found.get(&backend).is_none_or(|known| known.condition < condition) {
                found.insert(backend, Candidate { condition, endpoint });
            }
        }
    }
    found
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

/// Hints hold only when every ready endpoint carries them and one names this node (or its zone); nodes
/// come before zones (KEP-3015). They never empty the list.
fn prefer_hinted(state: &State, candidates: &mut BTreeMap<Backend, Candidate<'_>>) {
    let node = state.local_node();
    let zone = state.node(node).and_then(|node| node.zone.as_deref());
    let for_node = |endpoint: &Endpoint| endpoint.for_nodes.iter().any(|name| name == node);
    let for_zone = |endpoint: &Endpoint| endpoint.for_zones.iter().any(|name| Some(name.as_str()) == zone);
    let ready: Vec<&Endpoint> = candidates
        .values()
        .filter(|c| c.condition == Condition::Ready)
        .map(|c| c.endpoint)
        .collect();
    if ready.iter().all(|e| !e.for_nodes.is_empty()) && ready.iter().any(|e| for_node(e)) {
        candidates.retain(|_, candidate| for_node(candidate.endpoint));
    } else if ready.iter().all(|e| !e.for_zones.is_empty()) && ready.iter().any(|e| for_zone(e)) {
        candidates.retain(|_, candidate| for_zone(candidate.endpoint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{endpoint, node, service as a_service, slice};
    use crate::{Change, EndpointPort};

    fn key() -> ObjectKey {
        ObjectKey::new("default", "a")
    }

    fn state(service: Service, slices: Vec<EndpointSlice>) -> State {
        let mut state = State::new("n1");
        let mut local = node("n1");
        local.zone = Some("z1".into());
        state.apply(Change::Node(local));
        state.apply(Change::Service(service));
        for slice in slices {
            state.apply(Change::EndpointSlice(slice));
        }
        state
    }

    /// The backends of the first frontend, as text.
    fn backends_of(state: &State) -> Vec<String> {
        let frontends = service(state, &key());
        frontends
            .values()
            .next()
            .unwrap()
            .iter()
            .map(|b| format!("{}:{}", b.ip, b.port))
            .collect()
    }

    #[test]
    fn a_service_without_endpoints_keeps_its_frontend() {
        let state = state(a_service("a", "10.96.0.5"), vec![]);
        assert_eq!(backends_of(&state), Vec::<String>::new());
    }

    #[test]
    fn headless_foreign_and_external_names_have_no_frontend() {
        let mut headless = a_service("a", "10.96.0.5");
        headless.headless = true;
        let mut foreign = a_service("a", "10.96.0.5");
        foreign.foreign = true;
        let mut name = a_service("a", "10.96.0.5");
        name.type_ = ServiceType::ExternalName;
        for svc in [headless, foreign, name] {
            assert!(service(&state(svc, vec![]), &key()).is_empty());
        }
    }

    #[test]
    fn ports_are_matched_by_name_and_protocol_in_each_slice() {
        let mut svc = a_service("a", "10.96.0.5");
        svc.ports.push(ServicePort {
            name: "http".into(),
            protocol: Protocol::Udp,
            port: 80,
            node_port: None,
        });
        let old = slice("s1", "a", vec![endpoint("10.0.0.1")]);
        let mut new = slice("s2", "a", vec![endpoint("10.0.0.2")]);
        new.ports[0].port = Some(9090);
        new.ports.push(EndpointPort {
            name: "http".into(),
            protocol: Protocol::Udp,
            port: Some(53),
        });
        let state = state(svc, vec![old, new]);
        assert_eq!(backends_of(&state), ["10.0.0.1:8080", "10.0.0.2:9090"]);
        let frontends = service(&state, &key());
        let udp = Frontend {
            ip: "10.96.0.5".parse().unwrap(),
            port: 80,
            protocol: Protocol::Udp,
        };
        assert_eq!(
            frontends[&udp],
            vec![Backend {
                ip: "10.0.0.2".parse().unwrap(),
                port: 53
            }]
        );
    }

    #[test]
    fn families_are_independent() {
        let mut svc = a_service("a", "10.96.0.5");
        svc.cluster_ips.push("fd00::5".parse().unwrap());
        let state = state(
            svc,
            vec![
                slice("s4", "a", vec![endpoint("10.0.0.1")]),
                slice("s6", "a", vec![endpoint("fd01::1")]),
            ],
        );
        let all: Vec<_> = service(&state, &key())
            .into_values()
            .flatten()
            .map(|b| b.ip.to_string())
            .collect();
        assert_eq!(all, ["10.0.0.1", "fd01::1"]);
    }

    #[test]
    fn draining_endpoints_are_the_last_resort_and_unready_ones_never() {
        let mut draining = endpoint("10.0.0.1");
        (draining.ready, draining.terminating) = (false, true);
        let mut unready = endpoint("10.0.0.2");
        (unready.ready, unready.serving) = (false, false);
        let svc = a_service("a", "10.96.0.5");
        let only = state(
            svc.clone(),
            vec![slice("s", "a", vec![draining.clone(), unready.clone()])],
        );
        assert_eq!(backends_of(&only), ["10.0.0.1:8080"]);
        let with_ready = state(
            svc,
            vec![slice("s", "a", vec![draining, unready, endpoint("10.0.0.3")])],
        );
        assert_eq!(backends_of(&with_ready), ["10.0.0.3:8080"]);
    }

    #[test]
    fn local_policy_keeps_to_the_node_and_falls_back_within_it() {
        let mut svc = a_service("a", "10.96.0.5");
        svc.internal_traffic_policy = TrafficPolicy::Local;
        let on = |address: &str, node: &str| Endpoint {
            node_name: Some(node.into()),
            ..endpoint(address)
        };
        let remote = on("10.0.1.1", "n2");
        let mut draining = on("10.0.0.1", "n1");
        (draining.ready, draining.terminating) = (false, true);
        let both = state(svc.clone(), vec![slice("s", "a", vec![remote.clone(), draining])]);
        assert_eq!(backends_of(&both), ["10.0.0.1:8080"]);
        assert!(backends_of(&state(svc, vec![slice("s", "a", vec![remote])])).is_empty());
    }

    #[test]
    fn hints_need_every_endpoint_and_one_match() {
        let hinted = |address: &str, nodes: &[&str], zones: &[&str]| Endpoint {
            for_nodes: nodes.iter().map(|s| s.to_string()).collect(),
            for_zones: zones.iter().map(|s| s.to_string()).collect(),
            ..endpoint(address)
        };
        let pick = |endpoints| backends_of(&state(a_service("a", "10.96.0.5"), vec![slice("s", "a", endpoints)]));
        let (a, b) = ("10.0.0.1", "10.0.0.2");
        let (pa, pb) = ("10.0.0.1:8080", "10.0.0.2:8080");
        assert_eq!(pick(vec![hinted(a, &["n1"], &[]), hinted(b, &["n2"], &[])]), [pa]);
        assert_eq!(pick(vec![hinted(a, &[], &["z2"]), hinted(b, &[], &["z1"])]), [pb]);
        // Nodes before zones.
        assert_eq!(
            pick(vec![hinted(a, &["n1"], &["z2"]), hinted(b, &["n2"], &["z1"])]),
            [pa]
        );
        // No hint for this node: its zone; a missing hint, or no match at all: everyone.
        assert_eq!(
            pick(vec![hinted(a, &["n3"], &["z2"]), hinted(b, &["n2"], &["z1"])]),
            [pb]
        );
        assert_eq!(pick(vec![hinted(a, &["n1"], &[]), hinted(b, &[], &[])]), [pa, pb]);
        assert_eq!(
            pick(vec![hinted(a, &["n3"], &["z3"]), hinted(b, &["n2"], &["z2"])]),
            [pa, pb]
        );
    }

    #[test]
    fn an_endpoint_in_two_slices_counts_once() {
        let mut going = endpoint("10.0.0.1");
        (going.ready, going.terminating) = (false, true);
        let slices = vec![
            slice("s1", "a", vec![going]),
            slice("s2", "a", vec![endpoint("10.0.0.1")]),
        ];
        assert_eq!(
            backends_of(&state(a_service("a", "10.96.0.5"), slices)),
            ["10.0.0.1:8080"]
        );
    }
}
