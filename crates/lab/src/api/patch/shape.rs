//! What server-side apply needs to know of a kind: which lists are merged by keys, and which values are one piece.

use serde_json::{Map, Value};

use super::super::kinds::Resource;

/// How a value is merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Field by field.
    Fields,
    /// As one piece.
    Atomic,
    /// Item by item, told apart by these fields.
    Keyed(Vec<String>),
    /// As a set of plain values.
    Set,
}

/// A place in an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The names of the two fields that lead here, list items not counted.
    parent: &'a str,
    name: &'a str,
    custom: bool,
    schema: Option<&'a Value>,
}

impl<'a> Place<'a> {
    /// A whole object.
    pub(super) fn root(resource: &'a Resource) -> Self {
        Self {
            parent: "",
            name: "",
            custom: resource.custom.is_some(),
            schema: resource.schema(),
        }
    }

    /// A field of this place.
    pub(super) fn field(&self, name: &'a str) -> Self {
        let schema = self.schema.and_then(|schema| {
            schema["properties"]
                .get(name)
                .or_else(|| schema.get("additionalProperties").filter(|s| s.is_object()))
        });
        // Metadata is the same for every kind.
        let custom = self.custom && !(self.name.is_empty() && name == "metadata");
        Self {
            parent: self.name,
            name,
            custom,
            schema,
        }
    }

    /// An item of this list.
    pub(super) fn item(&self) -> Self {
        Self {
            schema: self.schema.and_then(|schema| schema.get("items")),
            ..*self
        }
    }

    /// How `value` is merged here.
    pub(super) fn shape(&self, value: &Value) -> Shape {
        match value {
            Value::Object(_) if self.is_atomic_object() => Shape::Atomic,
            Value::Object(_) => Shape::Fields,
            Value::Array(_) => self.list(),
            _ => Shape::Atomic,
        }
    }

    fn is_atomic_object(&self) -> bool {
        if self.custom {
            return self
                .schema
                .is_some_and(|schema| schema["x-kubernetes-map-type"] == "atomic");
        }
        let names = [
            "selector",
            "nodeSelector",
            "labelSelector",
            "podSelector",
            "namespaceSelector",
            "secretKeyRef",
            "configMapKeyRef",
            "fieldRef",
            "resourceFieldRef",
            "involvedObject",
            "regarding",
            "targetRef",
        ];
        names.contains(&self.name)
    }

    fn list(&self) -> Shape {
        let keyed = |keys: &[&str]| Shape::Keyed(keys.iter().map(|key| (*key).to_owned()).collect());
        if self.custom {
            let Some(schema) = self.schema else {
                return Shape::Atomic;
            };
            return match schema["x-kubernetes-list-type"].as_str() {
                Some("map") => {
                    let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
                    Shape::Keyed(keys.filter_map(Value::as_str).map(str::to_owned).collect())
                }
                Some("set") => Shape::Set,
                _ => Shape::Atomic,
            };
        }
        match (self.parent, self.name) {
            ("metadata", "ownerReferences") => keyed(&["uid"]),
            ("metadata", "finalizers") | ("spec", "finalizers" | "podCIDRs") => Shape::Set,
            (_, "containers" | "initContainers" | "ephemeralContainers" | "volumes" | "imagePullSecrets" | "env") => {
                keyed(&["name"])
            }
            ("containers" | "initContainers" | "ephemeralContainers", "ports") => keyed(&["containerPort", "protocol"]),
            ("containers" | "initContainers" | "ephemeralContainers", "volumeMounts") => keyed(&["mountPath"]),
            ("containers" | "initContainers" | "ephemeralContainers", "volumeDevices") => keyed(&["devicePath"]),
            ("spec", "ports") => keyed(&["port", "protocol"]),
            ("spec", "hostAliases") => keyed(&["ip"]),
            ("spec", "topologySpreadConstraints") => keyed(&["topologyKey", "whenUnsatisfiable"]),
            ("status", "conditions" | "addresses") => keyed(&["type"]),
            ("status", "podIPs" | "hostIPs") => keyed(&["ip"]),
            ("", "secrets") => keyed(&["name"]),
            _ => Shape::Atomic,
        }
    }
}

/// The step to an item of a keyed list.
pub(super) fn key_step(keys: &[String], item: &Value) -> String {
    let value = |key: &String| match item.get(key) {
        Some(value) => value.clone(),
        None if key == "protocol" => "TCP".into(),
        None => Value::Null,
    };
    let fields: Map<String, Value> = keys.iter().map(|key| (key.clone(), value(key))).collect();
    format!("k:{}", Value::Object(fields))
}

/// The step to a value of a set.
pub(super) fn value_step(value: &Value) -> String {
    format!("v:{value}")
}
