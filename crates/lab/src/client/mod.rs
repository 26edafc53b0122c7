//! The one client that controllers, kubelets and checks use to talk to the lab's API server: plain HTTP
//! requests with JSON bodies, carried either by a function call (inside the API process) or by a unix socket.

mod error;
mod informer;
mod resource;
mod transport;
mod watch;

use http::{Method, Request, header};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::{Value, json};

pub use error::Error;
pub use informer::Event;
pub use resource::Res;
pub use transport::{Body, BoxError, Handler, empty, full};
pub use watch::{WatchEvent, WatchStream};

use transport::Transport;

/// What a list or a watch is narrowed to. Empty fields narrow nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// For example `app=web,tier in (a,b)`.
    pub label_selector: String,
    /// For example `spec.nodeName=node-1`.
    pub field_selector: String,
}

impl ListOptions {
    /// Only objects whose field has this value.
    pub fn fields(selector: impl Into<String>) -> Self {
        Self {
            field_selector: selector.into(),
            ..Self::default()
        }
    }

    /// Only objects with these labels.
    pub fn labels(selector: impl Into<String>) -> Self {
        Self {
            label_selector: selector.into(),
            ..Self::default()
        }
    }
}

/// The objects of one kind at one moment.
#[derive(Clone, Debug)]
pub struct List {
    /// The objects, each with apiVersion and kind filled in.
    pub items: Vec<Value>,
    /// Where a watch continues from.
    pub resource_version: String,
}

/// A change to part of an object.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes strategic merge: lists of named things are merged by their key.
    Strategic(Value),
    /// RFC 6902.
    Json(Value),
}

/// Talks to one API server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Transport,
}

impl Client {
    /// A client inside the API server's process: a request is a function call.
    pub fn local(handler: Handler) -> Self {
        Self {
            transport: Transport::Local(handler),
        }
    }

    /// A client over the API server's unix socket.
    pub fn unix(path: impl Into<std::path::PathBuf>) -> Self {
        Self {
            transport: Transport::Unix(path.into().into()),
        }
    }

    /// Reads one object.
    pub async fn get(&self, res: &Res, namespace: &str, name: &str) -> Result<Value, Error> {
        self.call(Method::GET, res.path(namespace, Some(name), None), "", None)
            .await
    }

    /// Reads all objects of a kind; an empty namespace means all namespaces.
    pub async fn list(&self, res: &Res, namespace: &str, options: &ListOptions) -> Result<List, Error> {
        let path = format!("{}?{}", res.path(namespace, None, None), query(options, &[]));
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Meta {
            #[serde(default)]
            resource_version: String,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Raw {
            kind: String,
            api_version: String,
            metadata: Meta,
            items: Option<Vec<Value>>,
        }
        let raw: Raw = decode(self.call(Method::GET, path, "", None).await?)?;
        let kind = raw.kind.trim_end_matches("List");
        let mut items = raw.items.unwrap_or_default();
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.entry("kind").or_insert_with(|| kind.into());
            item.entry("apiVersion")
                .or_insert_with(|| raw.api_version.clone().into());
        }
        Ok(List {
            items,
            resource_version: raw.metadata.resource_version,
        })
    }

    /// Follows the changes of a kind after a resource version.
    pub async fn watch(
        &self,
        res: &Res,
        namespace: &str,
        options: &ListOptions,
        resource_version: &str,
    ) -> Result<WatchStream, Error> {
        let extra = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", resource_version),
        ];
        let path = format!("{}?{}", res.path(namespace, None, None), query(options, &extra));
        let response = self.send(Method::GET, path, "", None).await?;
        Ok(watch::stream(response.into_body()))
    }

    /// Creates an object; the server's version of it comes back.
    pub async fn create(&self, res: &Res, namespace: &str, object: &Value) -> Result<Value, Error> {
        self.call(Method::POST, res.path(namespace, None, None), JSON, Some(object))
            .await
    }

    /// Posts to a subresource, such as `binding` or `eviction`.
    pub async fn create_subresource(
        &self,
        res: &Res,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: &Value,
    ) -> Result<Value, Error> {
        self.call(
            Method::POST,
            res.path(namespace, Some(name), Some(subresource)),
            JSON,
            Some(object),
        )
        .await
    }

    /// Replaces an object (or its subresource); a resourceVersion in it must still be the newest.
    pub async fn update(&self, res: &Res, object: &Value, subresource: Option<&str>) -> Result<Value, Error> {
        let (namespace, name) = (meta(object, "namespace"), meta(object, "name"));
        self.call(
            Method::PUT,
            res.path(namespace, Some(name), subresource),
            JSON,
            Some(object),
        )
        .await
    }

    /// Changes part of an object (or of its subresource).
    pub async fn patch(
        &self,
        res: &Res,
        namespace: &str,
        name: &str,
        subresource: Option<&str>,
        patch: &Patch,
    ) -> Result<Value, Error> {
        let (content_type, body) = match patch {
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::Strategic(body) => ("application/strategic-merge-patch+json", body),
            Patch::Json(body) => ("application/json-patch+json", body),
        };
        self.call(
            Method::PATCH,
            res.path(namespace, Some(name), subresource),
            content_type,
            Some(body),
        )
        .await
    }

    /// Deletes an object; `grace` is in seconds, `None` takes the kind's default. `uid` makes sure it is that very object.
    pub async fn delete(
        &self,
        res: &Res,
        namespace: &str,
        name: &str,
        grace: Option<u64>,
        uid: Option<&str>,
    ) -> Result<(), Error> {
        let mut options = json!({});
        if let Some(grace) = grace {
            options["gracePeriodSeconds"] = grace.into();
        }
        if let Some(uid) = uid {
            options["preconditions"] = json!({ "uid": uid });
        }
        self.delete_with(res, namespace, name, options).await
    }

    /// Deletes that very object once everything that belongs to it has gone.
    pub async fn delete_foreground(&self, res: &Res, namespace: &str, name: &str, uid: &str) -> Result<(), Error> {
        let options = json!({"propagationPolicy": "Foreground", "preconditions": {"uid": uid}});
        self.delete_with(res, namespace, name, options).await
    }

    async fn delete_with(&self, res: &Res, namespace: &str, name: &str, mut options: Value) -> Result<(), Error> {
        options["kind"] = "DeleteOptions".into();
        options["apiVersion"] = "v1".into();
        self.call(
            Method::DELETE,
            res.path(namespace, Some(name), None),
            JSON,
            Some(&options),
        )
        .await
        .map(drop)
    }

    /// Requests any path of the API server, such as `/readyz`; the body comes back as it is.
    pub async fn raw(&self, path: &str) -> Result<bytes::Bytes, Error> {
        let response = self.send(Method::GET, path.to_owned(), "", None).await?;
        let body = response.into_body().collect().await.map_err(Error::Body)?;
        Ok(body.to_bytes())
    }

    async fn call(
        &self,
        method: Method,
        path: String,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<Value, Error> {
        let response = self.send(method, path, content_type, body).await?;
        let bytes = response.into_body().collect().await.map_err(Error::Body)?.to_bytes();
        serde_json::from_slice(&bytes).map_err(Error::Decode)
    }

    async fn send(
        &self,
        method: Method,
        path: String,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<http::Response<Body>, Error> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "lab");
        request = request
            .header(header::ACCEPT, JSON)
            .header(header::USER_AGENT, "weft-lab");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let body = body.map_or_else(empty, |value| full(value.to_string()));
        let response = self.transport.send(request.body(body).map_err(Error::Request)?).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.map_err(Error::Body)?.to_bytes();
        Err(Error::status(code, &bytes))
    }
}

const JSON: &str = "application/json";

/// A string field of an object's metadata; empty where it is absent.
pub fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// Turns an untyped object into a typed one.
pub fn decode<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(Error::Decode)
}

fn query(options: &ListOptions, extra: &[(&str, &str)]) -> String {
    let mut query = Vec::new();
    let selectors = [
        ("labelSelector", &*options.label_selector),
        ("fieldSelector", &*options.field_selector),
    ];
    for (key, value) in selectors.iter().chain(extra).filter(|(_, value)| !value.is_empty()) {
        query.push(format!("{key}={}", percent(value)));
    }
    query.join("&")
}

/// Percent-encodes all but RFC 3986's unreserved characters.
pub(crate) fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests;
