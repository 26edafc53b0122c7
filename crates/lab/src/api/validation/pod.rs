//! Rules of pods and pod templates.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container;
use super::field::{Errors, Field};
use super::meta;
use super::names;
use super::volume;

const UPDATE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks a pod.
pub(super) fn validate(errors: &mut Errors, pod: &Field<'_>, old: Option<&Field<'_>>) {
    let spec = pod.at("spec");
    match old {
        None => {
            self::spec(errors, &spec);
            spec.at("restartPolicy")
                .one_of(errors, &["Always", "OnFailure", "Never"]);
        }
        Some(old) => update(errors, &spec, &old.at("spec")),
    }
}

/// Checks a pod template. By which policy its pods may restart depends on the kind that owns them.
pub(super) fn template(errors: &mut Errors, template: &Field<'_>) {
    meta::labels(errors, &template.at("metadata.labels"));
    meta::annotations(errors, &template.at("metadata.annotations"));
    spec(errors, &template.at("spec"));
}

/// The rules of a pod spec.
fn spec(errors: &mut Errors, spec: &Field<'_>) {
    let volumes = volume::validate(errors, &spec.at("volumes"));
    let containers = spec.at("containers");
    if containers.is_empty() {
        containers.required(errors, "");
    }
    container::validate_all(errors, spec, &volumes);
    spec.at("dnsPolicy")
        .one_of(errors, &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]);
    spec.at("terminationGracePeriodSeconds").not_negative(errors);
    spec.at("activeDeadlineSeconds").positive(errors);
    meta::labels(errors, &spec.at("nodeSelector"));
    for (field, form) in [
        ("nodeName", names::dns_subdomain as fn(&str) -> names::Problem),
        ("serviceAccountName", names::dns_subdomain),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
    ] {
        let field = spec.at(field);
        if !field.is_empty() {
            field.invalid_if(errors, form(field.text()));
        }
    }
    for alias in spec.at("hostAliases").items() {
        let ip = alias.at("ip");
        ip.invalid_if(errors, names::ip(ip.text()));
        for hostname in alias.at("hostnames").items() {
            hostname.invalid_if(errors, names::dns_subdomain(hostname.text()));
        }
    }
    dns(errors, spec);
    for toleration in spec.at("tolerations").items() {
        self::toleration(errors, &toleration);
    }
    for gate in spec.at("readinessGates").items() {
        let kind = gate.at("conditionType");
        kind.invalid_if(errors, names::qualified_name(kind.text()));
    }
}

fn dns(errors: &mut Errors, spec: &Field<'_>) {
    let config = spec.at("dnsConfig");
    let servers = config.at("nameservers");
    if spec.at("dnsPolicy").text() == "None" {
        if config.is_missing() {
            config.required(errors, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_empty() {
            servers.required(
                errors,
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            );
        }
    }
    if servers.items().len() > 3 {
        servers.invalid(errors, "must not have more than 3 nameservers");
    }
    for server in servers.items() {
        server.invalid_if(errors, names::ip(server.text()));
    }
    for search in config.at("searches").items() {
        let name = search.text().trim_end_matches('.');
        if search.text() != "." && !name.is_empty() {
            search.invalid_if(errors, names::dns_subdomain(&name.replace('_', "a")));
        }
    }
    for option in config.at("options").items() {
        option.at("name").must_exist(errors);
    }
}

fn toleration(errors: &mut Errors, toleration: &Field<'_>) {
    let (key, operator, effect) = (toleration.at("key"), toleration.at("operator"), toleration.at("effect"));
    if !key.is_empty() {
        key.invalid_if(errors, names::qualified_name(key.text()));
    } else if operator.text() != "Exists" {
        operator.invalid(
            errors,
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        );
    }
    if !effect.is_empty() {
        effect.one_of(errors, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    }
    if toleration.at("tolerationSeconds").int().is_some() && effect.text() != "NoExecute" {
        effect.invalid(errors, "effect must be 'NoExecute' when `tolerationSeconds` is set");
    }
    let value = toleration.at("value");
    match operator.text() {
        "Exists" if !value.is_empty() => {
            operator.invalid(errors, "value must be empty when `operator` is 'Exists'");
        }
        "" | "Equal" => value.invalid_if(errors, names::label_value(value.text())),
        "Exists" => {}
        _ => operator.one_of(errors, &["Equal", "Exists"]),
    }
}

/// What may change in the spec of a pod that exists.
fn update(errors: &mut Errors, new: &Field<'_>, old: &Field<'_>) {
    let mut before = old.value.clone();
    let mut after = new.value.clone();
    let added = new.at("tolerations").items().len() >= old.at("tolerations").items().len()
        && old
            .at("tolerations")
            .items()
            .iter()
            .all(|t| new.at("tolerations").items().iter().any(|n| n.value == t.value));
    let unbound = old.at("nodeName").is_empty();
    for spec in [&mut before, &mut after] {
        for list in ["containers", "initContainers"] {
            for container in crate::api::fields::list_mut(spec, list) {
                if let Some(container) = container.as_object_mut() {
                    container.remove("image");
                    container.remove("imagePullPolicy");
                }
            }
        }
        let Some(fields) = spec.as_object_mut() else { continue };
        for field in [
            "activeDeadlineSeconds",
            "terminationGracePeriodSeconds",
            "ephemeralContainers",
            "schedulingGates",
        ] {
            fields.remove(field);
        }
        if added {
            fields.remove("tolerations");
        }
        if unbound {
            for field in ["nodeName", "nodeSelector"] {
                fields.remove(field);
            }
        }
    }
    for container in new.at("containers").items() {
        container.at("image").must_exist(errors);
    }
    if before != after {
        let of = |spec: &Value, key: &str| spec.get(key).cloned().unwrap_or_default();
        let keys: BTreeSet<&String> = before
            .as_object()
            .into_iter()
            .chain(after.as_object())
            .flat_map(|m| m.keys())
            .collect();
        let changed: Vec<String> = keys
            .into_iter()
            .filter(|key| of(&before, key) != of(&after, key))
            .map(|key| format!("spec.{key}"))
            .collect();
        new.forbidden(errors, &format!("{UPDATE}\nchanged: {}", changed.join(", ")));
    }
}
