//! Bodies in Kubernetes' protobuf form, which Go clients since 1.32 send for the built-in kinds; `kubectl create`
//! is one. They are turned into the JSON that everything here works with. Answers are never protobuf: every client
//! accepts JSON too.

mod schema;
mod wire;

use jiff::Timestamp;
use serde_json::{Map, Value};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use schema::{Cardinality, Field, Schema, Type};
use wire::{Reader, Scalar};

/// The media type.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every body starts with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages nested deeper than this are refused.
const DEEPEST: usize = 64;

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ProtobufError {
    /// The first four bytes are others.
    #[error("provided data does not appear to be a protobuf message, expected prefix {MAGIC:?}")]
    Prefix,
    /// A message ends in the middle of a field, or nests too deeply.
    #[error("malformed protobuf message")]
    Malformed,
    /// There is no table for this kind.
    #[error("no protobuf form of kind {0:?} is known here; send JSON")]
    UnknownKind(String),
}

/// The JSON form of a protobuf body.
pub(super) fn decode(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let bytes = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Prefix)?;
    let (mut kind, mut api_version, mut raw): (String, String, &[u8]) = Default::default();
    let mut envelope = Reader::new(bytes);
    while let Some((number, scalar)) = envelope.next()? {
        match (number, scalar) {
            (1, Scalar::Bytes(type_meta)) => {
                let mut type_meta = Reader::new(type_meta);
                while let Some((number, scalar)) = type_meta.next()? {
                    match (number, scalar) {
                        (1, Scalar::Bytes(text)) => api_version = String::from_utf8_lossy(text).into_owned(),
                        (2, Scalar::Bytes(text)) => kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, Scalar::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let schema = Schema::get();
    let name = if kind == "Event" && api_version.starts_with("events.k8s.io/") {
        "eventsEvent"
    } else {
        &kind
    };
    let fields = schema
        .message(name)
        .ok_or_else(|| ProtobufError::UnknownKind(kind.clone()))?;
    let mut object = Map::new();
    message(schema, fields, raw, &mut object, 0)?;
    for (field, value) in [("kind", kind), ("apiVersion", api_version)] {
        if !value.is_empty() {
            object.insert(field.to_owned(), value.into());
        }
    }
    Ok(Value::Object(object))
}

fn message(
    schema: &Schema,
    fields: &[Field],
    bytes: &[u8],
    into: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    if depth > DEEPEST {
        return Err(ProtobufError::Malformed);
    }
    let mut reader = Reader::new(bytes);
    while let Some((number, scalar)) = reader.next()? {
        let Some(field) = fields.iter().find(|field| field.number == number) else {
            continue;
        };
        if field.name.is_empty() {
            if let (Type::Message(name), Scalar::Bytes(bytes)) = (&field.kind, &scalar) {
                let inner = schema.message(name).unwrap_or_default();
                message(schema, inner, bytes, into, depth + 1)?;
            }
            continue;
        }
        match field.cardinality {
            Cardinality::Map => {
                let Scalar::Bytes(entry) = scalar else {
                    return Err(ProtobufError::Malformed);
                };
                let (key, value) = map_entry(schema, &field.kind, entry, depth)?;
                if let Value::Object(map) = into.entry(field.name.clone()).or_insert_with(|| Map::new().into()) {
                    map.insert(key, value);
                }
            }
            Cardinality::List => {
                let values = match (&field.kind, scalar) {
                    // Numbers may come packed.
                    (Type::Int, Scalar::Bytes(packed)) => wire::packed(packed)?.into_iter().map(Value::from).collect(),
                    (kind, scalar) => vec![value(schema, kind, scalar, depth)?],
                };
                if let Value::Array(list) = into
                    .entry(field.name.clone())
                    .or_insert_with(|| Value::Array(Vec::new()))
                {
                    list.extend(values);
                }
            }
            Cardinality::Pointer => {
                into.insert(field.name.clone(), value(schema, &field.kind, scalar, depth)?);
            }
            Cardinality::Plain => {
                let value = value(schema, &field.kind, scalar, depth)?;
                if !is_zero(&value) {
                    into.insert(field.name.clone(), value);
                }
            }
        }
    }
    Ok(())
}

/// Go writes the zero values of plain fields, which JSON leaves out.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

fn map_entry(schema: &Schema, kind: &Type, bytes: &[u8], depth: usize) -> Result<(String, Value), ProtobufError> {
    let (mut key, mut found) = (String::new(), None);
    let mut reader = Reader::new(bytes);
    while let Some((number, scalar)) = reader.next()? {
        match (number, scalar) {
            (1, Scalar::Bytes(text)) => key = String::from_utf8_lossy(text).into_owned(),
            (2, scalar) => found = Some(value(schema, kind, scalar, depth)?),
            _ => {}
        }
    }
    Ok((key, found.unwrap_or_else(|| Value::String(String::new()))))
}

fn value(schema: &Schema, kind: &Type, scalar: Scalar<'_>, depth: usize) -> Result<Value, ProtobufError> {
    let text = |bytes: &[u8]| Value::String(String::from_utf8_lossy(bytes).into_owned());
    Ok(match (kind, scalar) {
        (Type::Text, Scalar::Bytes(bytes)) => text(bytes),
        (Type::Bytes, Scalar::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Type::Int, Scalar::Varint(number)) => number.into(),
        (Type::Bool, Scalar::Varint(number)) => (number != 0).into(),
        (Type::Double, Scalar::Double(number)) => number.into(),
        (Type::Message(name), Scalar::Bytes(bytes)) => {
            let mut object = Map::new();
            message(
                schema,
                schema.message(name).unwrap_or_default(),
                bytes,
                &mut object,
                depth + 1,
            )?;
            Value::Object(object)
        }
        (Type::Quantity, Scalar::Bytes(bytes)) => text(wire::find_bytes(bytes, 1)?.unwrap_or_default()),
        (Type::Texts, Scalar::Bytes(bytes)) => wire::all_bytes(bytes, 1)?.into_iter().map(text).collect(),
        (Type::Raw, Scalar::Bytes(bytes)) => {
            let raw = wire::find_bytes(bytes, 1)?.unwrap_or_default();
            serde_json::from_slice(raw).unwrap_or(Value::Null)
        }
        (Type::IntOrText, Scalar::Bytes(bytes)) => match wire::find_int(bytes, 1)? {
            Some(1) => text(wire::find_bytes(bytes, 3)?.unwrap_or_default()),
            _ => wire::find_int(bytes, 2)?.unwrap_or(0).into(),
        },
        (Type::Duration, Scalar::Bytes(bytes)) => format!("{}ns", wire::find_int(bytes, 1)?.unwrap_or(0)).into(),
        (Type::Time | Type::MicroTime, Scalar::Bytes([])) => Value::Null,
        (Type::Time | Type::MicroTime, Scalar::Bytes(bytes)) => {
            let seconds = wire::find_int(bytes, 1)?.unwrap_or(0);
            let nanoseconds = i32::try_from(wire::find_int(bytes, 2)?.unwrap_or(0)).unwrap_or(0);
            let at = Timestamp::new(seconds, nanoseconds).map_err(|_| ProtobufError::Malformed)?;
            let format = if *kind == Type::Time {
                "%Y-%m-%dT%H:%M:%SZ"
            } else {
                "%Y-%m-%dT%H:%M:%S%.6fZ"
            };
            at.strftime(format).to_string().into()
        }
        _ => return Err(ProtobufError::Malformed),
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;
    use serde_json::json;

    use super::*;

    /// A field with a length: its key, its length, its bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend_from_slice(bytes);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [
            MAGIC.to_vec(),
            field(1, &type_meta),
            field(2, raw),
            field(3, b""),
            field(4, b""),
        ]
        .concat()
    }

    #[test]
    fn a_config_map() {
        let metadata = [field(1, b"m"), field(3, b""), vec![7 << 3, 0], field(8, b"")].concat();
        let entry = [field(1, b"a"), field(2, b"1")].concat();
        let binary = [field(1, b"b"), field(2, &[0xff])].concat();
        let raw = [field(1, &metadata), field(2, &entry), field(3, &binary)].concat();
        let expected = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"},
            "data": {"a": "1"}, "binaryData": {"b": "/w=="},
        });
        assert_eq!(decode(&envelope("v1", "ConfigMap", &raw)), Ok(expected));
    }

    #[test]
    fn pointers_keep_their_zero_and_ports_their_kind() {
        let port = [
            vec![3 << 3, 80],
            field(4, &[vec![1 << 3, 1], field(3, b"http")].concat()),
        ]
        .concat();
        let raw = field(2, &field(1, &port));
        let expected =
            json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80, "targetPort": "http"}]}});
        assert_eq!(decode(&envelope("v1", "Service", &raw)), Ok(expected));
        let raw = field(2, &[1 << 3, 0, 5 << 3, 0]);
        let expected = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 0}});
        assert_eq!(decode(&envelope("apps/v1", "Deployment", &raw)), Ok(expected));
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let whole = envelope("v1", "ConfigMap", &field(1, &field(1, b"name")));
        for end in 5..whole.len() {
            let _ = decode(&whole[..end]);
        }
        assert_eq!(decode(b"{}"), Err(ProtobufError::Prefix));
        assert_eq!(decode(&whole[..12]), Err(ProtobufError::Malformed));
        assert_eq!(
            decode(&envelope("x/v1", "Nope", b"")),
            Err(ProtobufError::UnknownKind("Nope".into()))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(raw in vec(any::<u8>(), 0..64), kind in select(vec!["Pod", "Deployment", "Event", "DeleteOptions"])) {
            let _ = decode(&envelope("v1", kind, &raw));
            let _ = decode(&[MAGIC, &raw].concat());
        }
    }
}
