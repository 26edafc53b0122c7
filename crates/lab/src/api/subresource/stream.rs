//! `log`, `exec`, `attach` and `portforward`: handed to the kubelet of the Pod's node as they are. What the two
//! ends switch to (WebSocket or SPDY) is theirs; here bytes are passed on.

use std::path::Path;

use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::super::ApiServer;
use super::super::call::Call;
use super::super::status::Status;
use crate::client::{Body, BoxError};

/// Names the container that is meant if the client names none.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

impl ApiServer {
    /// Hands a request about a Pod to the kubelet.
    pub(super) async fn stream(&self, call: &Call, request: Request<Body>) -> Result<Response<Body>, Status> {
        let name = call.target.name()?;
        let resource = &call.target.resource;
        let pod = self
            .store
            .get(&call.target.key(name))
            .ok_or_else(|| Status::not_found(resource, name))?;
        let Some(node) = pod.value["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else {
            return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
        };
        let namespace = call.target.namespace.as_deref().unwrap_or_default();
        let path = match call.target.subresource.as_str() {
            "portforward" => format!("/portForward/{namespace}/{name}"),
            verb => {
                let container = container(&pod.value, call.query.get("container"))?;
                let verb = if verb == "log" { "containerLogs" } else { verb };
                format!("/{verb}/{namespace}/{name}/{container}")
            }
        };
        self.to_kubelet(node, &path, request).await
    }

    /// Hands a request to a node's kubelet.
    pub(super) async fn node_proxy(&self, call: &Call, request: Request<Body>) -> Result<Response<Body>, Status> {
        let name = call.target.name()?;
        let known = self.store.get(&call.target.key(name));
        known.ok_or_else(|| Status::not_found(&call.target.resource, name))?;
        self.to_kubelet(name, &format!("/{}", call.target.rest), request).await
    }

    async fn to_kubelet(&self, node: &str, path: &str, request: Request<Body>) -> Result<Response<Body>, Status> {
        let query = request
            .uri()
            .query()
            .map(|query| format!("?{query}"))
            .unwrap_or_default();
        let target: PathAndQuery = format!("{path}{query}")
            .parse()
            .map_err(|_| Status::bad_request(format!("{path} is not a valid path")))?;
        let socket = self.config.lab_dir.join("nodes").join(node).join("kubelet.sock");
        forward(&socket, target, request).await.map_err(|error| {
            let hint = format!("is the kubelet of {node} running? (weft lab logs kubelet {node})");
            Status::unavailable(format!(
                "error dialing the kubelet at {}: {error}; {hint}",
                socket.display()
            ))
        })
    }
}

/// The container that a request means: the named one, the Pod's default, or the first.
fn container<'a>(pod: &'a Value, asked: Option<&'a str>) -> Result<&'a str, Status> {
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let names = |list: &str| {
        pod["spec"][list]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|c| c["name"].as_str())
    };
    if let Some(asked) = asked {
        let known = lists.iter().any(|list| names(list).any(|name| name == asked));
        let wrong = || Status::bad_request(format!("container {asked} is not valid for pod {pod_name}"));
        return known.then_some(asked).ok_or_else(wrong);
    }
    if let Some(default) = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str() {
        return Ok(default);
    }
    let all: Vec<&str> = names("containers").collect();
    match all.as_slice() {
        [only] => Ok(only),
        _ => Err(Status::bad_request(format!(
            "a container name must be specified for pod {pod_name}, choose one of: [{}]",
            all.join(" ")
        ))),
    }
}

/// Sends a request to a unix socket, and ties the two connections together if both ends switch protocols.
async fn forward(socket: &Path, target: PathAndQuery, mut request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a kubelet ended");
        }
    });
    let client = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let mut onward = Request::new(body);
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = Uri::from(target);
    *onward.headers_mut() = parts.headers;
    onward.headers_mut().remove(header::AUTHORIZATION);
    onward
        .headers_mut()
        .insert(header::HOST, HeaderValue::from_static("kubelet"));
    let mut response = sender.send_request(onward).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let kubelet = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            match tokio::try_join!(client, kubelet) {
                Ok((client, kubelet)) => {
                    let (mut client, mut kubelet) = (TokioIo::new(client), TokioIo::new(kubelet));
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut kubelet).await;
                }
                Err(error) => tracing::debug!(%error, "a stream to a kubelet was not taken over"),
            }
        });
    } else {
        for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
            response.headers_mut().remove(name);
        }
    }
    Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
}
