//! How the connection to the API server is doing, as its watches see it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A snapshot of the connection's health.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// When any watch last heard from the API server.
    pub last_heard: Option<Instant>,
    /// For each kind whose watch is broken: why.
    pub broken: BTreeMap<&'static str, String>,
    /// Objects that are skipped because they are malformed, and why.
    pub malformed: BTreeMap<String, String>,
}

/// The health that every watch of a client writes to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Arc<Mutex<Health>>);

impl Shared {
    pub(crate) fn snapshot(&self) -> Health {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn with<T>(&self, change: impl FnOnce(&mut Health) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// True where the watch of this kind was broken until now.
    pub(crate) fn heard(&self, kind: &'static str) -> bool {
        self.with(|health| {
            health.last_heard = Some(Instant::now());
            health.broken.remove(kind).is_some()
        })
    }

    /// True where this is news.
    pub(crate) fn broke(&self, kind: &'static str, why: &str) -> bool {
        self.with(|health| health.broken.insert(kind, why.to_owned()).as_deref() != Some(why))
    }

    /// True where this is news.
    pub(crate) fn malformed(&self, object: &str, why: String) -> bool {
        self.with(|health| health.malformed.insert(object.to_owned(), why.clone()).as_ref() != Some(&why))
    }

    pub(crate) fn well_formed(&self, object: &str) {
        self.with(|health| health.malformed.remove(object));
    }
}
