//! Which objects a label selector means.

use serde_json::{Map, Value};

use super::object::list;

/// Does a service's or node's plain selector fit these labels? An empty one fits nothing here: callers treat it apart.
pub(crate) fn fits_map(selector: &Map<String, Value>, labels: &Value) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Does a `LabelSelector` (`matchLabels`, `matchExpressions`) fit these labels? An absent selector fits nothing, an empty
/// one everything; an operator that does not exist fits nothing.
pub(crate) fn fits(selector: &Value, labels: &Value) -> bool {
    if !selector.is_object() {
        return false;
    }
    let exact = selector["matchLabels"]
        .as_object()
        .is_none_or(|map| fits_map(map, labels));
    exact
        && list(selector, "/matchExpressions")
            .iter()
            .all(|e| expression(e, labels))
}

/// One `key operator values` of a selector or of a node affinity.
pub(crate) fn expression(expression: &Value, labels: &Value) -> bool {
    let value = labels[expression["key"].as_str().unwrap_or_default()].as_str();
    let values = list(expression, "/values");
    let among = || value.is_some_and(|value| values.iter().any(|v| v == value));
    let compare = |wanted: fn(&i64, &i64) -> bool| {
        let parse = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
        match (parse(value), parse(values.first().and_then(Value::as_str))) {
            (Some(value), Some(bound)) => wanted(&value, &bound),
            _ => false,
        }
    };
    match expression["operator"].as_str() {
        Some("In") => among(),
        Some("NotIn") => !among(),
        Some("Exists") => value.is_some(),
        Some("DoesNotExist") => value.is_none(),
        Some("Gt") => compare(i64::gt),
        Some("Lt") => compare(i64::lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors() {
        let labels = json!({"app": "web", "n": "5"});
        assert!(fits(&json!({"matchLabels": {"app": "web"}}), &labels));
        assert!(fits(&json!({}), &labels));
        assert!(!fits(&Value::Null, &labels));
        assert!(!fits(&json!({"matchLabels": {"app": "api"}}), &labels));
        let one = |operator: &str, key: &str, values: Value| {
            fits(
                &json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}),
                &labels,
            )
        };
        assert!(one("In", "app", json!(["x", "web"])));
        assert!(!one("NotIn", "app", json!(["web"])));
        assert!(one("NotIn", "absent", json!(["web"])));
        assert!(one("Exists", "app", Value::Null));
        assert!(one("DoesNotExist", "absent", Value::Null));
        assert!(one("Gt", "n", json!(["4"])));
        assert!(!one("Lt", "n", json!(["5"])));
        assert!(!one("Near", "n", json!(["5"])));
    }
}
