//! Tables of custom resources, from the `additionalPrinterColumns` of their definition.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::duration::{age, human_duration, seconds_between};
use super::{AGE, NAME, definition, name};
use crate::api::crd::jsonpath;
use crate::api::fields::{int, list, text};

/// The columns of a version of a custom resource: the name, and what its definition adds (the age, if that is nothing).
pub(super) fn columns(version: &Value) -> Vec<Value> {
    let mut all = vec![definition(&NAME)];
    let own = list(version, "additionalPrinterColumns");
    all.extend(own.iter().map(|column| {
        json!({"name": text(column, "name"), "type": text(column, "type"), "format": text(column, "format"),
            "description": text(column, "description"), "priority": int(column, "priority")})
    }));
    if own.is_empty() {
        all.push(definition(&AGE));
    }
    all
}

/// The cells of one custom resource.
pub(super) fn cells(version: &Value, object: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = vec![name(object)];
    let own = list(version, "additionalPrinterColumns");
    all.extend(own.iter().map(|column| {
        let found = jsonpath::find(object, text(column, "jsonPath"));
        cell(text(column, "type"), &found, now)
    }));
    if own.is_empty() {
        all.push(age(object, now).into());
    }
    all
}

fn cell(kind: &str, found: &[&Value], now: Timestamp) -> Value {
    let Some(first) = found.first() else { return Value::Null };
    match (kind, first) {
        ("string", _) => found
            .iter()
            .map(|v| jsonpath::print(v))
            .collect::<Vec<_>>()
            .join(" ")
            .into(),
        ("date", Value::String(then)) => match then.parse::<Timestamp>() {
            Ok(then) => human_duration(seconds_between(then, now)).into(),
            Err(_) => "<invalid>".into(),
        },
        ("integer" | "number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
        ("integer", Value::String(text)) => text.parse::<i64>().map_or(Value::Null, Value::from),
        _ => Value::Null,
    }
}
