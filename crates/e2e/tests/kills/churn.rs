//! Agents killed at random points, all the while that pods talk, come and go.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Lab, Namespace, eventually, weft_path};

/// How often an agent is killed, over all nodes.
const KILLS: usize = 200;
const NODES: [&str; 2] = ["node-1", "node-2"];
/// Half of the pods that talk serve, the other half each hold a connection to one of those.
const SERVERS: usize = 25;
/// Pods that come and go.
const GUESTS: usize = 8;

/// An agent lives for less than this before it is killed, mostly: long enough to be met anywhere between its first
/// step and its rest.
const LIFE: Duration = Duration::from_millis(400);
/// Now and then one lives long enough for what waits to be done.
const LONG_LIFE: Duration = Duration::from_millis(1500);

fn deployment(name: &str, replicas: usize, container: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\n\
         spec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    \
         metadata: {{labels: {{app: {name}}}}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      \
         containers: [{{name: main, image: weft.dev/lab, {container}}}]\n---\n"
    )
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: server}\n\
    spec: {selector: {app: server}, ports: [{port: 9000}]}\n";
/// Ready when its node reaches it.
const READY: &str = "readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}";

pub(crate) fn agent_200_times_while_pods_come_and_go() {
    let lab = Lab::own("churn", &["--no-demo", "--nodes", "2"]);
    let before = NODES.map(|node| left_on(&lab, node));
    let namespace = lab.namespace("churn");
    namespace.apply(&(deployment("server", SERVERS, READY) + SERVICE));
    rolled_out(&namespace, "server");
    let client = r#"command: [weft, lab, ask, hold, "server:9000"]"#;
    namespace.apply(&(deployment("client", SERVERS, client) + &deployment("guest", GUESTS, READY)));
    rolled_out(&namespace, "client");
    rolled_out(&namespace, "guest");
    eventually("every client talks", || progress(&namespace).len() == SERVERS);

    let over = AtomicBool::new(false);
    let waves = std::thread::scope(|scope| {
        let guests = scope.spawn(|| come_and_go(&lab, &namespace, &over));
        let killers = NODES.map(|node| {
            let lab = &lab;
            scope.spawn(move || kill_agents(lab, node, KILLS / NODES.len()))
        });
        let killed = killers
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect::<Vec<_>>();
        over.store(true, Relaxed);
        assert!(
            killed.iter().all(Result::is_ok),
            "the agents could not be killed, see above"
        );
        guests.join().expect("what came while agents were killed is well")
    });

    // No connection broke: each is the one that was made before the first kill, and goes on.
    let then = progress(&namespace);
    eventually("every connection goes on", || {
        let now = progress(&namespace);
        then.iter()
            .all(|(pod, exchanges)| now.get(pod).is_some_and(|now| now > exchanges))
    });
    let clients = pods(&namespace, "client");
    assert_eq!(clients.len(), SERVERS);
    for pod in &clients {
        let container = &pod["status"]["containerStatuses"][0];
        assert_eq!(
            container["restartCount"], 0,
            "a connection broke: {}",
            container["lastState"]
        );
    }
    println!("{KILLS} kills, {waves} times {GUESTS} pods came and went, {SERVERS} connections held");

    namespace
        .kubectl(&[
            "delete",
            "deployment",
            "--all",
            "--cascade=foreground",
            "--timeout=120s",
        ])
        .good();
    eventually("no pod is left", || pods(&namespace, "").is_empty());
    for (node, before) in NODES.into_iter().zip(before) {
        let mut now = String::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        while now != before && Instant::now() < deadline {
            now = left_on(&lab, node);
        }
        assert_eq!(now, before, "something is left on {node}");
    }
}

/// Kills the agent of a node so many times, each at another point of its life.
fn kill_agents(lab: &Lab, node: &str, times: usize) {
    for _ in 0..times {
        let deadline = Instant::now() + Duration::from_secs(30);
        while lab.pids("agent", Some(node)).is_empty() {
            assert!(Instant::now() < deadline, "the agent of {node} is not started again");
            std::thread::sleep(Duration::from_millis(5));
        }
        let [chance, part, ..] = random();
        let most = if chance < 32 { LONG_LIFE } else { LIFE };
        std::thread::sleep(most * u32::from(part) / 256);
        lab.kill("agent", Some(node));
    }
}

/// Eight random bytes, by the keys that every hash map of the library gets.
fn random() -> [u8; 8] {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0).to_ne_bytes()
}

/// Replaces the guests again and again; each time, everybody is who the API says. How many times it was.
fn come_and_go(lab: &Lab, namespace: &Namespace, over: &AtomicBool) -> usize {
    let mut times = 0;
    while !over.load(Relaxed) || times == 0 {
        namespace
            .kubectl(&["delete", "pods", "-l", "app=guest", "--wait=false"])
            .good();
        eventually("the guests have gone", || {
            pods(namespace, "guest")
                .iter()
                .all(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        });
        rolled_out(namespace, "guest");
        everybody_is_who_the_api_says(lab, namespace);
        times += 1;
    }
    times
}

/// No two pods have an address in common, and at each guest's addresses that guest answers, seen from both nodes.
fn everybody_is_who_the_api_says(lab: &Lab, namespace: &Namespace) {
    let mut seen = HashSet::new();
    for pod in pods(namespace, "") {
        for ip in addresses(&pod) {
            assert!(seen.insert(ip.clone()), "{ip} was given twice: {pod}");
        }
    }
    let guests: BTreeMap<String, String> = pods(namespace, "guest")
        .iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .flat_map(|pod| {
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            addresses(pod).into_iter().map(move |ip| (ip, name.clone()))
        })
        .collect();
    assert_eq!(guests.len(), 2 * GUESTS, "a guest lacks an address: {guests:?}");
    let urls = guests.keys().map(|ip| match ip.contains(':') {
        true => format!("http://[{ip}]:8080/"),
        false => format!("http://{ip}:8080/"),
    });
    let urls = urls.collect::<Vec<_>>().join(" ");
    let weft = weft_path();
    let ask = format!(
        "for url in {urls}; do {} lab ask http $url --timeout 20 || exit 1; done",
        weft.display()
    );
    for node in NODES {
        let answers = lab.on_node(node, &["sh", "-c", &ask]).good();
        for (answer, (ip, name)) in answers.lines().zip(&guests) {
            let answer: Value = serde_json::from_str(answer).unwrap();
            assert_eq!(answer["pod"], **name, "asked {ip} from {node}");
        }
    }
}

fn addresses(pod: &Value) -> Vec<String> {
    let ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
    ips.map(|ip| ip["ip"].as_str().unwrap().to_owned()).collect()
}

fn rolled_out(namespace: &Namespace, deployment: &str) {
    let of = format!("deployment/{deployment}");
    namespace.kubectl(&["rollout", "status", &of, "--timeout=120s"]).good();
}

/// The pods of an application, or all.
fn pods(namespace: &Namespace, app: &str) -> Vec<Value> {
    let selector = if app.is_empty() {
        String::new()
    } else {
        format!("app={app}")
    };
    let list = namespace
        .kubectl(&["get", "pods", "-l", &selector, "-o", "json"])
        .good();
    let list: Value = serde_json::from_str(&list).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// How often each client's connection has gone there and back, of those that talk.
fn progress(namespace: &Namespace) -> BTreeMap<String, u64> {
    let logs = [
        "logs",
        "-l",
        "app=client",
        "--tail=1",
        "--prefix",
        "--max-log-requests=50",
    ];
    let logs = namespace.kubectl(&logs).stdout;
    // [pod/client-5d8f-x2k/main] 1234 exchanges
    let line = |line: &str| {
        let (pod, said) = line.split_once("] ")?;
        Some((pod.to_owned(), said.strip_suffix(" exchanges")?.parse().ok()?))
    };
    logs.lines().filter_map(line).collect()
}

/// What pods leave on a node, counted: links, namespaces, records, requests, pins, routes, neighbours and rules.
fn left_on(lab: &Lab, node: &str) -> String {
    let script = "for dir in /sys/class/net /run/netns /run/weft/attachments /run/weft/cni-spool \
                  /sys/fs/bpf/weft/maps /sys/fs/bpf/weft/links; do echo \"$dir: $(ls -A $dir 2> /dev/null | wc -l)\"; done
                  for what in 'ip -4 route' 'ip -6 route' 'ip neigh show nud permanent' 'tc qdisc' 'nft list ruleset'; \
                  do echo \"$what: $($what | wc -l)\"; done";
    lab.on_node(node, &["sh", "-c", script]).good()
}
