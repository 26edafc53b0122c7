//! Gets and lists.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use serde_json::{Map, Value, json};

use super::ApiServer;
use super::accept::{Accept, Form};
use super::call::Call;
use super::selector::{Fields, Labels};
use super::status::Status;
use super::store::Object;
use super::{respond, tables, views};
use crate::client::Body;

/// What a list or watch is narrowed to.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    labels: Labels,
    fields: Fields,
    namespace: Option<String>,
    name: Option<String>,
}

impl Filter {
    /// The selectors of a request, and the namespace and name in its path.
    pub(super) fn of(call: &Call) -> Result<Self, Status> {
        Ok(Self {
            labels: Labels::parse(call.query.get("labelSelector").unwrap_or_default())?,
            fields: Fields::parse(
                call.query.get("fieldSelector").unwrap_or_default(),
                &call.target.resource,
            )?,
            namespace: call.target.namespace.clone(),
            name: call.target.name.clone(),
        })
    }

    /// The object is asked for.
    pub(super) fn matches(&self, call: &Call, object: &Object) -> bool {
        let value = &object.value;
        let metadata = &value["metadata"];
        self.namespace
            .as_ref()
            .is_none_or(|wanted| metadata["namespace"] == **wanted)
            && self.name.as_ref().is_none_or(|wanted| metadata["name"] == **wanted)
            && self.labels.matches(value)
            && (self.fields.is_empty() || self.fields.matches(&views::from_stored(&call.target.resource, value)))
    }

    fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

impl ApiServer {
    /// One object.
    pub(super) fn get(&self, call: &Call) -> Result<Response<Body>, Status> {
        let name = call.target.name()?;
        let object = self.store.get(&call.target.key(name));
        let object = object.ok_or_else(|| Status::not_found(&call.target.resource, name))?;
        Ok(respond::object(call, 200, &object))
    }

    /// The objects of a collection that pass its filter, and the version of the look at them.
    pub(super) fn select(&self, call: &Call, filter: &Filter) -> (Vec<Arc<Object>>, u64) {
        let snapshot = self.store.read();
        let resource = &call.target.resource;
        let all = snapshot.index().list(
            &resource.storage_group,
            &resource.plural,
            call.target.namespace.as_deref(),
        );
        (
            all.filter(|object| filter.matches(call, object)).cloned().collect(),
            snapshot.version(),
        )
    }

    /// A collection.
    pub(super) fn list(&self, call: &Call) -> Result<Response<Body>, Status> {
        let filter = Filter::of(call)?;
        let limit = call.query.number("limit")?.filter(|limit| *limit > 0);
        let (mut objects, now) = self.select(call, &filter);
        check_version(call, now)?;
        let mut metadata = Map::new();
        let mut version = now;
        if let Some(token) = call.query.get("continue") {
            let from = Continue::decode(token)?;
            version = from.version;
            objects.retain(|object| position(object) > (&from.namespace, &from.name));
        }
        if let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok())
            && objects.len() > limit
        {
            let left = objects.len() - limit;
            objects.truncate(limit);
            if let Some(last) = objects.last() {
                metadata.insert("continue".into(), Continue::after(last, version).encode().into());
            }
            if filter.is_empty() {
                metadata.insert("remainingItemCount".into(), left.into());
            }
        }
        metadata.insert("resourceVersion".into(), version.to_string().into());
        Ok(render(call, metadata, &objects))
    }
}

fn render(call: &Call, metadata: Map<String, Value>, objects: &[Arc<Object>]) -> Response<Body> {
    let resource = &*call.target.resource;
    if call.accept == Accept::JSON && views::is_identity(resource) {
        return respond::json_bytes(
            200,
            join(&resource.list_kind(), &resource.api_version(), metadata, objects),
        );
    }
    let seen = objects.iter().map(|object| views::from_stored(resource, &object.value));
    let list = match call.accept.form {
        Form::Object => json!({
            "kind": resource.list_kind(), "apiVersion": resource.api_version(), "metadata": metadata,
            "items": seen.collect::<Vec<_>>(),
        }),
        Form::Metadata => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "items": seen.map(|object| respond::metadata_only(&object)).collect::<Vec<_>>(),
        }),
        Form::Table => {
            let rows = seen
                .map(|object| respond::row(resource, &call.query, &object))
                .collect();
            respond::table(Value::Object(metadata), tables::columns(resource), rows)
        }
    };
    respond::value(200, call.accept, &list)
}

/// A list made of the objects' stored texts.
fn join(kind: &str, api_version: &str, metadata: Map<String, Value>, objects: &[Arc<Object>]) -> Vec<u8> {
    let head = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata}).to_string();
    let size = head.len() + objects.iter().map(|object| object.json.len() + 1).sum::<usize>() + 16;
    let mut text = Vec::with_capacity(size);
    text.extend_from_slice(head.trim_end_matches('}').as_bytes());
    // `metadata` is the last field, so its own closing brace was trimmed too.
    text.extend_from_slice(b"},\"items\":[");
    for (n, object) in objects.iter().enumerate() {
        if n > 0 {
            text.push(b',');
        }
        text.extend_from_slice(&object.json);
    }
    text.extend_from_slice(b"]}");
    text
}

/// `resourceVersion` of a list: any past version is served by the present state, unless exactly it is asked for.
fn check_version(call: &Call, now: u64) -> Result<(), Status> {
    let asked = call.query.number("resourceVersion")?.unwrap_or(0);
    match call.query.get("resourceVersionMatch") {
        Some("Exact") if asked != now => Err(Status::expired(asked, now)),
        None | Some("Exact" | "NotOlderThan") if asked <= now => Ok(()),
        None | Some("Exact" | "NotOlderThan") => Err(Status::timeout(format!(
            "Too large resource version: {asked}, current: {now}"
        ))),
        Some(other) => Err(Status::bad_request(format!(
            "resourceVersionMatch: Unsupported value: {other:?}"
        ))),
    }
}

fn position(object: &Object) -> (&str, &str) {
    let text = |field: &str| object.value["metadata"][field].as_str().unwrap_or_default();
    (text("namespace"), text("name"))
}

/// Where the next page of a list starts.
struct Continue {
    version: u64,
    namespace: String,
    name: String,
}

impl Continue {
    fn after(last: &Object, version: u64) -> Self {
        let (namespace, name) = position(last);
        Self {
            version,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!([self.version, self.namespace, self.name]).to_string())
    }

    fn decode(token: &str) -> Result<Self, Status> {
        let wrong = || Status::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| wrong())?;
        let (version, namespace, name) = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
        Ok(Self {
            version,
            namespace,
            name,
        })
    }
}
