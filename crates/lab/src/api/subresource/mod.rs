//! Subresources other than `status`: parts of an object with a path and often a kind of their own.

mod pod;
mod scale;
mod stream;
mod token;

use std::sync::Arc;

use http::{Method, Request, Response};
use serde_json::{Value, json};

use super::call::Call;
use super::route::read;
use super::status::Status;
use super::{ApiServer, body, respond};
use crate::client::Body;

impl ApiServer {
    /// Answers a request on a subresource.
    pub(super) async fn subresource(
        self: &Arc<Self>,
        call: Call,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let resource = call.target.resource.clone();
        let method = request.method().clone();
        match (
            resource.storage_group.as_str(),
            resource.plural.as_str(),
            call.target.subresource.as_str(),
        ) {
            (_, _, "scale") if resource.scale.is_some() => self.scale(&call, request).await,
            ("", "pods", "log") if method == Method::GET => self.stream(&call, request).await,
            ("", "pods", "exec" | "attach" | "portforward") => self.stream(&call, request).await,
            ("", "nodes", "proxy") => self.node_proxy(&call, request).await,
            ("", "pods", "binding" | "eviction") | ("", "serviceaccounts", "token") if method == Method::POST => {
                let (bytes, media_type) = read(request).await?;
                let sent = body::parse(&bytes, &media_type)?;
                match call.target.subresource.as_str() {
                    "binding" => self.bind(&call, &sent),
                    "eviction" => self.evict(&call, &sent),
                    _ => self.token(&call, sent),
                }
            }
            ("", "pods", "binding" | "eviction") | ("", "serviceaccounts", "token") => {
                Err(Status::method_not_allowed())
            }
            _ => Err(Status::no_such_path()),
        }
    }
}

/// The answer to a POST that makes no object of its own.
fn done() -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    respond::json_bytes(201, status.to_string())
}

/// The parts of an object's metadata that show in its subresource's own object.
fn metadata(object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    metadata
}
