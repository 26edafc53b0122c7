//! The ways of packets between nodes and out of the cluster: over one segment, over several, and through the router.

use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use crate::support::{Background, Lab, Namespace, eventually, test, weft, weft_path};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("paths::the_internet_sees_the_router", the_internet_sees_the_router),
        test("paths::direct_takes_a_whole_packet", direct_takes_a_whole_packet),
        test("paths::node_and_its_pods", node_and_its_pods),
        test("paths::a_host_port_from_outside", a_host_port_from_outside),
        test("paths::several_segments", several_segments),
        test("paths::a_narrow_way_over_ipv6", a_narrow_way_over_ipv6),
        test("paths::what_is_not_masqueraded", what_is_not_masqueraded),
    ]
}

/// An address as a URL has it.
fn in_url(ip: &str) -> String {
    match ip.contains(':') {
        true => format!("[{ip}]"),
        false => ip.to_owned(),
    }
}

/// A pod's addresses, IPv4 first.
fn ips(namespace: &Namespace, pod: &str) -> [String; 2] {
    [0, 1].map(|at| namespace.field(&format!("pod/{pod}"), &format!(".status.podIPs[{at}].ip")))
}

/// Whom the server at this URL sees.
#[track_caller]
fn seen_by(namespace: &Namespace, pod: &str, url: &str) -> String {
    let mut said = String::new();
    eventually(&format!("{pod} reaches {url}"), || {
        let answer = namespace.ask(pod, &["--timeout", "2", "http", url]);
        said = answer.stdout;
        answer.ok
    });
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    let client: std::net::SocketAddr = answer["client"].as_str().unwrap().parse().unwrap();
    client.ip().to_string()
}

/// Asserts that packets of this size (with their IP header) arrive whole, and that of one byte more the sender is told
/// that it is too large.
#[track_caller]
fn limit(namespace: &Namespace, from: &str, to: &str, size: usize) {
    let headers = if to.contains(':') { 48 } else { 28 };
    let ping = |size: usize| {
        let payload = (size - headers).to_string();
        namespace.exec(from, &["ping", "-M", "do", "-c", "1", "-W", "2", "-s", &payload, to])
    };
    eventually(&format!("{size} bytes arrive at {to}"), || ping(size).ok);
    let said = ping(size + 1);
    let words = format!("{}{}", said.stdout, said.stderr).to_lowercase();
    assert!(!said.ok, "{} bytes arrive at {to}", size + 1);
    let told = ["frag needed", "too big", "too long"]
        .iter()
        .any(|told| words.contains(told));
    assert!(told && words.contains(&size.to_string()), "to {to}: {words}");
}

fn the_internet_sees_the_router() {
    let namespace = Lab::shared().namespace("internet");
    namespace.pod("a", Some("node-2"));
    for (server, router) in [("198.51.100.10", "198.51.100.1"), ("2001:db8::a", "2001:db8::1")] {
        assert_eq!(seen_by(&namespace, "a", &format!("http://{}/", in_url(server))), router);
        limit(&namespace, "a", server, 1500);
    }
}

fn direct_takes_a_whole_packet() {
    let namespace = Lab::shared().namespace("direct");
    for (pod, node) in [("a", "node-1"), ("near", "node-1"), ("far", "node-2")] {
        namespace.pod(pod, Some(node));
    }
    for to in ["near", "far"] {
        for (ip, own) in ips(&namespace, to).iter().zip(ips(&namespace, "a")) {
            limit(&namespace, "a", ip, 1500);
            assert_eq!(seen_by(&namespace, "a", &format!("http://{}:8080/", in_url(ip))), own);
        }
    }
}

/// Nodes reach their own pods and those of others and are reached by them, over both families, by whichever address; and
/// so do pods in a node's network.
fn node_and_its_pods() {
    let lab = Lab::shared();
    let namespace = lab.namespace("node-path");
    namespace.pod("a", Some("node-1"));
    namespace.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: host}\n\
         spec:\n  hostNetwork: true\n  nodeName: node-2\n  terminationGracePeriodSeconds: 1\n  \
         containers: [{name: main, image: weft.dev/lab, args: [--http, '18080', --line, '19000']}]\n",
    );
    namespace
        .kubectl(&["wait", "--for=condition=Ready", "pod/host", "--timeout=30s"])
        .good();
    for ip in ips(&namespace, "a") {
        for node in ["node-1", "node-2"] {
            lab.on_node(node, &["ping", "-c", "1", "-W", "2", &ip]).good();
        }
    }
    for (at, own) in ips(&namespace, "a").iter().enumerate() {
        let node = namespace.field("pod/host", &format!(".status.hostIPs[{at}].ip"));
        assert_eq!(
            &seen_by(&namespace, "a", &format!("http://{}:18080/", in_url(&node))),
            own
        );
        assert_eq!(
            seen_by(&namespace, "host", &format!("http://{}:8080/", in_url(own))),
            node
        );
    }
}

/// Who is no node and no pod reaches a pod by its node's port, over both families, and the pod sees who it is.
fn a_host_port_from_outside() {
    let lab = Lab::shared();
    let namespace = lab.namespace("outside");
    namespace.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n\
         spec:\n  nodeName: node-3\n  terminationGracePeriodSeconds: 1\n  \
         containers: [{name: main, image: weft.dev/lab, ports: [{containerPort: 8080, hostPort: 18123}]}]\n",
    );
    namespace
        .kubectl(&["wait", "--for=condition=Ready", "pod/a", "--timeout=30s"])
        .good();
    let router = format!("weft-{}", lab.name());
    for (node, own) in [("10.89.0.13", "10.89.0.1"), ("[fd89::d]", "[fd89::1]")] {
        eventually(&format!("the port of {node} is reached"), || {
            let mut ask = Command::new("ip");
            ask.args(["netns", "exec", &router]).arg(weft_path());
            let said = ask
                .args(["lab", "ask", "http", &format!("http://{node}:18123/")])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            said.contains("\"pod\":\"a\"") && said.contains(&format!("\"client\":\"{own}:"))
        });
    }
}

/// Two nodes on one segment and one on another: direct within, VXLAN between, and the limit of each way is told.
fn several_segments() {
    let lab = Lab::own("segments", &["--segments", "2", "--nodes", "3"]);
    weft(&["lab", "check", "--name", lab.name()]).good();
    let namespace = lab.namespace("segments");
    for (pod, node) in [("a", "node-1"), ("there", "node-2"), ("here", "node-3")] {
        namespace.pod(pod, Some(node));
    }
    for (to, sizes) in [("here", [1500, 1500]), ("there", [1450, 1450])] {
        for ((ip, own), size) in ips(&namespace, to).iter().zip(ips(&namespace, "a")).zip(sizes) {
            let url = format!("http://{}:8080/", in_url(ip));
            assert_eq!(seen_by(&namespace, "a", &url), own, "{url}");
            limit(&namespace, "a", ip, size);
        }
    }
    let routes = lab.on_node("node-1", &["ip", "route"]).good();
    assert!(routes.contains("via 10.89.0.13 dev eth0"), "{routes}");
    assert!(routes.contains("10.90.0.12"), "{routes}");
    large_line_through_a_service(&namespace);
    readdressed(&lab, &namespace);
}

/// A node with another address is reached there, in both directions, and hears of what happens in the cluster.
fn readdressed(lab: &Lab, namespace: &Namespace) {
    let said = weft(&["lab", "node", "readdress", "--name", lab.name(), "node-2"]).good();
    assert_eq!(said.trim(), "node-2 has 10.90.1.12 and fd89::1:0:0:1:c now");
    namespace
        .kubectl(&[
            "expose",
            "pod",
            "here",
            "--name=here",
            "--port=80",
            "--target-port=8080",
        ])
        .good();
    for (there, own) in ips(namespace, "there").iter().zip(ips(namespace, "a")) {
        assert_eq!(seen_by(namespace, "a", &format!("http://{}:8080/", in_url(there))), own);
    }
    assert_eq!(seen_by(namespace, "there", "http://here/"), ips(namespace, "there")[0]);
    assert_eq!(seen_by(namespace, "there", "http://198.51.100.10/"), "198.51.100.1");
    eventually("every node is healthy", || weft(&["status", "--lab", lab.name()]).ok);
    let routes = lab.on_node("node-1", &["ip", "route"]).good();
    assert!(
        routes.contains("10.90.1.12") && !routes.contains("10.90.0.12"),
        "{routes}"
    );
}

/// Many whole packets to a Service: the sender believes in 1500 bytes, and must be told what the way takes.
fn large_line_through_a_service(namespace: &Namespace) {
    namespace
        .kubectl(&[
            "expose",
            "pod",
            "there",
            "--name=there",
            "--port=90",
            "--target-port=9000",
        ])
        .good();
    let send =
        "exec 3<>/dev/tcp/there/90 && { head -c 100000 /dev/zero | tr '\\0' x; echo; } >&3 && timeout 5 head -n 1 <&3";
    let own = &namespace.field("pod/a", ".status.podIP");
    eventually("a long line is answered", || {
        let said = namespace.exec("a", &["bash", "-c", send]);
        said.ok && said.stdout.contains("pod=there") && said.stdout.contains(own)
    });
}

/// Over IPv6 nobody cuts packets into pieces: what takes less than the uplinks is found, for pods and for Services.
fn a_narrow_way_over_ipv6() {
    let family = ["--ip-family", "ipv6", "--segments", "2", "--nodes", "2", "--no-demo"];
    let lab = Lab::own("narrow", &family);
    let router = format!("weft-{}", lab.name());
    let narrow = ["-n", &router, "link", "set", "br1", "mtu", "1400"];
    assert!(Command::new("ip").args(narrow).status().unwrap().success());
    let namespace = lab.namespace("narrow");
    for (pod, node) in [("a", "node-1"), ("there", "node-2")] {
        namespace.pod(pod, Some(node));
    }
    large_line_through_a_service(&namespace);
    let there = namespace.field("pod/there", ".status.podIP");
    limit(&namespace, "a", &there, 1330);
}

/// To whom the pods' own addresses are to be shown, they are; the router knows the way back, as routers of a site do.
fn what_is_not_masqueraded() {
    let exclude = "--agent-arg=--non-masquerade-cidr=";
    let (v4, v6) = (format!("{exclude}10.89.0.1/32"), format!("{exclude}fd89::1/128"));
    let narrow = ["--uplink-mtu", "1460", "--internet-mtu", "1400"];
    let lab = Lab::own(
        "shown",
        &[&["--no-demo", "--nodes", "1", &v4, &v6][..], &narrow].concat(),
    );
    let namespace = lab.namespace("shown");
    namespace.pod("a", None);
    let netns = format!("weft-{}", lab.name());
    let mut server = Command::new("ip");
    server.args(["netns", "exec", &netns]).arg(weft_path());
    server.args(["lab", "serve", "--http", "8090", "--line", "9090"]);
    let _server = Background(server.stdout(Stdio::null()).spawn().unwrap());
    for (server, own) in ["10.89.0.1", "fd89::1"].iter().zip(ips(&namespace, "a")) {
        assert_eq!(
            seen_by(&namespace, "a", &format!("http://{}:8090/", in_url(server))),
            own
        );
    }
    // Elsewhere they are not, and what is narrower on the way comes back through both translations.
    for (server, router) in [("198.51.100.10", "198.51.100.1"), ("2001:db8::a", "2001:db8::1")] {
        assert_eq!(seen_by(&namespace, "a", &format!("http://{}/", in_url(server))), router);
        limit(&namespace, "a", server, 1400);
    }
    // The pod's own interface is as wide as the uplink.
    for gateway in ["10.89.0.1", "fd89::1"] {
        limit(&namespace, "a", gateway, 1460);
    }
}
