//! Every object in memory, by resource, namespace and name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

/// Where an object lives: its storage group and plural, namespace (empty if cluster-scoped) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The storage group; empty for the core group.
    pub group: String,
    /// Such as `pods`.
    pub plural: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Key {
    /// The key of an object of this storage group and plural.
    pub fn of(group: &str, plural: &str, object: &Value) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        Self {
            group: group.to_owned(),
            plural: plural.to_owned(),
            namespace: text("namespace"),
            name: text("name"),
        }
    }
}

/// One stored version of an object; immutable and shared.
#[derive(Debug)]
pub struct Object {
    /// The object in its storage version, `metadata.resourceVersion` included.
    pub value: Value,
    /// `value` as JSON text.
    pub json: Bytes,
    /// `metadata.resourceVersion` as a number.
    pub version: u64,
}

type Names = BTreeMap<(String, String), Arc<Object>>;

/// The present state of everything.
#[derive(Debug, Default)]
pub struct Index {
    resources: HashMap<(String, String), Names>,
}

impl Index {
    /// One object.
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        let names = self.resources.get(&(key.group.clone(), key.plural.clone()))?;
        names.get(&(key.namespace.clone(), key.name.clone()))
    }

    /// The objects of a resource in order of namespace and name, in one namespace or (`None`) all.
    pub fn list<'a>(
        &'a self,
        group: &str,
        plural: &str,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Object>> {
        let names = self.resources.get(&(group.to_owned(), plural.to_owned()));
        let first = (namespace.unwrap_or_default().to_owned(), String::new());
        let range = names.map(|names| names.range(first..)).into_iter().flatten();
        range
            .take_while(move |((ns, _), _)| namespace.is_none_or(|wanted| wanted == ns))
            .map(|(_, object)| object)
    }

    /// Puts an object in, and returns what was there.
    pub fn insert(&mut self, key: Key, object: Arc<Object>) -> Option<Arc<Object>> {
        self.resources
            .entry((key.group, key.plural))
            .or_default()
            .insert((key.namespace, key.name), object)
    }

    /// Takes an object out.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Object>> {
        let names = self.resources.get_mut(&(key.group.clone(), key.plural.clone()))?;
        names.remove(&(key.namespace.clone(), key.name.clone()))
    }
}

/// What admission may read while a write is in progress.
#[derive(Debug)]
pub struct View<'a> {
    index: &'a Index,
}

impl<'a> View<'a> {
    /// A view of `index`.
    pub fn new(index: &'a Index) -> Self {
        Self { index }
    }

    /// One object by storage group, plural, namespace (empty if cluster-scoped) and name.
    pub fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<&'a Value> {
        let key = Key {
            group: group.into(),
            plural: plural.into(),
            namespace: namespace.into(),
            name: name.into(),
        };
        self.index.get(&key).map(|object| &object.value)
    }

    /// The objects of a resource, in one namespace or (`None`) all.
    pub fn list(&self, group: &str, plural: &str, namespace: Option<&'a str>) -> impl Iterator<Item = &'a Value> {
        self.index.list(group, plural, namespace).map(|object| &object.value)
    }
}
