//! Reading and writing fields of untyped objects without ever panicking: a missing or wrongly typed field reads as empty.

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// The value at a dotted path; `Null` where any step is missing. Keys that contain dots need [`Value::get`].
pub fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').try_fold(value, |v, key| v.get(key)).unwrap_or(&NULL)
}

/// The string at a dotted path, or `""`.
pub fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// The integer at a dotted path, or 0.
pub fn int(value: &Value, path: &str) -> i64 {
    at(value, path).as_i64().unwrap_or_default()
}

/// Whether the field at a dotted path is `true`.
pub fn flag(value: &Value, path: &str) -> bool {
    at(value, path).as_bool().unwrap_or_default()
}

/// The elements of the list at a dotted path, or none.
pub fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The entries of the object at a dotted path, or none.
pub fn entries<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
    at(value, path).as_object().into_iter().flatten()
}

/// Whether the field at a dotted path has a value (neither missing nor null).
pub fn has(value: &Value, path: &str) -> bool {
    !at(value, path).is_null()
}

/// Whether a field is absent or empty in Kubernetes' sense: null, `""`, `[]`, `{}`.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Sets a field of an object where it is missing, null or the empty string. Does nothing to a value that is not an object.
pub fn default(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        let slot = map.entry(key).or_insert(Value::Null);
        if slot.is_null() || slot.as_str() == Some("") {
            *slot = value.into();
        }
    }
}

/// Sets a field of an object. Does nothing to a value that is not an object.
pub fn set(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.to_owned(), value.into());
    }
}

/// The existing child at a dotted path, to be changed in place.
pub fn at_mut<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    path.split('.')
        .try_fold(value, |v, key| v.get_mut(key))
        .filter(|v| !v.is_null())
}

/// The object at a dotted path, made where it is missing; `None` where something else stands in the way.
pub fn make<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let mut current = value;
    for key in path.split('.') {
        let slot = current.as_object_mut()?.entry(key).or_insert(Value::Null);
        if slot.is_null() {
            *slot = Value::Object(Map::new());
        }
        current = slot;
    }
    current.is_object().then_some(current)
}

/// The elements of the list at a dotted path, to be changed in place.
pub fn list_mut<'a>(value: &'a mut Value, path: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    at_mut(value, path).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The entries of the object at a dotted path as `(key, text)`, for label-like maps.
pub fn labels<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    entries(value, path).map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn missing_and_mistyped_fields_read_as_empty() {
        let v = json!({"spec": {"ports": "none", "replicas": 3}});
        assert_eq!(int(&v, "spec.replicas"), 3);
        assert_eq!(text(&v, "spec.replicas"), "");
        assert!(list(&v, "spec.ports").is_empty());
        assert!(!has(&v, "spec.ports.name.x"));
    }

    #[test]
    fn defaults_fill_only_what_is_missing() {
        let mut v = json!({"a": null, "b": "", "c": 0});
        for key in ["a", "b", "c", "d"] {
            default(&mut v, key, 1);
        }
        assert_eq!(v, json!({"a": 1, "b": 1, "c": 0, "d": 1}));
        assert!(make(&mut v, "x.y").is_some());
        assert!(make(&mut v, "a.y").is_none());
    }
}
