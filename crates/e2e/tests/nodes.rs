//! Nodes that join, leave and are started again: traffic follows, and nothing of what was stays.

use libtest_mimic::Trial;

use crate::support::{Lab, Namespace, eventually, test, weft};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("nodes::one_joins_moves_and_leaves", one_joins_moves_and_leaves),
        test("nodes::a_reboot_is_clean", a_reboot_is_clean),
    ]
}

/// Waits until a pod answers another one, over each family, and sees its own address.
#[track_caller]
fn reaches(namespace: &Namespace, from: &str, to: &str) {
    for family in 0..2 {
        let ip = |pod: &str| namespace.field(&format!("pod/{pod}"), &format!(".status.podIPs[{family}].ip"));
        eventually(&format!("{from} reaches {to}"), || {
            let host = match ip(to) {
                v6 if v6.contains(':') => format!("[{v6}]"),
                v4 => v4,
            };
            let said = namespace.ask(from, &["--timeout", "1", "http", &format!("http://{host}:8080/")]);
            said.ok && said.stdout.contains(&ip(from)) && said.stdout.contains(&format!("\"{to}\""))
        });
    }
}

/// The routes of the node's network plugin to other nodes' pods.
fn routes_to_nodes(lab: &Lab, node: &str) -> String {
    let command = "(ip route; ip -6 route) | grep 'proto 87' | grep via || true";
    lab.on_node(node, &["sh", "-c", command]).good()
}

fn one_joins_moves_and_leaves() {
    let lab = Lab::own("join", &["--no-demo", "--nodes", "2"]);
    let said = weft(&["lab", "node", "add", "--name", lab.name()]).good();
    assert_eq!(said.trim(), "node-3 is ready, with 10.89.0.13 and fd89::d");
    let namespace = lab.namespace("join");
    namespace.pod("old", Some("node-1"));
    namespace.pod("new", Some("node-3"));
    reaches(&namespace, "old", "new");
    reaches(&namespace, "new", "old");
    assert!(routes_to_nodes(&lab, "node-2").contains("via 10.89.0.13 "));

    weft(&["lab", "node", "readdress", "--name", lab.name(), "node-3"]).good();
    reaches(&namespace, "old", "new");
    reaches(&namespace, "new", "old");
    eventually("the pod's node is known by its new address", || {
        namespace.field("pod/new", ".status.hostIP") == "10.89.1.13"
    });
    assert!(routes_to_nodes(&lab, "node-2").contains("via 10.89.1.13 "));

    weft(&["lab", "node", "remove", "--name", lab.name(), "node-3"]).good();
    for node in ["node-1", "node-2"] {
        eventually("no route leads to the node that is gone", || {
            !routes_to_nodes(&lab, node).contains(".13 ")
        });
    }
    eventually("its pod is gone", || !namespace.kubectl(&["get", "pod", "new"]).ok);
    let nodes = lab.kubectl(&["get", "nodes", "-o", "name"]).good();
    assert_eq!(nodes, "node/node-1\nnode/node-2\n");
    let again = weft(&["lab", "node", "remove", "--name", lab.name(), "node-3"]).bad();
    assert!(
        again.contains("has no node \"node-3\"; it has node-1, node-2"),
        "{again}"
    );

    // The place is free, and the next to take it has nothing of what was there.
    weft(&["lab", "node", "add", "--name", lab.name()]).good();
    namespace.pod("new", Some("node-3"));
    reaches(&namespace, "old", "new");
}

fn a_reboot_is_clean() {
    let lab = Lab::own("reboot", &["--no-demo", "--nodes", "2"]);
    let namespace = lab.namespace("reboot");
    namespace.pod("stays", Some("node-1"));
    for pod in ["a", "b"] {
        namespace.pod(pod, Some("node-2"));
    }
    lab.on_node("node-2", &["touch", "/var/lib/disk", "/run/memory"]).good();
    let before = routes_to_nodes(&lab, "node-1");
    let pins = |node: &str| {
        let found = lab.on_node(node, &["find", "/sys/fs/bpf/weft"]).good();
        found.lines().count()
    };
    let pinned = pins("node-2");

    weft(&["lab", "node", "reboot", "--name", lab.name(), "node-2"]).good();
    for pod in ["a", "b"] {
        let object = format!("pod/{pod}");
        eventually("the pod has been started again", || {
            let status = |path: &str| namespace.field(&object, &format!(".status.containerStatuses[0].{path}"));
            status("restartCount") == "1" && status("ready") == "true"
        });
        reaches(&namespace, "stays", pod);
        reaches(&namespace, pod, "stays");
    }
    lab.on_node("node-2", &["test", "-e", "/var/lib/disk"]).good();
    lab.on_node("node-2", &["test", "-e", "/run/memory"]).bad();
    assert_eq!(routes_to_nodes(&lab, "node-1"), before);
    eventually("two pods, their links, routes and pins, and no more", || {
        let count = |command: &str| lab.on_node("node-2", &["sh", "-c", command]).stdout.trim().to_owned();
        count("ip -o link | grep -c ': weft[0-9a-f]\\{8\\}'") == "2"
            && count("(ip route; ip -6 route) | grep -c 'dev weft'") == "4"
            && count("ls /run/weft/attachments | wc -l") == "2"
            && count("ip netns list | wc -l") == "2"
            && pins("node-2") == pinned
    });
    eventually("every node is healthy", || weft(&["status", "--lab", lab.name()]).ok);
}
