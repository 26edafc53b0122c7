//! Watches that never end: list, watch, and when the connection breaks, again.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use kube::api::DynamicObject;
use kube::core::{ApiResource, PartialObjectMeta};
use kube::runtime::watcher::{self, Event};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};
use weft_model::{Change, ObjectKey};

use crate::client::Client;
use crate::convert::{self, Malformed, Meta};
use crate::error::describe;
use crate::{ip_pool, node_addresses};

/// How many changes may wait for a slow consumer before the watches wait too.
const QUEUE: usize = 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How many objects are listed at once. Decoded they take several times the memory of what is kept of them, which lies
/// in between: a small page leaves small gaps.
const PAGE: u32 = 50;
/// How often a kind that the server does not serve is asked for, in the end.
const ABSENT_PAUSE: Duration = Duration::from_secs(60);
/// How long a watch that was broken may be silent before the server is asked whether it is there.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The server ends a watch after this many seconds; a connection that has silently died is noticed soon after.
const WATCH_SECONDS: u32 = 120;

/// What can be watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every Service.
    Services,
    /// Every EndpointSlice.
    EndpointSlices,
    /// Every Node.
    Nodes,
    /// Every Pod.
    Pods,
    /// The Pods that are bound to the node of this name, by their metadata alone.
    PodMetaOf(String),
    /// Every Namespace, by its metadata alone.
    Namespaces,
    /// Every ServiceCIDR.
    ServiceCidrs,
    /// Every IPPool.
    Pools,
    /// The NodeAddresses of every node.
    NodeAddresses,
}

impl Kind {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Kind::Services => "Service",
            Kind::EndpointSlices => "EndpointSlice",
            Kind::Nodes => "Node",
            Kind::Pods | Kind::PodMetaOf(_) => "Pod",
            Kind::Namespaces => "Namespace",
            Kind::ServiceCidrs => "ServiceCIDR",
            Kind::Pools => "IPPool",
            Kind::NodeAddresses => "NodeAddresses",
        }
    }

    pub(crate) fn resource(&self) -> ApiResource {
        match self {
            Kind::Services => ApiResource::erase::<core::Service>(&()),
            Kind::EndpointSlices => ApiResource::erase::<discovery::EndpointSlice>(&()),
            Kind::Nodes => ApiResource::erase::<core::Node>(&()),
            Kind::Pods | Kind::PodMetaOf(_) => ApiResource::erase::<core::Pod>(&()),
            Kind::Namespaces => ApiResource::erase::<core::Namespace>(&()),
            Kind::ServiceCidrs => ApiResource::erase::<networking::ServiceCIDR>(&()),
            Kind::Pools => ip_pool::resource(),
            Kind::NodeAddresses => node_addresses::resource(),
        }
    }

    /// True for kinds that a cluster works without: where they are not served, there are none.
    pub(crate) fn may_be_absent(&self) -> bool {
        matches!(self, Kind::Pools | Kind::NodeAddresses | Kind::ServiceCidrs)
    }

    fn config(&self) -> watcher::Config {
        let config = watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE);
        match self {
            Kind::PodMetaOf(node) => config.fields(&format!("spec.nodeName={node}")),
            _ => config,
        }
    }

    /// Where only metadata is wanted, no more is sent.
    fn events(&self, kube: kube::Client) -> BoxStream<'static, watcher::Result<Event<DynamicObject>>> {
        let (resource, config) = (self.resource(), self.config());
        match self {
            Kind::PodMetaOf(_) | Kind::Namespaces => {
                let api = kube::Api::<PartialObjectMeta<DynamicObject>>::all_with(kube, &resource);
                watcher::watcher(api, config).map_ok(without_body).boxed()
            }
            _ => {
                let api = kube::Api::<DynamicObject>::all_with(kube, &resource);
                watcher::watcher(api, config).boxed()
            }
        }
    }

    /// `None` is an object that concerns nobody.
    pub(crate) fn convert(
        &self,
        meta: &Meta<'_>,
        body: &serde_json::Value,
    ) -> Result<Option<Change>, crate::field::BadField> {
        Ok(match self {
            Kind::Services => convert::service(meta, body)?.map(Change::Service),
            Kind::EndpointSlices => convert::endpoint_slice(meta, body)?.map(Change::EndpointSlice),
            Kind::Nodes => convert::node(meta, body)?.map(Change::Node),
            Kind::Pods => convert::pod(meta, body)?.map(Change::Pod),
            Kind::PodMetaOf(_) => Some(Change::PodMeta(convert::pod_meta(meta))),
            Kind::Namespaces => Some(Change::Namespace(convert::namespace(meta))),
            Kind::ServiceCidrs => Some(Change::ServiceCidr(convert::service_cidr(meta, body)?)),
            Kind::Pools => Some(Change::Pool(Box::new(ip_pool::from_object(meta.object, body)?))),
            Kind::NodeAddresses => Some(Change::NodeAddresses(node_addresses::from_object(meta.object, body)?)),
        })
    }

    fn gone(&self, key: ObjectKey) -> Change {
        match self {
            Kind::Services => Change::ServiceGone(key),
            Kind::EndpointSlices => Change::EndpointSliceGone(key),
            Kind::Nodes => Change::NodeGone(key.name),
            Kind::Pods => Change::PodGone(key),
            Kind::PodMetaOf(_) => Change::PodMetaGone(key),
            Kind::Namespaces => Change::NamespaceGone(key.name),
            Kind::ServiceCidrs => Change::ServiceCidrGone(key.name),
            Kind::Pools => Change::PoolGone(key.name),
            Kind::NodeAddresses => Change::NodeAddressesGone(key.name),
        }
    }
}

/// Watches these kinds for as long as the receiver lives.
///
/// Every object comes as a change, then `Synced` once each kind has been listed; later lists, as after a lost
/// connection, come as what changed meanwhile, removals included. A malformed object is logged and skipped: its
/// last good version stays in force.
pub fn watch(client: &Client, kinds: &[Kind]) -> mpsc::Receiver<Change> {
    let (changes, receiver) = mpsc::channel(QUEUE);
    let unlisted = Arc::new(AtomicUsize::new(kinds.len()));
    for kind in kinds {
        let follower = Follower {
            kind: kind.clone(),
            client: client.clone(),
            changes: changes.clone(),
            unlisted: Some(unlisted.clone()),
            known: HashSet::new(),
            seen: HashSet::new(),
        };
        tokio::spawn(follower.run());
    }
    receiver
}

/// Nobody listens any more.
struct Closed;

/// Follows one kind.
struct Follower {
    kind: Kind,
    client: Client,
    changes: mpsc::Sender<Change>,
    /// How many kinds have not been listed; empty once this one has.
    unlisted: Option<Arc<AtomicUsize>>,
    /// Objects that the consumer knows of.
    known: HashSet<ObjectKey>,
    /// Objects of the list in progress.
    seen: HashSet<ObjectKey>,
}

impl Follower {
    async fn run(mut self) {
        let mut clients = self.client.watching.subscribe();
        let mut events = self.kind.events(clients.borrow_and_update().clone());
        let mut pause = FIRST_PAUSE;
        let mut broken = false;
        loop {
            // A watch that is back says nothing until something happens, so the server is asked instead.
            let patience = if broken { LOOK_AGAIN } else { Duration::MAX };
            let next = tokio::select! {
                next = tokio::time::timeout(patience, events.next()) => next,
                Ok(()) = clients.changed() => {
                    events = self.kind.events(clients.borrow_and_update().clone());
                    continue;
                }
            };
            let done = match next {
                Err(_) => {
                    if self.client.answers().await {
                        (broken, pause) = (false, FIRST_PAUSE);
                        self.heard();
                    }
                    Ok(())
                }
                Ok(None) => return,
                Ok(Some(Ok(event))) => {
                    // The start of a list is only the intention to ask.
                    if !matches!(event, Event::Init) {
                        (broken, pause) = (false, FIRST_PAUSE);
                        self.heard();
                    }
                    self.handle(event).await
                }
                Ok(Some(Err(error))) if self.kind.may_be_absent() && is_absent(&error) => {
                    debug!(kind = self.kind.name(), "not served here: there are none");
                    let none = self.handle(Event::InitDone).await;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(ABSENT_PAUSE);
                    none
                }
                Ok(Some(Err(error))) => {
                    broken = true;
                    self.broke(&error);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.changes.closed() => return,
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    Ok(())
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    fn heard(&self) {
        if self.client.health.heard(self.kind.name()) {
            info!(
                kind = self.kind.name(),
                server = self.client.server,
                "the API server is back"
            );
        }
    }

    fn broke(&self, error: &watcher::Error) {
        let why = match error {
            watcher::Error::InitialListFailed(error) => format!("list failed: {}", describe(error)),
            watcher::Error::WatchStartFailed(error) => format!("watch failed: {}", describe(error)),
            watcher::Error::WatchFailed(error) => format!("watch broke: {}", describe(error)),
            watcher::Error::WatchError(status) if status.code == 410 => {
                debug!(kind = self.kind.name(), "too far behind to resume; listing again");
                return;
            }
            watcher::Error::WatchError(status) => format!("watch ended: {} ({})", status.message, status.code),
            watcher::Error::NoResourceVersion => "the server sent no resource version".to_owned(),
        };
        if self.client.health.broke(self.kind.name(), &why) {
            warn!(
                kind = self.kind.name(),
                server = self.client.server,
                "{why}; trying again, what is known stays"
            );
        }
    }

    async fn handle(&mut self, event: Event<DynamicObject>) -> Result<(), Closed> {
        match event {
            Event::Init => self.seen.clear(),
            Event::InitApply(object) => {
                self.seen.insert(key_of(&object));
                self.apply(object).await?;
            }
            Event::InitDone => {
                let seen = std::mem::take(&mut self.seen);
                let gone: Vec<_> = self.known.iter().filter(|key| !seen.contains(key)).cloned().collect();
                for key in gone {
                    self.forget(key).await?;
                }
                let unlisted = self.unlisted.take();
                if unlisted.is_some_and(|count| count.fetch_sub(1, Ordering::AcqRel) == 1) {
                    self.send(Change::Synced).await?;
                }
            }
            Event::Apply(object) => self.apply(object).await?,
            Event::Delete(object) => {
                let key = key_of(&object);
                self.client.health.well_formed(&self.describe(&key));
                if self.known.contains(&key) {
                    self.forget(key).await?;
                }
            }
        }
        Ok(())
    }

    async fn apply(&mut self, object: DynamicObject) -> Result<(), Closed> {
        let key = key_of(&object);
        let name = self.describe(&key);
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        let meta = Meta {
            key: key.clone(),
            uid,
            labels: object.metadata.labels.as_ref(),
            annotations: object.metadata.annotations.as_ref(),
            object: &object.metadata,
        };
        match self.kind.convert(&meta, &object.data) {
            Ok(change) => {
                self.client.health.well_formed(&name);
                match change {
                    Some(change) => {
                        self.known.insert(key);
                        self.send(change).await
                    }
                    None if self.known.contains(&key) => self.forget(key).await,
                    None => Ok(()),
                }
            }
            Err(bad) => {
                let kept = if self.known.contains(&key) {
                    "its last good version stays in force"
                } else {
                    "skipped"
                };
                let malformed = Malformed::new(&name, bad).to_string();
                if self.client.health.malformed(&name, malformed.clone()) {
                    warn!("{malformed}; {kept}; correct the object");
                }
                Ok(())
            }
        }
    }

    async fn forget(&mut self, key: ObjectKey) -> Result<(), Closed> {
        self.known.remove(&key);
        self.send(self.kind.gone(key)).await
    }

    async fn send(&self, change: Change) -> Result<(), Closed> {
        self.changes.send(change).await.map_err(|_| Closed)
    }

    fn describe(&self, key: &ObjectKey) -> String {
        match key.namespace.is_empty() {
            true => format!("{} {}", self.kind.name(), key.name),
            false => format!("{} {key}", self.kind.name()),
        }
    }
}

/// The server does not know the kind.
fn is_absent(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

/// An event about an object of which only the metadata was sent.
fn without_body(event: Event<PartialObjectMeta<DynamicObject>>) -> Event<DynamicObject> {
    let object = |object: PartialObjectMeta<DynamicObject>| DynamicObject {
        types: object.types,
        metadata: object.metadata,
        data: serde_json::Value::Null,
    };
    match event {
        Event::Init => Event::Init,
        Event::InitApply(found) => Event::InitApply(object(found)),
        Event::InitDone => Event::InitDone,
        Event::Apply(found) => Event::Apply(object(found)),
        Event::Delete(found) => Event::Delete(object(found)),
    }
}

/// Cluster-scoped objects have an empty namespace here.
fn key_of(object: &DynamicObject) -> ObjectKey {
    let metadata = &object.metadata;
    ObjectKey::new(
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}
