//! Something that behaves as kubelets do towards the API: bound pods run and are ready, pods with work to finish succeed,
//! deleted pods end.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::client::{Client, Event, ListOptions, Patch};
use crate::controllers::kinds::PODS;
use crate::controllers::object::{deleting, name, namespace, now, text, uid};

/// Plays every node's kubelet until its task is aborted.
pub(super) async fn run(client: Client) {
    let mut events = client.informer(PODS.clone(), "", ListOptions::default());
    let next = Arc::new(AtomicUsize::new(1));
    let mut started = HashSet::new();
    while let Some(event) = events.recv().await {
        let Event::Applied(pod) = event else { continue };
        if text(&pod, "/spec/nodeName").is_empty() {
            continue;
        }
        if deleting(&pod) {
            let _ = client
                .delete(&PODS, namespace(&pod), name(&pod), Some(0), Some(uid(&pod)))
                .await;
        } else if started.insert(uid(&pod).to_owned()) && pod["metadata"]["labels"]["test"] != "never-ready" {
            tokio::spawn(start(client.clone(), pod, next.fetch_add(1, Ordering::SeqCst)));
        }
    }
}

async fn start(client: Client, pod: Value, n: usize) {
    let ips = [
        format!("10.244.{}.{}", n / 200, n % 200 + 2),
        format!("fd00:10:244::{n:x}"),
    ];
    let finishes = text(&pod, "/spec/restartPolicy") != "Always";
    let phase = match (finishes, pod["metadata"]["labels"]["test"].as_str()) {
        (true, Some("fails")) => "Failed",
        (true, _) => "Succeeded",
        (false, _) => "Running",
    };
    let ready = if finishes { "False" } else { "True" };
    let status = json!({
        "phase": phase, "podIP": ips[0], "podIPs": [{"ip": ips[0]}, {"ip": ips[1]}],
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now()}],
    });
    let patch = Patch::Merge(json!({"metadata": {"uid": uid(&pod)}, "status": status}));
    let _ = client
        .patch(&PODS, namespace(&pod), name(&pod), Some("status"), &patch)
        .await;
}
