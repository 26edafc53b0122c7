//! Pods that want to be near other pods, or away from them: the required kind of pod affinity.

use std::collections::HashMap;

use serde_json::Value;

use super::super::object::{list, name, namespace, text};
use super::super::selector;
use super::usage::{Ledger, Needs};

/// Which pods a term means, and how near is near.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Term {
    /// The node label that names the place, such as `kubernetes.io/hostname`.
    place: String,
    selector: Value,
    /// Empty for every namespace.
    namespaces: Vec<String>,
}

impl Term {
    /// The required terms of `podAffinity` or `podAntiAffinity`.
    pub(super) fn of(pod: &Value, kind: &str) -> Vec<Self> {
        let path = format!("/spec/affinity/{kind}/requiredDuringSchedulingIgnoredDuringExecution");
        list(pod, &path).iter().map(|term| Self::new(pod, term)).collect()
    }

    fn new(pod: &Value, term: &Value) -> Self {
        let named = list(term, "/namespaces").iter().filter_map(Value::as_str);
        let mut namespaces: Vec<String> = named.map(str::to_owned).collect();
        // An empty selector of namespaces means all of them.
        let all = term["namespaceSelector"]
            .as_object()
            .is_some_and(|selector| selector.is_empty());
        if all {
            namespaces.clear();
        } else if namespaces.is_empty() {
            namespaces.push(namespace(pod).to_owned());
        }
        Self {
            place: text(term, "/topologyKey").to_owned(),
            selector: term["labelSelector"].clone(),
            namespaces,
        }
    }

    fn means(&self, namespace: &str, labels: &Value) -> bool {
        let here = self.namespaces.is_empty() || self.namespaces.iter().any(|n| n == namespace);
        here && selector::fits(&self.selector, labels)
    }
}

/// The nodes and what is on them, as far as affinity cares.
pub(super) struct Map<'a> {
    nodes: HashMap<&'a str, &'a Value>,
    ledger: &'a Ledger,
}

impl<'a> Map<'a> {
    pub(super) fn new(nodes: &[&'a Value], ledger: &'a Ledger) -> Self {
        Self {
            nodes: nodes.iter().map(|node| (name(node), *node)).collect(),
            ledger,
        }
    }

    /// Why the pod cannot be on this node because of other pods, if so.
    pub(super) fn objection(&self, pod: &Value, needs: &Needs, node: &Value) -> Option<&'static str> {
        let labels = &pod["metadata"]["labels"];
        for term in &needs.near {
            let near = self.any(|other, on| term.means(other.0, other.1) && self.same(term, node, on));
            // The first of a group that wants to be together has nobody to join.
            let first = || term.means(namespace(pod), labels) && !self.any(|other, _| term.means(other.0, other.1));
            let joins = near || (place(term, node).is_some() && first());
            if !joins {
                return Some("node(s) didn't match pod affinity rules");
            }
        }
        for term in &needs.away {
            if self.any(|other, on| term.means(other.0, other.1) && self.same(term, node, on)) {
                return Some("node(s) didn't match pod anti-affinity rules");
            }
        }
        let unwelcome = self.ledger.placed().any(|(_, on, other)| {
            other
                .away
                .iter()
                .any(|term| term.means(namespace(pod), labels) && self.same(term, node, on))
        });
        unwelcome.then_some("node(s) didn't satisfy existing pods anti-affinity rules")
    }

    /// Is there a placed pod for which this holds? Given its namespace and labels, and its node.
    fn any(&self, holds: impl Fn((&str, &Value), &str) -> bool) -> bool {
        let mut placed = self.ledger.placed();
        placed.any(|(key, on, needs)| holds((&key.namespace, &needs.labels), on))
    }

    fn same(&self, term: &Term, node: &Value, other: &str) -> bool {
        let there = self.nodes.get(other).and_then(|node| place(term, node));
        there.is_some() && there == place(term, node)
    }
}

fn place<'a>(term: &Term, node: &'a Value) -> Option<&'a str> {
    node["metadata"]["labels"][&term.place].as_str()
}
