//! The objects: an in-memory index over an embedded database, with one resource version and a history for watches.
//!
//! Writers take turns. A write is in the database before it is in the index, and in the history at the same moment
//! as in the index, so what a reader has seen survives a kill of the process and is never missed by a watch.

mod disk;
mod history;
mod index;
#[cfg(test)]
mod tests;
mod txn;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use disk::Disk;
pub use disk::DiskError;
pub use history::{Change, Expired, Follower, History};
pub use index::{Index, Key, Object, View};
pub use txn::Txn;

use super::status::Status;

/// A resource in storage: its storage group and plural.
pub type ResourceKey = (String, String);

/// All objects of the cluster.
#[derive(Debug)]
pub struct Store {
    disk: Mutex<Disk>,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    index: Index,
    version: u64,
    histories: HashMap<ResourceKey, Arc<History>>,
    /// Of each resource, the version of its last change before this process started.
    inherited: HashMap<ResourceKey, u64>,
}

/// A consistent look at everything; writers wait while it lives.
pub struct Snapshot<'a>(RwLockReadGuard<'a, State>);

impl Snapshot<'_> {
    /// The objects.
    pub fn index(&self) -> &Index {
        &self.0.index
    }

    /// The resource version of the last write.
    pub fn version(&self) -> u64 {
        self.0.version
    }
}

impl Store {
    /// Opens the database at `path`, made if absent, and reads everything in it.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let disk = Disk::open(path)?;
        let mut index = Index::default();
        for (key, object) in disk.objects()? {
            index.insert(key, Arc::new(object));
        }
        let inherited = disk.last_changes()?;
        let version = inherited.values().copied().max().unwrap_or(0);
        let state = State {
            index,
            version,
            histories: HashMap::new(),
            inherited,
        };
        Ok(Self {
            disk: Mutex::new(disk),
            state: RwLock::new(state),
        })
    }

    /// A consistent look at everything. Keep it short.
    pub fn read(&self) -> Snapshot<'_> {
        Snapshot(self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.read().index().get(key).cloned()
    }

    /// The history of a resource, for watches.
    pub fn history(&self, resource: &ResourceKey) -> Arc<History> {
        if let Some(history) = self.read().0.histories.get(resource) {
            return history.clone();
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.history(resource)
    }

    /// Runs `work` alone among writers, and makes what it has put into the transaction permanent if it succeeds.
    pub fn write<T>(&self, dry_run: bool, work: impl FnOnce(&mut Txn<'_>) -> Result<T, Status>) -> Result<T, Status> {
        let disk: MutexGuard<'_, Disk> = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let (result, changes) = {
            let snapshot = self.read();
            let mut txn = Txn::new(snapshot.index(), snapshot.version());
            let result = work(&mut txn)?;
            (result, txn.into_changes())
        };
        if dry_run || changes.is_empty() {
            return Ok(result);
        }
        disk.commit(&changes)
            .map_err(|error| Status::internal(error.to_string()))?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for (key, change) in changes {
            let history = state.history(&(key.group.clone(), key.plural.clone()));
            state.version = change.object.version;
            if change.deleted {
                state.index.remove(&key);
            } else {
                state.index.insert(key, change.object.clone());
            }
            history.push(change);
        }
        Ok(result)
    }
}

impl State {
    fn history(&mut self, resource: &ResourceKey) -> Arc<History> {
        let inherited = self.inherited.get(resource).copied().unwrap_or(0);
        self.histories
            .entry(resource.clone())
            .or_insert_with(|| Arc::new(History::new(inherited)))
            .clone()
    }
}
