//! Where a DaemonSet's pods belong, and which of them an update replaces next: pure functions.

use serde_json::{Value, json};

use super::super::cache::Object;
use super::super::object::{list, name, text};
use super::super::pods::from_template;
use super::super::revision::HASH;
use super::super::scheduler::fit::{affine, tolerated};

/// Taints that every daemon bears: key and effect.
const BORNE: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// What a node means to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A pod belongs there.
    Run,
    /// None is started, one that is there may stay.
    Stay,
    /// One that is there has to go.
    Leave,
}

/// What this node means to such a pod.
pub(super) fn place(pod: &Value, node: &Value) -> Place {
    if !affine(pod, node) {
        return Place::Leave;
    }
    let tolerations = list(pod, "/spec/tolerations");
    let keeps_away = |effect: &str| {
        let mut taints = list(node, "/spec/taints")
            .iter()
            .filter(|taint| text(taint, "/effect") == effect);
        taints.any(|taint| !tolerated(tolerations, taint))
    };
    if keeps_away("NoExecute") {
        Place::Leave
    } else if keeps_away("NoSchedule") {
        Place::Stay
    } else {
        Place::Run
    }
}

/// The pod for a node; for no node in particular if that is empty.
pub(super) fn pod(set: &Value, template: &Value, hash: &str, node: &str) -> Value {
    let mut pod = from_template(template, set);
    pod["metadata"]["generateName"] = format!("{}-", name(set)).into();
    pod["metadata"]["labels"][HASH] = hash.into();
    let generation = set["metadata"]["generation"].as_i64().unwrap_or(1);
    pod["metadata"]["labels"]["pod-template-generation"] = generation.to_string().into();
    let mut tolerations = list(&pod, "/spec/tolerations").to_vec();
    let network = pod["spec"]["hostNetwork"] == true;
    let network = network.then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    for (key, effect) in BORNE.into_iter().chain(network) {
        let toleration = json!({"key": key, "operator": "Exists", "effect": effect});
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    pod["spec"]["tolerations"] = tolerations.into();
    if !node.is_empty() {
        bind_to(&mut pod, node);
    }
    pod
}

/// Says by affinity which node it is for; the scheduler sees to the rest.
fn bind_to(pod: &mut Value, node: &str) {
    let field = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let affinity = &mut pod["spec"]["affinity"]["nodeAffinity"][required];
    match affinity["nodeSelectorTerms"].as_array_mut() {
        Some(terms) if !terms.is_empty() => terms.iter_mut().for_each(|term| term["matchFields"] = field.clone()),
        _ => *affinity = json!({"nodeSelectorTerms": [{ "matchFields": field }]}),
    }
}

/// The node that a pod is on, or is for.
pub(super) fn target_node(pod: &Value) -> &str {
    let node = text(pod, "/spec/nodeName");
    if !node.is_empty() {
        return node;
    }
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    text(pod, &format!("{terms}/0/matchFields/0/values/0"))
}

/// The pods of old templates that go now: those that do not serve at once, of the others only as many as may be missing.
pub(super) fn to_replace(set: &Value, wanted: i64, unavailable: i64, outdated: Vec<(bool, Object)>) -> Vec<Object> {
    let limit = &set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"];
    let percent = limit
        .as_str()
        .and_then(|text| text.strip_suffix('%')?.parse::<i64>().ok());
    let limit = limit
        .as_i64()
        .or(percent.map(|p| (p * wanted + 99) / 100))
        .unwrap_or(1)
        .max(1);
    let mut spare = (limit - unavailable).max(0);
    let goes = |(available, pod): (bool, Object)| {
        if available {
            if spare == 0 {
                return None;
            }
            spare -= 1;
        }
        Some(pod)
    };
    outdated.into_iter().filter_map(goes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> Value {
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d", "namespace": "a", "uid": "1"}})
    }

    #[test]
    fn places() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"nodeSelector": {"disk": "ssd"}}});
        let pod = pod(&set(), &template, "h", "");
        let node =
            |taints: Value| json!({"metadata": {"name": "n", "labels": {"disk": "ssd"}}, "spec": {"taints": taints}});
        let tainted = |key: &str, effect: &str| place(&pod, &node(json!([{"key": key, "effect": effect}])));
        assert_eq!(place(&pod, &node(json!([]))), Place::Run);
        assert_eq!(tainted("mine", "NoSchedule"), Place::Stay);
        assert_eq!(tainted("mine", "NoExecute"), Place::Leave);
        assert_eq!(tainted("node.kubernetes.io/unschedulable", "NoSchedule"), Place::Run);
        assert_eq!(place(&pod, &json!({"metadata": {"name": "n"}})), Place::Leave);
    }

    #[test]
    fn a_pod_is_for_its_node() {
        let template = json!({"metadata": {"labels": {}}, "spec": {"containers": []}});
        let pod = pod(&set(), &template, "h", "n2");
        assert_eq!(target_node(&pod), "n2");
        assert!(affine(&pod, &json!({"metadata": {"name": "n2"}})));
        assert!(!affine(&pod, &json!({"metadata": {"name": "n1"}})));
    }

    #[test]
    fn an_update_takes_few_at_a_time() {
        let outdated = |available: &[bool]| {
            available
                .iter()
                .map(|a| (*a, Object::new(json!({}))))
                .collect::<Vec<_>>()
        };
        assert_eq!(to_replace(&set(), 3, 0, outdated(&[true, true, true])).len(), 1);
        assert_eq!(to_replace(&set(), 3, 1, outdated(&[true, true])).len(), 0);
        assert_eq!(to_replace(&set(), 3, 1, outdated(&[false, true])).len(), 1);
    }
}
