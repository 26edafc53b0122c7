//! The schemas that a document needs: its kinds', and all that they refer to.

use serde_json::{Map, Value, json};

use super::schemas;
use crate::api::kinds::Resource;

/// Adds the schemas of a kind and of its list.
pub(super) fn add_kind(components: &mut Map<String, Value>, resource: &Resource) {
    let name = schemas::name_of(resource);
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let mut schema = if resource.custom.is_some() {
        custom(resource)
    } else {
        schemas::all()
            .get(&name)
            .cloned()
            .unwrap_or_else(|| json!({"type": "object"}))
    };
    if let Some(fields) = schema.as_object_mut() {
        if resource.custom.is_none() {
            // Rust's types always have metadata; for a person it is as optional as everything else at the top.
            fields.remove("required");
        }
        fields.insert("x-kubernetes-group-version-kind".to_owned(), json!([kind]));
    }
    add_references(components, &schema);
    let list = json!({
        "description": format!("{} is a list of {}.", resource.list_kind(), resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of the list."},
            "kind": {"type": "string", "description": "The kind of the list."},
            "metadata": reference("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta", "Where the list was read."),
            "items": {"type": "array", "items": {"$ref": format!("{}{name}", schemas::REFERENCE_PREFIX)}},
        },
        "x-kubernetes-group-version-kind": [
            {"group": resource.group, "version": resource.version, "kind": resource.list_kind()}
        ],
    });
    add_references(components, &list["properties"]["metadata"]);
    components.insert(format!("{name}List"), list);
    components.insert(name, schema);
}

fn reference(name: &str, description: &str) -> Value {
    json!({"description": description, "allOf": [{"$ref": format!("{}{name}", schemas::REFERENCE_PREFIX)}]})
}

/// A custom resource's own schema, with the fields that every object has.
fn custom(resource: &Resource) -> Value {
    let mut schema = resource.schema().cloned().unwrap_or_else(|| json!({"type": "object"}));
    let Some(fields) = schema.as_object_mut() else {
        return json!({"type": "object"});
    };
    let properties = fields.entry("properties").or_insert_with(|| json!({}));
    if let Some(properties) = properties.as_object_mut() {
        properties.insert(
            "apiVersion".to_owned(),
            json!({"type": "string", "description": "APIVersion defines the versioned schema of this representation of an object."}),
        );
        properties.insert(
            "kind".to_owned(),
            json!({"type": "string", "description": "Kind is a string value representing the REST resource this object represents."}),
        );
        properties.insert(
            "metadata".to_owned(),
            reference(schemas::OBJECT_META, "Standard object's metadata."),
        );
    }
    schema
}

/// Adds every built-in schema that `value` refers to, and those that these refer to.
fn add_references(components: &mut Map<String, Value>, value: &Value) {
    match value {
        Value::Object(map) => {
            let target = map.get("$ref").and_then(Value::as_str).and_then(schemas::resolve);
            if let Some((name, schema)) = target
                && !components.contains_key(name)
            {
                components.insert(name.to_owned(), schema.clone());
                add_references(components, schema);
            }
            map.values().for_each(|child| add_references(components, child));
        }
        Value::Array(items) => items.iter().for_each(|child| add_references(components, child)),
        _ => {}
    }
}
