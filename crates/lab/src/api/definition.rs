//! What the server itself says about a CustomResourceDefinition: whether its names are taken, and whether its
//! objects are served.

use serde_json::{Value, json};

use super::meta;
use super::registry::Registry;

/// Whether objects of a definition are served.
pub(super) fn is_established(definition: &Value) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions
        .into_iter()
        .any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

/// The version in which a definition's objects are stored.
pub(super) fn storage_version(definition: &Value) -> Option<&str> {
    let versions = definition["spec"]["versions"].as_array()?;
    versions.iter().find(|version| version["storage"] == true)?["name"].as_str()
}

/// Writes the status that follows from the spec and from what else is served.
pub(super) fn set_status(registry: &Registry, definition: &mut Value) {
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    let names = definition["spec"]["names"].clone();
    let conflict = registry.all().iter().find_map(|other| {
        if other.group != group || definition["metadata"]["name"] == format!("{}.{}", other.plural, other.group) {
            return None;
        }
        let taken = names["plural"] == other.plural || names["kind"] == other.kind;
        taken.then(|| format!("{} is already in use by {}", names["kind"], other.qualified()))
    });
    let condition = |kind: &str, good: bool, reason: &str, message: &str| {
        let old = definition["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["type"] == kind);
        let status = if good { "True" } else { "False" };
        let since = old
            .filter(|old| old["status"] == status)
            .map(|old| old["lastTransitionTime"].clone());
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": since.unwrap_or_else(|| meta::now().into()),
        })
    };
    let conditions = match &conflict {
        None => json!([
            condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
            condition(
                "Established",
                true,
                "InitialNamesAccepted",
                "the initial names have been accepted"
            ),
        ]),
        Some(why) => json!([
            condition("NamesAccepted", false, "NameConflict", why),
            condition("Established", false, "NotAccepted", "not all names are accepted"),
        ]),
    };
    let stored: Vec<&str> = storage_version(definition).into_iter().collect();
    let status = json!({
        "acceptedNames": if conflict.is_none() { names } else { json!({"plural": "", "kind": ""}) },
        "conditions": conditions,
        "storedVersions": stored,
    });
    definition["status"] = status;
}
