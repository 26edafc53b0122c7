//! Many pods.

use std::collections::HashSet;

use libtest_mimic::Trial;

use crate::support::{Lab, eventually, test, weft};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("scale::three_hundred_pods_on_one_node", three_hundred_pods_on_one_node),
        test(
            "scale::nothing_is_left_of_pods_that_went",
            nothing_is_left_of_pods_that_went,
        ),
    ]
}

/// As many as a test has time for; without `--times` it is ten thousand.
fn nothing_is_left_of_pods_that_went() {
    weft(&["bench", "churn", "--times", "400"]).good();
}

fn three_hundred_pods_on_one_node() {
    const PODS: usize = 300;
    let lab = Lab::own("scale", &["--no-demo", "--nodes", "1"]);
    let links = || lab.on_node("node-1", &["ls", "/sys/class/net"]).good().lines().count();
    let before = links();
    let namespace = lab.namespace("many");
    namespace.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: many}}\n\
         spec:\n  replicas: {PODS}\n  selector: {{matchLabels: {{app: many}}}}\n  template:\n    \
         metadata: {{labels: {{app: many}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
         containers: [{{name: main, image: weft.dev/lab}}]\n"
    ));
    namespace
        .kubectl(&["rollout", "status", "deployment/many", "--timeout=240s"])
        .good();
    let ips = namespace
        .kubectl(&["get", "pods", "-o", "jsonpath={.items[*].status.podIPs[*].ip}"])
        .good();
    let distinct: HashSet<_> = ips.split_whitespace().collect();
    assert_eq!(
        distinct.len(),
        2 * PODS,
        "an address was given twice, or a pod has none"
    );
    assert_eq!(links(), before + PODS);

    namespace
        .kubectl(&["delete", "deployment/many", "--timeout=120s"])
        .good();
    namespace
        .kubectl(&["wait", "--for=delete", "pod", "-l", "app=many", "--timeout=240s"])
        .good();
    eventually("no link is left", || links() == before);
    for (what, path) in [
        ("attachment", "/run/weft/attachments"),
        ("namespace", "/run/netns"),
        ("cgroup", "/sys/fs/cgroup/kubepods"),
    ] {
        let left = || {
            lab.on_node(
                "node-1",
                &[
                    "sh",
                    "-c",
                    "ls -p \"$0\" | grep -v -e cgroup -e '\\.pressure' -e '\\.stat' || true",
                    path,
                ],
            )
            .stdout
        };
        eventually(&format!("no {what} is left"), || {
            left()
                .lines()
                .filter(|line| line.contains("pod") || !line.contains('.'))
                .count()
                == 0
        });
    }
}
