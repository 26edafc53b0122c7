//! List, then watch, forever: a stream of what is, that survives restarts of the API server and misses nothing.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Client, Error, ListOptions, Res, WatchEvent, meta};

/// What an informer says.
#[derive(Clone, Debug)]
pub enum Event {
    /// The object is now so.
    Applied(Value),
    /// The object has gone; its last known state.
    Deleted(Value),
    /// The first list has been delivered whole.
    Synced,
}

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

impl Client {
    /// Follows a kind until the receiver is dropped. Costs one request at first, then one event per change;
    /// after an interruption it continues where it stopped, or lists again where the server has forgotten.
    pub fn informer(&self, res: Res, namespace: &str, options: ListOptions) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel(256);
        let informer = Informer {
            client: self.clone(),
            res,
            namespace: namespace.to_owned(),
            options,
            sender,
            known: HashMap::new(),
        };
        tokio::spawn(informer.run());
        receiver
    }
}

struct Informer {
    client: Client,
    res: Res,
    namespace: String,
    options: ListOptions,
    sender: mpsc::Sender<Event>,
    /// Resource version and object by namespace and name: what the receiver believes.
    known: HashMap<(String, String), Value>,
}

/// The receiver has been dropped: nobody listens any more.
struct Unheard;

impl Informer {
    async fn run(mut self) {
        let mut version = None;
        let mut synced = false;
        let mut backoff = FIRST_BACKOFF;
        loop {
            let step = match &version {
                None => self.list().await,
                Some(from) => self.follow(&String::from(from)).await,
            };
            match step {
                Err(Unheard) => return,
                Ok(Ok(reached)) => {
                    backoff = FIRST_BACKOFF;
                    version = Some(reached);
                    if !synced {
                        synced = true;
                        if self.sender.send(Event::Synced).await.is_err() {
                            return;
                        }
                    }
                }
                Ok(Err(error)) => {
                    if error.is_gone() {
                        version = None;
                    }
                    tracing::debug!(resource = self.res.plural(), %error, "watch interrupted");
                    tokio::select! {
                        () = tokio::time::sleep(backoff) => {}
                        () = self.sender.closed() => return,
                    }
                    backoff = (backoff * 2).min(LONGEST_BACKOFF);
                }
            }
        }
    }

    async fn list(&mut self) -> Result<Result<String, Error>, Unheard> {
        let list = match self.client.list(&self.res, &self.namespace, &self.options).await {
            Ok(list) => list,
            Err(error) => return Ok(Err(error)),
        };
        let mut gone = std::mem::take(&mut self.known);
        for item in list.items {
            if let Some(before) = gone.remove(&key(&item))
                && meta(&before, "resourceVersion") == meta(&item, "resourceVersion")
            {
                self.known.insert(key(&item), item);
                continue;
            }
            self.apply(item).await?;
        }
        for object in gone.into_values() {
            self.send(Event::Deleted(object)).await?;
        }
        Ok(Ok(list.resource_version))
    }

    /// Follows one watch until it ends; the resource version it reached.
    async fn follow(&mut self, from: &str) -> Result<Result<String, Error>, Unheard> {
        let mut version = from.to_owned();
        let mut events = match self.client.watch(&self.res, &self.namespace, &self.options, from).await {
            Ok(events) => events,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = self.sender.closed() => return Err(Unheard),
            };
            let object = match event {
                None => return Ok(Ok(version)),
                // A broken connection: what has been reached counts, the next watch continues there.
                Some(Err(error)) if !error.is_gone() && version != from => {
                    tracing::debug!(resource = self.res.plural(), %error, "watch broke off");
                    return Ok(Ok(version));
                }
                Some(Err(error)) => return Ok(Err(error)),
                Some(Ok(event)) => event,
            };
            match object {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    meta(&object, "resourceVersion").clone_into(&mut version);
                    self.apply(object).await?;
                }
                WatchEvent::Deleted(object) => {
                    meta(&object, "resourceVersion").clone_into(&mut version);
                    self.known.remove(&key(&object));
                    self.send(Event::Deleted(object)).await?;
                }
                WatchEvent::Bookmark(object) | WatchEvent::Error(object) => {
                    meta(&object, "resourceVersion").clone_into(&mut version);
                }
            }
        }
    }

    async fn apply(&mut self, object: Value) -> Result<(), Unheard> {
        self.known.insert(key(&object), object.clone());
        self.send(Event::Applied(object)).await
    }

    async fn send(&self, event: Event) -> Result<(), Unheard> {
        self.sender.send(event).await.map_err(|_| Unheard)
    }
}

fn key(object: &Value) -> (String, String) {
    (meta(object, "namespace").to_owned(), meta(object, "name").to_owned())
}
