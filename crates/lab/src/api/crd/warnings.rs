//! What of a definition this API server does not do.

use serde_json::Value;

use crate::api::fields::{at, list, text};

/// The parts of a definition that have no effect here, for `Warning` headers.
pub fn warnings(definition: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (index, version) in list(definition, "spec.versions").iter().enumerate() {
        let mut path = format!("spec.versions[{index}].schema.openAPIV3Schema");
        rules(at(version, "schema.openAPIV3Schema"), &mut path, &mut found);
    }
    let Some(first) = found.first() else {
        return Vec::new();
    };
    vec![format!(
        "{}: CEL rules are not evaluated by this API server: objects that break them are accepted (rules at {} places, the first is {first}.x-kubernetes-validations)",
        text(definition, "metadata.name"),
        found.len(),
    )]
}

fn rules(schema: &Value, path: &mut String, found: &mut Vec<String>) {
    if schema
        .get("x-kubernetes-validations")
        .and_then(Value::as_array)
        .is_some_and(|rules| !rules.is_empty())
    {
        found.push(path.clone());
    }
    let mut child = |step: String, schema: &Value| {
        let length = path.len();
        path.push_str(&step);
        rules(schema, path, found);
        path.truncate(length);
    };
    for (key, property) in schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        child(format!(".properties[{key}]"), property);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(schema) = schema.get(key).filter(|schema| schema.is_object()) {
            child(format!(".{key}"), schema);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_that_are_not_evaluated_are_said() {
        let definition = json!({"metadata": {"name": "things.example.com"}, "spec": {"versions": [{"schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"spec": {"type": "object", "x-kubernetes-validations": [{"rule": "true"}]}}}}}]}});
        let all = warnings(&definition);
        let path = "spec.versions[0].schema.openAPIV3Schema.properties[spec].x-kubernetes-validations";
        let want = format!(
            "things.example.com: CEL rules are not evaluated by this API server: objects that break them are accepted (rules at 1 places, the first is {path})"
        );
        assert_eq!(all, [want]);
        assert!(warnings(&json!({})).is_empty());
    }
}
