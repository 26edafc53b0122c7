//! Ports of a node that lead to its pods, by traffic: from everywhere, in both families, and who may have which.

use libtest_mimic::Trial;

use crate::support::{Lab, Namespace, eventually, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("hostports::everybody_reaches_the_pod", everybody_reaches_the_pod),
        test("hostports::two_pods_want_the_same", two_pods_want_the_same),
        test("hostports::rules_come_back", rules_come_back),
        test("hostports::datagrams_follow_the_pod", datagrams_follow_the_pod),
    ]
}

/// A pod with the test server and these ports, as JSON, on a node; ready when this returns.
fn pod(namespace: &Namespace, name: &str, node: &str, ports: &str) {
    namespace.apply(&manifest(name, node, ports));
    namespace
        .kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=30s"])
        .good();
}

fn manifest(name: &str, node: &str, ports: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n\
         spec:\n  terminationGracePeriodSeconds: 1\n  nodeName: {node}\n  \
         containers: [{{name: main, image: weft.dev/lab, ports: {ports}}}]\n"
    )
}

/// The node's addresses, IPv4 first.
fn addresses(node: &str) -> [String; 2] {
    let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
    let said = Lab::shared().kubectl(&["get", "node", node, "-o", path]).good();
    let mut all: Vec<_> = said.split_whitespace().map(str::to_owned).collect();
    all.sort_by_key(|ip| ip.contains(':'));
    all.try_into().unwrap()
}

/// How the test server names itself.
fn by(pod: &str) -> String {
    format!("\"pod\":\"{pod}\"")
}

fn url(ip: &str, port: u16) -> String {
    match ip.contains(':') {
        true => format!("http://[{ip}]:{port}/"),
        false => format!("http://{ip}:{port}/"),
    }
}

fn everybody_reaches_the_pod() {
    let lab = Lab::shared();
    let namespace = lab.namespace("hostports");
    pod(&namespace, "a", "node-1", "[{containerPort: 8080, hostPort: 18080}]");
    namespace.pod("neighbour", Some("node-1"));
    namespace.pod("far", Some("node-2"));
    let far = [".status.podIPs[0].ip", ".status.podIPs[1].ip"].map(|path| namespace.field("pod/far", path));
    let node = addresses("node-1");
    for (family, ip) in node.iter().enumerate() {
        let url = url(ip, 18080);
        let from_pod = |pod: &str| namespace.ask(pod, &["http", &url]).good();
        // Pods of other nodes are seen as themselves; those of this one, the pod itself too, as the node.
        let answer = from_pod("far");
        assert!(answer.contains(&by("a")) && answer.contains(&far[family]), "{answer}");
        for pod in ["neighbour", "a"] {
            let answer = from_pod(pod);
            assert!(
                answer.contains(&by("a")) && answer.contains(ip.as_str()),
                "{pod}: {answer}"
            );
        }
        for from in ["node-1", "node-2"] {
            let answer = lab.ask_from_node(from, &["http", &url]).good();
            assert!(answer.contains(&by("a")), "{from}: {answer}");
        }
    }
    let loopback = url("127.0.0.1", 18080);
    let answer = lab.ask_from_node("node-1", &["http", &loopback]).good();
    assert!(answer.contains(&by("a")) && answer.contains(&node[0]), "{answer}");
    // It is that node's port, and no other's.
    let elsewhere = url(&addresses("node-2")[0], 18080);
    assert!(!namespace.ask("far", &["http", &elsewhere]).ok);
    namespace.kubectl(&["delete", "pod", "a"]).good();
    assert!(!namespace.ask("far", &["http", &url(&node[0], 18080)]).ok);
}

fn two_pods_want_the_same() {
    let namespace = Lab::shared().namespace("hostports-twice");
    let node = addresses("node-1");
    let on = |ip: &str| format!("[{{containerPort: 8080, hostPort: 18081, hostIP: {ip:?}}}]");
    pod(&namespace, "first", "node-1", &on(&node[0]));
    // Another address and another protocol of the same port are free.
    pod(&namespace, "second", "node-1", &on(&node[1]));
    let udp = "[{containerPort: 9000, hostPort: 18081, protocol: UDP}]";
    pod(&namespace, "third", "node-1", udp);
    let answer = namespace.ask("third", &["http", &url(&node[1], 18081)]).good();
    assert!(answer.contains(&by("second")), "{answer}");
    namespace.apply(&manifest(
        "fourth",
        "node-1",
        "[{containerPort: 8080, hostPort: 18081}]",
    ));
    eventually("the event names who has the port", || {
        let events = namespace
            .kubectl(&["get", "events", "-o", "jsonpath={.items[*].message}"])
            .good();
        events.contains("0.0.0.0:18081/TCP on node node-1 is taken: pod hostports-twice/first has")
    });
    namespace.kubectl(&["delete", "pod", "first", "second"]).good();
    namespace
        .kubectl(&["wait", "--for=condition=Ready", "pod/fourth", "--timeout=30s"])
        .good();
    let answer = namespace.ask("third", &["http", &url(&node[0], 18081)]).good();
    assert!(answer.contains(&by("fourth")), "{answer}");
}

fn rules_come_back() {
    let lab = Lab::own("hostports", &["--nodes", "1"]);
    let namespace = lab.namespace("flush");
    pod(&namespace, "a", "node-1", "[{containerPort: 8080, hostPort: 18082}]");
    let reached = || lab.ask_from_node("node-1", &["http", "http://127.0.0.1:18082/"]).ok;
    assert!(reached());
    lab.on_node("node-1", &["nft", "flush", "ruleset"]).good();
    assert!(!reached());
    eventually("the agent has written the rules again", reached);
    // What an agent finds at its start is not trusted.
    lab.kill("agent", Some("node-1"));
    lab.on_node("node-1", &["nft", "flush", "ruleset"]).good();
    eventually("the next agent has written the rules again", reached);
}

/// A client that keeps its port.
fn datagrams_follow_the_pod() {
    let lab = Lab::shared();
    let namespace = lab.namespace("hostports-udp");
    let ip = addresses("node-1")[0].clone();
    let port = "[{containerPort: 9000, hostPort: 18083, protocol: UDP}]";
    // From one port all the time; an answer or nothing.
    let ask = || {
        let address = format!("{ip}:18083");
        let question = ["udp", &address, "--from-port", "40001"];
        lab.ask_from_node("node-2", &question).stdout
    };
    pod(&namespace, "first", "node-1", port);
    eventually("the first pod answers", || ask().contains("pod=first "));
    namespace.kubectl(&["delete", "pod", "first"]).good();
    pod(&namespace, "second", "node-1", port);
    eventually("the second pod answers the same client", || {
        ask().contains("pod=second ")
    });
}
