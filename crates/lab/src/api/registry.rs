//! The kinds that are served at this moment: the built-in ones and those of the stored CustomResourceDefinitions.

use std::sync::Arc;

use serde_json::Value;

use super::definition::is_established;
use super::kinds::{Resource, ScalePaths, built_in};

/// An immutable set of served resources; a changed CRD makes a new one.
#[derive(Clone, Debug)]
pub struct Registry {
    resources: Vec<Arc<Resource>>,
}

impl Registry {
    /// The built-in kinds and those of `definitions`.
    pub fn new<'a>(definitions: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut resources = built_in();
        for definition in definitions.into_iter().filter(|definition| is_established(definition)) {
            resources.extend(custom(definition));
        }
        Self {
            resources: resources.into_iter().map(Arc::new).collect(),
        }
    }

    /// Every served resource.
    pub fn all(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    /// The resource under `/apis/<group>/<version>/<plural>`.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources
            .iter()
            .find(|r| r.group == group && r.version == version && r.plural == plural)
    }

    /// The resource of objects with this `apiVersion` and `kind`.
    pub fn find_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Resource>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.resources
            .iter()
            .find(|r| r.group == group && r.version == version && r.kind == kind)
    }

    /// Every group with its versions, preferred first, in a fixed order; the core group is `""`.
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for resource in &self.resources {
            match groups.iter_mut().find(|(group, _)| *group == resource.group) {
                Some((_, versions)) if versions.contains(&resource.version) => {}
                Some((_, versions)) => versions.push(resource.version.clone()),
                None => groups.push((resource.group.clone(), vec![resource.version.clone()])),
            }
        }
        for (_, versions) in &mut groups {
            versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        }
        groups
    }
}

/// Orders versions as Kubernetes does: GA over beta over alpha, then by number; anything else last.
fn priority(version: &str) -> (u8, u32, u32) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        match &rest[digits..] {
            "" => Some((3, major, 0)),
            beta if beta.starts_with("beta") => Some((2, major, beta[4..].parse().ok()?)),
            alpha if alpha.starts_with("alpha") => Some((1, major, alpha[5..].parse().ok()?)),
            _ => None,
        }
    };
    parse().unwrap_or((0, 0, 0))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .map(|list| list.iter().map(text).collect())
        .unwrap_or_default()
}

/// The served versions of one definition.
fn custom(definition: &Value) -> Vec<Resource> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let storage = versions
        .iter()
        .find(|v| v["storage"] == true)
        .map(|v| text(&v["name"]))
        .unwrap_or_default();
    let kind = text(&names["kind"]);
    let singular = text(&names["singular"]);
    let served = versions.iter().filter(|version| version["served"] == true);
    served
        .map(|version| {
            let subresources = &version["subresources"];
            let scale = subresources["scale"].as_object().map(|scale| ScalePaths {
                spec: scale.get("specReplicasPath").map(text).unwrap_or_default(),
                status: scale.get("statusReplicasPath").map(text).unwrap_or_default(),
                selector: scale
                    .get("labelSelectorPath")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
            });
            Resource {
                group: text(&spec["group"]),
                version: text(&version["name"]),
                plural: text(&names["plural"]),
                singular: if singular.is_empty() {
                    kind.to_lowercase()
                } else {
                    singular.clone()
                },
                kind: kind.clone(),
                short_names: texts(&names["shortNames"]),
                namespaced: spec["scope"] == "Namespaced",
                categories: texts(&names["categories"]),
                has_status: subresources.get("status").is_some(),
                scale,
                storage_group: text(&spec["group"]),
                storage_version: storage.clone(),
                custom: Some(Arc::new(version.clone())),
            }
        })
        .collect()
}
