//! Sets of fields, as `managedFields` tells who owns what: a tree of `f:<field>`, `k:<keys of a list item>` and
//! `v:<value in a set>`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A set of paths below some place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    /// The place itself is in the set.
    pub(super) own: bool,
    /// What lies below it.
    pub(super) children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// The place itself and nothing below.
    pub(super) fn leaf() -> Self {
        Self {
            own: true,
            children: BTreeMap::new(),
        }
    }

    /// Nothing is in the set.
    pub(super) fn is_empty(&self) -> bool {
        !self.own && self.children.values().all(FieldSet::is_empty)
    }

    /// Adds what lies below `step`, if it is anything.
    pub(super) fn insert(&mut self, step: String, below: FieldSet) {
        if !below.is_empty() {
            self.children.insert(step, below);
        }
    }

    /// Reads `fieldsV1`.
    pub(super) fn parse(value: &Value) -> Self {
        let Some(fields) = value.as_object() else {
            return Self::default();
        };
        let own = fields.is_empty() || fields.contains_key(".");
        let below = fields.iter().filter(|(step, _)| *step != ".");
        Self {
            own,
            children: below.map(|(step, value)| (step.clone(), Self::parse(value))).collect(),
        }
    }

    /// Reads the `fieldsV1` of an entry, whose root is never itself in the set.
    pub(super) fn parse_root(value: &Value) -> Self {
        Self {
            own: false,
            ..Self::parse(value)
        }
    }

    /// Writes `fieldsV1`.
    pub(super) fn to_value(&self) -> Value {
        let mut fields = Map::new();
        if self.own && !self.children.is_empty() {
            fields.insert(".".to_owned(), Value::Object(Map::new()));
        }
        fields.extend(
            self.children
                .iter()
                .map(|(step, below)| (step.clone(), below.to_value())),
        );
        Value::Object(fields)
    }

    /// What is in either set.
    pub(super) fn union(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.own |= other.own;
        for (step, below) in &other.children {
            let merged = both
                .children
                .get(step)
                .map_or_else(|| below.clone(), |mine| mine.union(below));
            both.insert(step.clone(), merged);
        }
        both
    }

    /// What is in both sets.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        let mut both = Self {
            own: self.own && other.own,
            children: BTreeMap::new(),
        };
        for (step, below) in &self.children {
            if let Some(theirs) = other.children.get(step) {
                both.insert(step.clone(), below.intersection(theirs));
            }
        }
        both
    }

    /// What is in this set and not in the other.
    pub(super) fn difference(&self, other: &Self) -> Self {
        let mut left = Self {
            own: self.own && !other.own,
            children: BTreeMap::new(),
        };
        for (step, below) in &self.children {
            let rest = other
                .children
                .get(step)
                .map_or_else(|| below.clone(), |theirs| below.difference(theirs));
            left.insert(step.clone(), rest);
        }
        left
    }

    /// Every path in the set, as messages write them: `.spec.containers[name="web"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(String::new(), &mut paths);
        paths
    }

    fn collect(&self, path: String, into: &mut Vec<String>) {
        for (step, below) in &self.children {
            below.collect(format!("{path}{}", readable(step)), into);
        }
        if self.own {
            into.push(path);
        }
    }
}

fn readable(step: &str) -> String {
    match step.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let pairs: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", pairs.join(","))
        }
        Some((_, value)) => format!("[={value}]"),
        None => format!(".{step}"),
    }
}
