//! The same stored object in another version or group: custom resources with several versions (whose objects
//! differ only in `apiVersion`), and events, which core/v1 and events.k8s.io/v1 show with different field names.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::kinds::Resource;

/// Field names of an Event: in core/v1, and in events.k8s.io/v1.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// The stored form is also what clients of `resource` see.
pub(super) fn is_identity(resource: &Resource) -> bool {
    resource.group == resource.storage_group && resource.version == resource.storage_version
}

/// A stored object as a client of `resource` sees it.
pub(super) fn from_stored<'a>(resource: &Resource, stored: &'a Value) -> Cow<'a, Value> {
    if is_identity(resource) {
        return Cow::Borrowed(stored);
    }
    let mut value = stored.clone();
    if is_event_view(resource) {
        rename(&mut value, |core, new| (core, new));
    }
    value["apiVersion"] = resource.api_version().into();
    Cow::Owned(value)
}

/// What a client of `resource` sent, as it is stored.
pub(super) fn to_stored(resource: &Resource, mut value: Value) -> Value {
    if is_identity(resource) {
        return value;
    }
    if is_event_view(resource) {
        rename(&mut value, |core, new| (new, core));
    }
    let group = &resource.storage_group;
    let version = &resource.storage_version;
    value["apiVersion"] = if group.is_empty() {
        version.clone()
    } else {
        format!("{group}/{version}")
    }
    .into();
    value
}

fn is_event_view(resource: &Resource) -> bool {
    resource.group == "events.k8s.io"
}

fn rename(event: &mut Value, direction: fn(&'static str, &'static str) -> (&'static str, &'static str)) {
    let Some(fields) = event.as_object_mut() else { return };
    let mut renamed = Map::new();
    for (core, new) in EVENT_FIELDS {
        let (from, to) = direction(core, new);
        if let Some(value) = fields.remove(from) {
            renamed.insert(to.to_owned(), value);
        }
    }
    fields.extend(renamed);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::registry::Registry;
    use super::*;

    #[test]
    fn events_have_two_faces() {
        let registry = Registry::new([]);
        let view = registry.find("events.k8s.io", "v1", "events").unwrap();
        let sent = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "hi", "regarding": {"name": "p"}});
        let stored = to_stored(view, sent.clone());
        assert_eq!(
            stored,
            json!({"apiVersion": "v1", "kind": "Event", "message": "hi", "involvedObject": {"name": "p"}})
        );
        assert_eq!(*from_stored(view, &stored), sent);
    }
}
