//! Makes the node known and keeps telling that it lives.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::images::architecture;
use super::node::{Node, machine};
use crate::client::{Error, Patch, Res};

const NODES: Res = Res::new("", "v1", "nodes");
const LEASES: Res = Res::new("coordination.k8s.io", "v1", "leases");
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// How often the lease is renewed.
const BEAT: Duration = Duration::from_secs(10);

/// After how many beats the status is told anew though nothing has changed.
const STATUS_EVERY: u32 = 6;

/// Registers the node and keeps its status and lease, for ever.
pub(super) async fn run(node: Node) {
    let mut network = node.network.clone();
    let mut conditions = Conditions::default();
    let mut beats = 0;
    let mut known = false;
    let mut delay = Duration::from_millis(50);
    loop {
        let ready = network.borrow_and_update().clone();
        let outcome = async {
            if !known {
                register(&node).await?;
            }
            if !known || beats % STATUS_EVERY == 0 || conditions.changes(&ready) {
                let status = json!({"status": status(&node, conditions.tell(&ready))});
                node.client
                    .patch(&NODES, "", name(&node), Some("status"), &Patch::Merge(status))
                    .await?;
            }
            renew(&node).await
        };
        match outcome.await {
            Ok(()) => {
                if !known {
                    tracing::info!(node = name(&node), ready = ready.is_ok(), "node registered");
                }
                (known, delay) = (true, Duration::from_millis(50));
                beats += 1;
                tokio::select! {
                    () = tokio::time::sleep(BEAT) => {}
                    _ = network.changed() => {}
                }
            }
            Err(error) => {
                // The Node object was deleted: a kubelet makes itself known again.
                known &= !error.is_not_found();
                tracing::debug!(node = name(&node), %error, "node not told");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(2));
            }
        }
    }
}

fn name(node: &Node) -> &str {
    &node.config.node_name
}

async fn register(node: &Node) -> Result<(), Error> {
    let (arch, os) = (architecture(), "linux");
    let mut labels = json!({
        "kubernetes.io/hostname": name(node), "kubernetes.io/os": os, "kubernetes.io/arch": arch,
        "beta.kubernetes.io/os": os, "beta.kubernetes.io/arch": arch,
    });
    if let Some(zone) = &node.config.zone {
        labels["topology.kubernetes.io/zone"] = zone.as_str().into();
    }
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name(node), "labels": labels}});
    match node.client.create(&NODES, "", &object).await {
        Err(error) if error.is_conflict() => {
            let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
            node.client.patch(&NODES, "", name(node), None, &patch).await.map(drop)
        }
        other => other.map(drop),
    }
}

async fn renew(node: &Node) -> Result<(), Error> {
    let spec = json!({
        "holderIdentity": name(node),
        "leaseDurationSeconds": 40,
        "renewTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
    });
    let patch = Patch::Merge(json!({"spec": spec}));
    match node
        .client
        .patch(&LEASES, LEASE_NAMESPACE, name(node), None, &patch)
        .await
    {
        Err(error) if error.is_not_found() => {}
        other => return other.map(drop),
    }
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec,
        "metadata": {"name": name(node), "namespace": LEASE_NAMESPACE}});
    match node.client.create(&LEASES, LEASE_NAMESPACE, &lease).await {
        Err(error) if error.is_not_found() => {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": LEASE_NAMESPACE}});
            node.client
                .create(&Res::new("", "v1", "namespaces"), "", &namespace)
                .await?;
            node.client.create(&LEASES, LEASE_NAMESPACE, &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}

/// The readiness that was told last, and since when it holds.
#[derive(Default)]
struct Conditions {
    told: Option<(Result<(), String>, Timestamp)>,
}

impl Conditions {
    fn changes(&self, ready: &Result<(), String>) -> bool {
        self.told.as_ref().is_none_or(|(told, _)| told != ready)
    }

    fn tell(&mut self, ready: &Result<(), String>) -> Vec<Value> {
        let now = Timestamp::now();
        let since = match &self.told {
            Some((told, since)) if told.is_ok() == ready.is_ok() => *since,
            _ => now,
        };
        self.told = Some((ready.clone(), since));
        let condition = |kind: &str, status: &str, reason: &str, message: &str, since: Timestamp| {
            let text = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            json!({"type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": text(now), "lastTransitionTime": text(since)})
        };
        let fine = [
            (
                "MemoryPressure",
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            ),
            (
                "DiskPressure",
                "KubeletHasNoDiskPressure",
                "kubelet has no disk pressure",
            ),
            (
                "PIDPressure",
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available",
            ),
        ];
        let mut conditions: Vec<_> = fine
            .iter()
            .map(|(kind, reason, message)| condition(kind, "False", reason, message, since))
            .collect();
        conditions.push(match ready {
            Ok(()) => condition(
                "Ready",
                "True",
                "KubeletReady",
                "kubelet is posting ready status",
                since,
            ),
            Err(why) => {
                let message = format!(
                    "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                     message:Network plugin returns error: {why}"
                );
                condition("Ready", "False", "KubeletNotReady", &message, since)
            }
        });
        conditions
    }
}

fn status(node: &Node, conditions: Vec<Value>) -> Value {
    let (cpus, memory) = machine();
    let room = json!({
        "cpu": cpus.to_string(), "memory": format!("{}Ki", memory / 1024),
        "pods": node.config.max_pods.to_string(), "ephemeral-storage": "100Gi",
    });
    let mut addresses: Vec<Value> = node
        .config
        .addresses
        .iter()
        .map(|ip| json!({"type": "InternalIP", "address": ip}))
        .collect();
    addresses.push(json!({"type": "Hostname", "address": name(node)}));
    let images: Vec<Value> = node
        .images
        .all()
        .into_iter()
        .map(|image| json!({"names": image.names, "sizeBytes": image.size}))
        .collect();
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    let uname = nix::sys::utsname::uname();
    let kernel = uname
        .as_ref()
        .map(|uname| uname.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let version = format!("v1.33.0-weft.{}", env!("CARGO_PKG_VERSION"));
    json!({
        "capacity": room,
        "allocatable": room,
        "addresses": addresses,
        "conditions": conditions,
        "images": images,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "machineID": read("/etc/machine-id"),
            "systemUUID": read("/etc/machine-id"),
            "bootID": read("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": kernel,
            "osImage": os_image(),
            "containerRuntimeVersion": format!("{}://{}", node.runtime.name(), node.runtime.version),
            "kubeletVersion": version,
            "kubeProxyVersion": version,
            "operatingSystem": "linux",
            "architecture": architecture(),
        },
    })
}

fn os_image() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_keeps_its_time() {
        let mut conditions = Conditions::default();
        assert!(conditions.changes(&Ok(())));
        let told = conditions.tell(&Err("cni plugin not initialized".into()));
        assert_eq!(
            (told[3]["type"].as_str(), told[3]["status"].as_str()),
            (Some("Ready"), Some("False"))
        );
        assert!(
            told[3]["message"]
                .as_str()
                .unwrap()
                .ends_with("returns error: cni plugin not initialized")
        );
        assert!(conditions.changes(&Ok(())));
        let since = conditions.told.as_ref().unwrap().1;
        conditions.tell(&Err("something else".into()));
        assert_eq!(conditions.told.as_ref().unwrap().1, since);
        assert_eq!(conditions.tell(&Ok(()))[3]["status"], "True");
    }
}
