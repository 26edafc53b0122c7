//! Malformed input: a clear message, and nothing else disturbed.

use libtest_mimic::Trial;

use crate::support::{Lab, eventually, test, weft};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("bad_input::conflist", conflist),
        test("bad_input::unknown_volume", unknown_volume),
        test("bad_input::unknown_image", unknown_image),
        test("bad_input::taken_node_port", taken_node_port),
        test("bad_input::taken_cluster_ip", taken_cluster_ip),
        test("bad_input::node_without_pod_cidr", node_without_pod_cidr),
        test("bad_input::malformed_endpoint_address", malformed_endpoint_address),
        test("bad_input::fields_are_named", fields_are_named),
    ]
}

/// A malformed conflist before ours, then one of an unknown version: the pod's event says so, and removing it is
/// enough. Ours comes back by itself.
fn conflist() {
    let lab = Lab::own("conflist", &["--no-demo", "--nodes", "2"]);
    let namespace = lab.namespace("bad");
    let path = "/etc/cni/net.d/10-weft.conflist";
    let good = lab.on_node("node-1", &["cat", path]).good();
    let write = |text: &str, path: &str| {
        lab.on_node("node-1", &["sh", "-c", "printf %s \"$0\" > \"$1\"", text, path])
            .good()
    };
    write("{", path);
    eventually("the agent puts its conflist back", || {
        lab.on_node("node-1", &["cat", path]).stdout == good
    });
    let path = "/etc/cni/net.d/05-site.conflist";
    let write = |text: &str| write(text, path);
    write("{ this is not JSON");
    eventually("node-1 says what is wrong", || {
        lab.kubectl(&["describe", "node", "node-1"])
            .stdout
            .contains("05-site.conflist")
    });
    namespace.pod("elsewhere", Some("node-2"));
    write(&good.replace("\"1.1.0\"", "\"9.9.9\"").replace("\"1.0.0\"", "\"9.9.9\""));
    namespace
        .kubectl_stdin(
            &["apply", "-f", "-"],
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {nodeName: node-1, containers: [{name: main, image: weft.dev/lab}]}\n",
        )
        .good();
    eventually("the pod says what is wrong", || {
        let said = namespace.kubectl(&["describe", "pod", "a"]).stdout;
        said.contains("FailedCreatePodSandBox") && said.contains("9.9.9")
    });
    lab.on_node("node-1", &["rm", path]).good();
    namespace
        .kubectl(&["wait", "--for=condition=Ready", "pod/a", "--timeout=60s"])
        .good();
}

fn unknown_volume() {
    let namespace = Lab::shared().namespace("volume");
    let said = namespace
        .kubectl_stdin(
            &["apply", "-f", "-"],
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  volumes: [{name: v, tape: {}}]\n  containers: [{name: main, image: weft.dev/lab}]\n",
        )
        .bad();
    assert!(said.contains("spec.volumes[0].tape"), "{said}");
    namespace.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: b}\nspec:\n  volumes: [{name: v, nfs: {server: a, path: /b}}]\n  \
         containers: [{name: main, image: weft.dev/lab, volumeMounts: [{name: v, mountPath: /v}]}]\n",
    );
    eventually("the pod says that nfs does not work here", || {
        let said = namespace.kubectl(&["describe", "pod", "b"]).stdout;
        said.contains("FailedMount") && said.contains("nfs")
    });
    namespace.pod("unaffected", None);
}

fn unknown_image() {
    let namespace = Lab::shared().namespace("image");
    namespace
        .kubectl(&["run", "a", "--image=docker.io/library/nothing:1.0"])
        .good();
    eventually("the pod is in ErrImagePull", || {
        let said = namespace.kubectl(&["get", "pod", "a"]).stdout;
        said.contains("ErrImagePull") || said.contains("ImagePullBackOff")
    });
    eventually("its event says what would work", || {
        let said = namespace.kubectl(&["describe", "pod", "a"]).stdout;
        said.contains("weft lab load") && said.contains("weft.dev/lab")
    });
}

fn taken_node_port() {
    let namespace = Lab::shared().namespace("nodeport");
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: NodePort, ports: [{{port: 80, nodePort: 30123}}]}}\n"
        )
    };
    namespace.apply(&service("one"));
    let said = namespace.kubectl_stdin(&["apply", "-f", "-"], &service("two")).bad();
    assert!(
        said.contains("spec.ports[0].nodePort: Invalid value: 30123: provided port is already allocated"),
        "{said}"
    );
    namespace.kubectl(&["delete", "service", "one"]).good();
    namespace.apply(&service("two"));
}

fn taken_cluster_ip() {
    let namespace = Lab::shared().namespace("clusterip");
    for (ip, wanted) in [("10.96.0.10", "already allocated"), ("192.0.2.1", "not in")] {
        let service = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n"
        );
        let said = namespace.kubectl_stdin(&["apply", "-f", "-"], &service).bad();
        assert!(said.contains(ip) && said.contains(wanted), "{said}");
    }
}

fn node_without_pod_cidr() {
    let lab = Lab::own("nocidr", &["--no-demo", "--nodes", "1"]);
    lab.kubectl_stdin(
        &["apply", "-f", "-"],
        "apiVersion: v1\nkind: Node\nmetadata: {name: ghost}\n",
    )
    .good();
    eventually("the Node that came by hand gets a pod CIDR of its own", || {
        let cidrs = lab
            .kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDR}"])
            .good();
        let cidrs: std::collections::HashSet<_> = cidrs.split_whitespace().map(str::to_owned).collect();
        cidrs.len() == 2
    });
    let namespace = lab.namespace("unaffected");
    namespace.pod("a", Some("node-1"));
    weft(&["status", "--lab", lab.name()]);
}

fn malformed_endpoint_address() {
    let namespace = Lab::shared().namespace("slice");
    let slice = |address: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: bad, labels: {{kubernetes.io/service-name: b}}}}\n\
             addressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{{addresses: [\"{address}\"]}}]\n"
        )
    };
    let said = namespace
        .kubectl_stdin(&["apply", "-f", "-"], &slice("10.0.0.999"))
        .bad();
    assert!(said.contains("endpoints[0].addresses[0]"), "{said}");
    namespace.pod("unaffected", None);
    let answer = namespace.ask("unaffected", &["http", "http://web.demo/"]).good();
    assert!(answer.contains("web-"), "{answer}");
}

fn fields_are_named() {
    let namespace = Lab::shared().namespace("fields");
    for (object, wanted) in [
        (
            "kind: Pod\napiVersion: v1\nmetadata: {name: a}\nspec: {containers: [{name: main}]}",
            "spec.containers[0].image: Required value",
        ),
        (
            "kind: Pod\napiVersion: v1\nmetadata: {name: A_b}\nspec: {containers: [{name: main, image: x}]}",
            "metadata.name: Invalid value",
        ),
        (
            "kind: Service\napiVersion: v1\nmetadata: {name: a}\nspec: {ports: [{port: 70000}]}",
            "spec.ports[0].port: Invalid value: 70000",
        ),
        (
            "kind: Service\napiVersion: v1\nmetadata: {name: a}\nspec: {ports: [{port: 80, protocol: ICMP}]}",
            "spec.ports[0].protocol: Unsupported value",
        ),
        (
            "kind: ConfigMap\napiVersion: v1\nmetadata: {name: a}\nsurprise: 1",
            "unknown field \"surprise\"",
        ),
        (
            "kind: Tape\napiVersion: v1\nmetadata: {name: a}",
            "no matches for kind \"Tape\"",
        ),
        (
            "kind: Deployment\napiVersion: apps/v1\nmetadata: {name: a}\nspec: {selector: {matchLabels: {a: b}}, \
             template: {metadata: {labels: {a: c}}, spec: {containers: [{name: x, image: x}]}}}",
            "spec.template.metadata.labels: Invalid value",
        ),
    ] {
        let said = namespace.kubectl_stdin(&["apply", "-f", "-"], object).bad();
        assert!(said.contains(wanted), "wanted {wanted:?} in: {said}");
    }
}
