//! Reading and shaping untyped objects: names, owners, conditions, times.

use std::fmt;

use jiff::{Span, Timestamp};
use serde_json::{Value, json};

use crate::client::meta;

/// What names an object of a known kind; the namespace is empty for cluster-scoped ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    pub(crate) fn of(object: &Value) -> Self {
        Self::new(meta(object, "namespace"), meta(object, "name"))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

pub(crate) fn name(object: &Value) -> &str {
    meta(object, "name")
}

pub(crate) fn namespace(object: &Value) -> &str {
    meta(object, "namespace")
}

pub(crate) fn uid(object: &Value) -> &str {
    meta(object, "uid")
}

/// The resource version as the number it is in the lab's own API server.
pub(crate) fn version(object: &Value) -> u64 {
    meta(object, "resourceVersion").parse().unwrap_or(0)
}

pub(crate) fn deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// A string somewhere in an object; empty where it is absent.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// An integer somewhere in an object.
pub(crate) fn int(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// A list somewhere in an object; empty where it is absent.
pub(crate) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// A label's value.
pub(crate) fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["labels"][key].as_str()
}

/// An annotation's value.
pub(crate) fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][key].as_str()
}

/// The owner that controls the object.
pub(crate) fn controller_of(object: &Value) -> Option<&Value> {
    list(object, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner["controller"] == true)
}

/// Is `owner` the controller of `object`?
pub(crate) fn controlled_by(object: &Value, owner: &Value) -> bool {
    controller_of(object).is_some_and(|reference| reference["uid"].as_str() == Some(uid(owner)))
}

/// The owner reference that makes `owner` the controller of something.
pub(crate) fn owner_reference(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": name(owner), "uid": uid(owner),
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// The condition of this type.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, "/status/conditions").iter().find(|c| c["type"] == kind)
}

/// Is the condition of this type true?
pub(crate) fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|c| c["status"] == "True")
}

/// Sets a condition in a list of them; its transition time changes only with its status.
pub(crate) fn set_condition(conditions: &mut Vec<Value>, new: Condition<'_>) {
    let time = now();
    let mut entry = json!({
        "type": new.kind, "status": new.status, "lastTransitionTime": time, "reason": new.reason, "message": new.message,
    });
    if new.update_time {
        entry["lastUpdateTime"] = time.into();
    }
    match conditions.iter_mut().find(|c| c["type"] == new.kind) {
        Some(old) if old["status"] == new.status && old["reason"] == new.reason && old["message"] == new.message => {}
        Some(old) => {
            if old["status"] == new.status {
                entry["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = entry;
        }
        None => conditions.push(entry),
    }
}

/// A condition to be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Condition<'a> {
    pub(crate) kind: &'a str,
    pub(crate) status: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
    /// Deployments also keep when a condition was last written.
    pub(crate) update_time: bool,
}

/// This moment, as objects write it.
pub(crate) fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// How many seconds ago a time in an object was; `None` where there is none.
pub(crate) fn age_seconds(time: &Value) -> Option<f64> {
    let time: Timestamp = time.as_str()?.parse().ok()?;
    let age: Span = Timestamp::now() - time;
    age.total(jiff::Unit::Second).ok()
}

/// An object's finalizers without one of them.
pub(crate) fn finalizers_without(object: &Value, finalizer: &str) -> Vec<Value> {
    let all = list(object, "/metadata/finalizers").iter();
    all.filter(|f| *f != finalizer).cloned().collect()
}

pub(crate) fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    list(object, "/metadata/finalizers").iter().any(|f| f == finalizer)
}
