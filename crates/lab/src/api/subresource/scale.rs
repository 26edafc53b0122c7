//! `scale`: the number of replicas, in the same shape for every kind that has one.

use http::{Method, Request, Response};
use serde_json::{Map, Value, json};

use super::super::call::Call;
use super::super::kinds::{Resource, ScalePaths};
use super::super::route::read;
use super::super::selector::Labels;
use super::super::status::{FieldError, Status};
use super::super::strategy::Part;
use super::super::{ApiServer, body, meta, patch, respond, views};
use super::metadata;
use crate::client::Body;

impl ApiServer {
    /// Answers a request on `scale`.
    pub(super) async fn scale(&self, call: &Call, request: Request<Body>) -> Result<Response<Body>, Status> {
        let resource = call.target.resource.clone();
        let paths = resource.scale.as_ref().ok_or_else(Status::no_such_path)?;
        let method = request.method().clone();
        if method == Method::GET {
            let name = call.target.name()?;
            let object = self
                .store
                .get(&call.target.key(name))
                .ok_or_else(|| Status::not_found(&resource, name))?;
            let scale = scale(paths, &views::from_stored(&resource, &object.value));
            return Ok(respond::value(200, call.accept, &scale));
        }
        if method != Method::PUT && method != Method::PATCH {
            return Err(Status::method_not_allowed());
        }
        let (bytes, media_type) = read(request).await?;
        let written = self.modify(call, Part::Main, |old| {
            let wanted = if method == Method::PUT {
                body::parse(&bytes, &media_type)?
            } else {
                patch::Patch::parse(&bytes, &media_type, false)?.apply(&resource, &scale(paths, old))?
            };
            rescale(&resource, paths, old, &wanted)
        })?;
        let scale = scale(paths, &views::from_stored(&resource, &written.object.value));
        Ok(respond::value(200, call.accept, &scale))
    }
}

fn pointer(path: &str) -> String {
    path.replace('.', "/")
}

/// The Scale of an object.
fn scale(paths: &ScalePaths, object: &Value) -> Value {
    let number = |path: &str| object.pointer(&pointer(path)).and_then(Value::as_i64).unwrap_or(0);
    let mut status = json!({ "replicas": number(&paths.status) });
    let selector = match &paths.selector {
        Some(path) => object
            .pointer(&pointer(path))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        None => Labels::from_object(&object["spec"]["selector"]).to_text(),
    };
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata(object),
        "spec": { "replicas": number(&paths.spec) }, "status": status,
    })
}

/// The object with the replicas that a Scale asks for.
fn rescale(resource: &Resource, paths: &ScalePaths, old: &Value, wanted: &Value) -> Result<Value, Status> {
    let name = meta::text(old, "name");
    let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 || i32::try_from(replicas).is_err() {
        let detail = "must be greater than or equal to 0";
        let error = FieldError::invalid("spec.replicas", &wanted["spec"]["replicas"], detail);
        return Err(Status::invalid(resource, name, &[error]));
    }
    let version = meta::text(wanted, "resourceVersion");
    if !version.is_empty() && version != meta::text(old, "resourceVersion") {
        return Err(Status::modified(resource, name));
    }
    let mut new = old.clone();
    let mut place = &mut new;
    for field in paths.spec.split('.').filter(|field| !field.is_empty()) {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[field];
    }
    *place = replicas.into();
    Ok(new)
}
