//! Tables of the network's kinds: Service, Endpoints, EndpointSlice, Ingress, IngressClass, NetworkPolicy and
//! ServiceCIDR.

use serde_json::Value;

use super::duration::age;
use super::selector::{map, selector};
use super::{AGE, Column, NAME, SELECTOR, Table, first_three, name, or_none};
use crate::api::fields::{at, has, int, list, text};

/// The table of Services.
pub(super) const SERVICE: Table = Table {
    columns: &[
        NAME,
        Column("Type", "string", 0, "How the Service is exposed."),
        Column("Cluster-IP", "string", 0, "The address inside the cluster."),
        Column("External-IP", "string", 0, "Addresses outside the cluster."),
        Column(
            "Port(s)",
            "string",
            0,
            "The ports of the Service, with their node ports.",
        ),
        AGE,
        SELECTOR,
    ],
    cells: |object, now| {
        let address = list(object, "spec.clusterIPs").first().and_then(Value::as_str);
        let address = address.unwrap_or_else(|| text(object, "spec.clusterIP"));
        vec![
            name(object),
            text(object, "spec.type").into(),
            or_none(address),
            external_address(object).into(),
            or_none(service_ports(object)),
            age(object, now).into(),
            map(object, "spec.selector").into(),
        ]
    },
};

/// The table of Endpoints.
pub(super) const ENDPOINTS: Table = Table {
    columns: &[
        NAME,
        Column("Endpoints", "string", 0, "Addresses and ports that are ready."),
        AGE,
    ],
    cells: |object, now| {
        vec![
            name(object),
            first_three(&endpoint_addresses(object), "<none>"),
            age(object, now).into(),
        ]
    },
};

/// The table of EndpointSlices.
pub(super) const ENDPOINT_SLICE: Table = Table {
    columns: &[
        NAME,
        Column(
            "AddressType",
            "string",
            0,
            "The type of address of all endpoints of the slice.",
        ),
        Column("Ports", "string", 0, "The ports of each endpoint."),
        Column("Endpoints", "string", 0, "The addresses of the endpoints."),
        AGE,
    ],
    cells: |object, now| {
        let ports: Vec<String> = list(object, "ports")
            .iter()
            .map(|port| {
                if has(port, "port") {
                    int(port, "port").to_string()
                } else {
                    "*".to_owned()
                }
            })
            .collect();
        let addresses: Vec<String> = list(object, "endpoints")
            .iter()
            .flat_map(|endpoint| list(endpoint, "addresses"))
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        vec![
            name(object),
            text(object, "addressType").into(),
            first_three(&ports, "<unset>"),
            first_three(&addresses, "<unset>"),
            age(object, now).into(),
        ]
    },
};

/// The table of Ingresses.
pub(super) const INGRESS: Table = Table {
    columns: &[
        NAME,
        Column("Class", "string", 0, "The class of controllers that serve the Ingress."),
        Column(
            "Hosts",
            "string",
            0,
            "Hosts that incoming requests are matched against.",
        ),
        Column("Address", "string", 0, "Addresses of the load balancer."),
        Column("Ports", "string", 0, "Ports that are open: 443 if TLS is configured."),
        AGE,
    ],
    cells: |object, now| {
        let hosts: Vec<String> = list(object, "spec.rules")
            .iter()
            .map(|rule| text(rule, "host").to_owned())
            .filter(|host| !host.is_empty())
            .collect();
        let class = at(object, "metadata.annotations")
            .get("kubernetes.io/ingress.class")
            .and_then(Value::as_str);
        let class = match text(object, "spec.ingressClassName") {
            "" => class.unwrap_or_default(),
            class => class,
        };
        let ports = if list(object, "spec.tls").is_empty() {
            "80"
        } else {
            "80, 443"
        };
        vec![
            name(object),
            or_none(class),
            first_three(&hosts, "*"),
            balancer_addresses(object).join(",").into(),
            ports.into(),
            age(object, now).into(),
        ]
    },
};

/// The table of IngressClasses.
pub(super) const INGRESS_CLASS: Table = Table {
    columns: &[
        NAME,
        Column("Controller", "string", 0, "The controller that handles this class."),
        Column(
            "Parameters",
            "string",
            0,
            "A resource with further settings of the controller.",
        ),
        AGE,
    ],
    cells: |object, now| {
        let parameters = at(object, "spec.parameters");
        let group = text(parameters, "apiGroup");
        let dot = if group.is_empty() { "" } else { "." };
        let parameters = match text(parameters, "kind") {
            "" => String::new(),
            kind => format!("{kind}{dot}{group}/{}", text(parameters, "name")),
        };
        vec![
            name(object),
            text(object, "spec.controller").into(),
            or_none(parameters),
            age(object, now).into(),
        ]
    },
};

/// The table of NetworkPolicies.
pub(super) const NETWORK_POLICY: Table = Table {
    columns: &[
        NAME,
        Column("Pod-Selector", "string", 0, "The pods that the policy applies to."),
        AGE,
    ],
    cells: |object, now| {
        vec![
            name(object),
            selector(object, "spec.podSelector").into(),
            age(object, now).into(),
        ]
    },
};

/// The table of ServiceCIDRs.
pub(super) const SERVICE_CIDR: Table = Table {
    columns: &[
        NAME,
        Column(
            "CIDRs",
            "string",
            0,
            "The networks that Services have their addresses from.",
        ),
        AGE,
    ],
    cells: |object, now| {
        let cidrs: Vec<&str> = list(object, "spec.cidrs").iter().filter_map(Value::as_str).collect();
        vec![name(object), cidrs.join(",").into(), age(object, now).into()]
    },
};

/// The addresses that a load balancer has given to an object, sorted.
fn balancer_addresses(object: &Value) -> Vec<String> {
    let mut all: Vec<String> = list(object, "status.loadBalancer.ingress")
        .iter()
        .map(|ingress| match text(ingress, "ip") {
            "" => text(ingress, "hostname").to_owned(),
            ip => ip.to_owned(),
        })
        .filter(|address| !address.is_empty())
        .collect();
    all.sort();
    all.dedup();
    all
}

fn external_address(service: &Value) -> String {
    let own: Vec<&str> = list(service, "spec.externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let none = |addresses: String, otherwise: &str| {
        if addresses.is_empty() {
            otherwise.to_owned()
        } else {
            addresses
        }
    };
    match text(service, "spec.type") {
        "ClusterIP" | "NodePort" => none(own.join(","), "<none>"),
        "LoadBalancer" => {
            let mut all = balancer_addresses(service);
            all.extend(own.into_iter().map(str::to_owned));
            none(all.join(","), "<pending>")
        }
        "ExternalName" => text(service, "spec.externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn service_ports(service: &Value) -> String {
    let ports: Vec<String> = list(service, "spec.ports")
        .iter()
        .map(|port| {
            let (number, protocol) = (int(port, "port"), text(port, "protocol"));
            match int(port, "nodePort") {
                0 => format!("{number}/{protocol}"),
                node_port => format!("{number}:{node_port}/{protocol}"),
            }
        })
        .collect();
    ports.join(",")
}

fn endpoint_addresses(endpoints: &Value) -> Vec<String> {
    let mut all = Vec::new();
    for subset in list(endpoints, "subsets") {
        let addresses = list(subset, "addresses").iter().map(|address| text(address, "ip"));
        let ports = list(subset, "ports");
        if ports.is_empty() {
            all.extend(addresses.clone().map(str::to_owned));
        }
        for port in ports {
            let number = int(port, "port");
            all.extend(addresses.clone().map(|ip| {
                if ip.contains(':') {
                    format!("[{ip}]:{number}")
                } else {
                    format!("{ip}:{number}")
                }
            }));
        }
    }
    all
}
