//! Asking about one object, for who cannot wait until a watch tells of it, or needs to know no more.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use kube::core::ObjectMeta;
use weft_model::{Change, Namespace, ObjectKey, PodMeta};

use crate::client::Client;
use crate::convert::{self, Meta};
use crate::error::Error;
use crate::watch::Kind;

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

/// What a Service's forwarding follows from: itself, its EndpointSlices, the nodes and the ranges of Services. Empty where
/// there is no such Service; what is malformed is left out.
pub async fn service(client: &Client, key: &ObjectKey) -> Result<Vec<Change>, Error> {
    let kinds = [Kind::Services, Kind::ServiceCidrs, Kind::Nodes, Kind::EndpointSlices];
    let mut changes = Vec::new();
    for kind in kinds {
        let found = match kind {
            Kind::Services => {
                let api = Api::<DynamicObject>::namespaced_with(client.kube.clone(), &key.namespace, &kind.resource());
                let found = in_time(client, format!("read Service {key}"), api.get_opt(&key.name)).await?;
                if found.is_none() {
                    return Ok(changes);
                }
                found.into_iter().collect()
            }
            Kind::EndpointSlices => {
                let api = Api::<DynamicObject>::namespaced_with(client.kube.clone(), &key.namespace, &kind.resource());
                let of = ListParams::default().labels(&format!("kubernetes.io/service-name={}", key.name));
                in_time(client, format!("list the EndpointSlices of {key}"), api.list(&of))
                    .await?
                    .items
            }
            _ => {
                let api = Api::<DynamicObject>::all_with(client.kube.clone(), &kind.resource());
                let all = ListParams::default();
                match in_time(client, format!("list every {}", kind.name()), api.list(&all)).await {
                    Err(error) if kind.may_be_absent() && !error.is_unreachable() => vec![],
                    found => found?.items,
                }
            }
        };
        for object in found {
            let namespace = object.metadata.namespace.clone().unwrap_or_default();
            let key = ObjectKey::new(namespace, object.metadata.name.clone().unwrap_or_default());
            if let Ok(Some(change)) = kind.convert(&meta(key, &object.metadata), &object.data) {
                changes.push(change);
            }
        }
    }
    Ok(changes)
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
