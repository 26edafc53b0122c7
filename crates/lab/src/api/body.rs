//! Bodies of requests: read whole within a limit, and parsed as JSON or YAML.

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Collected, Limited};
use serde_json::Value;

use super::protobuf;
use super::status::Status;
use crate::client::{Body, BoxError};

/// The largest accepted body, the same as the API server's.
pub(super) const LIMIT: usize = 3 * 1024 * 1024;

/// Reads a body to its end.
pub(super) async fn read(body: Body) -> Result<Bytes, Status> {
    // Boxed, because the compiler cannot see through the generic future that it is Send.
    let whole: BoxFuture<'static, Result<Collected<Bytes>, BoxError>> = Box::pin(Limited::new(body, LIMIT).collect());
    match whole.await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Status::too_large(LIMIT)),
        Err(error) => Err(Status::bad_request(format!(
            "unable to read the request's body: {error}"
        ))),
    }
}

/// The media type of a `Content-Type` header, without parameters; JSON if absent.
pub(super) fn media_type(header: Option<&str>) -> &str {
    match header.map(|h| h.split(';').next().unwrap_or_default().trim()) {
        None | Some("") => "application/json",
        Some(media_type) => media_type,
    }
}

/// Parses an object of a create, update or delete.
pub(super) fn parse(bytes: &[u8], media_type: &str) -> Result<Value, Status> {
    match media_type {
        "application/json" => serde_json::from_slice(bytes)
            .map_err(|error| Status::bad_request(format!("the body is not valid JSON: {error}"))),
        "application/yaml" => yaml(bytes),
        protobuf::MEDIA_TYPE => protobuf::decode(bytes).map_err(|error| Status::bad_request(error.to_string())),
        _ => Err(Status::unsupported_media_type(
            &["application/json", "application/yaml", protobuf::MEDIA_TYPE].join(", "),
        )),
    }
}

/// Parses YAML, of which JSON is a part.
pub(super) fn yaml(bytes: &[u8]) -> Result<Value, Status> {
    serde_yaml_ng::from_slice(bytes)
        .map_err(|error| Status::bad_request(format!("error converting YAML to JSON: yaml: {error}")))
}
