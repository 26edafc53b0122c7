//! Which node a pod gets, and what is said when it gets none.

use serde_json::{Value, json};

use super::fit::{affine, choose, tolerated};
use super::usage::{Ledger, Needs};
use crate::controllers::object::Key;

fn node(name: &str, change: Value) -> Value {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}},
    });
    if let Some(spec) = change.as_object() {
        for (key, value) in spec {
            node["spec"][key] = value.clone();
        }
    }
    node
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "p", "namespace": "a"}, "spec": spec})
}

fn place<'a>(pod: &Value, nodes: &'a [Value], ledger: &Ledger) -> Result<&'a str, String> {
    choose(pod, &Needs::of(pod), &nodes.iter().collect::<Vec<_>>(), ledger)
}

fn requests(cpu: &str) -> Value {
    pod(json!({"containers": [{"resources": {"requests": {"cpu": cpu}}}]}))
}

#[test]
fn pods_spread() {
    let nodes = [node("n1", json!({})), node("n2", json!({})), node("n3", json!({}))];
    let mut ledger = Ledger::default();
    let mut seen = Vec::new();
    for i in 0..3 {
        let chosen = place(&pod(json!({})), &nodes, &ledger).unwrap();
        ledger.place(Key::new("a", &format!("p{i}")), chosen, Needs::default());
        seen.push(chosen);
    }
    assert_eq!(seen, ["n1", "n2", "n3"]);
}

#[test]
fn pods_of_one_controller_spread_before_load_counts() {
    let nodes = [node("n1", json!({})), node("n2", json!({}))];
    let mut ledger = Ledger::default();
    let owned = Needs {
        owner: "rs".into(),
        ..Needs::default()
    };
    ledger.place(Key::new("a", "1"), "n2", owned.clone());
    ledger.place(Key::new("a", "2"), "n1", Needs::default());
    ledger.place(Key::new("a", "3"), "n1", Needs::default());
    assert_eq!(
        choose(&pod(json!({})), &owned, &nodes.iter().collect::<Vec<_>>(), &ledger),
        Ok("n1")
    );
}

#[test]
fn messages_are_those_of_kubernetes() {
    let nodes = [
        node("n1", json!({"unschedulable": true})),
        node(
            "n2",
            json!({"taints": [{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]}),
        ),
        node("n3", json!({})),
    ];
    let message = place(&requests("3"), &nodes, &Ledger::default()).unwrap_err();
    assert_eq!(
        message,
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {dedicated: db}, \
         1 node(s) were unschedulable. preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, \
         2 Preemption is not helpful for scheduling."
    );
    let message = place(&requests("1"), &[], &Ledger::default()).unwrap_err();
    assert_eq!(message, "no nodes available to schedule pods");
    let picky = pod(json!({"nodeSelector": {"disk": "ssd"}}));
    let message = place(&picky, &nodes[2..], &Ledger::default()).unwrap_err();
    assert!(message.starts_with("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."));
}

#[test]
fn what_is_taken_counts_and_is_given_back() {
    let nodes = [node("n1", json!({}))];
    let mut ledger = Ledger::default();
    ledger.place(Key::new("a", "1"), "n1", Needs::of(&requests("1500m")));
    assert!(place(&requests("1"), &nodes, &ledger).is_err());
    assert!(ledger.remove(&Key::new("a", "1")));
    assert_eq!(place(&requests("1"), &nodes, &ledger), Ok("n1"));
    for i in 0..3 {
        ledger.place(Key::new("a", &i.to_string()), "n1", Needs::default());
    }
    let message = place(&pod(json!({})), &nodes, &ledger).unwrap_err();
    assert!(message.contains("1 Too many pods"), "{message}");
}

#[test]
fn host_ports_clash_by_address() {
    let nodes = [node("n1", json!({}))];
    let port = |ip: &str| pod(json!({"containers": [{"ports": [{"hostPort": 80, "hostIP": ip}]}]}));
    let mut ledger = Ledger::default();
    ledger.place(Key::new("a", "1"), "n1", Needs::of(&port("10.0.0.1")));
    assert!(place(&port("10.0.0.2"), &nodes, &ledger).is_ok());
    assert!(place(&port("10.0.0.1"), &nodes, &ledger).is_err());
    assert!(
        place(&port(""), &nodes, &ledger)
            .unwrap_err()
            .contains("didn't have free ports")
    );
}

#[test]
fn init_containers_count_by_their_peak() {
    let pod = pod(json!({
        "containers": [{"resources": {"requests": {"cpu": "100m"}}}],
        "initContainers": [
            {"restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
            {"resources": {"requests": {"cpu": "300m"}}},
        ],
    }));
    assert_eq!(Needs::of(&pod).cpu, 350);
}

#[test]
fn tolerations_and_affinity() {
    let taint = json!({"key": "k", "value": "v", "effect": "NoSchedule"});
    assert!(tolerated(&[json!({"operator": "Exists"})], &taint));
    assert!(tolerated(
        &[json!({"key": "k", "operator": "Equal", "value": "v"})],
        &taint
    ));
    assert!(!tolerated(&[json!({"key": "k", "value": "w"})], &taint));
    assert!(!tolerated(
        &[json!({"key": "k", "operator": "Exists", "effect": "NoExecute"})],
        &taint
    ));
    let by = |terms: Value| {
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        affine(
            &pod(json!({"affinity": {"nodeAffinity": required}})),
            &node("n1", json!({})),
        )
    };
    let hostname = |value: &str| json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [value]});
    assert!(by(
        json!([{"matchExpressions": [hostname("n2")]}, {"matchExpressions": [hostname("n1")]}])
    ));
    assert!(!by(json!([{"matchExpressions": [hostname("n2")]}])));
    assert!(by(
        json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}])
    ));
    assert!(!by(json!([{}])));
}

#[test]
fn pods_near_and_away_from_others() {
    let nodes = [node("n1", json!({})), node("n2", json!({}))];
    let term = |app: &str| {
        let labels = json!({"matchLabels": {"app": app}});
        json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname", "labelSelector": labels}]})
    };
    let labelled = |app: &str, affinity: Value| {
        let mut pod = pod(json!({"affinity": affinity}));
        pod["metadata"]["labels"] = json!({"app": app});
        pod
    };
    let mut ledger = Ledger::default();
    let near_db = labelled("web", json!({"podAffinity": term("db")}));
    let message = place(&near_db, &nodes, &ledger).unwrap_err();
    assert!(
        message.contains("2 node(s) didn't match pod affinity rules"),
        "{message}"
    );
    let alone = labelled("db", json!({"podAntiAffinity": term("db")}));
    ledger.place(Key::new("a", "db-1"), "n2", Needs::of(&alone));
    assert_eq!(place(&near_db, &nodes, &ledger), Ok("n2"));
    assert_eq!(place(&alone, &nodes, &ledger), Ok("n1"));
    ledger.place(Key::new("a", "db-2"), "n1", Needs::of(&alone));
    assert!(
        place(&alone, &nodes, &ledger)
            .unwrap_err()
            .contains("2 node(s) didn't match pod anti-affinity rules")
    );
    let message = place(&labelled("db", Value::Null), &nodes, &ledger).unwrap_err();
    assert!(
        message.contains("2 node(s) didn't satisfy existing pods anti-affinity rules"),
        "{message}"
    );
    let mut elsewhere = labelled("db", json!({"podAntiAffinity": term("db")}));
    elsewhere["metadata"]["namespace"] = "b".into();
    assert!(
        place(&elsewhere, &nodes, &ledger).is_ok(),
        "terms are about their own namespace"
    );
    let together = labelled("group", json!({"podAffinity": term("group")}));
    assert_eq!(
        place(&together, &nodes, &Ledger::default()),
        Ok("n1"),
        "the first has nobody to join"
    );
    ledger.remove(&Key::new("a", "db-1"));
    ledger.remove(&Key::new("a", "db-2"));
    assert!(place(&labelled("db", Value::Null), &nodes, &ledger).is_ok());
}
