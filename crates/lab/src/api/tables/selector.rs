//! Label selectors and maps of labels as text, in the notation of `kubectl get -l`.

use serde_json::Value;

use crate::api::fields::{at, labels, list, text};

/// A map of labels at a dotted path as `a=b,c=d`, sorted; `<none>` when empty.
pub(super) fn map(object: &Value, path: &str) -> String {
    let mut pairs: Vec<String> = labels(object, path)
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.sort();
    if pairs.is_empty() {
        "<none>".to_owned()
    } else {
        pairs.join(",")
    }
}

/// The label selector at a dotted path; `<none>` when it is missing or selects everything.
pub(super) fn selector(object: &Value, path: &str) -> String {
    let selector = at(object, path);
    let mut terms: Vec<(&str, String)> = labels(selector, "matchLabels")
        .map(|(key, value)| (key, format!("{key}={value}")))
        .collect();
    for expression in list(selector, "matchExpressions") {
        let key = text(expression, "key");
        let mut values: Vec<&str> = list(expression, "values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let term = match text(expression, "operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<error>".to_owned(),
        };
        terms.push((key, term));
    }
    terms.sort();
    if terms.is_empty() {
        return "<none>".to_owned();
    }
    terms.into_iter().map(|(_, term)| term).collect::<Vec<_>>().join(",")
}
