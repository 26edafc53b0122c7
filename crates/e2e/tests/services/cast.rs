//! The lab of one dataplane: its pods, that rows share, and the Services of the rows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use serde_json::Value;

use super::Dataplane;
use super::table::Row;
use crate::support::{Lab, OwnLab, eventually};

pub(super) const NAMESPACE: &str = "services";

/// Addresses that nothing gives out: the rows' external ones. The router sends them to node-3, which has no server.
pub(super) const EXTERNAL: [&str; 2] = ["192.0.2.10", "2001:db8:0:2::10"];
/// Of the cluster's ranges, and no Service's.
pub(super) const UNALLOCATED: [&str; 2] = ["10.96.200.200", "fd00:10:96::c8c8"];

/// Everybody who takes part.
pub(super) struct Cast {
    pub(super) lab: OwnLab,
    pods: BTreeMap<String, Vec<IpAddr>>,
    nodes: BTreeMap<String, Vec<IpAddr>>,
    services: BTreeMap<String, Value>,
}

/// Name, node, further labels, and what is different about it. Servers are s1 and s2, and s3 with other ports; h1 has its
/// node's network; u1 is never ready; c1 and c3 only call. node-1 and node-3 are in one zone; node-3 has no server.
const PODS: [(&str, &str, &str, Kind); 7] = [
    ("s1", "node-1", "app: echo, named: yes1", Kind::Plain),
    ("s2", "node-2", "app: echo", Kind::Plain),
    ("s3", "node-2", "named: yes1", Kind::OtherPorts),
    ("h1", "node-1", "app: host", Kind::HostNetwork),
    ("u1", "node-2", "app: unready", Kind::Unready),
    ("c1", "node-1", "app: client", Kind::Plain),
    ("c3", "node-3", "app: client", Kind::Plain),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    OtherPorts,
    HostNetwork,
    Unready,
}

impl Cast {
    /// A lab with the pods and with every row's objects.
    pub(super) fn new(what: &str, dataplane: Dataplane, rows: &[Row]) -> Self {
        let name = format!("{what}-{dataplane:?}").to_ascii_lowercase();
        let lab = Lab::own(&name, &[&["--no-demo", "--zones", "2"], dataplane.lab_args()].concat());
        let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n");
        lab.kubectl_stdin(&["apply", "-f", "-"], &namespace).good();
        eventually("the namespace has its ServiceAccount", || {
            lab.kubectl(&["-n", NAMESPACE, "get", "sa", "default"]).ok
        });
        for (external, node) in EXTERNAL.iter().zip(["10.89.0.13", "fd89::d"]) {
            lab.on_node("router", &["ip", "route", "add", external, "via", node])
                .good();
        }
        let mut cast = Self {
            lab,
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            services: BTreeMap::new(),
        };
        cast.apply(
            &PODS
                .map(|(name, node, labels, kind)| pod(name, node, labels, kind))
                .join("---\n"),
        );
        cast.meet_pods();
        cast.meet_nodes();
        let objects: Vec<String> = rows.iter().map(|row| row.objects(&cast)).collect();
        cast.apply(&objects.join("---\n"));
        cast.meet_services();
        cast
    }

    pub(super) fn apply(&self, yaml: &str) {
        self.lab
            .kubectl_stdin(&["-n", NAMESPACE, "apply", "-f", "-"], yaml)
            .good();
    }

    pub(super) fn kubectl(&self, args: &[&str]) -> crate::support::Said {
        self.lab.kubectl(&[&["-n", NAMESPACE], args].concat())
    }

    fn list(&self, kind: &str) -> Vec<Value> {
        let said = self.kubectl(&["get", kind, "-o", "json"]).good();
        let list: Value = serde_json::from_str(&said).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    fn meet_pods(&mut self) {
        let ready = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
        };
        let running = |pod: &Value| pod["status"]["phase"] == "Running" && pod["metadata"]["name"] == "u1";
        let mut pods = Vec::new();
        eventually("the pods are ready", || {
            pods = self.list("pods");
            pods.len() == PODS.len() && pods.iter().all(|pod| ready(pod) || running(pod))
        });
        self.pods = pods
            .iter()
            .map(|pod| (name(pod), addresses(&pod["status"]["podIPs"], "ip")))
            .collect();
    }

    fn meet_nodes(&mut self) {
        let internal = |node: &Value| {
            let all = node["status"]["addresses"].as_array().unwrap();
            let internal = all.iter().filter(|address| address["type"] == "InternalIP");
            addresses(&internal.cloned().collect::<Value>(), "address")
        };
        self.nodes = self
            .list("nodes")
            .iter()
            .map(|node| (name(node), internal(node)))
            .collect();
    }

    pub(super) fn meet_services(&mut self) {
        let mut services = Vec::new();
        eventually("Services of type LoadBalancer have addresses", || {
            services = self.list("services");
            let balanced = services
                .iter()
                .filter(|service| service["spec"]["type"] == "LoadBalancer");
            balanced
                .into_iter()
                .all(|service| service["status"]["loadBalancer"]["ingress"].is_array())
        });
        self.services = services.into_iter().map(|service| (name(&service), service)).collect();
    }

    /// The pod's addresses, IPv4 first.
    pub(super) fn pod(&self, name: &str) -> &[IpAddr] {
        &self.pods[name]
    }

    /// The node's addresses, IPv4 first.
    pub(super) fn node(&self, name: &str) -> &[IpAddr] {
        &self.nodes[name]
    }

    /// The addresses of all nodes.
    pub(super) fn node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.nodes.values().flatten().copied()
    }

    pub(super) fn service(&self, name: &str) -> &Value {
        &self.services[name]
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

/// The addresses in a list of objects, IPv4 first.
fn addresses(list: &Value, field: &str) -> Vec<IpAddr> {
    let all = list.as_array().into_iter().flatten();
    let mut all: Vec<IpAddr> = all
        .map(|entry| entry[field].as_str().unwrap().parse().unwrap())
        .collect();
    all.sort_by_key(IpAddr::is_ipv6);
    all
}

fn pod(name: &str, node: &str, labels: &str, kind: Kind) -> String {
    let (http, line) = match kind {
        Kind::Plain | Kind::Unready => (8080, 9000),
        Kind::OtherPorts => (8081, 9001),
        Kind::HostNetwork => (18080, 19000),
    };
    let mut pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{pod: {name}, {labels}}}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 1\n"
    );
    if kind == Kind::HostNetwork {
        pod.push_str("  hostNetwork: true\n");
    }
    let probe = match kind {
        Kind::Unready => "readinessProbe: {exec: {command: [\"false\"]}}",
        _ => "readinessProbe: {tcpSocket: {port: line}, periodSeconds: 1}",
    };
    writeln!(
        pod,
        "  containers:\n  - name: main\n    image: weft.dev/lab\n    args: [--http, '{http}', --line, '{line}']\n    \
         env: [{{name: POD_NAME, value: {name}}}]\n    {probe}\n    \
         ports: [{{name: web, containerPort: {http}}}, {{name: line, containerPort: {line}}}, {{name: datagram, containerPort: {line}, protocol: UDP}}]"
    )
    .unwrap();
    pod
}
