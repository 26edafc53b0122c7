//! `metadata.managedFields`: who owns which fields.
//!
//! Simpler than the real API server in one way: owners are recorded only from the first apply on. What was there
//! before then belongs to `before-first-apply`, as it does on a real server for objects without owners.

use serde_json::{Value, json};

use super::super::kinds::Resource;
use super::super::strategy::Part;
use super::super::{fields, meta};
use super::fieldset::FieldSet;
use super::shape::Place;
use super::walk;

/// Fields that are nobody's: they say which object it is, or are the server's own.
const UNOWNED: &[&str] = &[
    "name",
    "namespace",
    "generateName",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
];

/// An entry of `managedFields`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manager {
    pub(super) name: String,
    /// `Apply` or `Update`.
    pub(super) operation: String,
    pub(super) subresource: String,
    pub(super) api_version: String,
    pub(super) time: String,
    pub(super) set: FieldSet,
}

impl Manager {
    /// An entry that owns nothing yet.
    pub(super) fn new(name: &str, operation: &str, part: Part, resource: &Resource) -> Self {
        Self {
            name: name.to_owned(),
            operation: operation.to_owned(),
            subresource: part.subresource().to_owned(),
            api_version: resource.api_version(),
            time: meta::now(),
            set: FieldSet::default(),
        }
    }

    /// The entry is the same one's: only what it owns may differ.
    pub(super) fn is(&self, other: &Self) -> bool {
        let id = |m: &Self| {
            (
                m.name.clone(),
                m.operation.clone(),
                m.subresource.clone(),
                m.api_version.clone(),
            )
        };
        id(self) == id(other)
    }

    fn parse(entry: &Value) -> Self {
        let text = |field: &str| fields::text(entry, field).to_owned();
        Self {
            name: text("manager"),
            operation: text("operation"),
            subresource: text("subresource"),
            api_version: text("apiVersion"),
            time: text("time"),
            set: FieldSet::parse_root(&entry["fieldsV1"]),
        }
    }

    fn to_value(&self) -> Value {
        let mut entry = json!({
            "manager": self.name, "operation": self.operation, "apiVersion": self.api_version,
            "time": self.time, "fieldsType": "FieldsV1", "fieldsV1": self.set.to_value(),
        });
        if !self.subresource.is_empty() {
            entry["subresource"] = self.subresource.clone().into();
        }
        entry
    }
}

/// The owners of an object's fields.
pub(super) fn read(object: &Value) -> Vec<Manager> {
    fields::list(object, "metadata.managedFields")
        .iter()
        .map(Manager::parse)
        .collect()
}

/// Writes the owners into an object; those that own nothing are left out.
pub(super) fn write(object: &mut Value, managers: &[Manager]) {
    let entries: Vec<Value> = managers
        .iter()
        .filter(|m| !m.set.is_empty())
        .map(Manager::to_value)
        .collect();
    let metadata = meta::of(object);
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), entries.into());
    }
}

/// The fields of an object that can be owned.
pub(super) fn owned(object: &Value, resource: &Resource) -> FieldSet {
    without_unowned(walk::fields_of(object, Place::root(resource)))
}

/// The fields that can be owned and that differ.
pub(super) fn changed(old: &Value, new: &Value, resource: &Resource) -> FieldSet {
    without_unowned(walk::changed(old, new, Place::root(resource)))
}

fn without_unowned(mut set: FieldSet) -> FieldSet {
    set.own = false;
    set.children
        .retain(|step, _| step != "f:apiVersion" && step != "f:kind");
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.own = false;
        metadata
            .children
            .retain(|step, _| !UNOWNED.iter().any(|name| step.strip_prefix("f:") == Some(name)));
        if metadata.is_empty() {
            set.children.remove("f:metadata");
        }
    }
    set
}

/// Records an update that is not an apply: whoever made it owns what changed, and nobody else does.
pub(in super::super) fn track(resource: &Resource, manager: &str, part: Part, old: &Value, new: &mut Value) {
    let sent = &new["metadata"]["managedFields"];
    let reset = sent
        .as_array()
        .is_some_and(|sent| sent.iter().all(|entry| *entry == json!({})));
    if reset {
        write(new, &[]);
        return;
    }
    meta::carry(old, new, "managedFields");
    let mut managers = read(old);
    if managers.is_empty() {
        return;
    }
    let changed = changed(old, new, resource);
    let gone = owned(old, resource).difference(&owned(new, resource));
    if changed.is_empty() && gone.is_empty() {
        return;
    }
    let touched = changed.union(&gone);
    for manager in &mut managers {
        manager.set = manager.set.difference(&touched);
    }
    let mut own = Manager::new(manager, "Update", part, resource);
    match managers.iter().position(|other| other.is(&own)) {
        Some(place) => {
            own.set = managers[place].set.union(&changed);
            managers[place] = own;
        }
        None => {
            own.set = changed;
            managers.push(own);
        }
    }
    write(new, &managers);
}
