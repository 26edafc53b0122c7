//! One writer's turn: what it reads cannot change, and what it writes becomes visible all at once.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::{Change, Index, Key, Object, View};

/// A write in progress.
pub struct Txn<'a> {
    index: &'a Index,
    version: u64,
    changes: Vec<(Key, Change)>,
}

impl<'a> Txn<'a> {
    pub(super) fn new(index: &'a Index, version: u64) -> Self {
        Self {
            index,
            version,
            changes: Vec::new(),
        }
    }

    pub(super) fn into_changes(self) -> Vec<(Key, Change)> {
        self.changes
    }

    /// The state before this transaction, for admission.
    pub fn view(&self) -> View<'a> {
        View::new(self.index)
    }

    /// The state before this transaction.
    pub fn index(&self) -> &'a Index {
        self.index
    }

    /// One object as it was before this transaction.
    pub fn get(&self, key: &Key) -> Option<&'a Arc<Object>> {
        self.index.get(key)
    }

    /// Stores `value` under the next resource version; an object that would stay the same keeps its version.
    pub fn put(&mut self, key: Key, mut value: Value) -> Arc<Object> {
        let old = self.index.get(&key).cloned();
        if let Some(old) = &old {
            set_version(&mut value, old.version);
            if old.value == value {
                return old.clone();
            }
        }
        self.change(key, value, old, false)
    }

    /// Removes an object; its last state is given a resource version of its own.
    pub fn remove(&mut self, key: Key) -> Option<Arc<Object>> {
        let old = self.index.get(&key)?.clone();
        let value = old.value.clone();
        Some(self.change(key, value, Some(old), true))
    }

    /// Removes an object whose last state is `value`.
    pub fn remove_as(&mut self, key: Key, value: Value) -> Arc<Object> {
        let old = self.index.get(&key).cloned();
        self.change(key, value, old, true)
    }

    fn change(&mut self, key: Key, mut value: Value, old: Option<Arc<Object>>, deleted: bool) -> Arc<Object> {
        self.version += 1;
        set_version(&mut value, self.version);
        let json = Bytes::from(value.to_string());
        let object = Arc::new(Object {
            value,
            json,
            version: self.version,
        });
        self.changes.push((
            key,
            Change {
                object: object.clone(),
                old,
                deleted,
            },
        ));
        object
    }
}

fn set_version(value: &mut Value, version: u64) {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".to_owned(), Value::String(version.to_string()));
    }
}
