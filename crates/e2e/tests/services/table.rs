//! The behaviours: each row is a Service, calls to it from everywhere, and what must come of each. What kube-proxy does
//! is what is expected; where a row is specified is in the names (KEP) or in Kubernetes' own tests of kube-proxy.

use std::net::{IpAddr, SocketAddr};

use super::Dataplane::{self, Nftables};
use super::cast::{Cast, EXTERNAL, UNALLOCATED};
use super::place::By::{self, Http, LargeUdp, Tcp, Udp};
use super::place::Outcome;
use super::place::Place::{self, Internet, Node, Pod, Router};

/// One behaviour.
pub(super) struct Row {
    /// The Service's name.
    pub(super) id: &'static str,
    /// What must hold.
    pub(super) name: &'static str,
    /// Who does not do it yet. A row that passes nevertheless fails the test, so that this list cannot rot.
    pub(super) gaps: &'static [Dataplane],
    /// Of its metadata, beside the name.
    metadata: &'static str,
    /// Its spec, as a YAML flow mapping without the braces.
    spec: &'static str,
    /// Endpoints made by hand.
    slices: &'static [Slice],
    pub(super) calls: &'static [Call],
}

/// An EndpointSlice made by hand, one for each family; the port of all endpoints is 9000, TCP and UDP.
struct Slice {
    /// Pods of the cast.
    pods: &'static [&'static str],
    conditions: &'static str,
}

/// Calls from several places that must all end alike.
pub(super) struct Call {
    pub(super) from: &'static [Place],
    pub(super) by: By,
    pub(super) to: To,
    pub(super) expect: Expect,
}

/// Whom a call is for; the port is the Service's first of the call's protocol where nothing is said.
#[derive(Clone, Copy, Debug)]
pub(super) enum To {
    ClusterIp,
    /// A port that the Service does not have.
    ClusterIpPort(u16),
    NodePort(&'static str),
    /// The node port at the caller's own loopback address.
    Localhost,
    Balanced,
    External,
    Unallocated,
}

/// What must come of a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expect {
    /// One of these pods answers, and sees this source.
    Answer(&'static [&'static str], Source),
    Refused,
    Silence,
}

/// The address that a server sees.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// The caller's.
    Own,
    /// A node's.
    SomeNode,
    Any,
}

use Expect::{Answer, Refused, Silence};
use Source::{Any, Own, SomeNode};
use To::{Balanced, ClusterIp, ClusterIpPort, External, Localhost, NodePort, Unallocated};

const C1: Place = Pod("c1");
const C3: Place = Pod("c3");
const H1: Place = Pod("h1");
const N1: Place = Node("node-1");
const N3: Place = Node("node-3");
const PODS: &[Place] = &[C1, C3];
const INSIDE: &[Place] = &[C1, C3, H1, N1, N3];
const OUTSIDE: &[Place] = &[Router, Internet];
const ECHO: &[&str] = &["s1", "s2"];
const S1: &[&str] = &["s1"];
const S2: &[&str] = &["s2"];
/// Two protocols on one port, and another port; named targets.
const PORTS: &str = "ports: [{name: tcp, port: 80, targetPort: line}, {name: udp, port: 80, protocol: UDP, targetPort: datagram}, \
    {name: http, port: 8080, targetPort: web}]";

const fn call(from: &'static [Place], by: By, to: To, expect: Expect) -> Call {
    Call { from, by, to, expect }
}

const fn row(
    id: &'static str,
    name: &'static str,
    gaps: &'static [Dataplane],
    spec: &'static str,
    calls: &'static [Call],
) -> Row {
    Row {
        id,
        name,
        gaps,
        metadata: "",
        spec,
        slices: &[],
        calls,
    }
}

pub(super) const ROWS: &[Row] = &[
    row(
        "cluster-ip",
        "ClusterIP, TCP and UDP on one port, from pods, nodes and host-network pods; sources are kept",
        &[],
        "selector: {app: echo}",
        &[
            call(INSIDE, Tcp, ClusterIp, Answer(ECHO, Own)),
            call(INSIDE, Udp, ClusterIp, Answer(ECHO, Own)),
        ],
    ),
    row(
        "named",
        "named target ports that differ per endpoint",
        &[],
        "selector: {named: yes1}",
        &[
            call(PODS, Tcp, ClusterIp, Answer(&["s1", "s3"], Own)),
            call(PODS, Udp, ClusterIp, Answer(&["s1", "s3"], Own)),
        ],
    ),
    row(
        "hairpin",
        "a pod reaches itself through its Service",
        &[],
        "selector: {pod: s1}",
        &[
            call(&[Pod("s1")], Tcp, ClusterIp, Answer(S1, Any)),
            call(&[Pod("s1")], Udp, ClusterIp, Answer(S1, Any)),
        ],
    ),
    row(
        "host-backend",
        "an endpoint in a node's network, from inside",
        &[],
        "selector: {app: host}",
        &[call(INSIDE, Tcp, ClusterIp, Answer(&["h1"], Any))],
    ),
    row(
        "host-backend-outside",
        "an endpoint in a node's network, from outside, by its own node and by another",
        &[],
        "type: NodePort, selector: {app: host}",
        &[
            call(OUTSIDE, Tcp, NodePort("node-1"), Answer(&["h1"], Any)),
            call(OUTSIDE, Tcp, NodePort("node-3"), Answer(&["h1"], SomeNode)),
        ],
    ),
    Row {
        slices: &[
            Slice {
                pods: S1,
                conditions: "ready: true",
            },
            Slice {
                pods: S2,
                conditions: "ready: true",
            },
        ],
        ..row(
            "by-hand",
            "no selector; EndpointSlices made by hand, several for one Service",
            &[],
            "",
            &[call(INSIDE, Tcp, ClusterIp, Answer(ECHO, Own))],
        )
    },
    Row {
        slices: &[
            Slice {
                pods: S1,
                conditions: "ready: false, serving: true, terminating: true",
            },
            Slice {
                pods: S2,
                conditions: "ready: false, serving: false",
            },
        ],
        ..row(
            "draining",
            "only terminating endpoints left: they serve on (KEP-1669); unready ones never do",
            &[],
            "",
            &[call(PODS, Tcp, ClusterIp, Answer(S1, Own))],
        )
    },
    Row {
        slices: &[
            Slice {
                pods: S1,
                conditions: "ready: false, serving: true, terminating: true",
            },
            Slice {
                pods: S2,
                conditions: "ready: true",
            },
        ],
        ..row(
            "going",
            "a terminating endpoint gets no new connections while there is a ready one",
            &[],
            "",
            &[call(INSIDE, Tcp, ClusterIp, Answer(S2, Own))],
        )
    },
    row(
        "published",
        "publishNotReadyAddresses: unready endpoints count",
        &[],
        "publishNotReadyAddresses: true, selector: {app: unready}",
        &[call(PODS, Tcp, ClusterIp, Answer(&["u1"], Own))],
    ),
    row(
        "unready",
        "no ready endpoint: refused at once, TCP and UDP",
        &[],
        "selector: {app: unready}",
        &[
            call(INSIDE, Tcp, ClusterIp, Refused),
            call(INSIDE, Udp, ClusterIp, Refused),
        ],
    ),
    row(
        "unready-outside",
        "no endpoint: refused at node ports, balanced and external addresses, from everywhere",
        &[],
        "type: LoadBalancer, selector: {app: nobody}, externalIPs: EXTERNAL",
        &[
            call(INSIDE, Tcp, NodePort("node-3"), Refused),
            call(OUTSIDE, Tcp, NodePort("node-3"), Refused),
            call(OUTSIDE, Udp, NodePort("node-3"), Refused),
            call(&[C1, N1, Router, Internet], Tcp, Balanced, Refused),
            call(&[C1, N1, Router], Tcp, External, Refused),
        ],
    ),
    row(
        "unused-port",
        "a port that the Service does not have: refused (KEP-1880)",
        &[],
        "selector: {app: echo}",
        &[
            call(INSIDE, Tcp, ClusterIpPort(81), Refused),
            call(INSIDE, Udp, ClusterIpPort(81), Refused),
        ],
    ),
    row(
        "unallocated",
        "an address of the Services' range that is nobody's: dropped",
        &[],
        "selector: {app: echo}",
        &[
            call(PODS, Tcp, Unallocated, Silence),
            call(PODS, Udp, Unallocated, Silence),
        ],
    ),
    Row {
        metadata: "labels: {service.kubernetes.io/service-proxy-name: other}",
        ..row(
            "foreign",
            "a Service of another proxy is none of ours (KEP-2447)",
            &[],
            "selector: {app: echo}",
            &[call(PODS, Tcp, ClusterIp, Silence)],
        )
    },
    row(
        "node-port",
        "NodePort at every node, from everywhere, both families; from outside with the node's source",
        &[],
        "type: NodePort, selector: {app: echo}",
        &[
            call(INSIDE, Tcp, NodePort("node-1"), Answer(ECHO, Any)),
            call(INSIDE, Tcp, NodePort("node-3"), Answer(ECHO, Any)),
            call(INSIDE, Udp, NodePort("node-1"), Answer(ECHO, Any)),
            call(OUTSIDE, Tcp, NodePort("node-1"), Answer(ECHO, SomeNode)),
            call(OUTSIDE, Tcp, NodePort("node-3"), Answer(ECHO, SomeNode)),
            call(OUTSIDE, Udp, NodePort("node-1"), Answer(ECHO, SomeNode)),
            call(OUTSIDE, Udp, NodePort("node-3"), Answer(ECHO, SomeNode)),
        ],
    ),
    row(
        "localhost",
        "NodePort at localhost, from nodes and host-network pods",
        &[Nftables],
        "type: NodePort, selector: {app: echo}",
        &[
            call(&[N1, N3, H1], Tcp, Localhost, Answer(ECHO, Any)),
            call(&[N1, N3, H1], Udp, Localhost, Answer(ECHO, Any)),
        ],
    ),
    row(
        "fragments",
        "datagrams in fragments, to a cluster address",
        &[],
        "selector: {app: echo}",
        &[call(INSIDE, LargeUdp, ClusterIp, Answer(ECHO, Own))],
    ),
    row(
        "fragments-outside",
        "datagrams in fragments, from outside",
        &[],
        "type: NodePort, selector: {app: echo}",
        &[
            call(OUTSIDE, LargeUdp, NodePort("node-1"), Answer(ECHO, Any)),
            call(OUTSIDE, LargeUdp, NodePort("node-3"), Answer(ECHO, Any)),
        ],
    ),
    row(
        "external-local",
        "externalTrafficPolicy Local: outsiders keep their source, and are dropped where there is no endpoint",
        &[],
        "type: NodePort, externalTrafficPolicy: Local, selector: {pod: s1}",
        &[
            call(OUTSIDE, Tcp, NodePort("node-1"), Answer(S1, Own)),
            call(OUTSIDE, Udp, NodePort("node-1"), Answer(S1, Own)),
            call(OUTSIDE, Tcp, NodePort("node-3"), Silence),
            call(OUTSIDE, Udp, NodePort("node-3"), Silence),
        ],
    ),
    row(
        "external-local-inside",
        "externalTrafficPolicy Local: pods and nodes reach every endpoint nevertheless",
        &[],
        "type: LoadBalancer, externalTrafficPolicy: Local, selector: {pod: s1}",
        &[
            call(&[C3, N3], Tcp, NodePort("node-3"), Answer(S1, Any)),
            call(&[C3, N3], Tcp, Balanced, Answer(S1, Any)),
            call(&[C1, N1], Tcp, Balanced, Answer(S1, Any)),
        ],
    ),
    row(
        "internal-local",
        "internalTrafficPolicy Local: the node's own endpoints, or none (KEP-2086)",
        &[],
        "internalTrafficPolicy: Local, selector: {pod: s1}",
        &[call(&[C1, N1, H1], Tcp, ClusterIp, Answer(S1, Own))],
    ),
    row(
        "internal-local-elsewhere",
        "internalTrafficPolicy Local: dropped where there is no endpoint",
        &[],
        "internalTrafficPolicy: Local, selector: {pod: s1}",
        &[
            call(&[C3], Tcp, ClusterIp, Silence),
            call(&[C3], Udp, ClusterIp, Silence),
        ],
    ),
    row(
        "internal-local-outside",
        "internalTrafficPolicy Local says nothing about node ports",
        &[],
        "type: NodePort, internalTrafficPolicy: Local, selector: {pod: s1}",
        &[call(OUTSIDE, Tcp, NodePort("node-3"), Answer(S1, SomeNode))],
    ),
    row(
        "balanced",
        "LoadBalancer, ipMode VIP, from everywhere",
        &[],
        "type: LoadBalancer, selector: {app: echo}",
        &[
            call(INSIDE, Tcp, Balanced, Answer(ECHO, Any)),
            call(INSIDE, Udp, Balanced, Answer(ECHO, Any)),
            call(OUTSIDE, Tcp, Balanced, Answer(ECHO, SomeNode)),
            call(OUTSIDE, Udp, Balanced, Answer(ECHO, SomeNode)),
        ],
    ),
    row(
        "balanced-local",
        "LoadBalancer with externalTrafficPolicy Local: its health check keeps other nodes out, sources are kept",
        &[],
        "type: LoadBalancer, externalTrafficPolicy: Local, selector: {pod: s1}",
        &[
            call(OUTSIDE, Tcp, Balanced, Answer(S1, Own)),
            call(OUTSIDE, Udp, Balanced, Answer(S1, Own)),
        ],
    ),
    row(
        "balanced-only",
        "LoadBalancer without node ports (KEP-1864)",
        &[],
        "type: LoadBalancer, allocateLoadBalancerNodePorts: false, selector: {app: echo}",
        &[
            call(INSIDE, Tcp, Balanced, Answer(ECHO, Any)),
            call(OUTSIDE, Tcp, Balanced, Answer(ECHO, SomeNode)),
        ],
    ),
    Row {
        metadata: "annotations: {weft.dev/lab-ip-mode: Proxy}",
        ..row(
            "proxied",
            "LoadBalancer, ipMode Proxy: left to the balancer (KEP-1860)",
            &[],
            "type: LoadBalancer, selector: {app: echo}",
            &[
                call(INSIDE, Tcp, Balanced, Answer(ECHO, SomeNode)),
                call(&[Internet], Tcp, Balanced, Answer(ECHO, SomeNode)),
            ],
        )
    },
    row(
        "ranges",
        "loadBalancerSourceRanges: others are dropped, pods too; node ports are not concerned",
        &[],
        "type: LoadBalancer, loadBalancerSourceRanges: [' 198.51.100.0/24', '2001:db8::/64'], selector: {app: echo}",
        &[
            call(&[Internet], Tcp, Balanced, Answer(ECHO, SomeNode)),
            call(&[Router, C1], Tcp, Balanced, Silence),
            call(OUTSIDE, Tcp, NodePort("node-1"), Answer(ECHO, SomeNode)),
        ],
    ),
    row(
        "external",
        "externalIPs, from pods, nodes and outside",
        &[],
        "externalIPs: EXTERNAL, selector: {app: echo}, ports: [{port: 82, targetPort: line}]",
        &[
            call(INSIDE, Tcp, External, Answer(ECHO, Any)),
            call(&[Router], Tcp, External, Answer(ECHO, SomeNode)),
        ],
    ),
    row(
        "same-node",
        "trafficDistribution PreferSameNode: the node's own endpoint, else the zone's (KEP-3015)",
        &[],
        "trafficDistribution: PreferSameNode, selector: {app: echo}",
        &[
            call(&[C1, N1], Tcp, ClusterIp, Answer(S1, Own)),
            call(&[Node("node-2")], Tcp, ClusterIp, Answer(S2, Own)),
            call(&[C3, N3], Tcp, ClusterIp, Answer(S1, Own)),
        ],
    ),
    row(
        "same-zone",
        "trafficDistribution PreferSameZone (and PreferClose): the zone's endpoints (KEP-4444)",
        &[],
        "trafficDistribution: PreferSameZone, selector: {app: echo}",
        &[
            call(&[C1, C3, N3], Tcp, ClusterIp, Answer(S1, Own)),
            call(&[Node("node-2")], Udp, ClusterIp, Answer(S2, Own)),
        ],
    ),
];

impl Row {
    /// The Service and what else there is, as YAML.
    pub(super) fn objects(&self, cast: &Cast) -> String {
        let Row { id, metadata, spec, .. } = self;
        let comma = |text: &str| {
            if text.is_empty() {
                String::new()
            } else {
                format!(", {text}")
            }
        };
        let ports = if spec.contains("ports:") { "" } else { PORTS };
        let spec = spec.replace("EXTERNAL", &format!("['{}', '{}']", EXTERNAL[0], EXTERNAL[1]));
        let mut objects = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {id}{}}}\n\
             spec: {{ipFamilyPolicy: RequireDualStack{}{}}}\n",
            comma(metadata),
            comma(&spec),
            comma(ports)
        );
        for (number, slice) in self.slices.iter().enumerate() {
            for (at, family) in ["IPv4", "IPv6"].iter().enumerate() {
                let endpoint = |pod: &&str| {
                    format!(
                        "{{addresses: ['{}'], conditions: {{{}}}}}",
                        cast.pod(pod)[at],
                        slice.conditions
                    )
                };
                let endpoints: Vec<String> = slice.pods.iter().map(endpoint).collect();
                objects += &format!(
                    "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\n\
                     metadata: {{name: {id}-{number}-{at}, labels: {{kubernetes.io/service-name: {id}}}}}\n\
                     ports: [{{name: tcp, port: 9000}}, {{name: udp, port: 9000, protocol: UDP}}]\nendpoints: [{}]\n",
                    endpoints.join(", ")
                );
            }
        }
        objects
    }
}

impl To {
    /// The address to call, in IPv4 (0) or IPv6 (1).
    pub(super) fn address(self, cast: &Cast, row: &Row, by: By, family: usize) -> SocketAddr {
        let service = cast.service(row.id);
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        let (name, protocol) = match by {
            Tcp => ("tcp", "TCP"),
            Udp | LargeUdp => ("udp", "UDP"),
            Http => ("http", "TCP"),
        };
        let ports = service["spec"]["ports"].as_array().unwrap();
        let only = ports.iter().find(|port| port["protocol"] == protocol);
        let port = ports.iter().find(|port| port["name"] == name).or(only).unwrap();
        let number = |field: &str| u16::try_from(port[field].as_u64().unwrap()).unwrap();
        let (ip, port) = match self {
            To::ClusterIp => (
                parse(service["spec"]["clusterIPs"][family].as_str().unwrap()),
                number("port"),
            ),
            To::ClusterIpPort(port) => (parse(service["spec"]["clusterIPs"][family].as_str().unwrap()), port),
            To::NodePort(node) => (cast.node(node)[family], number("nodePort")),
            To::Localhost => (parse(["127.0.0.1", "::1"][family]), number("nodePort")),
            To::Balanced => (
                parse(
                    service["status"]["loadBalancer"]["ingress"][family]["ip"]
                        .as_str()
                        .unwrap(),
                ),
                number("port"),
            ),
            To::External => (parse(EXTERNAL[family]), number("port")),
            To::Unallocated => (parse(UNALLOCATED[family]), number("port")),
        };
        SocketAddr::new(ip, port)
    }
}

impl Expect {
    /// Whether this is what must come of a call from there.
    pub(super) fn holds(self, outcome: &Outcome, from: Place, cast: &Cast) -> bool {
        match (self, outcome) {
            (Refused, Outcome::Refused) | (Silence, Outcome::Silence) => true,
            (Answer(pods, source), Outcome::Answer { pod, client }) => {
                pods.contains(&pod.as_str())
                    && match source {
                        Any => true,
                        Own => from.addresses(cast).contains(client),
                        SomeNode => cast.node_addresses().any(|ip| ip == *client),
                    }
            }
            _ => false,
        }
    }
}
