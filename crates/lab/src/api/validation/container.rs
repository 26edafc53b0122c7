//! Rules of containers: names, images, ports, environment, mounts, probes and resources.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::field::{Errors, Field};
use super::names;
use super::quantity;

/// Checks all containers of a pod spec that has these volumes.
pub(super) fn validate_all(errors: &mut Errors, spec: &Field<'_>, volumes: &HashSet<String>) {
    let on_host = spec.at("hostNetwork").value == true;
    let mut seen = HashSet::new();
    let mut host_ports = HashSet::new();
    for kind in ["containers", "initContainers", "ephemeralContainers"] {
        for container in spec.at(kind).items() {
            let name = container.at("name");
            if name.must_exist(errors) {
                name.invalid_if(errors, names::dns_label(name.text()));
                if !seen.insert(name.text().to_owned()) {
                    name.duplicate(errors);
                }
            }
            let init = kind == "initContainers" && container.at("restartPolicy").text() != "Always";
            validate(errors, &container, volumes, init);
            for port in container.at("ports").items() {
                self::host_port(errors, &port, on_host);
                let key = (
                    port.at("hostIP").text().to_owned(),
                    port.at("protocol").text().to_owned(),
                    port.at("hostPort").int(),
                );
                if kind == "containers" && key.2.is_some_and(|p| p != 0) && !host_ports.insert(key) {
                    port.at("hostPort").duplicate(errors);
                }
            }
        }
    }
}

fn validate(errors: &mut Errors, container: &Field<'_>, volumes: &HashSet<String>, init: bool) {
    let image = container.at("image");
    if image.must_exist(errors) && image.text().trim() != image.text() {
        image.invalid(errors, "must not have leading or trailing whitespace");
    }
    container
        .at("imagePullPolicy")
        .one_of(errors, &["Always", "IfNotPresent", "Never"]);
    container
        .at("terminationMessagePolicy")
        .one_of(errors, &["FallbackToLogsOnError", "File"]);
    ports(errors, &container.at("ports"));
    environment(errors, container);
    mounts(errors, &container.at("volumeMounts"), volumes);
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.at(kind);
        if probe.is_missing() {
            continue;
        }
        if init {
            probe.forbidden(
                errors,
                "may not be set for init containers without restartPolicy=Always",
            );
        } else {
            self::probe(errors, &probe, kind);
        }
    }
    for hook in ["postStart", "preStop"] {
        let hook = container.at("lifecycle").at(hook);
        if init && !hook.is_missing() {
            container.at("lifecycle").forbidden(
                errors,
                "may not be set for init containers without restartPolicy=Always",
            );
        } else if !hook.is_missing() {
            handler(errors, &hook, &["exec", "httpGet", "tcpSocket", "sleep"]);
        }
    }
    resources(errors, &container.at("resources"));
}

fn ports(errors: &mut Errors, ports: &Field<'_>) {
    let mut seen = HashSet::new();
    for port in ports.items() {
        let name = port.at("name");
        if !name.is_empty() {
            if let Some(problem) = names::port_name(name.text()) {
                name.invalid(errors, &problem);
            } else if !seen.insert(name.text()) {
                name.duplicate(errors);
            }
        }
        let number = port.at("containerPort");
        if number.int().unwrap_or_default() == 0 {
            number.required(errors, "");
        } else {
            number.port(errors);
        }
        port.at("protocol").one_of(errors, &["SCTP", "TCP", "UDP"]);
    }
}

fn host_port(errors: &mut Errors, port: &Field<'_>, on_host: bool) {
    let (host, inner) = (port.at("hostPort"), port.at("containerPort"));
    if host.int().is_some_and(|n| n != 0) {
        host.port(errors);
    }
    if on_host && host.value != inner.value {
        port.at("containerPort")
            .invalid(errors, "must match `hostPort` when `hostNetwork` is true");
    }
}

fn environment(errors: &mut Errors, container: &Field<'_>) {
    for variable in container.at("env").items() {
        let name = variable.at("name");
        if name.must_exist(errors) {
            name.invalid_if(errors, names::env_name(name.text()));
        }
        let from = variable.at("valueFrom");
        if from.is_missing() {
            continue;
        }
        let count = from
            .map()
            .map_or(0, |sources| sources.values().filter(|v| !v.is_null()).count());
        if count == 0 {
            from.invalid_part(
                errors,
                "",
                "must specify one of: `configMapKeyRef`, `fieldRef`, `resourceFieldRef` or `secretKeyRef`",
            );
        } else if count > 1 {
            from.invalid_part(errors, "", "may not have more than one field specified at a time");
        } else if !variable.at("value").is_empty() {
            from.invalid_part(errors, "", "may not be specified when `value` is not empty");
        }
        for kind in ["configMapKeyRef", "secretKeyRef"] {
            let reference = from.at(kind);
            if !reference.is_missing() {
                reference.at("name").must_exist(errors);
                let key = reference.at("key");
                if key.must_exist(errors) {
                    key.invalid_if(errors, names::config_key(key.text()));
                }
            }
        }
        field_reference(errors, &from.at("fieldRef"));
    }
    for source in container.at("envFrom").items() {
        let references: Vec<Field<'_>> = ["configMapRef", "secretRef"]
            .map(|kind| source.at(kind))
            .into_iter()
            .filter(|r| !r.is_missing())
            .collect();
        match references.as_slice() {
            [] => source.invalid_part(errors, "", "must specify one of: `configMapRef` or `secretRef`"),
            [one] => {
                one.at("name").must_exist(errors);
            }
            _ => source.invalid_part(errors, "", "may not have more than one field specified at a time"),
        }
    }
}

/// The fields of a pod that its containers can see in variables and files.
pub(super) fn field_reference(errors: &mut Errors, reference: &Field<'_>) {
    const FIELDS: &[&str] = &[
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "metadata.labels",
        "metadata.annotations",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    let path = reference.at("fieldPath");
    if reference.is_missing() || !path.must_exist(errors) {
        return;
    }
    let subscript = ["metadata.labels['", "metadata.annotations['"]
        .iter()
        .any(|p| path.text().starts_with(p));
    if !subscript && !FIELDS.contains(&path.text()) {
        path.one_of(errors, FIELDS);
    }
}

fn mounts(errors: &mut Errors, mounts: &Field<'_>, volumes: &HashSet<String>) {
    let mut paths = HashSet::new();
    for mount in mounts.items() {
        let name = mount.at("name");
        if name.must_exist(errors) && !volumes.contains(name.text()) {
            name.not_found(errors);
        }
        let path = mount.at("mountPath");
        if path.must_exist(errors) && !paths.insert(path.text()) {
            path.invalid(errors, "must be unique");
        }
        let sub_path = mount.at("subPath");
        if sub_path.text().starts_with('/') {
            sub_path.invalid(errors, "must be a relative path");
        } else if sub_path.text().split('/').any(|part| part == "..") {
            sub_path.invalid(errors, "must not contain '..'");
        }
    }
}

fn probe(errors: &mut Errors, probe: &Field<'_>, kind: &str) {
    handler(errors, probe, &["exec", "httpGet", "tcpSocket", "grpc"]);
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        probe.at(field).not_negative(errors);
    }
    let threshold = probe.at("successThreshold");
    if kind != "readinessProbe" && threshold.int().is_some_and(|n| n != 1) {
        threshold.invalid(errors, "must be 1");
    }
}

fn handler(errors: &mut Errors, handler: &Field<'_>, kinds: &[&str]) {
    let present: Vec<Field<'_>> = kinds
        .iter()
        .map(|kind| handler.at(kind))
        .filter(|k| !k.is_missing())
        .collect();
    if present.is_empty() {
        handler.required(errors, "must specify a handler type");
    }
    for extra in present.iter().skip(1) {
        extra.forbidden(errors, "may not specify more than 1 handler type");
    }
    let exec = handler.at("exec");
    if !exec.is_missing() && exec.at("command").is_empty() {
        exec.at("command").required(errors, "");
    }
    let get = handler.at("httpGet");
    if !get.is_missing() {
        get.at("path").must_exist(errors);
        port_or_name(errors, &get.at("port"));
        get.at("scheme").one_of(errors, &["HTTP", "HTTPS"]);
        for header in get.at("httpHeaders").items() {
            header.at("name").must_exist(errors);
        }
    }
    let socket = handler.at("tcpSocket");
    if !socket.is_missing() {
        port_or_name(errors, &socket.at("port"));
    }
    let grpc = handler.at("grpc");
    if !grpc.is_missing() {
        grpc.at("port").port(errors);
    }
}

/// A port's number or name.
pub(super) fn port_or_name(errors: &mut Errors, port: &Field<'_>) {
    match port.value {
        Value::String(name) => port.invalid_if(errors, names::port_name(name)),
        _ => port.port(errors),
    }
}

fn resources(errors: &mut Errors, resources: &Field<'_>) {
    for kind in ["limits", "requests"] {
        for (name, amount) in resources.at(kind).entries() {
            if let Some(problem) = names::qualified_name(name) {
                resources.at(kind).invalid_part(errors, name, &problem);
            }
            match quantity::millis(amount.text()) {
                None => amount.invalid(errors, quantity::MESSAGE),
                Some(n) if n < 0 => amount.invalid(errors, "must be greater than or equal to 0"),
                Some(n) => {
                    let limit = resources
                        .value
                        .pointer("/limits")
                        .and_then(|l| l.get(name))
                        .unwrap_or(&Value::Null);
                    let most = limit.as_str().and_then(quantity::millis);
                    if kind == "requests" && most.is_some_and(|most| n > most) {
                        let detail = format!(
                            "must be less than or equal to {name} limit of {}",
                            limit.as_str().unwrap_or_default()
                        );
                        Field {
                            path: resources.at(kind).path,
                            value: &json!(amount.text()),
                        }
                        .invalid(errors, &detail);
                    }
                }
            }
        }
    }
}
