//! From a request to the function that answers it.

use std::sync::Arc;

use http::{Method, Request, Response, header};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::accept::Accept;
use super::call::{Call, Target};
use super::delete::{Deleted, Options};
use super::query::Query;
use super::read::Filter;
use super::status::Status;
use super::strategy::Part;
use super::write::Written;
use super::{ApiServer, body, discovery, openapi, respond, reviews};
use crate::client::Body;

/// The Kubernetes version that clients are told.
const MINOR: &str = "33";

impl ApiServer {
    /// Answers a request.
    pub(super) async fn handle(self: &Arc<Self>, request: Request<Body>) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self
            .route(request)
            .await
            .unwrap_or_else(|status| respond::error(&status));
        tracing::debug!(%method, path, code = response.status().as_u16(), "request");
        response
    }

    async fn route(self: &Arc<Self>, request: Request<Body>) -> Result<Response<Body>, Status> {
        let decoded = request.uri().path().split('/').filter(|segment| !segment.is_empty());
        let decoded = decoded.map(|segment| percent_decode_str(segment).decode_utf8());
        let segments = decoded.collect::<Result<Vec<_>, _>>();
        let segments = segments.map_err(|_| Status::bad_request("the path is not valid UTF-8"))?;
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        let registry = self.registry();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => return self.general(&request, &segments),
        };
        if let Some(kind) = reviews::kind(group, rest) {
            return self.review(kind, request).await;
        }
        let target = Target::resolve(&registry, group, version, rest)?;
        let headers = request.headers();
        let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let agent = text(header::USER_AGENT)
            .unwrap_or("unknown")
            .split(['/', ' '])
            .next()
            .unwrap_or_default();
        let manager = query.get("fieldManager").unwrap_or(agent).to_owned();
        let accept = match target.subresource.as_str() {
            "log" | "exec" | "attach" | "portforward" | "proxy" => Accept::JSON,
            _ => Accept::parse(text(header::ACCEPT))?,
        };
        let call = Call {
            target,
            query,
            accept,
            manager,
            applying: false,
        };
        self.dispatch(call, request).await
    }

    async fn dispatch(self: &Arc<Self>, call: Call, request: Request<Body>) -> Result<Response<Body>, Status> {
        let method = request.method().clone();
        let part = match call.target.subresource.as_str() {
            "" => Part::Main,
            "status" if call.target.resource.has_status => Part::Status,
            "finalize" if call.target.resource.kind == "Namespace" => Part::Finalize,
            _ => return self.subresource(call, request).await,
        };
        let named = call.target.name.is_some();
        // All namespaces at once can only be read.
        if call.target.resource.namespaced
            && call.target.namespace.is_none()
            && !matches!(method, Method::GET | Method::HEAD)
        {
            return Err(Status::method_not_allowed());
        }
        match method {
            Method::GET | Method::HEAD if call.query.flag("watch") => self.watch(&call),
            Method::GET | Method::HEAD if named => self.get(&call),
            Method::GET | Method::HEAD => self.list(&call),
            Method::POST if !named => {
                let (bytes, media_type) = read(request).await?;
                let written = self.create(&call, body::parse(&bytes, &media_type)?)?;
                Ok(self.written(&call, &written))
            }
            Method::PUT if named => {
                let (bytes, media_type) = read(request).await?;
                let new = body::parse(&bytes, &media_type)?;
                let written = self.modify(&call, part, |_| Ok(new))?;
                Ok(self.written(&call, &written))
            }
            Method::PATCH if named => {
                let (bytes, media_type) = read(request).await?;
                let written = self.patch(&call, part, &bytes, &media_type)?;
                Ok(self.written(&call, &written))
            }
            Method::DELETE if part == Part::Main => {
                let (bytes, media_type) = read(request).await?;
                let sent = if bytes.is_empty() {
                    Value::Null
                } else {
                    body::parse(&bytes, &media_type)?
                };
                let options = Options::new(&sent, &call.query)?;
                if named {
                    self.delete_one(&call, &options)
                } else {
                    self.delete_collection(&call, &options)
                }
            }
            _ => Err(Status::method_not_allowed()),
        }
    }

    /// The answer to a write, after what a written definition changes in the server itself.
    pub(super) fn written(&self, call: &Call, written: &Written) -> Response<Body> {
        let code = if written.created { 201 } else { 200 };
        respond::warn(respond::object(call, code, &written.object), &written.warnings)
    }

    fn delete_one(&self, call: &Call, options: &Options) -> Result<Response<Body>, Status> {
        let object = match self.delete(call, options)? {
            Deleted::Marked(object) => return Ok(respond::object(call, 200, &object)),
            Deleted::Gone(object) => object,
        };
        let resource = &call.target.resource;
        let mut details = json!({
            "name": call.target.name, "kind": resource.plural, "uid": object.value["metadata"]["uid"],
        });
        if !resource.group.is_empty() {
            details["group"] = resource.group.clone().into();
        }
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
        });
        Ok(respond::value(
            200,
            Accept {
                yaml: call.accept.yaml,
                ..Accept::JSON
            },
            &status,
        ))
    }

    fn delete_collection(&self, call: &Call, options: &Options) -> Result<Response<Body>, Status> {
        let (objects, _) = self.select(call, &Filter::of(call)?);
        for object in objects {
            let metadata = &object.value["metadata"];
            let mut one = call.clone();
            one.target.name = metadata["name"].as_str().map(str::to_owned);
            one.target.namespace = metadata["namespace"].as_str().map(str::to_owned);
            match self.delete(&one, options) {
                Err(status) if status.code != 404 => return Err(status),
                _ => {}
            }
        }
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
        Ok(respond::value(
            200,
            Accept {
                yaml: call.accept.yaml,
                ..Accept::JSON
            },
            &status,
        ))
    }

    /// Paths that are not about a resource.
    fn general(&self, request: &Request<Body>, segments: &[&str]) -> Result<Response<Body>, Status> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Status::method_not_allowed());
        }
        let registry = self.registry();
        let accept = request
            .headers()
            .get(header::ACCEPT)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        let aggregated = accept.split(',').next().unwrap_or_default();
        let aggregated = aggregated.contains("as=APIGroupDiscoveryList") && aggregated.contains("v=v2;");
        let json = |value: Value| respond::json_bytes(200, value.to_string());
        let found = |value: Option<Value>| value.map(json).ok_or_else(Status::no_such_path);
        match segments {
            ["api"] | ["apis"] if aggregated => {
                let list = discovery::aggregated(&registry, segments == ["api"]);
                let media_type = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
                Ok(respond::bytes(200, media_type, list.to_string()))
            }
            ["api"] => Ok(json(discovery::core_versions(&self.config.advertise.to_string()))),
            ["apis"] => Ok(json(discovery::group_list(&registry))),
            ["api", version] => found(discovery::resource_list(&registry, "", version)),
            ["apis", group] => found(discovery::one_group(&registry, group)),
            ["apis", group, version] => found(discovery::resource_list(&registry, group, version)),
            ["version"] => Ok(json(version())),
            ["healthz" | "livez" | "readyz", ..] => Ok(respond::bytes(200, "text/plain; charset=utf-8", "ok")),
            // Go clients ask for protobuf here before they say that a kind is unknown.
            ["openapi", "v2"] if accept.contains("proto-openapi") => {
                Ok(respond::bytes(200, openapi::V2_PROTOBUF_TYPE, openapi::V2_PROTOBUF))
            }
            ["openapi", "v2"] => Ok(json(openapi::v2())),
            ["openapi", "v3"] => Ok(json(openapi::v3_index(&registry))),
            ["openapi", "v3", rest @ ..] => found(openapi::v3_document(&registry, &rest.join("/"))),
            [] => Ok(json(
                json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}),
            )),
            _ => Err(Status::no_such_path()),
        }
    }
}

/// Reads a request's body; the media type comes with it.
pub(super) async fn read(request: Request<Body>) -> Result<(bytes::Bytes, String), Status> {
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok());
    let media_type = body::media_type(content_type).to_owned();
    Ok((body::read(request.into_body()).await?, media_type))
}

fn version() -> Value {
    json!({
        "major": "1", "minor": MINOR, "gitVersion": format!("v1.{MINOR}.0-weft"), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
    })
}
