//! The server's rules, through its handler.

mod arbitrary;
mod custom;
mod reads;
mod streams;
mod subresources;
mod writes;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::{ApiServer, Config};
use crate::client::{Handler, full};
use crate::families::Families;

/// A server with nothing in it but what every cluster has.
struct Fixture {
    _dir: tempfile::TempDir,
    server: Arc<ApiServer>,
    handler: Handler,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            database: dir.path().join("api.redb"),
            lab_dir: dir.path().to_owned(),
            advertise: SocketAddr::from((Ipv4Addr::new(10, 89, 0, 1), 6443)),
            families: Families::Dual,
            token_key: b"not much of a secret".to_vec(),
        };
        let server = ApiServer::open(config).unwrap();
        let handler = server.handler();
        Self {
            _dir: dir,
            server,
            handler,
        }
    }

    async fn call(&self, method: Method, path: &str, media_type: &str, body: &Value) -> (StatusCode, Value) {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media_type);
        let response = (self.handler)(request.body(full(text)).unwrap()).await;
        let code = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call(Method::GET, path, "application/json", &Value::Null).await
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.call(Method::POST, path, "application/json", &body).await
    }

    async fn put(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.call(Method::PUT, path, "application/json", &body).await
    }

    async fn delete(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.call(Method::DELETE, path, "application/json", &body).await
    }

    async fn patch(&self, path: &str, kind: &str, body: Value) -> (StatusCode, Value) {
        self.call(Method::PATCH, path, &format!("application/{kind}"), &body)
            .await
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}
