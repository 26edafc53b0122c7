//! Bringing a custom resource into the shape of its schema: unknown fields go, defaults come.

use serde_json::{Map, Value};

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";

/// Fields that the top of an object and of an embedded object always have.
const TYPE_META: &[&str] = &["apiVersion", "kind", "metadata"];

/// Removes the fields that the schema does not know; returns them as the API server words them.
pub fn prune(schema: &Value, object: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    let preserves = schema.get(PRESERVE) == Some(&Value::Bool(true));
    prune_at(schema, object, "", preserves, true, &mut unknown);
    unknown
}

fn prune_at(schema: &Value, value: &mut Value, path: &str, preserve: bool, top: bool, unknown: &mut Vec<String>) {
    match value {
        Value::Object(fields) => prune_object(schema, fields, path, preserve, top, unknown),
        Value::Array(items) => {
            let Some(of) = schema.get("items") else { return };
            for (index, item) in items.iter_mut().enumerate() {
                prune_at(of, item, &format!("{path}[{index}]"), preserves(of), false, unknown);
            }
        }
        _ => {}
    }
}

fn prune_object(
    schema: &Value,
    fields: &mut Map<String, Value>,
    path: &str,
    preserve: bool,
    top: bool,
    unknown: &mut Vec<String>,
) {
    let known = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties").filter(|others| !others.is_null());
    let embedded = top || schema.get(EMBEDDED) == Some(&Value::Bool(true));
    let join = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    fields.retain(|key, value| {
        let child = known.and_then(|known| known.get(key));
        if embedded && TYPE_META.contains(&key.as_str()) {
            return true;
        }
        if let Some(child) = child {
            prune_at(child, value, &join(key), preserves(child), false, unknown);
            return true;
        }
        match others {
            Some(Value::Bool(false)) | None if !preserve => {
                unknown.push(format!("unknown field {:?}", join(key)));
                false
            }
            Some(others @ Value::Object(_)) => {
                prune_at(others, value, &join(key), preserves(others), false, unknown);
                true
            }
            _ => true,
        }
    });
}

fn preserves(schema: &Value) -> bool {
    schema.get(PRESERVE) == Some(&Value::Bool(true))
}

/// Fills in the defaults of the schema, outside in. A null where null is not allowed counts as nothing.
pub fn fill(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, child) in schema
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                let nullable = child.get("nullable") == Some(&Value::Bool(true));
                if !nullable && fields.get(key) == Some(&Value::Null) {
                    fields.remove(key);
                }
                if let Some(default) = child.get("default")
                    && !fields.contains_key(key)
                {
                    fields.insert(key.clone(), default.clone());
                }
                if let Some(value) = fields.get_mut(key) {
                    fill(child, value);
                }
            }
            if let Some(others) = schema.get("additionalProperties").filter(|others| others.is_object()) {
                let known = schema.get("properties").and_then(Value::as_object);
                for (key, value) in fields {
                    if !known.is_some_and(|known| known.contains_key(key)) {
                        fill(others, value);
                    }
                }
            }
        }
        Value::Array(items) => {
            if let Some(of) = schema.get("items") {
                items.iter_mut().for_each(|item| fill(of, item));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "size": {"type": "integer", "default": 3},
                "mode": {"type": "string", "default": "a", "nullable": true},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {"known": {"type": "object", "properties": {}}}},
                "list": {"type": "array", "items": {"type": "object", "properties": {"on": {"type": "boolean", "default": true}}}}}}}})
    }

    #[test]
    fn unknown_fields_go() {
        let mut object = json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "x"}, "extra": 1,
            "spec": {"size": 1, "typo": 2, "labels": {"any": "x"}, "free": {"x": {"y": 1}, "known": {"z": 1}},
                "list": [{"on": false, "off": 1}]}});
        let unknown = prune(&schema(), &mut object);
        assert_eq!(
            unknown,
            [
                "unknown field \"extra\"",
                "unknown field \"spec.free.known.z\"",
                "unknown field \"spec.list[0].off\"",
                "unknown field \"spec.typo\""
            ]
        );
        assert_eq!(
            object,
            json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "x"},
                "spec": {"size": 1, "labels": {"any": "x"}, "free": {"x": {"y": 1}, "known": {}}, "list": [{"on": false}]}})
        );
    }

    #[test]
    fn defaults_come() {
        let mut object = json!({"spec": {"size": null, "mode": null, "labels": null, "list": [{}]}});
        fill(&schema(), &mut object);
        assert_eq!(
            object,
            json!({"spec": {"size": 3, "mode": null, "list": [{"on": true}]}})
        );
        let mut empty = json!({});
        fill(&schema(), &mut empty);
        assert_eq!(
            empty,
            json!({}),
            "a default inside an absent object does not make the object"
        );
    }
}
