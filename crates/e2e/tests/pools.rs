//! Addresses out of pools, in labs whose nodes have no ranges of their own.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use libtest_mimic::Trial;

use crate::support::{Lab, Namespace, eventually, test, weft};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("pools::who_gets_which_address", who_gets_which_address),
        test(
            "pools::a_burst_while_controller_and_agent_die",
            a_burst_while_controller_and_agent_die,
        ),
        test(
            "pools::what_a_pool_runs_out_of_and_gives_back",
            what_a_pool_runs_out_of_and_gives_back,
        ),
        test(
            "pools::a_node_range_that_overlaps_is_refused",
            a_node_range_that_overlaps_is_refused,
        ),
    ]
}

/// Creates a pool and waits until it is in force.
pub(crate) fn pool(lab: &Lab, name: &str, spec: &str) {
    let yaml = format!("apiVersion: weft.dev/v1alpha1\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {spec}\n");
    lab.kubectl_stdin(&["apply", "-f", "-"], &yaml).good();
    lab.kubectl(&[
        "wait",
        "--for=condition=Ready",
        &format!("ippool/{name}"),
        "--timeout=30s",
    ])
    .good();
}

/// A pod's manifest: `metadata` beside its name, on a node or anywhere.
fn manifest(name: &str, metadata: &str, node: Option<&str>) -> String {
    let node = node.map_or_else(String::new, |node| format!("nodeName: {node}, "));
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, {metadata}}}\n\
         spec: {{{node}terminationGracePeriodSeconds: 1, containers: [{{name: main, image: weft.dev/lab}}]}}\n"
    )
}

pub(crate) fn annotated(namespace: &Namespace, name: &str, annotation: &str, node: Option<&str>) {
    namespace.apply(&manifest(name, &format!("annotations: {{{annotation}}}"), node));
}

/// Waits for a pod, or for `--all` of them.
pub(crate) fn ready(namespace: &Namespace, pod: &str) {
    namespace
        .kubectl(&["wait", "--for=condition=Ready", "pod", pod, "--timeout=60s"])
        .good();
}

/// The addresses of a pod, once it has some.
pub(crate) fn ips(namespace: &Namespace, name: &str) -> Vec<IpAddr> {
    let text = namespace.field(&format!("pod/{name}"), ".status.podIPs[*].ip");
    text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
}

fn within(ip: IpAddr, cidr: &str) -> bool {
    cidr.parse::<IpNet>().unwrap().contains(&ip)
}

/// Waits until `kubectl describe pod` says this.
pub(crate) fn described(namespace: &Namespace, name: &str, expected: &str) {
    eventually(&format!("pod {name} says {expected:?}"), || {
        namespace.kubectl(&["describe", "pod", name]).stdout.contains(expected)
    });
}

/// Addresses that a node has of a pool, over both families.
fn blocks(lab: &Lab, node: &str, pool: &str) -> Vec<IpNet> {
    let path = format!("jsonpath={{.spec.allocated[?(@.pool==\"{pool}\")].cidrs[*]}}");
    let said = lab.kubectl(&["get", "nodeaddresses", node, "-o", &path]).stdout;
    said.split_whitespace().map(|cidr| cidr.parse().unwrap()).collect()
}

fn who_gets_which_address() {
    let lab = Lab::own("pools", &["--no-demo", "--nodes", "2", "--ipam", "pools"]);
    pool(
        &lab,
        "blue",
        "{cidrs: [10.61.0.0/24, 'fd61::/120'], blockSize: {ipv4: 29, ipv6: 125}}",
    );
    pool(
        &lab,
        "four",
        "{cidrs: [10.62.0.0/24], blockSize: {ipv4: 32}, preAllocate: 2}",
    );
    pool(
        &lab,
        "six",
        "{cidrs: ['fd63::/120'], blockSize: {ipv6: 128}, preAllocate: 2}",
    );
    pool(
        &lab,
        "team",
        "{cidrs: [10.64.0.0/24], namespaceSelector: {matchLabels: {team: a}}}",
    );
    let namespace = lab.namespace("asks");
    let green = lab.namespace("green");
    lab.kubectl(&["annotate", "namespace", "green", "weft.dev/ip-pool=blue"])
        .good();
    let team = lab.namespace("team-a");
    lab.kubectl(&["label", "namespace", "team-a", "team=a"]).good();

    namespace.apply(&manifest("default", "", Some("node-1")));
    annotated(&namespace, "blue", "weft.dev/ip-pool: blue", Some("node-1"));
    annotated(&namespace, "four", "weft.dev/ip-pool: four", Some("node-1"));
    annotated(&namespace, "four-far", "weft.dev/ip-pool: four", Some("node-2"));
    annotated(&namespace, "six", "weft.dev/ip-pool: six", Some("node-1"));
    annotated(&namespace, "six-far", "weft.dev/ip-pool: six", Some("node-2"));
    annotated(
        &namespace,
        "fixed",
        "weft.dev/ip: '10.61.0.77,fd61::77'",
        Some("node-2"),
    );
    green.apply(&manifest("inherits", "", Some("node-2")));
    team.apply(&manifest("selected", "", Some("node-2")));
    ready(&namespace, "--all");
    ready(&green, "--all");
    ready(&team, "--all");

    let ready_ips = |namespace: &Namespace, name: &str| ips(namespace, name);
    let check = |namespace: &Namespace, name: &str, cidrs: &[&str]| {
        let found = ready_ips(namespace, name);
        assert_eq!(found.len(), cidrs.len(), "{name}: {found:?}");
        assert!(
            found.iter().zip(cidrs).all(|(ip, cidr)| within(*ip, cidr)),
            "{name}: {found:?}"
        );
    };
    check(&namespace, "default", &["10.244.0.0/16", "fd00:10:244::/64"]);
    check(&namespace, "blue", &["10.61.0.0/24", "fd61::/120"]);
    check(&namespace, "fixed", &["10.61.0.77/32", "fd61::77/128"]);
    check(&namespace, "four", &["10.62.0.0/24"]);
    check(&namespace, "six", &["fd63::/120"]);
    check(&green, "inherits", &["10.61.0.0/24", "fd61::/120"]);
    check(&team, "selected", &["10.64.0.0/24"]);

    // Between nodes, in both families, from and to blocks and single addresses; the client's own address is seen.
    for (from, to) in [
        ("default", "fixed"),
        ("blue", "fixed"),
        ("four", "four-far"),
        ("six", "six-far"),
    ] {
        for (own, ip) in ips(&namespace, from).into_iter().zip(ips(&namespace, to)) {
            let url = match ip {
                IpAddr::V4(ip) => format!("http://{ip}:8080/"),
                IpAddr::V6(ip) => format!("http://[{ip}]:8080/"),
            };
            eventually(&format!("{from} reaches {to} at {ip}"), || {
                let said = namespace.ask(from, &["http", &url]);
                said.ok && said.stdout.contains(&own.to_string())
            });
        }
    }

    // What is wrong is told to the pod, and nobody else is held up.
    annotated(&namespace, "nowhere", "weft.dev/ip-pool: red", None);
    annotated(&namespace, "nine", "weft.dev/ip: nine", None);
    annotated(&namespace, "same", "weft.dev/ip: 10.61.0.77", Some("node-2"));
    described(
        &namespace,
        "nowhere",
        "there is no IPPool red; create it, or correct the annotation weft.dev/ip-pool",
    );
    described(
        &namespace,
        "nine",
        "annotation weft.dev/ip: \"nine\" is no address of a pod",
    );
    described(&namespace, "same", "in use here by namespace asks (fixed)");
    eventually("status names the pools of each node", || {
        let said = weft(&["status", "--lab", lab.name()]);
        said.ok
            && ["blue", "default", "team"]
                .iter()
                .all(|name| said.stdout.contains(&format!("of pool {name}")))
    });
}

fn a_burst_while_controller_and_agent_die() {
    let lab = Lab::own("burst", &["--no-demo", "--nodes", "2", "--ipam", "pools"]);
    let namespace = lab.namespace("burst");
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: many}\n\
        spec:\n  replicas: 60\n  selector: {matchLabels: {app: many}}\n  template:\n    metadata: {labels: {app: many}}\n    \
        spec: {terminationGracePeriodSeconds: 1, containers: [{name: main, image: weft.dev/lab}]}\n";
    namespace.apply(deployment);
    for round in 0..5 {
        eventually("there is a controller to kill", || lab.kill("controller", None) > 0);
        if round % 2 == 0 {
            eventually("there is an agent to kill", || lab.kill("agent", Some("node-1")) > 0);
        }
    }
    namespace
        .kubectl(&["rollout", "status", "deployment/many", "--timeout=240s"])
        .good();
    let all = || {
        let said = namespace.field("pods", ".items[*].status.podIPs[*].ip");
        said.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let given = all();
    assert_eq!(given.len(), 120, "{given:?}");
    assert_eq!(
        given.iter().collect::<BTreeSet<_>>().len(),
        120,
        "an address was given twice: {given:?}"
    );
    let has = |node: &str| blocks(&lab, node, "default");
    let (one, two) = (has("node-1"), has("node-2"));
    assert!(!one.iter().any(|cidr| two.contains(cidr)), "{one:?} {two:?}");

    // What is not needed any more goes back, and what stays works.
    namespace.kubectl(&["scale", "deployment/many", "--replicas=2"]).good();
    let gone = [
        "wait",
        "--for=jsonpath={.status.replicas}=2",
        "deployment/many",
        "--timeout=120s",
    ];
    namespace.kubectl(&gone).good();
    eventually("the pods are gone", || all().len() == 4);
    // An agent that was killed has left no link of a pod behind.
    let links = |node: &str| {
        lab.on_node(
            node,
            &["sh", "-c", "ip -o link | grep -cE ': weft[0-9a-f]{11}@' || true"],
        )
        .good()
    };
    let pods = |node: &str| {
        let path = format!("jsonpath={{.items[?(@.spec.nodeName==\"{node}\")].metadata.name}}");
        namespace
            .kubectl(&["get", "pods", "-o", &path])
            .good()
            .split_whitespace()
            .count()
    };
    for node in ["node-1", "node-2"] {
        eventually(&format!("{node} has a link for each pod"), || {
            links(node).trim() == pods(node).to_string()
        });
    }
    let ipv4 = |node: &str| has(node).iter().filter(|cidr| cidr.addr().is_ipv4()).count();
    eventually("the nodes keep what they need and a buffer", || {
        ipv4("node-1") <= 2 && ipv4("node-2") <= 2
    });
    for ip in all() {
        let ip: IpAddr = ip.parse().unwrap();
        let held = || {
            ["node-1", "node-2"]
                .iter()
                .any(|node| has(node).iter().any(|cidr| cidr.contains(&ip)))
        };
        assert!(held(), "{ip} is in use and no node has it");
    }
    eventually("status is healthy", || weft(&["status", "--lab", lab.name()]).ok);
}

fn what_a_pool_runs_out_of_and_gives_back() {
    let lab = Lab::own("small", &["--no-demo", "--nodes", "1", "--ipam", "pools"]);
    let namespace = lab.namespace("small");
    pool(&lab, "tiny", "{cidrs: [10.71.0.0/31], blockSize: {ipv4: 32}}");
    for name in ["a", "b"] {
        annotated(&namespace, name, "weft.dev/ip-pool: tiny", None);
    }
    ready(&namespace, "--all");
    annotated(&namespace, "c", "weft.dev/ip-pool: tiny", None);
    for part in [
        "IPPool tiny has no free IPv4 address on this node: 2 of 2 are in use",
        "in use here by namespace small (2 pods, such as a)",
        "weft-agent",
        "FailedCreatePodSandBox",
    ] {
        described(&namespace, "c", part);
    }
    // The next pod gets what one gives back, without anybody's help.
    let freed = ips(&namespace, "a");
    namespace.kubectl(&["delete", "pod", "a"]).good();
    ready(&namespace, "c");
    assert_eq!(ips(&namespace, "c"), freed);

    // A pool that overlaps another, or the Services, is refused, with both named, and the first goes on.
    let message = ".status.conditions[?(@.type==\"Ready\")].message";
    let path = format!("jsonpath={{{message}}}");
    for (name, cidr, other, of) in [
        (
            "twin",
            "10.71.0.0/24",
            "10.71.0.0/31",
            "of IPPool tiny, which was there first",
        ),
        (
            "greedy",
            "10.96.8.0/24",
            "10.96.0.0/16",
            "the network of ServiceCIDR kubernetes",
        ),
    ] {
        let yaml = format!(
            "apiVersion: weft.dev/v1alpha1\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidrs: [{cidr}]}}\n"
        );
        lab.kubectl_stdin(&["apply", "-f", "-"], &yaml).good();
        eventually("the overlap is refused", || {
            let said = lab.kubectl(&["get", "ippool", name, "-o", &path]).stdout;
            [cidr, other, of].iter().all(|part| said.contains(part))
        });
    }
    annotated(&namespace, "twin", "weft.dev/ip-pool: twin", None);
    described(&namespace, "twin", "IPPool twin gives no addresses");

    // A pool that is deleted stays until its last address is given back, and gives no more meanwhile.
    lab.kubectl(&["delete", "ippool", "tiny", "--wait=false"]).good();
    annotated(&namespace, "late", "weft.dev/ip-pool: tiny", None);
    described(
        &namespace,
        "late",
        "IPPool tiny gives no addresses: it is being deleted",
    );
    assert!(lab.kubectl(&["get", "ippool", "tiny"]).ok);
    namespace.kubectl(&["delete", "pod", "b", "c"]).good();
    eventually("the pool is gone", || !lab.kubectl(&["get", "ippool", "tiny"]).ok);
    what_a_deleted_node_had_returns(&lab, &namespace);
}

/// Whether the API server collects its object as the Node's, or nobody does but the controller.
fn what_a_deleted_node_had_returns(lab: &Lab, namespace: &Namespace) {
    pool(
        lab,
        "few",
        "{cidrs: [10.72.0.0/30], blockSize: {ipv4: 32}, preAllocate: 0}",
    );
    for (pod, cascade) in [("a", "background"), ("b", "orphan")] {
        let ghost = "apiVersion: v1\nkind: Node\nmetadata: {name: ghost}\nspec: {unschedulable: true}\n";
        lab.kubectl_stdin(&["apply", "-f", "-"], ghost).good();
        let uid = lab
            .kubectl(&["get", "node", "ghost", "-o", "jsonpath={.metadata.uid}"])
            .good();
        let object = format!(
            "apiVersion: weft.dev/v1alpha1\nkind: NodeAddresses\n\
             metadata: {{name: ghost, ownerReferences: [{{apiVersion: v1, kind: Node, name: ghost, uid: {uid}}}]}}\nspec: {{}}\n"
        );
        lab.kubectl_stdin(&["apply", "-f", "-"], &object).good();
        let wants = "{\"status\":{\"requested\":[{\"pool\":\"few\",\"ipv4\":4,\"ipv6\":0}]}}";
        let patch = [
            "patch",
            "nodeaddresses",
            "ghost",
            "--subresource=status",
            "--type=merge",
            "-p",
            wants,
        ];
        lab.kubectl(&patch).good();
        let all = if pod == "a" { 4 } else { 3 };
        eventually("the other node has what there is", || {
            blocks(lab, "ghost", "few").len() == all
        });
        annotated(namespace, pod, "weft.dev/ip-pool: few", Some("node-1"));
        described(namespace, pod, "IPPool few is full: 4 of 4 IPv4 addresses are with");
        lab.kubectl(&["delete", "node", "ghost", &format!("--cascade={cascade}")])
            .good();
        ready(namespace, pod);
        eventually("its object is collected", || {
            !lab.kubectl(&["get", "nodeaddresses", "ghost"]).ok
        });
    }
}

fn a_node_range_that_overlaps_is_refused() {
    let lab = Lab::own("overlap", &["--no-demo", "--nodes", "1"]);
    let namespace = lab.namespace("overlap");
    namespace.pod("before", None);
    let range = lab
        .kubectl(&["get", "node", "node-1", "-o", "jsonpath={.spec.podCIDRs[0]}"])
        .good();
    let with_the_same = |name: &str| {
        let other = format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
             spec: {{podCIDR: {range}, podCIDRs: ['{range}'], unschedulable: true}}\n\
             status: {{addresses: [{{type: InternalIP, address: 10.89.0.200}}]}}\n"
        );
        lab.kubectl_stdin(&["apply", "-f", "-"], &other).good();
    };
    let status_says = |both: &str| {
        eventually("status names both", || {
            weft(&["status", "--lab", lab.name()]).stdout.contains(both)
        });
    };
    with_the_same("another");
    let both = format!("pod CIDR {range} of this node overlaps pod CIDR {range} of node another");
    status_says(&both);
    namespace.apply(&manifest("during", "", Some("node-1")));
    described(&namespace, "during", &both);
    assert_eq!(namespace.field("pod/before", ".status.phase"), "Running");
    lab.kubectl(&["delete", "node", "another"]).good();
    ready(&namespace, "during");

    // Of two the first by name has both the addresses and the route.
    with_the_same("zebra");
    status_says(&format!(
        "pod range {range} of node zebra overlaps {range} of node node-1, which keeps its route"
    ));
    namespace.pod("after", Some("node-1"));
}
