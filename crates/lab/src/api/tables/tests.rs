//! Tables against what `kubectl get` prints from a real API server.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{cells, columns, human_duration};
use crate::api::kinds::Resource;

fn resource(kind: &str) -> Resource {
    Resource {
        kind: kind.to_owned(),
        ..Resource::default()
    }
}

/// The row of an object that was made 90 seconds ago, as text with `|` between cells; wide columns included.
fn row(kind: &str, mut object: Value) -> String {
    object["metadata"]["name"] = "x".into();
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    let now: Timestamp = "2026-01-01T00:01:30Z".parse().expect("a time");
    let cells = cells(&resource(kind), &object, now);
    assert_eq!(
        cells.len(),
        columns(&resource(kind)).len(),
        "{kind}: a cell for each column"
    );
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    cells.iter().map(text).collect::<Vec<_>>().join("|")
}

#[test]
fn durations_are_as_kubectl_prints_them() {
    const H: i64 = 3600;
    const D: i64 = 24 * H;
    for (seconds, want) in [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (123, "2m3s"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * H - 1, "179m"),
        (3 * H, "3h"),
        (7 * H + 60, "7h1m"),
        (8 * H + 60, "8h"),
        (47 * H, "47h"),
        (2 * D + H, "2d1h"),
        (8 * D + H, "8d"),
        (2 * 365 * D + D, "2y1d"),
        (9 * 365 * D, "9y"),
    ] {
        assert_eq!(human_duration(seconds), want);
    }
}

#[test]
fn a_running_pod() {
    let pod = json!({
        "spec": {"nodeName": "node-1", "containers": [{"name": "a"}, {"name": "b"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.5"}, {"ip": "fd00::5"}], "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}},
             "lastState": {"terminated": {"finishedAt": "2026-01-01T00:01:00Z"}}},
            {"name": "b", "ready": false, "state": {"running": {}}}]}
    });
    assert_eq!(
        row("Pod", pod),
        "x|1/2|Running|2 (30s ago)|90s|10.244.0.5|node-1|<none>|<none>"
    );
}

#[test]
fn the_status_of_pods_in_trouble() {
    let status = |pod: Value| row("Pod", pod).split('|').nth(2).map(str::to_owned).unwrap_or_default();
    let with = |state: Value| json!({"status": {"phase": "Running", "containerStatuses": [{"state": state}]}});
    assert_eq!(status(json!({"status": {"phase": "Pending"}})), "Pending");
    assert_eq!(
        status(with(json!({"waiting": {"reason": "CrashLoopBackOff"}}))),
        "CrashLoopBackOff"
    );
    assert_eq!(
        status(with(json!({"waiting": {"reason": "ErrImagePull"}}))),
        "ErrImagePull"
    );
    assert_eq!(
        status(with(json!({"terminated": {"reason": "Completed", "exitCode": 0}}))),
        "Completed"
    );
    assert_eq!(status(with(json!({"terminated": {"exitCode": 3}}))), "ExitCode:3");
    assert_eq!(
        status(with(json!({"terminated": {"exitCode": 137, "signal": 9}}))),
        "Signal:9"
    );
    assert_eq!(
        status(json!({"status": {"phase": "Failed", "reason": "Evicted"}})),
        "Evicted"
    );
    assert_eq!(
        status(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:01:00Z"}, "status": {"phase": "Running"}})),
        "Terminating"
    );
    let init = |state: Value| {
        json!({"spec": {"initContainers": [{"name": "i"}, {"name": "j"}]},
            "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": state}],
                "containerStatuses": [{"state": {"waiting": {"reason": "PodInitializing"}}}]}})
    };
    assert_eq!(status(init(json!({"running": {}}))), "Init:1/2");
    assert_eq!(
        status(init(json!({"waiting": {"reason": "CrashLoopBackOff"}}))),
        "Init:CrashLoopBackOff"
    );
    assert_eq!(
        status(init(json!({"terminated": {"exitCode": 1, "reason": "Error"}}))),
        "Init:Error"
    );
    assert_eq!(status(init(json!({"terminated": {"exitCode": 0}}))), "PodInitializing");
}

#[test]
fn a_sidecar_counts_as_a_container() {
    let pod = json!({
        "spec": {"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]},
        "status": {"phase": "Running",
            "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "state": {"running": {}}}],
            "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]}
    });
    assert!(row("Pod", pod).starts_with("x|2/2|Running|0|"));
}

#[test]
fn services() {
    let service = |spec: Value| row("Service", json!({"spec": spec}));
    assert_eq!(
        service(
            json!({"type": "NodePort", "clusterIPs": ["10.96.0.7"], "selector": {"b": "2", "a": "1"},
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]})
        ),
        "x|NodePort|10.96.0.7|<none>|80:30080/TCP,53/UDP|90s|a=1,b=2"
    );
    assert_eq!(
        service(json!({"type": "LoadBalancer"})),
        "x|LoadBalancer|<none>|<pending>|<none>|90s|<none>"
    );
    assert_eq!(
        service(json!({"type": "ExternalName", "externalName": "example.com"})),
        "x|ExternalName|<none>|example.com|<none>|90s|<none>"
    );
    assert_eq!(
        service(json!({"type": "ClusterIP", "clusterIP": "None"})),
        "x|ClusterIP|None|<none>|<none>|90s|<none>"
    );
}

#[test]
fn endpoints_show_three_and_count_the_rest() {
    let addresses: Vec<Value> = (1..=5).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect();
    let endpoints = json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
    assert_eq!(
        row("Endpoints", endpoints),
        "x|10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...|90s"
    );
    assert_eq!(row("Endpoints", json!({})), "x|<none>|90s");
    let slice = json!({"addressType": "IPv4", "ports": [{"port": 80}, {}], "endpoints": [{"addresses": ["10.0.0.1"]}]});
    assert_eq!(row("EndpointSlice", slice), "x|IPv4|80,*|10.0.0.1|90s");
}

#[test]
fn nodes() {
    let node = json!({
        "metadata": {"labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/edge": ""}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "Hostname", "address": "x"}, {"type": "InternalIP", "address": "10.89.0.11"}],
            "nodeInfo": {"kubeletVersion": "v1.33.0", "kernelVersion": "6.18"}}
    });
    assert_eq!(
        row("Node", node),
        "x|Ready,SchedulingDisabled|edge,worker|90s|v1.33.0|10.89.0.11|<none>|<unknown>|6.18|<unknown>"
    );
    assert!(
        row(
            "Node",
            json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
        )
        .starts_with("x|NotReady|<none>")
    );
}

#[test]
fn workloads() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}});
    let selector = json!({"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "z", "operator": "In", "values": ["2", "1"]}]});
    let spec = json!({"replicas": 3, "completions": 3, "selector": selector, "template": template});
    let status =
        json!({"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1, "replicas": 3, "succeeded": 1});
    let object = json!({"spec": spec, "status": status});
    assert_eq!(
        row("Deployment", object.clone()),
        "x|2/3|3|1|90s|a,b|i,j|app=x,z in (1,2)"
    );
    assert_eq!(
        row("ReplicaSet", object.clone()),
        "x|3|3|2|90s|a,b|i,j|app=x,z in (1,2)"
    );
    assert_eq!(row("StatefulSet", object.clone()), "x|2/3|90s|a,b|i,j");
    assert_eq!(
        row("DaemonSet", object.clone()),
        "x|0|0|0|0|0|<none>|90s|a,b|i,j|app=x,z in (1,2)"
    );
    assert_eq!(row("Job", object), "x|Running|1/3||90s|a,b|i,j|app=x,z in (1,2)");
}

#[test]
fn the_small_kinds() {
    assert_eq!(
        row("ConfigMap", json!({"data": {"a": "1"}, "binaryData": {"b": "Mg=="}})),
        "x|2|90s"
    );
    assert_eq!(row("Secret", json!({"type": "Opaque", "data": {}})), "x|Opaque|0|90s");
    assert_eq!(row("ServiceAccount", json!({})), "x|0|90s");
    assert_eq!(row("Namespace", json!({"status": {"phase": "Active"}})), "x|Active|90s");
    assert_eq!(
        row("NetworkPolicy", json!({"spec": {"podSelector": {}}})),
        "x|<none>|90s"
    );
    assert_eq!(
        row("IngressClass", json!({"spec": {"controller": "weft.dev/edge"}})),
        "x|weft.dev/edge|<none>|90s"
    );
    assert_eq!(
        row(
            "ServiceCIDR",
            json!({"spec": {"cidrs": ["10.96.0.0/16", "fd00:10:96::/112"]}})
        ),
        "x|10.96.0.0/16,fd00:10:96::/112|90s"
    );
    assert_eq!(
        row(
            "Ingress",
            json!({"spec": {"ingressClassName": "weft", "tls": [{}], "rules": [{"host": "a.example"}]}})
        ),
        "x|weft|a.example||80, 443|90s"
    );
    assert_eq!(
        row("Lease", json!({"spec": {"holderIdentity": "node-1"}})),
        "x|node-1|90s"
    );
    assert_eq!(row("CustomResourceDefinition", json!({})), "x|2026-01-01T00:00:00Z");
    let event = json!({"type": "Warning", "reason": "Failed", "message": "no image\n", "count": 3,
        "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{a}"},
        "source": {"component": "kubelet", "host": "node-1"},
        "firstTimestamp": "2026-01-01T00:00:30Z", "lastTimestamp": "2026-01-01T00:01:20Z"});
    assert_eq!(
        row("Event", event),
        "10s|Warning|Failed|pod/p|spec.containers{a}|kubelet, node-1|no image|60s|3|x"
    );
}

#[test]
fn custom_columns() {
    let version = json!({"additionalPrinterColumns": [
        {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
        {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
        {"name": "Missing", "type": "string", "jsonPath": ".spec.none", "priority": 1},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]});
    let custom = Resource {
        kind: "Thing".into(),
        custom: Some(std::sync::Arc::new(version)),
        ..Resource::default()
    };
    let object = json!({"metadata": {"name": "t", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"replicas": 2},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let now: Timestamp = "2026-01-01T00:00:05Z".parse().expect("a time");
    assert_eq!(
        cells(&custom, &object, now),
        [json!("t"), json!("True"), json!(2), Value::Null, json!("5s")]
    );
    assert_eq!(
        columns(&custom).iter().map(|c| c["name"].clone()).collect::<Vec<_>>(),
        ["Name", "Ready", "Replicas", "Missing", "Age"]
    );
}
