//! What a pod gets from its cluster: a service account with its token, and patience with nodes that fail.

use serde_json::{Map, Value, json};

use crate::api::kinds::Resource;
use crate::api::status::Status;
use crate::api::store::View;

const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Characters of generated suffixes, as Kubernetes has them.
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Completes a new pod, or refuses it because its service account does not exist.
pub(super) fn complete(view: &View<'_>, resource: &Resource, pod: &mut Value) -> Result<(), Status> {
    tolerate_failing_nodes(pod);
    if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
        return Ok(());
    }
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let given = text(&pod["spec"]["serviceAccountName"]).or_else(|| text(&pod["spec"]["serviceAccount"]));
    let name = given.unwrap_or_else(|| "default".to_owned());
    let namespace = text(&pod["metadata"]["namespace"]).unwrap_or_default();
    let account = view.get("", "serviceaccounts", &namespace, &name);
    // `default` comes a moment after its namespace; a pod that is faster than that need not fail.
    if account.is_none() && name != "default" {
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        let pod = text(&pod["metadata"]["name"]).unwrap_or_default();
        return Err(Status::forbidden(resource, &pod, &why));
    }
    let account = account.unwrap_or(&Value::Null);
    let Some(spec) = pod["spec"].as_object_mut() else {
        return Ok(());
    };
    spec.insert("serviceAccountName".into(), name.clone().into());
    spec.insert("serviceAccount".into(), name.into());
    let secrets = &account["imagePullSecrets"];
    if secrets.as_array().is_some_and(|secrets| !secrets.is_empty()) && spec.get("imagePullSecrets").is_none() {
        spec.insert("imagePullSecrets".into(), secrets.clone());
    }
    let wish = spec.get("automountServiceAccountToken").and_then(Value::as_bool);
    if wish
        .or(account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true)
    {
        mount_token(spec);
    }
    Ok(())
}

/// Mounts the account's token in each container that has nothing of its own there.
fn mount_token(spec: &mut Map<String, Value>) {
    let volumes = spec.get("volumes").and_then(Value::as_array);
    let present = volumes
        .into_iter()
        .flatten()
        .filter_map(|volume| volume["name"].as_str());
    let present = present
        .filter(|name| name.starts_with("kube-api-access-"))
        .map(str::to_owned)
        .next();
    let volume = present
        .clone()
        .unwrap_or_else(|| format!("kube-api-access-{}", suffix()));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if !mounts.iter().any(|mount| mount["mountPath"] == TOKEN_DIR) {
                mounts.push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_DIR}));
                used = true;
            }
        }
    }
    if !used || present.is_some() {
        return;
    }
    let projected = json!({
        "name": volume,
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
                ]}},
            ],
        },
    });
    match spec.entry("volumes").or_insert_with(|| json!([])) {
        Value::Array(volumes) => volumes.push(projected),
        other => *other = json!([projected]),
    }
}

fn suffix() -> String {
    (0..5)
        .map(|_| SUFFIX[rand::random_range(0..SUFFIX.len())] as char)
        .collect()
}

/// A node may be away for five minutes before its pods are given up.
fn tolerate_failing_nodes(pod: &mut Value) {
    let Some(spec) = pod["spec"].as_object_mut() else {
        return;
    };
    let entry = spec.entry("tolerations").or_insert_with(|| json!([]));
    if entry.is_null() {
        *entry = json!([]);
    }
    let Some(tolerations) = entry.as_array_mut() else {
        return;
    };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |toleration: &Value| {
            let empty_or = |field: &str, wanted: &str| {
                let given = toleration[field].as_str().unwrap_or_default();
                given.is_empty() || given == wanted
            };
            empty_or("key", key) && empty_or("effect", "NoExecute")
        };
        if !tolerations.iter().any(covers) {
            let patience = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
            tolerations.push(patience);
        }
    }
}
