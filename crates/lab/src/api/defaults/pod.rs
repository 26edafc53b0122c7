//! Defaults of pods and pod templates: the scheme's own, and those of the admission plugins that every cluster runs
//! (service account, priority, default tolerations).

use serde_json::{Value, json};

use crate::api::fields::{at, at_mut, default, entries, flag, has, list, list_mut, make, set, text};

/// Mode of files in a volume where nothing else is said: 0644.
const FILE_MODE: i64 = 0o644;

/// Fills in the defaults of a pod.
pub(super) fn pod(pod: &mut Value) {
    make(pod, "metadata");
    let Some(spec) = make(pod, "spec") else { return };
    default(spec, "enableServiceLinks", true);
    default(spec, "serviceAccountName", "default");
    default(spec, "priority", 0);
    default(spec, "preemptionPolicy", "PreemptLowerPriority");
    template_spec(spec);
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        tolerate(spec, key);
    }
    let class = quality_of_service(spec);
    if let Some(status) = make(pod, "status") {
        default(status, "phase", "Pending");
        default(status, "qosClass", class);
    }
}

/// Fills in the defaults of the pod spec that a pod and a pod template share.
pub(super) fn template_spec(spec: &mut Value) {
    default(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "schedulerName", "default-scheduler");
    default(spec, "securityContext", json!({}));
    let account = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if !account.is_empty() {
        default(spec, "serviceAccountName", account.clone());
        set(spec, "serviceAccount", account);
    }
    let on_host = flag(spec, "hostNetwork");
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list_mut(spec, kind) {
            self::container(container, on_host);
        }
    }
    for volume in list_mut(spec, "volumes") {
        self::volume(volume);
    }
}

fn container(container: &mut Value, on_host: bool) {
    if !container.is_object() {
        return;
    }
    let policy = pull_policy(text(container, "image"));
    default(container, "imagePullPolicy", policy);
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    if let Some(limits) = at(container, "resources.limits")
        .as_object()
        .filter(|l| !l.is_empty())
        .cloned()
        && let Some(requests) = make(container, "resources.requests")
    {
        for (name, quantity) in limits {
            default(requests, &name, quantity);
        }
    }
    for port in list_mut(container, "ports") {
        default(port, "protocol", "TCP");
        if on_host && has(port, "containerPort") {
            let number = at(port, "containerPort").clone();
            default(port, "hostPort", number);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = at_mut(container, probe) {
            self::probe(probe);
        }
    }
    for hook in ["lifecycle.postStart.httpGet", "lifecycle.preStop.httpGet"] {
        if let Some(get) = at_mut(container, hook) {
            http_get(get);
        }
    }
    for variable in list_mut(container, "env") {
        if let Some(reference) = at_mut(variable, "valueFrom.fieldRef") {
            default(reference, "apiVersion", "v1");
        }
    }
}

/// An image without a tag or with `latest` is always pulled; everything else only when absent.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let name = image.rsplit('/').next().unwrap_or_default();
    match name.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn probe(probe: &mut Value) {
    for (key, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if at(probe, key).as_i64().unwrap_or_default() == 0 {
            set(probe, key, value);
        }
    }
    if let Some(get) = at_mut(probe, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = at_mut(probe, "grpc")
        && !has(grpc, "service")
    {
        set(grpc, "service", "");
    }
}

fn http_get(get: &mut Value) {
    default(get, "path", "/");
    default(get, "scheme", "HTTP");
}

fn volume(volume: &mut Value) {
    let Some(object) = volume.as_object() else { return };
    if object.iter().all(|(key, value)| key == "name" || value.is_null()) {
        set(volume, "emptyDir", json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = at_mut(volume, source) {
            default(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(host_path) = at_mut(volume, "hostPath")
        && !has(host_path, "type")
    {
        set(host_path, "type", "");
    }
    for item in list_mut(volume, "downwardAPI.items") {
        if let Some(reference) = at_mut(item, "fieldRef") {
            default(reference, "apiVersion", "v1");
        }
    }
    for source in list_mut(volume, "projected.sources") {
        if let Some(token) = at_mut(source, "serviceAccountToken") {
            default(token, "expirationSeconds", 3600);
        }
        for item in list_mut(source, "downwardAPI.items") {
            if let Some(reference) = at_mut(item, "fieldRef") {
                default(reference, "apiVersion", "v1");
            }
        }
    }
}

/// Tolerates a lost node for five minutes, unless the pod says something about that taint itself.
fn tolerate(spec: &mut Value, key: &str) {
    let known = list(spec, "tolerations").iter().any(|t| {
        let (own, effect) = (text(t, "key"), text(t, "effect"));
        (own == key || own.is_empty()) && (effect == "NoExecute" || effect.is_empty())
    });
    if known {
        return;
    }
    if !has(spec, "tolerations") {
        set(spec, "tolerations", json!([]));
    }
    if let Some(tolerations) = at_mut(spec, "tolerations").and_then(Value::as_array_mut) {
        tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
    }
}

/// The quality of service class of a pod spec: by whether its containers ask for cpu and memory, and limit them to as much.
pub(super) fn quality_of_service(spec: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for container in list(spec, "containers").iter().chain(list(spec, "initContainers")) {
        for name in ["cpu", "memory"] {
            let limit = quantity(container, "resources.limits", name);
            let request = quantity(container, "resources.requests", name).or_else(|| limit.clone());
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn quantity(container: &Value, list: &str, name: &str) -> Option<String> {
    let (_, value) = entries(container, list).find(|(key, _)| *key == name)?;
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    (text != "0").then_some(text)
}
