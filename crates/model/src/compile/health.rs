//! What load balancers are told about a Service at `spec.healthCheckNodePort`: whether this node has endpoints for it.

use std::collections::BTreeSet;

use super::trust;
use crate::state::Condition;
use crate::{ObjectKey, ServiceType, State, TrafficPolicy};

/// What to answer at a port of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service.
    pub service: ObjectKey,
    /// The port, host byte order.
    pub port: u16,
    /// How many ready endpoints are on this node. One that is going away does not count, although it may still be
    /// sent to: the load balancer is to stop meanwhile (KEP-1669).
    pub local_endpoints: usize,
}

/// The health check of a Service; only load balancers that keep to nodes with endpoints have one.
pub fn health_check(state: &State, key: &ObjectKey) -> Option<HealthCheck> {
    let service = state.service(key)?;
    let keeps_local = service.type_ == ServiceType::LoadBalancer
        && service.external_traffic_policy == TrafficPolicy::Local
        && !service.headless
        && !service.foreign;
    let port = service.health_check_node_port.filter(|_| keeps_local)?;
    // An endpoint with two families is one.
    let ipv6 = service.cluster_ips.first()?.is_ipv6();
    let members = state.slices_of(key).iter().flat_map(|slice| &slice.members);
    let local: BTreeSet<_> = members
        .filter(|member| member.local && member.condition == Condition::Ready && member.ip.is_ipv6() == ipv6)
        .filter(|member| trust::endpoint(state, member.ip).is_none())
        .map(|member| member.ip)
        .collect();
    Some(HealthCheck {
        service: key.clone(),
        port,
        local_endpoints: local.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{endpoint, service, slice};
    use crate::{Change, Endpoint, Service};

    #[test]
    fn ready_endpoints_of_this_node_count_once() {
        let on = |address: &str, node: &str, ready| Endpoint {
            ready,
            terminating: !ready,
            node_name: Some(node.into()),
            ..endpoint(address)
        };
        let balancer = Service {
            type_: ServiceType::LoadBalancer,
            external_traffic_policy: TrafficPolicy::Local,
            health_check_node_port: Some(32_000),
            ..service("a", "10.96.0.5")
        };
        let mut state = State::new("n1");
        state.apply(Change::Service(balancer.clone()));
        let four = vec![
            on("10.0.0.1", "n1", true),
            on("10.0.0.2", "n1", false),
            on("10.0.0.3", "n2", true),
            on("127.0.0.1", "n1", true),
        ];
        state.apply(Change::EndpointSlice(slice("s1", "a", four)));
        state.apply(Change::EndpointSlice(slice(
            "s2",
            "a",
            vec![on("10.0.0.1", "n1", true)],
        )));
        state.apply(Change::EndpointSlice(slice("s6", "a", vec![on("fd00::1", "n1", true)])));
        let check = health_check(&state, &balancer.key).unwrap();
        assert_eq!((check.port, check.local_endpoints), (32_000, 1));

        for other in [
            Service {
                external_traffic_policy: TrafficPolicy::Cluster,
                ..balancer.clone()
            },
            Service {
                type_: ServiceType::NodePort,
                ..balancer.clone()
            },
            Service {
                foreign: true,
                ..balancer.clone()
            },
            Service {
                health_check_node_port: None,
                ..balancer.clone()
            },
        ] {
            state.apply(Change::Service(other));
            assert_eq!(health_check(&state, &balancer.key), None);
        }
    }
}
