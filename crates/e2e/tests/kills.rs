//! What must not notice that a process was killed.

use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::{Lab, Namespace, eventually, test};

mod churn;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("kills::agent_20_times_under_load", agent_20_times_under_load),
        test(
            "kills::agent_200_times_while_pods_come_and_go",
            churn::agent_200_times_while_pods_come_and_go,
        ),
        test("kills::upgrade_to_another_layout", upgrade_to_another_layout),
        test("kills::api_process", api_process),
        test("kills::kubelet_keeps_its_pods", kubelet_keeps_its_pods),
    ]
}

// Ready when it answers: a backend that is named before it listens refuses, as it would in any cluster.
const SERVER: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n\
    spec:\n  replicas: 2\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    \
    spec: {containers: [{name: main, image: weft.dev/lab, readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}]}\n---\n\
    apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n";

/// A namespace with a client on node-1 and a Service of two pods.
fn served(lab: &Lab, name: &str) -> Namespace {
    let namespace = lab.namespace(name);
    namespace.apply(SERVER);
    namespace.pod("client", Some("node-1"));
    namespace
        .kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])
        .good();
    eventually("the Service answers", || {
        namespace.ask("client", &["http", "http://web/"]).ok
    });
    namespace
}

/// Runs a load in the client while something happens; what came of it. The load belongs to the pod, not to a
/// stream through the API server, which may be what is killed.
fn under_load(namespace: &Namespace, seconds: u32, during: impl FnOnce()) -> Value {
    let load = format!("weft lab ask load http://web/ --rate 1000 --seconds {seconds}");
    let detached =
        format!("setsid sh -c '{load} > /tmp/load 2> /tmp/errors; echo done >> /tmp/errors' > /dev/null 2>&1 &");
    namespace.exec("client", &["sh", "-c", &detached]).good();
    during();
    let mut errors = String::new();
    eventually("the load has ended", || {
        errors = namespace.exec("client", &["cat", "/tmp/errors"]).stdout;
        errors.ends_with("done\n")
    });
    let report = namespace.exec("client", &["cat", "/tmp/load"]).good();
    serde_json::from_str(&report).unwrap_or_else(|error| panic!("{error}: {report}{errors}"))
}

#[track_caller]
fn assert_none_failed(report: &Value) {
    assert_eq!(report["failed"], 0, "{report}");
    assert!(report["sent"].as_u64().unwrap() > 1000, "{report}");
}

fn agent_20_times_under_load() {
    let lab = Lab::own("kills", &["--no-demo", "--nodes", "2"]);
    let namespace = served(&lab, "load");
    let report = under_load(&namespace, 20, || {
        for round in 0..20 {
            std::thread::sleep(Duration::from_millis(500));
            eventually("the agent is back", || lab.kill("agent", Some("node-1")) == 1);
            // The peer's agent too, every other time: its side of the path must hold as well.
            if round % 2 == 0 {
                lab.kill("agent", Some("node-2"));
            }
        }
    });
    assert_none_failed(&report);
}

/// The version of a map's layout is in the name of its pin: whoever renames the pins has an agent find those of another.
fn upgrade_to_another_layout() {
    let lab = Lab::own("upgrade", &["--no-demo", "--nodes", "2"]);
    let namespace = served(&lab, "load");
    let maps = "cd /sys/fs/bpf/weft/maps";
    let rename = format!("{maps} && for pin in *; do mv $pin ${{pin%-*}}-999; done");
    let left = format!("{maps} && ls | grep -c -e -999$");
    let report = under_load(&namespace, 10, || {
        for round in 0..5 {
            for node in ["node-1", "node-2"] {
                lab.on_node(node, &["sh", "-c", &rename]).good();
                lab.kill("agent", Some(node));
                // One that has begun may be killed, too.
                if round % 2 == 1 {
                    eventually("the agent is back", || lab.kill("agent", Some(node)) == 1);
                }
            }
            for node in ["node-1", "node-2"] {
                eventually("nothing of the other layout is left", || {
                    lab.on_node(node, &["sh", "-c", &left]).stdout.trim() == "0"
                });
            }
        }
    });
    assert_none_failed(&report);
    // What comes now is known to the programs that run now.
    namespace.pod("late", Some("node-1"));
    let ip = namespace.field("pod/late", ".status.podIP");
    namespace.ask("client", &["http", &format!("http://{ip}:8080/")]).good();
}

fn api_process() {
    let lab = Lab::own("api", &["--no-demo", "--nodes", "2"]);
    let namespace = served(&lab, "load");
    let report = under_load(&namespace, 6, || {
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(lab.kill("api", None), 1);
        // While it is away, nothing changes; when it is back, what happens then is seen.
        eventually("the API is back with its state", || {
            namespace.kubectl(&["get", "service", "web"]).ok
        });
        namespace.kubectl(&["scale", "deployment/web", "--replicas=3"]).good();
        namespace
            .kubectl(&["rollout", "status", "deployment/web", "--timeout=30s"])
            .good();
    });
    assert_none_failed(&report);
    let names = namespace
        .kubectl(&["get", "pods", "-l", "app=web", "-o", "name"])
        .good();
    assert_eq!(names.lines().count(), 3, "{names}");
    for name in names.lines().map(|name| name.trim_start_matches("pod/")) {
        eventually("every backend gets traffic", || {
            namespace.ask("client", &["http", "http://web/"]).stdout.contains(name)
        });
    }
}

fn kubelet_keeps_its_pods() {
    let lab = Lab::own("kubelet", &["--no-demo", "--nodes", "1"]);
    let namespace = lab.namespace("kept");
    namespace.pod("a", None);
    let before = namespace
        .exec("a", &["cat", "/proc/sys/kernel/random/boot_id", "/proc/1/stat"])
        .good();
    assert_eq!(lab.kill("kubelet", Some("node-1")), 1);
    eventually("exec works again", || namespace.exec("a", &["true"]).ok);
    let after = namespace
        .exec("a", &["cat", "/proc/sys/kernel/random/boot_id", "/proc/1/stat"])
        .good();
    let start_time = |stat: &str| stat.split(' ').nth(21).map(str::to_owned);
    assert_eq!(
        start_time(&before),
        start_time(&after),
        "the container was started again"
    );
    assert_eq!(
        namespace.field("pod/a", ".status.containerStatuses[0].restartCount"),
        "0"
    );
    namespace.pod("b", None);
}
