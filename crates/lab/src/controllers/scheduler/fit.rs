//! May this pod run on this node, and which node is best: pure functions.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::object::{list, name, text};
use super::super::quantity::milli;
use super::super::selector;
use super::affinity::Map;
use super::usage::{Ledger, Needs};

/// Why a node is no place for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reasons: Vec<String>,
    /// Would removing other pods help?
    pub(super) preemptible: bool,
}

/// Checks one node in the order in which Kubernetes does; the first rule that fails is the one reported.
pub(super) fn check(pod: &Value, needs: &Needs, node: &Value, ledger: &Ledger) -> Result<(), Refusal> {
    let refuse = |reason: String| {
        Err(Refusal {
            reasons: vec![reason],
            preemptible: false,
        })
    };
    let tolerations = list(pod, "/spec/tolerations");
    let cordoned = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
    if node["spec"]["unschedulable"] == true && !tolerated(tolerations, &cordoned) {
        return refuse("node(s) were unschedulable".to_owned());
    }
    if let Some(taint) = untolerated(tolerations, node) {
        let value = text(taint, "/value");
        return refuse(format!(
            "node(s) had untolerated taint {{{}: {value}}}",
            text(taint, "/key")
        ));
    }
    if !affine(pod, node) {
        return refuse("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    let taken = ledger.on(name(node));
    if taken.is_some_and(|taken| taken.clashes(&needs.ports)) {
        let reason = "node(s) didn't have free ports for the requested pod ports".to_owned();
        return Err(Refusal {
            reasons: vec![reason],
            preemptible: true,
        });
    }
    room(needs, node, ledger)
}

fn affine_to_pods(map: Option<&Map<'_>>, pod: &Value, needs: &Needs, node: &Value) -> Result<(), Refusal> {
    match map.and_then(|map| map.objection(pod, needs, node)) {
        None => Ok(()),
        Some(reason) => Err(Refusal {
            reasons: vec![reason.to_owned()],
            preemptible: true,
        }),
    }
}

fn room(needs: &Needs, node: &Value, ledger: &Ledger) -> Result<(), Refusal> {
    let taken = ledger.on(name(node));
    let has = |resource: &str| node["status"]["allocatable"][resource].as_str().and_then(milli);
    let mut reasons = Vec::new();
    let count = taken.map_or(0, |taken| taken.count()) as i128 + 1;
    if has("pods").is_some_and(|pods| count * 1000 > pods) {
        reasons.push("Too many pods".to_owned());
    }
    let (cpu, memory) = taken.map_or((0, 0), |taken| (taken.cpu, taken.memory));
    if needs.cpu > 0 && has("cpu").is_some_and(|all| cpu + needs.cpu > all) {
        reasons.push("Insufficient cpu".to_owned());
    }
    if needs.memory > 0 && has("memory").is_some_and(|all| memory + needs.memory > all) {
        reasons.push("Insufficient memory".to_owned());
    }
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Refusal {
        reasons,
        preemptible: true,
    })
}

/// The first taint that keeps the pod away.
fn untolerated<'a>(tolerations: &[Value], node: &'a Value) -> Option<&'a Value> {
    let keeps_away = |taint: &&Value| matches!(text(taint, "/effect"), "NoSchedule" | "NoExecute");
    let mut taints = list(node, "/spec/taints").iter().filter(keeps_away);
    taints.find(|taint| !tolerated(tolerations, taint))
}

/// Does one of these tolerations cover the taint?
pub(crate) fn tolerated(tolerations: &[Value], taint: &Value) -> bool {
    tolerations.iter().any(|toleration| {
        let field = |name: &str| toleration[name].as_str().unwrap_or_default();
        let effect = field("effect").is_empty() || field("effect") == text(taint, "/effect");
        let key = field("key").is_empty() || field("key") == text(taint, "/key");
        let value =
            field("operator") == "Exists" || (!field("key").is_empty() && field("value") == text(taint, "/value"));
        effect && key && value
    })
}

/// Do the pod's `nodeSelector` and required node affinity fit the node?
pub(crate) fn affine(pod: &Value, node: &Value) -> bool {
    let labels = &node["metadata"]["labels"];
    let selector = pod["spec"]["nodeSelector"].as_object();
    if !selector.is_none_or(|wanted| selector::fits_map(wanted, labels)) {
        return false;
    }
    let required = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    if pod.pointer(required).is_none_or(Value::is_null) {
        return true;
    }
    let fields = json!({"metadata.name": name(node)});
    list(pod, &format!("{required}/nodeSelectorTerms")).iter().any(|term| {
        let (labeled, named) = (list(term, "/matchExpressions"), list(term, "/matchFields"));
        let empty = labeled.is_empty() && named.is_empty();
        !empty
            && labeled.iter().all(|e| selector::expression(e, labels))
            && named.iter().all(|e| selector::expression(e, &fields))
    })
}

/// The best of the nodes that fit: fewest pods of the same controller, fewest soft taints, fewest pods, first by name. Or
/// why none fits.
pub(super) fn choose<'a>(pod: &Value, needs: &Needs, nodes: &[&'a Value], ledger: &Ledger) -> Result<&'a str, String> {
    let (mut best, mut count) = (None, 0);
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut victims: BTreeMap<&str, usize> = BTreeMap::new();
    let map = ledger.minds(needs).then(|| Map::new(nodes, ledger));
    for node in nodes {
        count += 1;
        match check(pod, needs, node, ledger).and_then(|()| affine_to_pods(map.as_ref(), pod, needs, node)) {
            Ok(()) => {
                let taken = ledger.on(name(node));
                let score = (
                    taken.map_or(0, |taken| taken.of_owner(&needs.owner)),
                    soft_taints(pod, node),
                    taken.map_or(0, |taken| taken.count()),
                    name(node),
                );
                if best.is_none_or(|best| score < best) {
                    best = Some(score);
                }
            }
            Err(refusal) => {
                for reason in refusal.reasons {
                    *reasons.entry(reason).or_default() += 1;
                }
                let victim = if refusal.preemptible {
                    "No preemption victims found for incoming pod"
                } else {
                    "Preemption is not helpful for scheduling"
                };
                *victims.entry(victim).or_default() += 1;
            }
        }
    }
    if let Some((.., node)) = best {
        return Ok(node);
    }
    if count == 0 {
        return Err("no nodes available to schedule pods".to_owned());
    }
    let join = |map: &mut dyn Iterator<Item = String>| map.collect::<Vec<_>>().join(", ");
    let mut sorted: Vec<String> = reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    sorted.sort();
    let victims = join(&mut victims.iter().map(|(victim, n)| format!("{n} {victim}")));
    let reasons = sorted.join(", ");
    Err(format!(
        "0/{count} nodes are available: {reasons}. preemption: 0/{count} nodes are available: {victims}."
    ))
}

fn soft_taints(pod: &Value, node: &Value) -> usize {
    let tolerations = list(pod, "/spec/tolerations");
    let soft = list(node, "/spec/taints")
        .iter()
        .filter(|taint| text(taint, "/effect") == "PreferNoSchedule");
    soft.filter(|taint| !tolerated(tolerations, taint)).count()
}
