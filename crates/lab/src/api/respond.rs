//! Answers: objects, lists and tables in the form that the client accepts, and errors.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::accept::{Accept, Form};
use super::call::Call;
use super::kinds::Resource;
use super::query::Query;
use super::status::Status;
use super::store::Object;
use super::{tables, views};
use crate::client::{Body, full};

/// An answer with a JSON body.
pub(super) fn json_bytes(code: u16, body: impl Into<Bytes>) -> Response<Body> {
    bytes(code, "application/json", body)
}

/// An answer with any body.
pub(super) fn bytes(code: u16, media_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// An answer with a value.
pub(super) fn value(code: u16, accept: Accept, value: &Value) -> Response<Body> {
    if accept.yaml {
        let text = serde_yaml_ng::to_string(value).unwrap_or_else(|error| format!("# {error}\n"));
        return bytes(code, "application/yaml", text);
    }
    json_bytes(code, value.to_string())
}

/// A refusal.
pub(super) fn error(status: &Status) -> Response<Body> {
    let mut response = json_bytes(status.code, status.to_value().to_string());
    if status.code == 429 || status.details.contains_key("retryAfterSeconds") {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Adds `Warning` headers.
pub(super) fn warn(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for warning in warnings {
        let quoted = warning
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// An answer with one object.
pub(super) fn object(call: &Call, code: u16, object: &Object) -> Response<Body> {
    let resource = &*call.target.resource;
    if call.accept == Accept::JSON && views::is_identity(resource) {
        return json_bytes(code, object.json.clone());
    }
    let seen = views::from_stored(resource, &object.value);
    match call.accept.form {
        Form::Object => value(code, call.accept, &seen),
        Form::Metadata => value(code, call.accept, &metadata_only(&seen)),
        Form::Table => {
            let metadata = json!({ "resourceVersion": seen["metadata"]["resourceVersion"] });
            let rows = vec![row(resource, &call.query, &seen)];
            value(code, call.accept, &table(metadata, tables::columns(resource), rows))
        }
    }
}

/// A `PartialObjectMetadata` of an object.
pub(super) fn metadata_only(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// One row of a table, carrying as much of the object as `includeObject` asks for.
pub(super) fn row(resource: &Resource, query: &Query, object: &Value) -> Value {
    let included = match query.get("includeObject") {
        Some("Object") => object.clone(),
        Some("None") => Value::Null,
        _ => metadata_only(object),
    };
    json!({"cells": tables::cells(resource, object, Timestamp::now()), "object": included})
}

/// A table of rows.
pub(super) fn table(metadata: Value, columns: Vec<Value>, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata, "columnDefinitions": columns, "rows": rows,
    })
}
