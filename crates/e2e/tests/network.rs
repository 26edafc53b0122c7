//! Addresses, services and names, by traffic.

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::{Lab, eventually, test, weft};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("network::the_checks_of_make_lab", the_checks_of_make_lab),
        test("network::status_is_healthy", status_is_healthy),
        test("network::hostnames_and_files_of_a_pod", hostnames_and_files_of_a_pod),
        test("network::node_to_pod_and_back", node_to_pod_and_back),
        test("network::ipv6_between_pods", ipv6_between_pods),
        test("network::headless_names", headless_names),
        test(
            "network::a_service_without_endpoints_refuses",
            a_service_without_endpoints_refuses,
        ),
        test("network::endpoints_follow_readiness", endpoints_follow_readiness),
        test("network::host_network_pods", host_network_pods),
        test("network::spoofed_sources_are_dropped", spoofed_sources_are_dropped),
    ]
}

fn the_checks_of_make_lab() {
    let said = weft(&["lab", "check", "--name", Lab::shared().name(), "-o", "json"]).good();
    let checks: Value = serde_json::from_str(&said).unwrap();
    let checks = checks.as_array().unwrap();
    assert_eq!(checks.len(), 10, "{said}");
    assert!(checks.iter().all(|check| check["ok"] == true), "{said}");
}

fn status_is_healthy() {
    let lab = Lab::shared();
    eventually("status is healthy", || weft(&["status", "--lab", lab.name()]).ok);
    let said = weft(&["status", "--lab", lab.name(), "-o", "json"]).good();
    let status: Value = serde_json::from_str(&said).unwrap();
    assert!(status.to_string().contains("node-3"), "{said}");
}

fn hostnames_and_files_of_a_pod() {
    let namespace = Lab::shared().namespace("files");
    namespace.pod("a", None);
    let resolv = namespace.exec("a", &["cat", "/etc/resolv.conf"]).good();
    assert!(resolv.contains("nameserver 10.96.0.10"), "{resolv}");
    assert!(
        resolv.contains("search files.svc.cluster.local svc.cluster.local cluster.local"),
        "{resolv}"
    );
    assert!(resolv.contains("options ndots:5"), "{resolv}");
    let hosts = namespace.exec("a", &["cat", "/etc/hosts"]).good();
    let ip = namespace.field("pod/a", ".status.podIP");
    assert!(
        hosts.lines().any(|line| line.starts_with(&ip) && line.ends_with('a')),
        "{hosts}"
    );
    assert_eq!(namespace.exec("a", &["hostname"]).good().trim(), "a");
}

fn node_to_pod_and_back() {
    let lab = Lab::shared();
    let namespace = lab.namespace("node-to-pod");
    namespace.pod("a", Some("node-2"));
    let ip = namespace.field("pod/a", ".status.podIP");
    for node in ["node-2", "node-3"] {
        lab.on_node(node, &["ping", "-c", "1", "-W", "2", &ip]).good();
    }
    let host = namespace.field("pod/a", ".status.hostIP");
    namespace.exec("a", &["ping", "-c", "1", "-W", "2", &host]).good();
}

fn ipv6_between_pods() {
    let namespace = Lab::shared().namespace("ipv6");
    namespace.pod("a", Some("node-1"));
    for (name, node) in [("near", "node-1"), ("far", "node-2")] {
        namespace.pod(name, Some(node));
        let ip = namespace.field(&format!("pod/{name}"), ".status.podIPs[1].ip");
        let answer = namespace.ask("a", &["http", &format!("http://[{ip}]:8080/")]).good();
        let own = namespace.field("pod/a", ".status.podIPs[1].ip");
        assert!(answer.contains(&own), "{own} is not in {answer}");
    }
}

fn headless_names() {
    let namespace = Lab::shared().namespace("headless");
    namespace.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: db}\n\
         spec: {clusterIP: None, selector: {app: db}, ports: [{name: http, port: 8080}]}\n---\n\
         apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\n\
         spec:\n  serviceName: db\n  replicas: 2\n  selector: {matchLabels: {app: db}}\n  template:\n    \
         metadata: {labels: {app: db}}\n    spec: {containers: [{name: main, image: weft.dev/lab}]}\n",
    );
    namespace
        .kubectl(&["rollout", "status", "statefulset/db", "--timeout=60s"])
        .good();
    for pod in ["db-0", "db-1"] {
        let ip = namespace.field(&format!("pod/{pod}"), ".status.podIP");
        eventually("the pod's own name is answered", || {
            let said = namespace.ask("db-0", &["name", &format!("{pod}.db")]);
            said.ok && said.stdout.contains(&ip)
        });
    }
    let both = namespace.ask("db-0", &["name", "db"]).good();
    for pod in ["db-0", "db-1"] {
        let ip = namespace.field(&format!("pod/{pod}"), ".status.podIP");
        assert!(both.contains(&ip), "{ip} is not in {both}");
    }
}

fn a_service_without_endpoints_refuses() {
    let namespace = Lab::shared().namespace("refused");
    namespace.pod("a", None);
    namespace
        .kubectl(&["create", "service", "clusterip", "nobody", "--tcp=80:8080"])
        .good();
    let ip = namespace.field("service/nobody", ".spec.clusterIP");
    eventually("the connection is refused", || {
        namespace
            .ask("a", &["http", &format!("http://{ip}/")])
            .stderr
            .contains("refused")
    });
}

fn endpoints_follow_readiness() {
    let namespace = Lab::shared().namespace("readiness");
    namespace.pod("a", None);
    namespace.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: b, labels: {app: b}}\n\
         spec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {name: main, image: weft.dev/lab, \
         readinessProbe: {periodSeconds: 1, failureThreshold: 1, exec: {command: [test, -e, /tmp/ready]}}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {selector: {app: b}, ports: [{port: 80, targetPort: 8080}]}\n",
    );
    let reaches = || namespace.ask("a", &["http", "http://b/"]).ok;
    eventually("pod b runs", || namespace.field("pod/b", ".status.phase") == "Running");
    assert!(!reaches(), "a pod that is not ready got traffic");
    namespace.exec("b", &["touch", "/tmp/ready"]).good();
    eventually("the ready pod gets traffic", reaches);
    namespace.exec("b", &["rm", "/tmp/ready"]).good();
    eventually("the pod that is not ready any more gets none", || !reaches());
}

fn host_network_pods() {
    let namespace = Lab::shared().namespace("hostnet");
    namespace.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n\
         spec:\n  hostNetwork: true\n  nodeName: node-2\n  terminationGracePeriodSeconds: 1\n  \
         dnsPolicy: ClusterFirstWithHostNet\n  containers: [{name: main, image: weft.dev/lab}]\n",
    );
    namespace
        .kubectl(&["wait", "--for=condition=Ready", "pod/a", "--timeout=30s"])
        .good();
    assert_eq!(
        namespace.field("pod/a", ".status.podIP"),
        namespace.field("pod/a", ".status.hostIP")
    );
    let answer = namespace.ask("a", &["http", "http://web.demo/"]).good();
    assert!(answer.contains("web-"), "{answer}");
}

fn spoofed_sources_are_dropped() {
    let namespace = Lab::shared().namespace("spoof");
    namespace.pod("a", Some("node-1"));
    namespace.pod("b", Some("node-1"));
    let ip = namespace.field("pod/b", ".status.podIP");
    namespace.exec("a", &["ping", "-c", "1", "-W", "2", &ip]).good();
    // The pod may not configure addresses; whoever can (the node) does it for it.
    let pid = "pgrep -f 'weft lab serve' | while read p; do nsenter -t $p -n ip -4 addr | grep -q \"$0\" && echo $p; done | head -1";
    let own = namespace.field("pod/a", ".status.podIP");
    let lab = Lab::shared();
    let spoof = format!(
        "p=$({pid}); nsenter -t $p -n ip addr add 10.244.99.99/32 dev eth0 && nsenter -t $p -n ping -I 10.244.99.99 -c 1 -W 1 \"$1\""
    );
    let said = lab.on_node("node-1", &["sh", "-c", &spoof, &own, &ip]);
    assert!(
        !said.ok && said.stdout.contains("100% packet loss"),
        "{}{}",
        said.stdout,
        said.stderr
    );
    // Who did it is known to who runs the cluster, and to who owns the pod.
    eventually("status names the pod", || {
        let status = weft(&["status", "--lab", lab.name()]).stdout;
        status.contains("pod spoof/a: 1 packet with a source that is not its own")
    });
    eventually("the pod has an event", || {
        let events = namespace.kubectl(&["get", "events", "--field-selector", "involvedObject.name=a"]);
        events.stdout.contains("TrafficNotItsOwn")
    });
}
