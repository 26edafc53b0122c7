//! Decoding: do the JSON types fit the kind's schema, and which fields does the kind not have?

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::quantity;
use crate::api::openapi::schemas;

/// Types that hold whatever their author wants.
const FREE_FORM: &[&str] = &[
    "RawExtension",
    "FieldsV1",
    "JSON",
    "JSONSchemaPropsOrArray",
    "JSONSchemaPropsOrBool",
    "JSONSchemaPropsOrStringArray",
];

/// Checks the types in `object` against the named schema, and removes fields that it does not have and those that are null.
///
/// Returns the removed unknown fields; the error is worded as Go's decoder does.
pub(super) fn against(schema_name: &str, object: &mut Value) -> Result<Vec<String>, String> {
    let Some(schema) = schemas::all().get(schema_name) else {
        return Ok(Vec::new());
    };
    let mut decoder = Decoder { unknown: Vec::new() };
    decoder.value(&Place::root(schema_name), schema, object)?;
    Ok(decoder.unknown)
}

/// The same for the `metadata` of any object, built in or custom.
pub(super) fn metadata(metadata: &mut Value) -> Result<Vec<String>, String> {
    let Some(schema) = schemas::all().get(schemas::OBJECT_META) else {
        return Ok(Vec::new());
    };
    let mut decoder = Decoder { unknown: Vec::new() };
    let at = "metadata".to_owned();
    let place = Place {
        path: at.clone(),
        go_path: at,
        ..Place::root(schemas::OBJECT_META)
    };
    decoder.value(&place, schema, metadata)?;
    Ok(decoder.unknown)
}

/// Where the decoder is: the path with indexes, for unknown fields; that of Go's decoder, without; the struct it is in.
#[derive(Clone)]
struct Place {
    path: String,
    go_path: String,
    go_struct: String,
    go_type: String,
}

impl Place {
    fn root(schema: &str) -> Self {
        let go_type = go_type_of(schema);
        let go_struct = go_type.rsplit('.').next().unwrap_or_default().to_owned();
        Self {
            path: String::new(),
            go_path: String::new(),
            go_struct,
            go_type,
        }
    }

    fn mismatch(&self, value: &Value, wanted: &str) -> String {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n) if wanted.starts_with("int") => format!("number {n}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        match self.go_path.as_str() {
            "" => format!("json: cannot unmarshal {found} into Go value of type {wanted}"),
            path => format!(
                "json: cannot unmarshal {found} into Go struct field {}.{path} of type {wanted}",
                self.go_struct
            ),
        }
    }
}

/// `io.k8s.api.core.v1.PodSpec` as Go calls it: `v1.PodSpec`.
fn go_type_of(schema: &str) -> String {
    let parts: Vec<&str> = schema.rsplit('.').take(2).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(".")
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

struct Decoder {
    unknown: Vec<String>,
}

impl Decoder {
    fn value(&mut self, place: &Place, schema: &Value, value: &mut Value) -> Result<(), String> {
        if let Some(reference) = schemas::reference(schema) {
            let Some((name, target)) = schemas::resolve(reference) else {
                return Ok(());
            };
            return self.named(place, name, target, value);
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("object") => self.object(place, schema, value),
            Some("array") => self.array(place, schema, value),
            Some("string") => string(place, schema, value),
            Some("integer") => integer(place, schema, value),
            Some("number") if !value.is_number() => Err(place.mismatch(value, "float64")),
            Some("boolean") if !value.is_boolean() => Err(place.mismatch(value, "bool")),
            _ => Ok(()),
        }
    }

    fn named(&mut self, place: &Place, name: &str, schema: &Value, value: &mut Value) -> Result<(), String> {
        let go_type = go_type_of(name);
        let short = go_type.rsplit('.').next().unwrap_or_default();
        match short {
            "Quantity" => return quantity(place, value),
            "IntOrString" => {
                let fits = value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) || value.is_string();
                return if fits {
                    Ok(())
                } else {
                    Err(place.mismatch(value, "int32"))
                };
            }
            _ if FREE_FORM.contains(&short) => return Ok(()),
            _ => {}
        }
        let place = Place {
            go_type,
            ..place.clone()
        };
        self.value(&place, schema, value)
    }

    fn object(&mut self, place: &Place, schema: &Value, value: &mut Value) -> Result<(), String> {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let Some(fields) = value.as_object_mut() else {
                return Err(place.mismatch(value, &place.go_type));
            };
            return self.fields(place, properties, fields);
        }
        let Some(items) = schema.get("additionalProperties").filter(|items| items.is_object()) else {
            return Ok(());
        };
        let Some(entries) = value.as_object_mut() else {
            return Err(place.mismatch(value, &format!("map[string]{}", go_type_name(items))));
        };
        for (key, entry) in entries {
            zero_if_null(items, entry);
            let place = Place {
                path: join(&place.path, key),
                ..place.clone()
            };
            self.value(&place, items, entry)?;
        }
        Ok(())
    }

    fn fields(
        &mut self,
        place: &Place,
        known: &Map<String, Value>,
        fields: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let go_struct = place.go_type.rsplit('.').next().unwrap_or_default();
        fields.retain(|key, value| {
            if !known.contains_key(key) {
                let path = join(&place.path, key);
                self.unknown.push(format!("unknown field {path:?}"));
                return false;
            }
            !value.is_null()
        });
        for (key, value) in fields {
            let Some(schema) = known.get(key) else { continue };
            let place = Place {
                path: join(&place.path, key),
                go_path: join(&place.go_path, key),
                go_struct: go_struct.to_owned(),
                go_type: String::new(),
            };
            self.value(&place, schema, value)?;
        }
        Ok(())
    }

    fn array(&mut self, place: &Place, schema: &Value, value: &mut Value) -> Result<(), String> {
        let items = schema.get("items").unwrap_or(&Value::Null);
        let Some(elements) = value.as_array_mut() else {
            return Err(place.mismatch(value, &format!("[]{}", go_type_name(items))));
        };
        for (index, element) in elements.iter_mut().enumerate() {
            zero_if_null(items, element);
            let place = Place {
                path: format!("{}[{index}]", place.path),
                ..place.clone()
            };
            self.value(&place, items, element)?;
        }
        Ok(())
    }
}

/// In lists and maps Go reads null as the type's empty value.
fn zero_if_null(schema: &Value, value: &mut Value) {
    if value.is_null() {
        match schema.get("type").and_then(Value::as_str) {
            Some("string") => *value = json!(""),
            Some("integer") => *value = json!(0),
            Some("boolean") => *value = json!(false),
            _ if schemas::reference(schema).is_some() => *value = json!({}),
            _ => {}
        }
    }
}

fn go_type_name(schema: &Value) -> String {
    if let Some(reference) = schemas::reference(schema) {
        return go_type_of(reference);
    }
    let text = |key: &str| schema.get(key).and_then(Value::as_str);
    match (text("type"), text("format")) {
        (Some("integer"), Some(format)) => format.to_owned(),
        (Some("boolean"), _) => "bool".to_owned(),
        (Some("string"), Some("byte")) => "[]uint8".to_owned(),
        (Some(kind), _) => kind.to_owned(),
        _ => "interface {}".to_owned(),
    }
}

fn string(place: &Place, schema: &Value, value: &Value) -> Result<(), String> {
    let Some(text) = value.as_str() else {
        return Err(place.mismatch(value, &go_type_name(schema)));
    };
    match schema.get("format").and_then(Value::as_str) {
        Some("date-time") if text.parse::<Timestamp>().is_err() => Err(format!(
            "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
        )),
        Some("byte") => match STANDARD.decode(text) {
            Ok(_) => Ok(()),
            Err(base64::DecodeError::InvalidByte(at, _)) => Err(format!("illegal base64 data at input byte {at}")),
            Err(_) => Err(format!("illegal base64 data at input byte {}", text.len())),
        },
        _ => Ok(()),
    }
}

fn integer(place: &Place, schema: &Value, value: &Value) -> Result<(), String> {
    let kind = go_type_name(schema);
    let fits = value
        .as_i64()
        .is_some_and(|n| kind != "int32" || i32::try_from(n).is_ok());
    if fits {
        Ok(())
    } else {
        Err(place.mismatch(value, &kind))
    }
}

/// Reads a quantity; a bare number becomes text, and all take the form in which they are stored.
fn quantity(place: &Place, value: &mut Value) -> Result<(), String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(place.mismatch(value, "resource.Quantity")),
    };
    *value = quantity::canonical(&text)
        .ok_or_else(|| quantity::MESSAGE.to_owned())?
        .into();
    Ok(())
}
