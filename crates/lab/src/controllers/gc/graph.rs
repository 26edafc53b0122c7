//! Who owns whom, over all kinds.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::super::object::{Key, deleting, has_finalizer, list, uid};
use crate::client::Res;

/// Waits for its dependents before it goes.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Lets go of its dependents before it goes.
pub(super) const ORPHAN: &str = "orphan";

/// One owner reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: String,
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) name: String,
    /// The owner, if it waits for its dependents, waits for this one.
    pub(super) blocks: bool,
}

/// One object.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) res: Res,
    pub(super) key: Key,
    pub(super) owners: Vec<Owner>,
    pub(super) deleting: bool,
    pub(super) foreground: bool,
    pub(super) orphan: bool,
}

impl Node {
    fn of(res: &Res, object: &Value) -> Self {
        let owners = list(object, "/metadata/ownerReferences").iter().map(owner);
        Self {
            res: res.clone(),
            key: Key::of(object),
            owners: owners.collect(),
            deleting: deleting(object),
            foreground: has_finalizer(object, FOREGROUND),
            orphan: has_finalizer(object, ORPHAN),
        }
    }
}

fn owner(reference: &Value) -> Owner {
    let text = |field: &str| reference[field].as_str().unwrap_or_default().to_owned();
    let api_version = text("apiVersion");
    Owner {
        uid: text("uid"),
        group: api_version
            .split_once('/')
            .map(|(group, _)| group.to_owned())
            .unwrap_or_default(),
        kind: text("kind"),
        name: text("name"),
        blocks: reference["blockOwnerDeletion"] == true,
    }
}

/// Every object by uid, and who depends on it.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, HashSet<String>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<(String, Node)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| Some((uid.clone(), self.nodes.get(uid)?.clone())))
            .collect()
    }

    /// Takes in an object as it is now; the uids to look at.
    pub(super) fn apply(&mut self, res: &Res, object: &Value) -> Vec<String> {
        let uid = uid(object).to_owned();
        let node = Node::of(res, object);
        let old = self.nodes.insert(uid.clone(), node.clone());
        let before: Vec<Owner> = old.as_ref().map(|old| old.owners.clone()).unwrap_or_default();
        for owner in before.iter().filter(|owner| !node.owners.contains(owner)) {
            self.unlink(&owner.uid, &uid);
        }
        for owner in &node.owners {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.clone());
        }
        let mut look = Vec::new();
        if node.deleting || (!node.owners.is_empty() && before != node.owners) {
            look.push(uid.clone());
        }
        // An owner that waits may wait no longer; dependents of one that goes may have to go.
        look.extend(
            before
                .into_iter()
                .chain(node.owners)
                .map(|owner| owner.uid)
                .filter(|o| self.is_waiting(o)),
        );
        if node.deleting && node.foreground {
            look.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        look
    }

    /// Takes out an object that has gone; the uids to look at.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        let mut look: Vec<String> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        if let Some(node) = self.nodes.remove(uid) {
            for owner in node.owners {
                self.unlink(&owner.uid, uid);
                look.push(owner.uid);
            }
        }
        look
    }

    fn is_waiting(&self, uid: &str) -> bool {
        self.nodes.get(uid).is_some_and(|node| node.deleting && node.foreground)
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_gone_owner_calls_its_dependents() {
        let res = Res::new("", "v1", "pods");
        let mut graph = Graph::default();
        let reference = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "owner"});
        let pod = json!({"metadata": {"name": "p", "uid": "pod", "ownerReferences": [reference]}});
        assert_eq!(graph.apply(&res, &pod), ["pod"]);
        assert!(graph.apply(&res, &pod).is_empty(), "nothing new");
        graph.apply(&res, &json!({"metadata": {"name": "r", "uid": "owner"}}));
        assert_eq!(graph.remove("owner"), ["pod"]);
        let node = graph.get("pod").unwrap();
        assert_eq!(
            (node.owners[0].group.as_str(), node.owners[0].kind.as_str()),
            ("apps", "ReplicaSet")
        );
        assert_eq!(graph.remove("pod"), ["owner"]);
        assert!(graph.dependents("owner").is_empty());
    }

    #[test]
    fn an_owner_that_waits_is_told() {
        let res = Res::new("", "v1", "pods");
        let mut graph = Graph::default();
        let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": "r", "uid": "owner"});
        graph.apply(
            &res,
            &json!({"metadata": {"name": "p", "uid": "pod", "ownerReferences": [reference]}}),
        );
        let owner = json!({
            "metadata": {"name": "r", "uid": "owner", "deletionTimestamp": "x", "finalizers": ["foregroundDeletion"]},
        });
        let mut look = graph.apply(&res, &owner);
        look.sort();
        assert_eq!(look, ["owner", "pod"]);
        assert_eq!(graph.remove("pod"), ["owner"]);
    }
}
