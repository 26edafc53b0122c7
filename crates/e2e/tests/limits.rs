//! Limits of pods' traffic by the annotations that Kubernetes has for it: from the pod's object to the queues of its link.

use libtest_mimic::Trial;

use crate::support::{Lab, Namespace, eventually, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("limits::annotations_limit_a_pod", annotations_limit_a_pod),
        test("limits::a_malformed_annotation_is_told", a_malformed_annotation_is_told),
    ]
}

fn limited(namespace: &Namespace, name: &str, rate: &str) {
    namespace.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  annotations: \
         {{kubernetes.io/ingress-bandwidth: {rate}, kubernetes.io/egress-bandwidth: {rate}}}\n\
         spec:\n  terminationGracePeriodSeconds: 1\n  nodeName: node-1\n  \
         containers: [{{name: main, image: weft.dev/lab}}]\n"
    ));
}

fn annotations_limit_a_pod() {
    let namespace = Lab::shared().namespace("limits");
    limited(&namespace, "slow", "1M");
    namespace
        .kubectl(&["wait", "--for=condition=Ready", "pod/slow", "--timeout=30s"])
        .good();
    namespace.pod("near", Some("node-1"));
    let url = format!("http://{}:8080/", namespace.field("pod/slow", ".status.podIP"));
    namespace.ask("near", &["http", &url]).good();
    // A pod of the same node gets its packets directly, past every queue; a limited one does not: they were all in the
    // host side's queue. What a queue lets through in a time is tested with the link itself.
    let inside = namespace.exec("slow", &["tc", "-s", "qdisc"]).good();
    let sent = |listed: &str| {
        let queue = listed.split("qdisc ").find(|part| part.starts_with("tbf"));
        queue.is_some_and(|queue| !queue.contains("Sent 0 bytes 0 pkt"))
    };
    assert!(sent(&inside), "{inside}");
    let outside = Lab::shared().on_node("node-1", &["tc", "-s", "qdisc"]).good();
    assert!(sent(&outside), "{outside}");
}

fn a_malformed_annotation_is_told() {
    let namespace = Lab::shared().namespace("limits-wrong");
    limited(&namespace, "wrong", "fast");
    eventually("the event names the annotation", || {
        let events = namespace
            .kubectl(&["get", "events", "-o", "jsonpath={.items[*].message}"])
            .good();
        events.contains("kubernetes.io/ingress-bandwidth: \"fast\" is no quantity")
    });
}
