//! The API server as people meet it: over TLS, with the real kubectl.

#![expect(clippy::unwrap_used, reason = "a test helper may fail only by failing the test")]

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use weft_lab::api::serve::bind;
use weft_lab::api::{ApiServer, Config, pki};

#[path = "kubectl/shown.rs"]
mod shown;

struct Server {
    dir: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        pki::ensure(dir.path(), "test", listener.local_addr().unwrap().port()).unwrap();
        let config = Config {
            database: dir.path().join("api.redb"),
            lab_dir: dir.path().to_owned(),
            advertise: SocketAddr::from((Ipv4Addr::new(10, 89, 0, 1), 6443)),
            families: weft_lab::families::Families::Dual,
            token_key: pki::token_key(dir.path()).unwrap(),
        };
        let server = ApiServer::open(config).unwrap();
        let tls = pki::tls(dir.path()).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.spawn(async move { server.serve_tls(listener, tls).await });
        Self { dir, _runtime: runtime }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(self.dir.path().join("kubeconfig"))
            .args(args);
        command.env("HOME", self.dir.path()).env_remove("KUBECONFIG");
        command
    }

    fn run(&self, args: &[&str], stdin: &str) -> Output {
        let mut command = self.command(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Standard output of a command that must succeed.
    fn kubectl(&self, args: &[&str]) -> String {
        self.feed(args, "")
    }

    fn feed(&self, args: &[&str], stdin: &str) -> String {
        let output = self.run(args, stdin);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {args:?}: {error}");
        String::from_utf8(output.stdout).unwrap() + &error
    }

    /// Standard error of a command that must fail.
    fn fails(&self, args: &[&str], stdin: &str) -> String {
        let output = self.run(args, stdin);
        assert!(
            !output.status.success(),
            "kubectl {args:?}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8(output.stderr).unwrap()
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        Command::new("chmod").arg("+x").arg(&path).status().unwrap();
        path
    }
}

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: weft.dev/lab, ports: [{containerPort: 8080}], env: [{name: A, value: '1'}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

#[test]
fn the_daily_commands() {
    let server = Server::start();
    assert!(server.kubectl(&["version"]).contains("Server Version: v1.33"));
    assert!(server.kubectl(&["api-resources"]).contains("deployments"));
    assert_eq!(server.kubectl(&["auth", "can-i", "delete", "pods"]).trim(), "yes");
    assert!(server.kubectl(&["auth", "whoami"]).contains("admin"));

    let made = server.feed(&["apply", "-f", "-"], WEB);
    assert!(
        made.contains("deployment.apps/web created") && made.contains("service/web created"),
        "{made}"
    );
    let again = server.feed(&["apply", "-f", "-"], WEB);
    assert!(again.contains("deployment.apps/web unchanged"), "{again}");
    let two = WEB
        .replace("value: '1'", "value: '2'")
        .replace("replicas: 2", "replicas: 3");
    assert!(server.feed(&["diff", "-f", "-"], WEB).is_empty());
    assert!(
        server
            .feed(&["apply", "-f", "-"], &two)
            .contains("deployment.apps/web configured")
    );
    let env = "jsonpath={.spec.replicas} {.spec.template.spec.containers[*].env}";
    assert_eq!(
        server.kubectl(&["get", "deploy", "web", "-o", env]),
        r#"3 [{"name":"A","value":"2"}]"#
    );

    let table = server.kubectl(&["get", "deploy,svc", "-o", "wide"]);
    assert!(
        table.contains("NAME") && table.contains("deployment.apps/web"),
        "{table}"
    );
    assert!(server.kubectl(&["get", "all", "-A"]).contains("service/kubernetes"));
    assert!(server.kubectl(&["describe", "deploy", "web"]).contains("Selector:"));
    server.kubectl(&["label", "deploy", "web", "tier=front"]);
    server.kubectl(&["annotate", "deploy", "web", "note=x"]);
    assert!(
        server
            .kubectl(&["get", "deploy", "-l", "tier in (front)", "-o", "name"])
            .contains("web")
    );
    server.kubectl(&["scale", "deploy", "web", "--replicas=5"]);
    assert_eq!(
        server.kubectl(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]),
        "5"
    );
    server.kubectl(&["set", "image", "deploy/web", "web=weft.dev/lab:2"]);
    server.kubectl(&[
        "patch",
        "svc",
        "web",
        "-p",
        r#"{"spec":{"ports":[{"port":80,"name":"http"}]}}"#,
    ]);
    let port = "jsonpath={.spec.ports[*].name} {.spec.ports[*].targetPort}";
    assert_eq!(server.kubectl(&["get", "svc", "web", "-o", port]), "http 8080");
    let replace = r#"[{"op":"replace","path":"/spec/replicas","value":1}]"#;
    server.kubectl(&["patch", "deploy", "web", "--type=json", "-p", replace]);
    server.kubectl(&[
        "patch",
        "deploy",
        "web",
        "--type=merge",
        "-p",
        r#"{"spec":{"paused":true}}"#,
    ]);
    server.kubectl(&["rollout", "resume", "deploy/web"]);
    server.kubectl(&[
        "wait",
        "--for=jsonpath={.spec.replicas}=1",
        "deploy/web",
        "--timeout=5s",
    ]);

    let editor = server.script("editor", "sed -i 's/replicas: 1/replicas: 4/' \"$1\"");
    let edited = server
        .command(&["edit", "deploy", "web"])
        .env("KUBE_EDITOR", editor)
        .output()
        .unwrap();
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    assert_eq!(
        server.kubectl(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]),
        "4"
    );

    assert!(server.kubectl(&["delete", "deploy", "web"]).contains("deleted"));
    let missing = server.fails(&["get", "deploy", "web"], "");
    assert_eq!(
        missing.trim(),
        r#"Error from server (NotFound): deployments.apps "web" not found"#
    );
}

#[test]
fn watches_and_waits() {
    let server = Server::start();
    let mut watch = server.command(&["get", "cm", "-w", "-o", "name", "--request-timeout=3s"]);
    let watch = watch.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    server.kubectl(&["create", "cm", "one", "--from-literal=a=1"]);
    server.kubectl(&["delete", "cm", "one"]);
    let output = watch.wait_with_output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(lines.matches("configmap/one").count() >= 2, "{lines}");
    let mut delete = server.command(&["wait", "--for=delete", "cm/two", "--timeout=10s"]);
    server.kubectl(&["create", "cm", "two"]);
    let waiting = delete.stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    server.kubectl(&["delete", "cm", "two"]);
    assert!(waiting.wait_with_output().unwrap().status.success());
}

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer, minimum: 1}}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
";

#[test]
fn custom_resources() {
    let server = Server::start();
    server.feed(&["apply", "-f", "-"], DEFINITION);
    server.kubectl(&[
        "wait",
        "--for=condition=Established",
        "crd/widgets.example.com",
        "--timeout=5s",
    ]);
    let widget = "{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}, spec: {size: 3}}";
    server.feed(&["apply", "-f", "-"], widget);
    assert!(server.kubectl(&["get", "wd"]).contains("SIZE"));
    server.kubectl(&["scale", "widget", "w", "--replicas=7"]);
    assert_eq!(
        server.kubectl(&["get", "wd", "w", "-o", "jsonpath={.spec.size} {.metadata.generation}"]),
        "7 2"
    );
    server.feed(&["apply", "-f", "-"], &widget.replace("size: 3", "size: 4"));
    server.kubectl(&["delete", "crd", "widgets.example.com"]);
    let gone = server.fails(&["get", "widgets"], "");
    assert!(
        gone.contains("doesn't have a resource type") || gone.contains("could not find"),
        "{gone}"
    );
}

#[test]
fn who_has_no_certificate_needs_a_token() {
    let server = Server::start();
    server.kubectl(&["create", "sa", "robot"]);
    let token = server.kubectl(&["create", "token", "robot"]);
    let path = server.dir.path().join("kubeconfig");
    let config = std::fs::read_to_string(&path).unwrap();
    let stripped: String = config
        .lines()
        .filter(|line| !line.contains("client-"))
        .map(|l| format!("{l}\n"))
        .collect();
    std::fs::write(&path, stripped.replace("user:\n", "user: {}\n")).unwrap();
    let refused = server.fails(&["--token=nonsense", "get", "pods"], "");
    assert!(
        refused.contains("must be logged in") || refused.contains("credentials"),
        "{refused}"
    );
    let token = format!("--token={}", token.trim());
    let name = server.kubectl(&[&token, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]);
    assert_eq!(name, "system:serviceaccount:default:robot");
}

#[test]
fn server_side_apply() {
    let server = Server::start();
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {a: '1', b: '2'}}";
    server.feed(&["apply", "--server-side", "-f", "-"], map);
    let less = "{apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {a: '1'}}";
    server.feed(&["apply", "--server-side", "-f", "-"], less);
    assert_eq!(
        server.kubectl(&["get", "cm", "m", "-o", "jsonpath={.data}"]),
        r#"{"a":"1"}"#
    );
    let other = "{apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {a: '9'}}";
    let conflict = server.fails(&["apply", "--server-side", "--field-manager=other", "-f", "-"], other);
    assert!(
        conflict.contains("conflict") && conflict.contains(".data.a"),
        "{conflict}"
    );
    server.feed(
        &[
            "apply",
            "--server-side",
            "--field-manager=other",
            "--force-conflicts",
            "-f",
            "-",
        ],
        other,
    );
    assert_eq!(server.kubectl(&["get", "cm", "m", "-o", "jsonpath={.data.a}"]), "9");
}
