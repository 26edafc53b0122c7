//! Limits of pods' traffic by the annotations that Kubernetes has for it: from the pod's object to the queues of its link.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::support::{Lab, Namespace, eventually, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("limits::annotations_limit_a_pod", annotations_limit_a_pod),
        test("limits::who_lifts_a_limit_is_held", who_lifts_a_limit_is_held),
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

/// A pod that may configure its own network takes its queue off, and gets no more through than before.
fn who_lifts_a_limit_is_held() {
    let namespace = Lab::shared().namespace("limits-lifted");
    namespace.pod("near", Some("node-1"));
    namespace.apply(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: eager\n  annotations: \
         {kubernetes.io/egress-bandwidth: 1M}\n\
         spec:\n  terminationGracePeriodSeconds: 1\n  nodeName: node-1\n  containers: [{name: main, \
         image: weft.dev/lab, securityContext: {capabilities: {add: [NET_ADMIN]}}}]\n",
    );
    namespace
        .kubectl(&["wait", "--for=condition=Ready", "pod/eager", "--timeout=30s"])
        .good();
    let lift = "tc qdisc del dev eth0 root && ! tc qdisc show dev eth0 | grep tbf";
    namespace.exec("eager", &["sh", "-c", lift]).good();
    // A quarter of a megabyte takes two seconds at 1 Mbit/s, and no time without a limit.
    let near = namespace.field("pod/near", ".status.podIP");
    let send = format!(
        "exec 3<>/dev/tcp/{near}/9000 && {{ head -c 250000 /dev/zero | tr '\\0' x; echo; }} >&3 && head -n 1 <&3"
    );
    let start = Instant::now();
    let said = namespace.exec("eager", &["timeout", "60", "bash", "-c", &send]).good();
    assert!(said.contains("pod=near"), "{said}");
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1500), "{took:?}");
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
