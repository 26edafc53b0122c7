//! Every command of kubectl that the lab promises.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;

use libtest_mimic::Trial;

use crate::support::{Background, Lab, Namespace, eventually, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("kubectl::get", get),
        test("kubectl::get_watch", get_watch),
        test("kubectl::describe", describe),
        test("kubectl::apply_create_edit_patch_label", apply_create_edit_patch_label),
        test("kubectl::scale_and_rollout", scale_and_rollout),
        test("kubectl::delete_and_wait", delete_and_wait),
        test("kubectl::logs", logs),
        test("kubectl::exec", exec),
        test("kubectl::cp", cp),
        test("kubectl::attach", attach),
        test("kubectl::port_forward", port_forward),
        test("kubectl::api_resources_explain_events", api_resources_explain_events),
        test("kubectl::jobs", jobs),
        test("kubectl::daemonsets", daemonsets),
        test(
            "kubectl::cordon_taint_and_node_selector",
            cordon_taint_and_node_selector,
        ),
        test("kubectl::volumes_and_downward_api", volumes_and_downward_api),
        test("kubectl::restarts_and_probes", restarts_and_probes),
    ]
}

fn get() {
    let lab = Lab::shared();
    let nodes = lab.kubectl(&["get", "nodes", "-o", "wide"]).good();
    assert!(
        nodes.starts_with("NAME") && nodes.contains("INTERNAL-IP") && nodes.contains("10.89.0.13"),
        "{nodes}"
    );
    assert_eq!(
        nodes.lines().filter(|line| line.contains(" Ready ")).count(),
        3,
        "{nodes}"
    );
    let pods = lab.kubectl(&["get", "pods", "-n", "demo", "-o", "wide"]).good();
    assert!(pods.contains("NOMINATED NODE") && pods.contains("2/2"), "{pods}");
    let services = lab.kubectl(&["get", "svc", "-A"]).good();
    assert!(
        services.contains("10.96.0.1 ") && services.contains("53/UDP,53/TCP"),
        "{services}"
    );
    let yaml = lab
        .kubectl(&["get", "deploy", "web", "-n", "demo", "-o", "yaml"])
        .good();
    assert!(yaml.starts_with("apiVersion: apps/v1\nkind: Deployment\n"), "{yaml}");
    assert!(
        lab.kubectl(&["get", "all", "-n", "demo"])
            .good()
            .contains("replicaset.apps/web-")
    );
    let said = lab.kubectl(&["get", "pod", "nobody", "-n", "demo"]).bad();
    assert_eq!(said.trim(), "Error from server (NotFound): pods \"nobody\" not found");
    let sorted = lab.kubectl(&[
        "get",
        "pods",
        "-n",
        "demo",
        "-l",
        "app in (web)",
        "--field-selector",
        "spec.nodeName=node-2",
        "-o",
        "name",
    ]);
    assert_eq!(sorted.good().lines().count(), 1);
}

fn get_watch() {
    let namespace = Lab::shared().namespace("watch");
    let mut command = Lab::shared().kubectl_command();
    command.args(["-n", namespace.name(), "get", "configmaps", "-w", "-o", "name"]);
    let mut watching = Background(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(watching.0.stdout.take().unwrap()).lines();
    namespace
        .kubectl(&["create", "configmap", "later", "--from-literal=a=b"])
        .good();
    assert!(lines.any(|line| line.unwrap() == "configmap/later"));
}

fn describe() {
    let lab = Lab::shared();
    for (args, wanted) in [
        (["pod", "client"], "Controlled By|IP:|Events:"),
        (["deployment", "web"], "RollingUpdateStrategy:|NewReplicaSet:|web-"),
        (["service", "web"], "Endpoints:|10.244.|TargetPort:"),
        (
            ["endpointslice", "-l=kubernetes.io/service-name=web"],
            "AddressType:  IPv4|10.244.",
        ),
        (["node", "node-1"], "PodCIDR:|10.244.|Non-terminated Pods:"),
        (["namespace", "demo"], "Status:|Active"),
    ] {
        let said = lab.kubectl(&["describe", "-n", "demo", args[0], args[1]]).good();
        for part in wanted.split('|').filter(|part| *part != "Controlled By") {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    }
}

fn apply_create_edit_patch_label() {
    let namespace = Lab::shared().namespace("writes");
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n\
        spec:\n  replicas: 0\n  selector: {matchLabels: {app: a}}\n  template:\n    metadata: {labels: {app: a}}\n    spec:\n      \
        containers:\n      - {name: one, image: weft.dev/lab, env: [{name: A, value: '1'}, {name: B, value: '2'}]}\n      - {name: two, image: weft.dev/lab}\n";
    namespace.apply(deployment);
    let unchanged = namespace.kubectl_stdin(&["apply", "-f", "-"], deployment).good();
    assert_eq!(unchanged.trim(), "deployment.apps/a unchanged");
    // What is gone from the manifest goes from the object; what others added stays.
    namespace.kubectl(&["annotate", "deployment/a", "by=hand"]).good();
    namespace.apply(&deployment.replace(", {name: B, value: '2'}", ""));
    assert_eq!(
        namespace.field("deployment/a", ".spec.template.spec.containers[0].env[*].name"),
        "A"
    );
    assert_eq!(namespace.field("deployment/a", ".metadata.annotations.by"), "hand");

    let strategic = r#"{"spec":{"template":{"spec":{"containers":[{"name":"two","image":"weft.dev/lab:2"}]}}}}"#;
    namespace.kubectl(&["patch", "deployment/a", "-p", strategic]).good();
    assert_eq!(
        namespace.field("deployment/a", ".spec.template.spec.containers[*].name"),
        "one two"
    );
    namespace
        .kubectl(&[
            "patch",
            "deployment/a",
            "--type=merge",
            "-p",
            r#"{"spec":{"paused":true}}"#,
        ])
        .good();
    assert_eq!(namespace.field("deployment/a", ".spec.paused"), "true");
    let json = r#"[{"op":"test","path":"/spec/paused","value":true},{"op":"remove","path":"/spec/paused"}]"#;
    namespace
        .kubectl(&["patch", "deployment/a", "--type=json", "-p", json])
        .good();
    assert_eq!(namespace.field("deployment/a", ".spec.paused"), "");

    namespace.kubectl(&["label", "deployment/a", "tier=front"]).good();
    assert!(
        namespace
            .kubectl(&["get", "deploy", "-l", "tier=front", "-o", "name"])
            .good()
            .contains("/a")
    );
    let mut edit = Lab::shared().kubectl_command();
    edit.args(["-n", namespace.name(), "edit", "deployment/a"])
        .env("KUBE_EDITOR", "sed -i s/front/back/");
    assert!(edit.output().unwrap().status.success());
    assert_eq!(namespace.field("deployment/a", ".metadata.labels.tier"), "back");

    let server_side = namespace.kubectl_stdin(
        &["apply", "--server-side", "-f", "-"],
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {a: '1'}\n",
    );
    assert!(server_side.good().contains("serverside-applied"));
    assert!(
        namespace
            .kubectl(&["create", "configmap", "ssa"])
            .bad()
            .contains("already exists")
    );
    let created = namespace.kubectl_stdin(
        &["create", "-f", "-", "-o", "name"],
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: gen-}\n",
    );
    assert!(created.good().starts_with("configmap/gen-"));
}

fn scale_and_rollout() {
    let namespace = Lab::shared().namespace("rollout");
    namespace
        .kubectl(&["create", "deployment", "a", "--image=weft.dev/lab", "--replicas=2"])
        .good();
    namespace
        .kubectl(&["rollout", "status", "deployment/a", "--timeout=60s"])
        .good();
    namespace.kubectl(&["scale", "deployment/a", "--replicas=4"]).good();
    namespace
        .kubectl(&["rollout", "status", "deployment/a", "--timeout=60s"])
        .good();
    assert_eq!(namespace.field("deployment/a", ".status.readyReplicas"), "4");
    namespace
        .kubectl(&["set", "image", "deployment/a", "lab=weft.dev/lab:v2"])
        .good();
    namespace
        .kubectl(&["rollout", "status", "deployment/a", "--timeout=60s"])
        .good();
    let history = namespace.kubectl(&["rollout", "history", "deployment/a"]).good();
    assert!(history.contains("\n2 "), "{history}");
    namespace.kubectl(&["rollout", "undo", "deployment/a"]).good();
    namespace
        .kubectl(&["rollout", "status", "deployment/a", "--timeout=60s"])
        .good();
    assert_eq!(
        namespace.field("deployment/a", ".spec.template.spec.containers[0].image"),
        "weft.dev/lab"
    );
}

fn delete_and_wait() {
    let namespace = Lab::shared().namespace("delete");
    namespace.pod("a", None);
    namespace.kubectl(&["delete", "pod", "a", "--wait=false"]).good();
    namespace
        .kubectl(&["wait", "--for=delete", "pod/a", "--timeout=30s"])
        .good();
    namespace.pod("b", None);
    namespace
        .kubectl(&["delete", "pod", "b", "--force", "--grace-period=0"])
        .good();
    // A namespace takes everything in it along, and a dependent follows its owner.
    let doomed = Lab::shared().namespace("doomed");
    doomed
        .kubectl(&["create", "deployment", "a", "--image=weft.dev/lab"])
        .good();
    doomed
        .kubectl(&["rollout", "status", "deployment/a", "--timeout=60s"])
        .good();
    doomed
        .kubectl(&["delete", "deployment", "a", "--cascade=foreground", "--timeout=60s"])
        .good();
    assert_eq!(doomed.kubectl(&["get", "rs,pods", "-o", "name"]).good(), "");
    Lab::shared()
        .kubectl(&["delete", "namespace", "doomed", "--timeout=60s"])
        .good();
    assert!(
        Lab::shared()
            .kubectl(&["get", "namespace", "doomed"])
            .bad()
            .contains("NotFound")
    );
}

/// A pod that prints numbered lines.
fn printing(namespace: &Namespace) {
    namespace.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: printer}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers: [{name: main, image: weft.dev/lab, command: [sh, -c, 'for i in 1 2 3; do echo line $i; done; echo oops >&2; read forever < /dev/zero & sleep 1; echo last; exec sleep 1000']}]\n",
    );
    namespace
        .kubectl(&["wait", "--for=condition=Ready", "pod/printer", "--timeout=30s"])
        .good();
}

fn logs() {
    let namespace = Lab::shared().namespace("logs");
    printing(&namespace);
    let mut command = Lab::shared().kubectl_command();
    command.args(["-n", namespace.name(), "logs", "-f", "printer"]);
    let mut following = Background(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(following.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "last"));
    let all = namespace.kubectl(&["logs", "printer"]).good();
    // The two streams are two pipes; each keeps its order.
    let stdout: Vec<_> = all.lines().filter(|line| *line != "oops").collect();
    assert_eq!(stdout, ["line 1", "line 2", "line 3", "last"], "{all}");
    assert!(all.contains("oops\n"), "{all}");
    assert_eq!(namespace.kubectl(&["logs", "printer", "--tail=1"]).good(), "last\n");
    assert!(
        namespace
            .kubectl(&["logs", "printer", "--timestamps"])
            .good()
            .starts_with("20")
    );
    assert!(
        namespace
            .kubectl(&["logs", "printer", "-c", "nobody"])
            .bad()
            .contains("nobody")
    );
}

fn exec() {
    let namespace = Lab::shared().namespace("exec");
    namespace.pod("a", None);
    assert_eq!(namespace.exec("a", &["echo", "a b", "c"]).good(), "a b c\n");
    assert_eq!(
        namespace
            .kubectl_stdin(&["exec", "-i", "a", "--", "tr", "a-z", "A-Z"], "shout")
            .good(),
        "SHOUT"
    );
    let failed = namespace.exec("a", &["sh", "-c", "echo no >&2; exit 7"]);
    assert!(failed.bad().contains("exit code 7"));
    let said = namespace.exec("a", &["/no/such/program"]).bad();
    assert!(said.to_lowercase().contains("no such file"), "{said}");
    // A terminal: script(1) gives kubectl one.
    let kubectl = format!(
        "kubectl -n {} exec -it a -- sh -c 'stty size; test -t 0 && echo terminal'",
        namespace.name()
    );
    let mut command = std::process::Command::new("script");
    command
        .args(["-qec", &kubectl, "/dev/null"])
        .env("KUBECONFIG", Lab::shared().dir().join("kubeconfig"));
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("terminal"), "{said}");
}

fn cp() {
    let namespace = Lab::shared().namespace("cp");
    namespace.pod("a", None);
    let file = Lab::shared().dir().join("to-copy");
    std::fs::write(&file, vec![b'x'; 3 << 20]).unwrap();
    namespace
        .kubectl(&["cp", &file.display().to_string(), "a:/tmp/copied"])
        .good();
    assert_eq!(
        namespace.exec("a", &["stat", "-c", "%s", "/tmp/copied"]).good().trim(),
        (3 << 20).to_string()
    );
}

fn attach() {
    let namespace = Lab::shared().namespace("attach");
    namespace.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers: [{name: main, image: weft.dev/lab, stdin: true, command: [sh, -c, 'while read line; do echo got $line; done; sleep 1000']}]\n",
    );
    namespace
        .kubectl(&["wait", "--for=condition=Ready", "pod/a", "--timeout=30s"])
        .good();
    let mut command = Lab::shared().kubectl_command();
    command
        .args(["-n", namespace.name(), "attach", "-i", "a"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut attached = Background(command.stderr(Stdio::null()).spawn().unwrap());
    let mut stdin = attached.0.stdin.take().unwrap();
    stdin.write_all(b"hello\n").unwrap();
    let mut lines = BufReader::new(attached.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "got hello"));
}

fn port_forward() {
    let namespace = Lab::shared().namespace("forward");
    namespace.pod("a", None);
    let mut command = Lab::shared().kubectl_command();
    command
        .args(["-n", namespace.name(), "port-forward", "pod/a", ":8080"])
        .stdout(Stdio::piped());
    let mut forwarding = Background(command.spawn().unwrap());
    let mut lines = BufReader::new(forwarding.0.stdout.take().unwrap()).lines();
    // Forwarding from 127.0.0.1:40123 -> 8080
    let line = lines.next().unwrap().unwrap();
    let port = line
        .split([' ', ':'])
        .find_map(|word| word.parse::<u16>().ok().filter(|port| *port != 8080))
        .unwrap();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("\"pod\":\"a\""),
            "{answer}"
        );
    }
}

fn api_resources_explain_events() {
    let lab = Lab::shared();
    let resources = lab.kubectl(&["api-resources"]).good();
    for wanted in [
        "deployments",
        "endpointslices",
        "networkpolicies",
        "customresourcedefinitions",
        "nodenetworks",
        "leases",
    ] {
        assert!(resources.contains(wanted), "{wanted} is not in: {resources}");
    }
    let explained = lab.kubectl(&["explain", "pod.spec.containers"]).good();
    assert!(
        explained.contains("FIELD: containers") && explained.contains("imagePullPolicy"),
        "{explained}"
    );
    assert!(
        lab.kubectl(&["explain", "deployment", "--recursive"])
            .good()
            .contains("maxSurge")
    );
    let events = lab.kubectl(&["events", "-n", "demo"]).good();
    assert!(
        events.contains("Scheduled") && events.contains("SuccessfulCreate"),
        "{events}"
    );
    assert!(lab.kubectl(&["version"]).good().contains("Server Version: v1."));
    assert!(lab.kubectl(&["cluster-info"]).good().contains("is running at"));
    assert_eq!(lab.kubectl(&["auth", "can-i", "create", "pods"]).good().trim(), "yes");
}

fn jobs() {
    let namespace = Lab::shared().namespace("jobs");
    namespace.apply(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: a}\nspec:\n  completions: 3\n  parallelism: 2\n  template:\n    spec:\n      \
         restartPolicy: Never\n      containers: [{name: main, image: weft.dev/lab, command: [echo, done]}]\n",
    );
    namespace
        .kubectl(&["wait", "--for=condition=complete", "job/a", "--timeout=60s"])
        .good();
    assert_eq!(namespace.field("job/a", ".status.succeeded"), "3");
    assert_eq!(namespace.kubectl(&["logs", "job/a"]).good(), "done\n");
}

fn daemonsets() {
    let namespace = Lab::shared().namespace("daemons");
    namespace.apply(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: a}\nspec:\n  selector: {matchLabels: {app: a}}\n  template:\n    \
         metadata: {labels: {app: a}}\n    spec: {containers: [{name: main, image: weft.dev/lab}]}\n",
    );
    namespace
        .kubectl(&["rollout", "status", "daemonset/a", "--timeout=60s"])
        .good();
    let nodes = namespace
        .kubectl(&["get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"])
        .good();
    let nodes: std::collections::BTreeSet<_> = nodes.split(' ').collect();
    assert_eq!(nodes.into_iter().collect::<Vec<_>>(), ["node-1", "node-2", "node-3"]);
}

fn cordon_taint_and_node_selector() {
    let lab = Lab::own("sched", &["--no-demo", "--nodes", "2"]);
    let namespace = lab.namespace("sched");
    lab.kubectl(&["cordon", "node-1"]).good();
    lab.kubectl(&["taint", "node", "node-2", "a=b:NoSchedule"]).good();
    namespace.kubectl(&["run", "a", "--image=weft.dev/lab"]).good();
    eventually("the scheduler says why", || {
        let said = namespace.kubectl(&["describe", "pod", "a"]).stdout;
        said.contains("FailedScheduling") && said.contains("0/2 nodes are available")
    });
    lab.kubectl(&["uncordon", "node-1"]).good();
    namespace
        .kubectl(&["wait", "--for=condition=Ready", "pod/a", "--timeout=30s"])
        .good();
    assert_eq!(namespace.field("pod/a", ".spec.nodeName"), "node-1");
}

fn volumes_and_downward_api() {
    let namespace = Lab::shared().namespace("volumes");
    namespace
        .kubectl(&["create", "configmap", "c", "--from-literal=key=from-config"])
        .good();
    namespace
        .kubectl(&["create", "secret", "generic", "s", "--from-literal=key=from-secret"])
        .good();
    namespace.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: x}}\nspec:\n  terminationGracePeriodSeconds: 1\n  volumes:\n  \
         - {name: c, configMap: {name: c}}\n  - {name: s, secret: {secretName: s}}\n  - {name: e, emptyDir: {}}\n  containers:\n  \
         - name: one\n    image: weft.dev/lab\n    args: [--http, '$(PORT)']\n    env:\n    - {name: PORT, value: '8088'}\n    \
         - {name: KEY, valueFrom: {configMapKeyRef: {name: c, key: key}}}\n    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}\n    \
         - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}\n    \
         volumeMounts: [{name: c, mountPath: /c}, {name: s, mountPath: /s}, {name: e, mountPath: /e}]\n  \
         - {name: two, image: weft.dev/lab, args: [--line, '9001'], volumeMounts: [{name: e, mountPath: /shared}]}\n",
    );
    namespace
        .kubectl(&["wait", "--for=condition=Ready", "pod/a", "--timeout=30s"])
        .good();
    assert_eq!(
        namespace
            .kubectl(&["exec", "a", "-c", "one", "--", "cat", "/c/key", "/s/key"])
            .good(),
        "from-configfrom-secret"
    );
    namespace
        .kubectl(&["exec", "a", "-c", "one", "--", "sh", "-c", "echo hi > /e/f"])
        .good();
    assert_eq!(
        namespace
            .kubectl(&["exec", "a", "-c", "two", "--", "cat", "/shared/f"])
            .good(),
        "hi\n"
    );
    let env = namespace.kubectl(&["exec", "a", "-c", "one", "--", "env"]).good();
    let ip = namespace.field("pod/a", ".status.podIP");
    for wanted in [
        "KEY=from-config",
        "NODE=node-",
        &format!("IP={ip}"),
        "KUBERNETES_SERVICE_HOST=10.96.0.1",
    ] {
        assert!(env.contains(wanted), "{wanted} is not in {env}");
    }
    // The account's token and authority are there, and the API takes them.
    let version = namespace
        .kubectl(&["exec", "a", "-c", "two", "--", "weft", "lab", "ask", "api"])
        .good();
    assert!(version.contains("gitVersion"), "{version}");
}

fn restarts_and_probes() {
    let namespace = Lab::shared().namespace("restarts");
    namespace.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: crash}\nspec:\n  containers: [{name: main, image: weft.dev/lab, command: [sh, -c, 'exit 3']}]\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {name: sick}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: weft.dev/lab\n    \
         livenessProbe: {tcpSocket: {port: 1}, periodSeconds: 1, failureThreshold: 1}\n",
    );
    eventually("the crashing pod is in CrashLoopBackOff", || {
        namespace
            .kubectl(&["get", "pod", "crash"])
            .stdout
            .contains("CrashLoopBackOff")
    });
    assert_eq!(
        namespace.field(
            "pod/crash",
            ".status.containerStatuses[0].lastState.terminated.exitCode"
        ),
        "3"
    );
    eventually("the unhealthy pod is started again", || {
        namespace
            .field("pod/sick", ".status.containerStatuses[0].restartCount")
            .parse::<u32>()
            .unwrap_or(0)
            > 0
    });
    assert!(
        namespace
            .kubectl(&["describe", "pod", "sick"])
            .good()
            .contains("Liveness probe failed")
    );
}
