//! What stock tools get from the lab's API server.

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::{Lab, eventually, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("api::optimistic_concurrency", optimistic_concurrency),
        test("api::watch_from_a_version", watch_from_a_version),
        test("api::finalizers_hold", finalizers_hold),
        test("api::custom_resources", custom_resources),
        test("api::state_survives_a_kill", state_survives_a_kill),
        test("api::selectors", selectors),
    ]
}

fn optimistic_concurrency() {
    let namespace = Lab::shared().namespace("conflict");
    namespace
        .kubectl(&["create", "configmap", "c", "--from-literal=a=1"])
        .good();
    let old = namespace.kubectl(&["get", "configmap", "c", "-o", "yaml"]).good();
    namespace
        .kubectl(&["patch", "configmap", "c", "-p", r#"{"data":{"a":"2"}}"#])
        .good();
    let said = namespace.kubectl_stdin(&["replace", "-f", "-"], &old).bad();
    assert!(
        said.contains("Conflict") && said.contains("the object has been modified"),
        "{said}"
    );
}

/// The events of a raw watch that ends by itself.
fn watch(query: &str) -> Vec<Value> {
    let said = Lab::shared().kubectl(&["get", "--raw", query]);
    said.stdout
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

fn watch_from_a_version() {
    let namespace = Lab::shared().namespace("watches");
    namespace.kubectl(&["create", "configmap", "first"]).good();
    let version = namespace.field("configmap/first", ".metadata.resourceVersion");
    namespace.kubectl(&["create", "configmap", "second"]).good();
    namespace.kubectl(&["delete", "configmap", "second"]).good();
    let base = "/api/v1/namespaces/watches/configmaps?watch=1&timeoutSeconds=1&allowWatchBookmarks=true";
    let events = watch(&format!("{base}&resourceVersion={version}"));
    let seen: Vec<_> = events
        .iter()
        .filter(|event| event["object"]["metadata"]["name"] == "second")
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(seen, ["ADDED", "DELETED"], "{events:?}");
    assert_eq!(events.last().unwrap()["type"], "BOOKMARK", "{events:?}");
}

fn finalizers_hold() {
    let namespace = Lab::shared().namespace("finalizers");
    namespace.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, finalizers: [example.com/hold]}\n");
    namespace
        .kubectl(&["delete", "configmap", "held", "--wait=false"])
        .good();
    assert!(
        !namespace
            .field("configmap/held", ".metadata.deletionTimestamp")
            .is_empty()
    );
    namespace
        .kubectl(&[
            "patch",
            "configmap",
            "held",
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":null}}"#,
        ])
        .good();
    assert!(
        namespace
            .kubectl(&["get", "configmap", "held"])
            .bad()
            .contains("NotFound")
    );
}

const CRD: &str = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: tapes.example.com}\n\
    spec:\n  group: example.com\n  scope: Namespaced\n  names: {plural: tapes, singular: tape, kind: Tape, shortNames: [tp]}\n  versions:\n  \
    - name: v1\n    served: true\n    storage: true\n    subresources: {status: {}}\n    \
    additionalPrinterColumns: [{name: Length, type: integer, jsonPath: .spec.length}]\n    \
    schema:\n      openAPIV3Schema:\n        type: object\n        properties:\n          \
    spec: {type: object, required: [length], properties: {length: {type: integer, minimum: 1}, speed: {type: string, default: slow}}}\n          \
    status: {type: object, x-kubernetes-preserve-unknown-fields: true}\n";

fn custom_resources() {
    let lab = Lab::shared();
    let namespace = lab.namespace("custom");
    namespace.apply(CRD);
    lab.kubectl(&[
        "wait",
        "--for=condition=Established",
        "crd/tapes.example.com",
        "--timeout=10s",
    ])
    .good();
    let tape = |length: i32| {
        format!("apiVersion: example.com/v1\nkind: Tape\nmetadata: {{name: a}}\nspec: {{length: {length}}}\n")
    };
    eventually("the new kind is served", || {
        namespace.kubectl_stdin(&["apply", "-f", "-"], &tape(90)).ok
    });
    let shown = namespace.kubectl(&["get", "tp"]).good();
    assert!(shown.contains("LENGTH") && shown.contains("90"), "{shown}");
    assert_eq!(namespace.field("tape/a", ".spec.speed"), "slow");
    let said = namespace.kubectl_stdin(&["apply", "-f", "-"], &tape(0)).bad();
    assert!(said.contains("spec.length"), "{said}");
    assert!(namespace.kubectl(&["explain", "tape.spec"]).good().contains("length"));
    lab.kubectl(&["delete", "crd", "tapes.example.com"]).good();
    assert!(!namespace.kubectl(&["get", "tapes"]).ok);
}

fn state_survives_a_kill() {
    let lab = Lab::own("state", &["--no-demo", "--nodes", "1"]);
    let namespace = lab.namespace("kept");
    for number in 0..20 {
        namespace
            .kubectl(&["create", "configmap", &format!("c{number}"), "--from-literal=a=b"])
            .good();
    }
    let uid = namespace.field("configmap/c19", ".metadata.uid");
    assert_eq!(lab.kill("api", None), 1);
    eventually("the API is back", || namespace.kubectl(&["get", "configmap", "c19"]).ok);
    assert_eq!(namespace.field("configmap/c19", ".metadata.uid"), uid);
    let names = namespace.kubectl(&["get", "configmaps", "-o", "name"]).good();
    assert_eq!(
        names.lines().filter(|name| name.starts_with("configmap/c")).count(),
        20,
        "{names}"
    );
}

fn selectors() {
    let namespace = Lab::shared().namespace("selectors");
    for (name, labels) in [
        ("a", "tier: front, env: dev"),
        ("b", "tier: back, env: dev"),
        ("c", "env: prod"),
    ] {
        namespace.apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n"
        ));
    }
    for (selector, wanted) in [
        ("tier=front", "configmap/a"),
        ("tier!=front,env", "configmap/b configmap/c"),
        ("env in (dev),tier notin (front)", "configmap/b"),
        ("!tier,env", "configmap/c"),
    ] {
        let names = namespace
            .kubectl(&["get", "configmaps", "-l", selector, "-o", "name"])
            .good();
        assert_eq!(
            names.split_whitespace().collect::<Vec<_>>().join(" "),
            wanted,
            "{selector}"
        );
    }
    let said = namespace
        .kubectl(&["get", "configmaps", "--field-selector", "spec.color=red"])
        .bad();
    assert!(said.contains("field label not supported"), "{said}");
}
