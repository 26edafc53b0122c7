//! What pods need and what nodes have left.

use std::collections::HashMap;

use serde_json::Value;

use super::super::object::{Key, controller_of, int, list, text};
use super::super::quantity::milli;
use super::affinity::Term;

/// What one pod takes from a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Needs {
    /// Thousandths of a CPU.
    pub(super) cpu: i128,
    /// Thousandths of a byte, the unit in which amounts are parsed.
    pub(super) memory: i128,
    /// Protocol, host address and port.
    pub(super) ports: Vec<(String, String, i64)>,
    /// Who controls the pod; pods of one controller are spread.
    pub(super) owner: String,
    /// The pod's labels, by which others mean it.
    pub(super) labels: Value,
    /// Pods it must be near to.
    pub(super) near: Vec<Term>,
    /// Pods it must be away from.
    pub(super) away: Vec<Term>,
}

impl Needs {
    /// What a pod's spec asks for.
    pub(super) fn of(pod: &Value) -> Self {
        let containers = list(pod, "/spec/containers");
        let owner = controller_of(pod).and_then(|owner| owner["uid"].as_str());
        Self {
            cpu: requests(pod, "cpu"),
            memory: requests(pod, "memory"),
            ports: containers
                .iter()
                .flat_map(|c| list(c, "/ports"))
                .filter_map(host_port)
                .collect(),
            owner: owner.unwrap_or_default().to_owned(),
            labels: pod["metadata"]["labels"].clone(),
            near: Term::of(pod, "podAffinity"),
            away: Term::of(pod, "podAntiAffinity"),
        }
    }
}

/// Containers run together, init containers one after the other before them, sidecars beside both.
fn requests(pod: &Value, resource: &str) -> i128 {
    let of = |container: &Value| {
        let requested = container["resources"]["requests"][resource].as_str();
        requested.and_then(milli).unwrap_or(0)
    };
    let together: i128 = list(pod, "/spec/containers").iter().map(of).sum();
    let (mut sidecars, mut peak) = (0, 0);
    for init in list(pod, "/spec/initContainers") {
        if init["restartPolicy"] == "Always" {
            sidecars += of(init);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + of(init));
        }
    }
    let overhead = pod["spec"]["overhead"][resource].as_str().and_then(milli).unwrap_or(0);
    peak.max(together + sidecars) + overhead
}

fn host_port(port: &Value) -> Option<(String, String, i64)> {
    let number = int(port, "/hostPort").filter(|number| *number > 0)?;
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    let address = Some(text(port, "/hostIP"))
        .filter(|ip| !ip.is_empty())
        .unwrap_or("0.0.0.0");
    Some((protocol.to_owned(), address.to_owned(), number))
}

/// What is taken on one node.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pods: HashMap<Key, Needs>,
    pub(super) cpu: i128,
    pub(super) memory: i128,
}

impl Taken {
    pub(super) fn count(&self) -> usize {
        self.pods.len()
    }

    /// How many pods of this controller are here.
    pub(super) fn of_owner(&self, owner: &str) -> usize {
        if owner.is_empty() {
            return 0;
        }
        self.pods.values().filter(|needs| needs.owner == owner).count()
    }

    /// Would these ports clash with a port that is taken? Equal ports do unless both name different addresses.
    pub(super) fn clashes(&self, ports: &[(String, String, i64)]) -> bool {
        let any = |address: &str| matches!(address, "0.0.0.0" | "::");
        let mut taken = self.pods.values().flat_map(|needs| &needs.ports);
        taken.any(|(protocol, address, number)| {
            ports
                .iter()
                .any(|(p, a, n)| p == protocol && n == number && (a == address || any(a) || any(address)))
        })
    }
}

/// What is taken on every node, and by which pod.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    nodes: HashMap<String, Taken>,
    placed: HashMap<Key, String>,
    /// How many placed pods keep others away; mostly none, and then nobody need ask.
    keeping_away: usize,
}

impl Ledger {
    pub(super) fn on(&self, node: &str) -> Option<&Taken> {
        self.nodes.get(node)
    }

    /// Every placed pod and its node.
    pub(super) fn placed(&self) -> impl Iterator<Item = (&Key, &str, &Needs)> {
        let nodes = self.nodes.iter();
        nodes.flat_map(|(node, taken)| taken.pods.iter().map(|(key, needs)| (key, node.as_str(), needs)))
    }

    /// Does affinity matter to a pod with these needs?
    pub(super) fn minds(&self, needs: &Needs) -> bool {
        self.keeping_away > 0 || !needs.near.is_empty() || !needs.away.is_empty()
    }

    pub(super) fn place(&mut self, pod: Key, node: &str, needs: Needs) {
        self.remove(&pod);
        let taken = self.nodes.entry(node.to_owned()).or_default();
        taken.cpu += needs.cpu;
        taken.memory += needs.memory;
        self.keeping_away += usize::from(!needs.away.is_empty());
        taken.pods.insert(pod.clone(), needs);
        self.placed.insert(pod, node.to_owned());
    }

    /// True if the pod took anything.
    pub(super) fn remove(&mut self, pod: &Key) -> bool {
        let Some(node) = self.placed.remove(pod) else {
            return false;
        };
        if let Some(taken) = self.nodes.get_mut(&node)
            && let Some(needs) = taken.pods.remove(pod)
        {
            taken.cpu -= needs.cpu;
            taken.memory -= needs.memory;
            self.keeping_away -= usize::from(!needs.away.is_empty());
            if taken.pods.is_empty() {
                self.nodes.remove(&node);
            }
        }
        true
    }
}
