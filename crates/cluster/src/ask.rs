//! Asking about one pod or namespace, for who cannot wait until a watch tells of it.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::core::ObjectMeta;
use weft_model::{Namespace, ObjectKey, PodMeta};

use crate::client::Client;
use crate::convert::{self, Meta};
use crate::error::Error;

/// A pod waits for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pod of this name as the API server knows it now; `None` where it knows none.
pub async fn pod(client: &Client, key: &ObjectKey) -> Result<Option<PodMeta>, Error> {
    let api = Api::<core::Pod>::namespaced(client.kube.clone(), &key.namespace);
    let found = in_time(client, format!("read pod {key}"), api.get_metadata_opt(&key.name)).await?;
    Ok(found.map(|object| convert::pod_meta(&meta(key.clone(), &object.metadata))))
}

/// The namespace of this name as the API server knows it now; `None` where it knows none.
pub async fn namespace(client: &Client, name: &str) -> Result<Option<Namespace>, Error> {
    let api = Api::<core::Namespace>::all(client.kube.clone());
    let found = in_time(client, format!("read namespace {name}"), api.get_metadata_opt(name)).await?;
    Ok(found.map(|object| convert::namespace(&meta(ObjectKey::new("", name), &object.metadata))))
}

async fn in_time<T>(
    client: &Client,
    what: String,
    ask: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(PATIENCE, ask).await {
        Ok(answer) => answer.map_err(|source| client.failed(what, source)),
        Err(_) => Err(Error::Silent {
            what,
            server: client.server.clone(),
            seconds: PATIENCE.as_secs(),
        }),
    }
}

fn meta(key: ObjectKey, metadata: &ObjectMeta) -> Meta<'_> {
    Meta {
        key,
        uid: metadata.uid.as_deref().unwrap_or_default(),
        labels: metadata.labels.as_ref(),
        annotations: metadata.annotations.as_ref(),
        object: metadata,
    }
}
