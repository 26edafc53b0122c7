//! What the controllers know: one mirror per resource, fed by one informer, shared by every controller that asks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use super::index;
use super::object::{Key, version};
use crate::client::{Client, Event, ListOptions, Res};

/// A shared, immutable version of an object.
pub(crate) type Object = Arc<Value>;

/// An object before and after a change. At least one side is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    pub(crate) old: Option<&'a Object>,
    pub(crate) new: Option<&'a Object>,
}

impl<'a> Change<'a> {
    /// The object as it is, or as it last was.
    pub(crate) fn object(&self) -> Option<&'a Object> {
        self.new.or(self.old)
    }

    /// Both sides that are there.
    pub(crate) fn sides(&self) -> impl Iterator<Item = &'a Object> + use<'a> {
        self.old.into_iter().chain(self.new)
    }
}

type Subscriber = Arc<dyn Fn(Change<'_>) + Send + Sync>;

/// The mirrors, by resource; each starts when first asked for.
#[derive(Clone)]
pub(crate) struct Caches {
    client: Client,
    all: Arc<Mutex<HashMap<Res, Arc<Cache>>>>,
}

impl Caches {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            all: Arc::default(),
        }
    }

    /// The mirror of a resource.
    pub(crate) fn of(&self, res: &Res) -> Arc<Cache> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cache) = all.get(res) {
            return cache.clone();
        }
        let cache = Arc::new(Cache::new(res));
        all.insert(res.clone(), cache.clone());
        tokio::spawn(feed(cache.clone(), self.client.clone(), res.clone()));
        cache
    }

    /// The mirror of a resource, if anybody has asked for it.
    pub(crate) fn existing(&self, res: &Res) -> Option<Arc<Cache>> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(res).cloned()
    }

    /// Stops mirroring a resource, for one that is no longer served.
    pub(crate) fn forget(&self, res: &Res) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cache) = all.remove(res) {
            cache.stopped.send_replace(true);
        }
    }
}

async fn feed(cache: Arc<Cache>, client: Client, res: Res) {
    let mut events = client.informer(res, "", ListOptions::default());
    let mut stopped = cache.stopped.subscribe();
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = stopped.wait_for(|stopped| *stopped) => None,
        };
        match event {
            None => return,
            Some(Event::Synced) => drop(cache.synced.send_replace(true)),
            Some(Event::Applied(object)) => cache.apply(Arc::new(object)),
            Some(Event::Deleted(object)) => cache.remove(&object),
        }
    }
}

/// The mirror of one resource.
pub(crate) struct Cache {
    index_by: index::Rule,
    state: RwLock<State>,
    /// Held while a change is made and told, so that every subscriber hears all changes in their order.
    telling: Mutex<()>,
    /// Counts changes, so that somebody can wait for one.
    moved: watch::Sender<u64>,
    synced: watch::Sender<bool>,
    stopped: watch::Sender<bool>,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Object>,
    index: HashMap<String, BTreeSet<Key>>,
    version: u64,
    subscribers: Vec<Subscriber>,
}

impl Cache {
    fn new(res: &Res) -> Self {
        Self {
            index_by: index::rule(res),
            state: RwLock::default(),
            telling: Mutex::default(),
            moved: watch::Sender::new(0),
            synced: watch::Sender::new(false),
            stopped: watch::Sender::new(false),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn telling(&self) -> MutexGuard<'_, ()> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `f` at every change from now on, and once for each object that is there. `f` may read caches but must
    /// neither wait nor subscribe.
    pub(crate) fn subscribe(&self, f: impl Fn(Change<'_>) + Send + Sync + 'static) {
        let _telling = self.telling();
        let f: Subscriber = Arc::new(f);
        let present: Vec<Object> = {
            let mut state = self.write();
            state.subscribers.push(f.clone());
            state.objects.values().cloned().collect()
        };
        for object in &present {
            f(Change {
                old: None,
                new: Some(object),
            });
        }
    }

    /// Waits until the first list is in.
    pub(crate) async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as `self`, so this cannot fail.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Object> {
        self.read().objects.get(key).cloned()
    }

    /// Every object.
    pub(crate) fn all(&self) -> Vec<Object> {
        self.read().objects.values().cloned().collect()
    }

    /// The objects of one namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Object> {
        let state = self.read();
        let range = state.objects.range(Key::new(namespace, "")..);
        range
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// The objects under an entry of the index (see `index`).
    pub(crate) fn indexed(&self, entry: &str) -> Vec<Object> {
        let state = self.read();
        let keys = state.index.get(entry).into_iter().flatten();
        keys.filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// Waits until `done` says so, for at most a second: after that whoever waits goes on with what is known.
    async fn wait(&self, done: impl Fn(&State) -> bool) {
        let mut moved = self.moved.subscribe();
        let wait = async {
            while !done(&self.read()) {
                if moved.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(Duration::from_secs(1), wait).await.is_err() {
            tracing::debug!("a write has not come back on the watch after a second");
        }
    }

    /// Waits until a write that ended in this resource version has come back on the watch.
    pub(crate) async fn reached(&self, written: u64) {
        self.wait(|state| state.version >= written).await;
    }

    /// Waits until an object that was deleted is known to be gone or going.
    pub(crate) async fn going(&self, object: &Value) {
        let (key, before) = (Key::of(object), version(object));
        self.wait(|state| state.objects.get(&key).is_none_or(|now| version(now) != before))
            .await;
    }

    fn apply(&self, object: Object) {
        let _telling = self.telling();
        let key = Key::of(&object);
        let (old, subscribers) = {
            let mut state = self.write();
            state.version = state.version.max(version(&object));
            let old = state.objects.insert(key.clone(), object.clone());
            if let Some(old) = &old {
                state.unindex((self.index_by)(old), &key);
            }
            for entry in (self.index_by)(&object) {
                state.index.entry(entry).or_default().insert(key.clone());
            }
            (old, state.subscribers.clone())
        };
        self.announce(old.as_ref(), Some(&object), &subscribers);
    }

    fn remove(&self, last: &Value) {
        let _telling = self.telling();
        let key = Key::of(last);
        let (old, subscribers) = {
            let mut state = self.write();
            state.version = state.version.max(version(last));
            let old = state.objects.remove(&key);
            if let Some(old) = &old {
                state.unindex((self.index_by)(old), &key);
            }
            (old, state.subscribers.clone())
        };
        if old.is_some() {
            self.announce(old.as_ref(), None, &subscribers);
        }
    }

    fn announce(&self, old: Option<&Object>, new: Option<&Object>, subscribers: &[Subscriber]) {
        for subscriber in subscribers {
            subscriber(Change { old, new });
        }
        self.moved.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl State {
    fn unindex(&mut self, entries: Vec<String>, key: &Key) {
        for entry in entries {
            if let Some(keys) = self.index.get_mut(&entry) {
                keys.remove(key);
                if keys.is_empty() {
                    self.index.remove(&entry);
                }
            }
        }
    }
}
