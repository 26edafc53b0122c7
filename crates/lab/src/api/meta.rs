//! The parts of `metadata` that the server itself writes.

use jiff::Timestamp;
use rand::Rng as _;
use serde_json::{Map, Value};

/// Characters of generated names: no vowels, so no words.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longer `generateName` prefixes are cut so that the name stays within 63 characters.
const LONGEST_PREFIX: usize = 58;

/// A time as Kubernetes writes it.
pub(super) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// This moment as Kubernetes writes it.
pub(super) fn now() -> String {
    time(Timestamp::now())
}

/// A text field of `metadata`; empty if absent.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// `metadata`, made if it is not an object.
pub(super) fn of(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    match &mut object["metadata"] {
        Value::Object(metadata) => metadata,
        _ => unreachable!("metadata has just been made an object"),
    }
}

/// The object under a key, made if it is not one.
pub(super) fn entry<'a>(fields: &'a mut Map<String, Value>, key: &str) -> &'a mut Value {
    let value = fields.entry(key).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value
}

/// Copies or removes a field so that `to` has what `from` has.
pub(super) fn carry(from: &Value, to: &mut Value, field: &str) {
    match from["metadata"].get(field) {
        Some(value) => {
            of(to).insert(field.to_owned(), value.clone());
        }
        None => {
            of(to).remove(field);
        }
    }
}

/// The object is being deleted.
pub(super) fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// `metadata.finalizers`.
pub(super) fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// A name from `generateName`.
pub(super) fn generate_name(prefix: &str) -> String {
    let prefix: String = prefix.chars().take(LONGEST_PREFIX).collect();
    let mut rng = rand::rng();
    let suffix = (0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]));
    prefix.chars().chain(suffix).collect()
}

/// Bumps `metadata.generation` if anything but `metadata` and `status` differs from `old`.
pub(super) fn bump_generation(old: &Value, new: &mut Value) {
    let Some(generation) = old["metadata"]["generation"].as_i64() else {
        return;
    };
    let same = |key: &str| matches!(key, "metadata" | "status" | "apiVersion" | "kind");
    let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else {
        return;
    };
    let differs = before.iter().any(|(k, v)| !same(k) && after.get(k) != Some(v))
        || after.keys().any(|k| !same(k) && !before.contains_key(k));
    of(new).insert("generation".to_owned(), (generation + i64::from(differs)).into());
}
