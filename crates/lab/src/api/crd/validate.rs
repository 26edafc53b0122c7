//! Checking a custom resource against its schema, with the API server's own kind of message.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use regex::Regex;
use serde_json::{Map, Value};

use super::format;
use crate::api::status::FieldError;

/// How many compiled patterns are kept.
const PATTERNS: usize = 1000;

/// Every rule of the schema that the object breaks. `metadata` is checked elsewhere.
pub fn validate(schema: &Value, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(fields) = object.as_object() else {
        return errors;
    };
    required(schema, fields, "", &mut errors);
    for (key, child) in schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if let Some(value) = fields
            .get(key)
            .filter(|_| !matches!(key.as_str(), "apiVersion" | "kind" | "metadata"))
        {
            check(child, value, key, &mut errors);
        }
    }
    combinations(schema, object, "", &mut errors);
    errors
}

fn check(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if value.is_null() && flag(schema, "nullable") {
        return;
    }
    if !is_of_type(schema, value) {
        errors.push(wrong_type(schema, value, path));
        return;
    }
    let is_listed = schema
        .get("enum")
        .and_then(Value::as_array)
        .is_none_or(|all| all.contains(value));
    if !is_listed {
        let all = schema
            .get("enum")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let texts: Vec<String> = all
            .iter()
            .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        errors.push(FieldError::not_supported(path, value, &texts));
    }
    match value {
        Value::String(text) => check_text(schema, text, value, path, errors),
        Value::Number(_) => check_number(schema, value, path, errors),
        Value::Array(items) => check_list(schema, items, value, path, errors),
        Value::Object(fields) => check_object(schema, fields, value, path, errors),
        Value::Null | Value::Bool(_) => {}
    }
    combinations(schema, value, path, errors);
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or_default()
}

fn number(schema: &Value, key: &str) -> Option<f64> {
    schema.get(key).and_then(Value::as_f64)
}

fn size(schema: &Value, key: &str) -> Option<usize> {
    schema
        .get(key)
        .and_then(Value::as_u64)
        .and_then(|n| usize::try_from(n).ok())
}

fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
}

fn is_of_type(schema: &Value, value: &Value) -> bool {
    if flag(schema, "x-kubernetes-int-or-string") {
        return is_whole(value) || value.is_string();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => is_whole(value),
        Some("number") => value.is_number(),
        _ => true,
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_whole(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn wrong_type(schema: &Value, value: &Value, path: &str) -> FieldError {
    let wanted = match schema.get("type").and_then(Value::as_str) {
        _ if flag(schema, "x-kubernetes-int-or-string") => "integer,string",
        Some(wanted) => wanted,
        None => "object",
    };
    let found = type_of(value);
    let message = format!("Invalid value: {found:?}: {path} in body must be of type {wanted}: {found:?}");
    FieldError {
        reason: "FieldValueTypeInvalid",
        field: path.to_owned(),
        message,
    }
}

fn broken(path: &str, value: &Value, what: &str) -> FieldError {
    FieldError::invalid(path, value, &format!("{path} in body {what}"))
}

fn check_text(schema: &Value, text: &str, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let length = text.chars().count();
    if let Some(limit) = size(schema, "maxLength").filter(|limit| length > *limit) {
        let message = format!("Too long: may not be more than {limit} bytes");
        errors.push(FieldError {
            reason: "FieldValueTooLong",
            field: path.to_owned(),
            message,
        });
    }
    if let Some(limit) = size(schema, "minLength").filter(|limit| length < *limit) {
        errors.push(broken(path, value, &format!("should be at least {limit} chars long")));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && !fits_pattern(pattern, text)
    {
        errors.push(broken(path, value, &format!("should match '{pattern}'")));
    }
    if let Some(format) = schema.get("format").and_then(Value::as_str)
        && !format::fits(format, text)
    {
        errors.push(broken(path, value, &format!("must be of type {format}: {text:?}")));
    }
}

/// Whether text fits a pattern; one that cannot be read was refused with the definition, and fits everything.
fn fits_pattern(pattern: &str, text: &str) -> bool {
    static COMPILED: OnceLock<Mutex<HashMap<String, Option<Regex>>>> = OnceLock::new();
    let mut compiled = COMPILED
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if compiled.len() > PATTERNS {
        compiled.clear();
    }
    let regex = compiled
        .entry(pattern.to_owned())
        .or_insert_with(|| Regex::new(pattern).ok());
    regex.as_ref().is_none_or(|regex| regex.is_match(text))
}

fn check_number(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(found) = value.as_f64() else { return };
    let say = |limit: &str| schema.get(limit).map(Value::to_string).unwrap_or_default();
    if let Some(least) = number(schema, "minimum") {
        let exclusive = flag(schema, "exclusiveMinimum");
        if found < least || (exclusive && found == least) {
            let or_equal = if exclusive { "" } else { " or equal to" };
            errors.push(broken(
                path,
                value,
                &format!("should be greater than{or_equal} {}", say("minimum")),
            ));
        }
    }
    if let Some(most) = number(schema, "maximum") {
        let exclusive = flag(schema, "exclusiveMaximum");
        if found > most || (exclusive && found == most) {
            let or_equal = if exclusive { "" } else { " or equal to" };
            errors.push(broken(
                path,
                value,
                &format!("should be less than{or_equal} {}", say("maximum")),
            ));
        }
    }
    if let Some(step) = number(schema, "multipleOf").filter(|step| *step != 0.0)
        && (found / step).fract() != 0.0
    {
        errors.push(broken(
            path,
            value,
            &format!("should be a multiple of {}", say("multipleOf")),
        ));
    }
    let whole = value.as_i64();
    let fits = match schema.get("format").and_then(Value::as_str) {
        Some("int32") => whole.is_some_and(|n| i32::try_from(n).is_ok()),
        Some("int64") => whole.is_some(),
        _ => true,
    };
    if !fits {
        let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
        errors.push(broken(path, value, &format!("must be of type {format}: {value}")));
    }
}

fn check_list(schema: &Value, items: &[Value], value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(limit) = size(schema, "maxItems").filter(|limit| items.len() > *limit) {
        let message = format!("Too many: {}: must have at most {limit} items", items.len());
        errors.push(FieldError {
            reason: "FieldValueTooMany",
            field: path.to_owned(),
            message,
        });
    }
    if let Some(limit) = size(schema, "minItems").filter(|limit| items.len() < *limit) {
        errors.push(broken(path, value, &format!("should have at least {limit} items")));
    }
    let keys: Vec<&str> = match schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array) {
        Some(keys) => keys.iter().filter_map(Value::as_str).collect(),
        None => Vec::new(),
    };
    let key_of = |item: &Value| -> Value {
        if keys.is_empty() {
            return item.clone();
        }
        keys.iter()
            .filter_map(|key| Some(((*key).to_owned(), item.get(*key)?.clone())))
            .collect::<Map<_, _>>()
            .into()
    };
    let distinct = match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("map") => !keys.is_empty(),
        Some("set") => true,
        _ => false,
    };
    if distinct {
        let all: Vec<Value> = items.iter().map(key_of).collect();
        for (index, key) in all.iter().enumerate() {
            if all.iter().take(index).any(|earlier| earlier == key) {
                errors.push(FieldError::duplicate(format!("{path}[{index}]"), key));
            }
        }
    }
    if let Some(of) = schema.get("items") {
        for (index, item) in items.iter().enumerate() {
            check(of, item, &format!("{path}[{index}]"), errors);
        }
    }
}

fn required(schema: &Value, fields: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    for key in schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !fields.contains_key(key) {
            errors.push(FieldError::required(join(path, key), ""));
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn check_object(schema: &Value, fields: &Map<String, Value>, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    required(schema, fields, path, errors);
    if let Some(limit) = size(schema, "maxProperties").filter(|limit| fields.len() > *limit) {
        let message = format!("Too many: {}: must have at most {limit} items", fields.len());
        errors.push(FieldError {
            reason: "FieldValueTooMany",
            field: path.to_owned(),
            message,
        });
    }
    if let Some(limit) = size(schema, "minProperties").filter(|limit| fields.len() < *limit) {
        errors.push(broken(path, value, &format!("should have at least {limit} properties")));
    }
    let known = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties").filter(|others| others.is_object());
    for (key, value) in fields {
        if let Some(child) = known.and_then(|known| known.get(key)).or(others) {
            check(child, value, &join(path, key), errors);
        }
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not`.
fn combinations(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let fits = |schema: &Value| {
        let mut found = Vec::new();
        check(schema, value, path, &mut found);
        found.is_empty()
    };
    let branches = |key: &str| schema.get(key).and_then(Value::as_array).filter(|all| !all.is_empty());
    let shown = if path.is_empty() { "<nil>" } else { path };
    let mut say = |what: String| errors.push(FieldError::invalid(shown, value, &format!("{path:?} {what}")));
    if branches("allOf").is_some_and(|all| !all.iter().all(fits)) {
        say("must validate all the schemas (allOf)".to_owned());
    }
    if branches("anyOf").is_some_and(|any| !any.iter().any(fits)) {
        say("must validate at least one schema (anyOf)".to_owned());
    }
    if let Some(one) = branches("oneOf") {
        match one.iter().filter(|schema| fits(schema)).count() {
            1 => {}
            0 => say("must validate one and only one schema (oneOf). Found none valid".to_owned()),
            n => say(format!(
                "must validate one and only one schema (oneOf). Found {n} valid alternatives"
            )),
        }
    }
    if schema.get("not").is_some_and(fits) {
        say("must not validate the schema (not)".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::validate;
    use serde_json::{Value, json};

    fn says(property: Value, value: Value) -> Vec<String> {
        let schema =
            json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"f": property}}}});
        let errors = validate(&schema, &json!({"spec": {"f": value}}));
        errors
            .into_iter()
            .map(|e| format!("{}: {}", e.field, e.message))
            .collect()
    }

    #[test]
    fn messages_are_the_api_servers() {
        for (property, value, want) in [
            (
                json!({"type": "integer"}),
                json!("x"),
                "spec.f: Invalid value: \"string\": spec.f in body must be of type integer: \"string\"",
            ),
            (
                json!({"type": "integer"}),
                json!(1.5),
                "spec.f: Invalid value: \"number\": spec.f in body must be of type integer: \"number\"",
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("c"),
                "spec.f: Unsupported value: \"c\": supported values: \"a\", \"b\"",
            ),
            (
                json!({"type": "string", "pattern": "^[a-z]+$"}),
                json!("A"),
                "spec.f: Invalid value: \"A\": spec.f in body should match '^[a-z]+$'",
            ),
            (
                json!({"type": "integer", "minimum": 1}),
                json!(0),
                "spec.f: Invalid value: 0: spec.f in body should be greater than or equal to 1",
            ),
            (
                json!({"type": "integer", "maximum": 9}),
                json!(10),
                "spec.f: Invalid value: 10: spec.f in body should be less than or equal to 9",
            ),
            (
                json!({"type": "string", "minLength": 2}),
                json!("a"),
                "spec.f: Invalid value: \"a\": spec.f in body should be at least 2 chars long",
            ),
            (
                json!({"type": "string", "maxLength": 2}),
                json!("abc"),
                "spec.f: Too long: may not be more than 2 bytes",
            ),
            (
                json!({"type": "array", "maxItems": 1}),
                json!([1, 2]),
                "spec.f: Too many: 2: must have at most 1 items",
            ),
            (
                json!({"type": "object", "required": ["a"]}),
                json!({}),
                "spec.f.a: Required value",
            ),
            (
                json!({"type": "array", "items": {"type": "string"}}),
                json!(["a", 1]),
                "spec.f[1]: Invalid value: \"integer\": spec.f[1] in body must be of type string: \"integer\"",
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                "spec.f: Invalid value: \"boolean\": spec.f in body must be of type integer,string: \"boolean\"",
            ),
            (
                json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"]}),
                json!([{"n": 1}, {"n": 1}]),
                "spec.f[1]: Duplicate value: {\"n\":1}",
            ),
            (
                json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
                json!({}),
                "spec.f: Invalid value: {}: \"spec.f\" must validate one and only one schema (oneOf). Found none valid",
            ),
            (
                json!({"type": "integer", "not": {"enum": [3]}}),
                json!(3),
                "spec.f: Invalid value: 3: \"spec.f\" must not validate the schema (not)",
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                json!({"k": 1}),
                "spec.f.k: Invalid value: \"integer\": spec.f.k in body must be of type string: \"integer\"",
            ),
            (
                json!({"type": "string", "format": "ipv4"}),
                json!("x"),
                "spec.f: Invalid value: \"x\": spec.f in body must be of type ipv4: \"x\"",
            ),
        ] {
            assert_eq!(says(property, value), [want]);
        }
    }

    #[test]
    fn what_fits_is_silent() {
        for (property, value) in [
            (json!({"type": "integer", "nullable": true}), json!(null)),
            (json!({"x-kubernetes-int-or-string": true}), json!("25%")),
            (json!({"x-kubernetes-preserve-unknown-fields": true}), json!({"a": [1]})),
            (
                json!({"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
                json!({"b": 1}),
            ),
            (json!({"type": "number", "multipleOf": 0.5}), json!(1.5)),
        ] {
            assert_eq!(says(property, value), Vec::<String>::new());
        }
    }
}
