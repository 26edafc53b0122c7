//! Discovery: which groups, versions and resources there are, in the old form and the aggregated one.

use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::Resource;
use super::registry::Registry;

const OBJECT_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const PART_VERBS: &[&str] = &["get", "patch", "update"];

/// Resources that are only functions: group, kind, plural.
const REVIEWS: &[(&str, &str, &str)] = &[
    ("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews"),
    ("authentication.k8s.io", "TokenReview", "tokenreviews"),
    (
        "authorization.k8s.io",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
    ),
    (
        "authorization.k8s.io",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
    ),
    (
        "authorization.k8s.io",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
    ),
    ("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews"),
];

/// A part of a resource that has a path of its own.
struct Subresource {
    name: &'static str,
    verbs: &'static [&'static str],
    /// Group, version and kind of its body, where they differ from the resource's.
    kind: Option<(&'static str, &'static str, &'static str)>,
}

fn subresources(resource: &Resource) -> Vec<Subresource> {
    let plain = |name, verbs| Subresource {
        name,
        verbs,
        kind: None,
    };
    let typed = |name, verbs, kind| Subresource {
        name,
        verbs,
        kind: Some(kind),
    };
    let mut all = Vec::new();
    if resource.has_status {
        all.push(plain("status", PART_VERBS));
    }
    if resource.scale.is_some() {
        all.push(typed("scale", PART_VERBS, ("autoscaling", "v1", "Scale")));
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => all.extend([
            typed("attach", &["create", "get"], ("", "v1", "PodAttachOptions")),
            typed("binding", &["create"], ("", "v1", "Binding")),
            typed("eviction", &["create"], ("policy", "v1", "Eviction")),
            typed("exec", &["create", "get"], ("", "v1", "PodExecOptions")),
            plain("log", &["get"]),
            typed("portforward", &["create", "get"], ("", "v1", "PodPortForwardOptions")),
        ]),
        ("", "namespaces") => all.push(plain("finalize", &["update"])),
        ("", "serviceaccounts") => {
            all.push(typed(
                "token",
                &["create"],
                ("authentication.k8s.io", "v1", "TokenRequest"),
            ));
        }
        _ => {}
    }
    all
}

/// Every group with its versions, the core group as `""`.
fn groups(registry: &Registry) -> Vec<(String, Vec<String>)> {
    let mut groups = registry.groups();
    // kubectl drain evicts only where there is a policy group.
    for group in REVIEWS.iter().map(|(group, _, _)| *group).chain(["policy"]) {
        if !groups.iter().any(|(known, _)| known == group) {
            groups.push((group.to_owned(), vec!["v1".to_owned()]));
        }
    }
    groups
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

fn group(name: &str, versions: &[String]) -> Value {
    let entry = |version: &String| json!({"groupVersion": group_version(name, version), "version": version});
    let all: Vec<Value> = versions.iter().map(entry).collect();
    json!({"name": name, "versions": all, "preferredVersion": all.first()})
}

/// `/apis`.
pub(super) fn group_list(registry: &Registry) -> Value {
    let named = groups(registry).into_iter().filter(|(name, _)| !name.is_empty());
    let all: Vec<Value> = named.map(|(name, versions)| group(&name, &versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": all})
}

/// `/apis/<group>`.
pub(super) fn one_group(registry: &Registry, name: &str) -> Option<Value> {
    let (_, versions) = groups(registry)
        .into_iter()
        .find(|(known, _)| known == name && !name.is_empty())?;
    let mut value = group(name, &versions);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

/// `/api`.
pub(super) fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

fn in_version<'a>(registry: &'a Registry, group: &str, version: &str) -> Vec<&'a Arc<Resource>> {
    registry
        .all()
        .iter()
        .filter(|r| r.group == group && r.version == version)
        .collect()
}

/// `/api/v1` and `/apis/<group>/<version>`.
pub(super) fn resource_list(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let known = groups(registry)
        .iter()
        .any(|(g, versions)| g == group && versions.iter().any(|v| v == version));
    if !known {
        return None;
    }
    let mut resources = Vec::new();
    for resource in in_version(registry, group, version) {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": OBJECT_VERBS,
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = resource.short_names.clone().into();
        }
        if !resource.categories.is_empty() {
            entry["categories"] = resource.categories.clone().into();
        }
        resources.push(entry);
        for part in subresources(resource) {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, part.name), "singularName": "",
                "namespaced": resource.namespaced, "kind": resource.kind, "verbs": part.verbs,
            });
            if let Some((group, version, kind)) = part.kind {
                entry["group"] = group.into();
                entry["version"] = version.into();
                entry["kind"] = kind.into();
            }
            resources.push(entry);
        }
    }
    for (_, kind, plural) in REVIEWS.iter().filter(|(g, _, _)| *g == group) {
        resources.push(json!({
            "name": plural, "singularName": kind.to_lowercase(), "namespaced": kind.starts_with("Local"),
            "kind": kind, "verbs": ["create"],
        }));
    }
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": group_version(group, version), "resources": resources,
    }))
}

/// `/api` (`core`) or `/apis` as an `APIGroupDiscoveryList`.
pub(super) fn aggregated(registry: &Registry, core: bool) -> Value {
    let mut items = Vec::new();
    for (name, versions) in groups(registry).into_iter().filter(|(name, _)| name.is_empty() == core) {
        let version = |version: &String| {
            json!({
                "version": version, "freshness": "Current",
                "resources": aggregated_resources(registry, &name, version),
            })
        };
        let metadata = if name.is_empty() {
            json!({"creationTimestamp": null})
        } else {
            json!({"name": name, "creationTimestamp": null})
        };
        items.push(json!({"metadata": metadata, "versions": versions.iter().map(version).collect::<Vec<_>>()}));
    }
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resources(registry: &Registry, group: &str, version: &str) -> Vec<Value> {
    let gvk = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let scope = |namespaced: bool| if namespaced { "Namespaced" } else { "Cluster" };
    let mut resources = Vec::new();
    for resource in in_version(registry, group, version) {
        let part = |part: &Subresource| {
            let (g, v, k) = part.kind.unwrap_or((group, version, &resource.kind));
            json!({"subresource": part.name, "responseKind": gvk(g, v, k), "verbs": part.verbs})
        };
        let mut entry = json!({
            "resource": resource.plural, "responseKind": gvk(group, version, &resource.kind),
            "scope": scope(resource.namespaced), "singularResource": resource.singular, "verbs": OBJECT_VERBS,
        });
        let parts: Vec<Value> = subresources(resource).iter().map(part).collect();
        for (field, value) in [
            ("shortNames", Value::from(resource.short_names.clone())),
            ("categories", resource.categories.clone().into()),
            ("subresources", parts.into()),
        ] {
            if value.as_array().is_some_and(|list| !list.is_empty()) {
                entry[field] = value;
            }
        }
        resources.push(entry);
    }
    for (_, kind, plural) in REVIEWS.iter().filter(|(g, _, _)| *g == group) {
        resources.push(json!({
            "resource": plural, "responseKind": gvk(group, version, kind),
            "scope": scope(kind.starts_with("Local")), "singularResource": kind.to_lowercase(), "verbs": ["create"],
        }));
    }
    resources
}
