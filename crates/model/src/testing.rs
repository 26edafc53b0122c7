//! Small builders that the tests of this crate share.

use crate::*;

/// A ready endpoint with one address.
pub(crate) fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        addresses: vec![address.parse().unwrap()],
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node_name: None,
        zone: None,
        for_nodes: vec![],
        for_zones: vec![],
        pod: None,
    }
}

/// A slice in `default` with the port `http` 8080/TCP.
pub(crate) fn slice(name: &str, of: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        key: ObjectKey::new("default", name),
        service: of.into(),
        ports: vec![EndpointPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: Some(8080),
        }],
        endpoints,
    }
}

/// A Service in `default` with the port `http` 80/TCP.
pub(crate) fn service(name: &str, address: &str) -> Service {
    Service {
        cluster_ips: vec![address.parse().unwrap()],
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        ..Service::named(ObjectKey::new("default", name))
    }
}

/// A node without addresses.
pub(crate) fn node(name: &str) -> Node {
    Node {
        name: name.into(),
        ..Node::default()
    }
}
