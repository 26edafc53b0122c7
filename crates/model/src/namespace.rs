//! A Namespace as the network sees it: what its pods inherit.

use std::collections::BTreeMap;

/// A Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Its annotations below `weft.dev/`.
    pub annotations: BTreeMap<String, String>,
}
