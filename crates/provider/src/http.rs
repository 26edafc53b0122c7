//! A provider that is asked over HTTP, and how it is asked.
//!
//! All requests are `POST` with a JSON body, below the URL of `spec.provider.http.url`:
//!
//! ```text
//! POST {url}/assign   {"pool": "cloud", "node": "node-1", "blocks": {"ipv4": 9, "ipv6": 0}}
//!              200    {"cidrs": ["10.0.3.7/32", …]}                  all that node-1 has now: 9, or as many as there are
//! POST {url}/release  {"pool": "cloud", "node": "node-1", "cidrs": ["10.0.3.7/32"]}
//!              200    {}                                             also where it was not assigned
//! POST {url}/list     {"pool": "cloud"}
//!              200    {"assignments": [{"node": "node-1", "cidrs": ["10.0.3.7/32"]}]}
//! ```
//!
//! `cidrs` are blocks of exactly the pool's `spec.blockSize` inside of its `spec.cidrs`. Any other status means no;
//! `{"message": "…"}` in its body is passed on to the pool's and the node's status. `429` (and `503`) may carry
//! `Retry-After` in seconds. An answer that takes longer than four seconds counts as none: a provider that needs
//! longer answers with what the node has already, and with the rest when it is asked again.

use std::time::Duration;

use ::http::{Request, StatusCode, Uri, header};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use weft_model::ipam::spec::Count;

use crate::{Assignment, Provider, ProviderError};

/// How long an answer may take: less than what lies between two leaders among the controllers, so that nothing that
/// one asked for is done after the next began to ask.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long it is left alone where it does not say how long.
const PAUSE: u64 = 5;
/// The longest that it may ask to be left alone.
const LONGEST_PAUSE: u64 = 300;
/// The most that it may say.
const LARGEST: usize = 16 << 20;

/// A provider that is asked over HTTP.
#[derive(Clone, Debug)]
pub struct Http {
    url: String,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

#[derive(Deserialize)]
struct Assigned {
    cidrs: Vec<IpNet>,
}

#[derive(Deserialize)]
struct Listed {
    assignments: Vec<ListedNode>,
}

#[derive(Deserialize)]
struct ListedNode {
    node: String,
    cidrs: Vec<IpNet>,
}

impl Http {
    /// A provider at this URL. Nothing is sent yet.
    pub fn new(url: &str) -> Result<Self, ProviderError> {
        let url = url.trim_end_matches('/').to_owned();
        let bad = |why: String| ProviderError::Url { url: url.clone(), why };
        url.parse::<Uri>().map_err(|error| bad(error.to_string()))?;
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(|error| bad(format!("this machine's certificates cannot be read: {error}")))?
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { url, client })
    }

    async fn ask<T: for<'de> Deserialize<'de>>(&self, what: &str, body: Value) -> Result<T, ProviderError> {
        match tokio::time::timeout(PATIENCE, self.post(what, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(ProviderError::Slow {
                url: self.url.clone(),
                seconds: PATIENCE.as_secs(),
            }),
        }
    }

    async fn post<T: for<'de> Deserialize<'de>>(&self, what: &str, body: Value) -> Result<T, ProviderError> {
        let url = || self.url.clone();
        let request = Request::post(format!("{}/{what}", self.url))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| ProviderError::Url {
                url: url(),
                why: error.to_string(),
            })?;
        let unreachable = |why: String| ProviderError::Unreachable { url: url(), why };
        let answer = self
            .client
            .request(request)
            .await
            .map_err(|error| unreachable(innermost(&error)))?;
        let status = answer.status();
        let after = answer
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| unreachable(error.to_string()))?.to_bytes();
        match status {
            StatusCode::OK => serde_json::from_slice(&body).map_err(|error| ProviderError::Garbled {
                url: url(),
                why: format!("{what}: {error}"),
            }),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
                if after.is_some() || status == StatusCode::TOO_MANY_REQUESTS =>
            {
                let seconds = after.unwrap_or(PAUSE).clamp(1, LONGEST_PAUSE);
                Err(ProviderError::Limited { url: url(), seconds })
            }
            _ => Err(ProviderError::Refused {
                url: url(),
                status: status.as_u16(),
                message: message(&body),
            }),
        }
    }
}

impl Provider for Http {
    fn assign(&self, pool: &str, node: &str, blocks: Count) -> BoxFuture<'_, Result<Vec<IpNet>, ProviderError>> {
        let body = json!({"pool": pool, "node": node, "blocks": blocks});
        async move { Ok(self.ask::<Assigned>("assign", body).await?.cidrs) }.boxed()
    }

    fn release(&self, pool: &str, node: &str, cidrs: &[IpNet]) -> BoxFuture<'_, Result<(), ProviderError>> {
        let body = json!({"pool": pool, "node": node, "cidrs": cidrs});
        async move { self.ask::<Released>("release", body).await.map(|_| ()) }.boxed()
    }

    fn list(&self, pool: &str) -> BoxFuture<'_, Result<Vec<Assignment>, ProviderError>> {
        let body = json!({ "pool": pool });
        let plain = |listed: ListedNode| Assignment {
            node: listed.node,
            cidrs: listed.cidrs,
        };
        async move {
            Ok(self
                .ask::<Listed>("list", body)
                .await?
                .assignments
                .into_iter()
                .map(plain)
                .collect())
        }
        .boxed()
    }
}

/// An object, whatever is in it.
#[derive(Serialize, Deserialize)]
struct Released {}

/// What a refusal says, in so many words.
fn message(body: &[u8]) -> String {
    let said: Option<Value> = serde_json::from_slice(body).ok();
    let said = said.and_then(|said| said.get("message")?.as_str().map(str::to_owned));
    let text = said.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    match text.is_empty() {
        true => "it does not say why; see its log".into(),
        false => text.chars().take(300).collect(),
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
