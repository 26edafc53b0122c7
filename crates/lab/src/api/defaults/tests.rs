//! Defaults against what a real API server stores.

use serde_json::{Value, json};

use super::apply;
use super::pod::quality_of_service;
use crate::api::fields::{at, text};
use crate::api::kinds::Resource;

fn defaulted(kind: &str, mut object: Value) -> Value {
    let resource = Resource {
        kind: kind.to_owned(),
        ..Resource::default()
    };
    apply(&resource, &mut object);
    let once = object.clone();
    let resource = Resource {
        kind: kind.to_owned(),
        ..Resource::default()
    };
    apply(&resource, &mut object);
    assert_eq!(once, object, "defaults must be stable");
    object
}

#[test]
fn a_minimal_pod_becomes_what_kubectl_shows() {
    let pod = defaulted(
        "Pod",
        json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "nginx",
            "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"port": 80}}}],
            "volumes": [{"name": "s", "secret": {"secretName": "x"}}, {"name": "e"}]}}),
    );
    assert_eq!(
        pod["spec"]["containers"][0],
        json!({"name": "c", "image": "nginx", "imagePullPolicy": "Always", "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
            "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"})
    );
    for (path, want) in [
        ("spec.restartPolicy", "Always"),
        ("spec.dnsPolicy", "ClusterFirst"),
        ("spec.schedulerName", "default-scheduler"),
        ("spec.serviceAccountName", "default"),
        ("spec.serviceAccount", "default"),
        ("status.phase", "Pending"),
        ("status.qosClass", "BestEffort"),
    ] {
        assert_eq!(text(&pod, path), want, "{path}");
    }
    assert_eq!(pod["spec"]["volumes"][0]["secret"]["defaultMode"], 420);
    assert_eq!(pod["spec"]["volumes"][1]["emptyDir"], json!({}));
    assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
}

#[test]
fn the_pull_policy_follows_the_tag() {
    for (image, want) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.27", "IfNotPresent"),
        ("localhost:5000/nginx", "Always"),
        ("localhost:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:00", "IfNotPresent"),
    ] {
        let pod = defaulted("Pod", json!({"spec": {"containers": [{"image": image}]}}));
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], want, "{image}");
    }
}

#[test]
fn quality_of_service_follows_requests_and_limits() {
    let spec = |resources: Value| json!({"containers": [{"resources": resources}]});
    assert_eq!(quality_of_service(&spec(json!({}))), "BestEffort");
    assert_eq!(
        quality_of_service(&spec(json!({"requests": {"cpu": "1"}}))),
        "Burstable"
    );
    assert_eq!(
        quality_of_service(&spec(json!({"limits": {"cpu": "1", "memory": "1Gi"}}))),
        "Guaranteed"
    );
    assert_eq!(quality_of_service(&spec(json!({"limits": {"cpu": "1"}}))), "Burstable");
}

#[test]
fn a_service_gets_its_type_ports_and_policies() {
    let service = defaulted("Service", json!({"spec": {"ports": [{"port": 80}]}}));
    assert_eq!(
        service["spec"],
        json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]})
    );
    let service = defaulted(
        "Service",
        json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP"}}),
    );
    assert_eq!(service["spec"]["externalTrafficPolicy"], "Cluster");
    assert_eq!(
        service["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"],
        10_800
    );
}

#[test]
fn workloads_get_their_strategies() {
    let deployment = defaulted(
        "Deployment",
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}}),
    );
    assert_eq!(
        deployment["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(deployment["spec"]["template"]["spec"]["dnsPolicy"], "ClusterFirst");
    assert!(at(&deployment, "spec.template.spec.serviceAccountName").is_null());
    let daemons = defaulted("DaemonSet", json!({}));
    assert_eq!(
        daemons["spec"]["updateStrategy"]["rollingUpdate"],
        json!({"maxSurge": 0, "maxUnavailable": 1})
    );
    let job = defaulted(
        "Job",
        json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {}}}),
    );
    assert_eq!(
        job["spec"]["selector"]["matchLabels"],
        json!({"batch.kubernetes.io/controller-uid": "u"})
    );
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
    assert_eq!(
        (&job["spec"]["completions"], &job["spec"]["parallelism"]),
        (&json!(1), &json!(1))
    );
}

#[test]
fn the_small_kinds() {
    let secret = defaulted("Secret", json!({"stringData": {"a": "hello"}, "data": {"b": "Yg=="}}));
    assert_eq!(
        secret,
        json!({"type": "Opaque", "data": {"a": "aGVsbG8=", "b": "Yg=="}})
    );
    let namespace = defaulted("Namespace", json!({"metadata": {"name": "n"}}));
    assert_eq!(
        namespace,
        json!({"metadata": {"name": "n", "labels": {"kubernetes.io/metadata.name": "n"}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
    );
    let policy = defaulted(
        "NetworkPolicy",
        json!({"spec": {"egress": [{"ports": [{"port": 53}]}]}}),
    );
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(policy["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    let crd = defaulted(
        "CustomResourceDefinition",
        json!({"spec": {"names": {"kind": "NodeNetwork"}}}),
    );
    assert_eq!(
        crd["spec"]["names"],
        json!({"kind": "NodeNetwork", "singular": "nodenetwork", "listKind": "NodeNetworkList"})
    );
}
