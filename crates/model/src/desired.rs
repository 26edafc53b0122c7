//! Who wants what in the kernel: the desired side of a reconciliation, kept incrementally.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// One step that takes the kernel closer to what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<K, V> {
    /// Write this entry, whether or not it exists.
    Put(K, V),
    /// Remove this entry.
    Remove(K),
}

/// Entries wanted by owners (a Service wants frontends, a Node wants routes).
///
/// Two owners can want the same key for a moment, as when a Service is replaced by one with the same
/// address: the first by name has it, and when it lets go the other gets it, in whatever order the
/// news arrived.
#[derive(Clone, Debug)]
pub struct Wanted<O, K, V> {
    /// In the order of their keys.
    by_owner: HashMap<Arc<O>, Box<[(K, V)]>>,
    /// Who has each key.
    holders: HashMap<K, Arc<O>>,
    /// The keys that several want, with all of them in order.
    contested: BTreeMap<K, Vec<Arc<O>>>,
}

impl<O, K, V> Default for Wanted<O, K, V> {
    fn default() -> Self {
        Self {
            by_owner: HashMap::new(),
            holders: HashMap::new(),
            contested: BTreeMap::new(),
        }
    }
}

impl<O, K, V> Wanted<O, K, V>
where
    O: Clone + Eq + Hash + Ord,
    K: Clone + Eq + Hash + Ord,
    V: Clone + PartialEq,
{
    /// Replaces everything that an owner wants and returns the steps that follow from it.
    pub fn set(&mut self, owner: &O, entries: BTreeMap<K, V>) -> Vec<Step<K, V>> {
        let (owner, old) = match self.by_owner.remove_entry(owner) {
            Some(found) => found,
            None => (Arc::new(owner.clone()), Box::default()),
        };
        let touched: Vec<K> = old
            .iter()
            .filter(|(key, value)| entries.get(key) != Some(value))
            .map(|(key, _)| key)
            .chain(entries.keys().filter(|key| find(&old, key).is_none()))
            .cloned()
            .collect();
        let before: Vec<Option<V>> = touched
            .iter()
            .map(|key| self.value_with(key, &owner, &old).cloned())
            .collect();
        for (key, _) in old.iter().filter(|(key, _)| !entries.contains_key(key)) {
            self.leave(key, &owner);
        }
        for key in entries.keys().filter(|key| find(&old, key).is_none()) {
            self.join(key, &owner);
        }
        if !entries.is_empty() {
            self.by_owner.insert(owner, entries.into_iter().collect());
        }
        let steps = touched.into_iter().zip(before).filter_map(|(key, before)| {
            let after = self.get(&key).cloned();
            match after {
                after if after == before => None,
                Some(value) => Some(Step::Put(key, value)),
                None => Some(Step::Remove(key)),
            }
        });
        steps.collect()
    }

    fn join(&mut self, key: &K, owner: &Arc<O>) {
        let Some(holder) = self.holders.get_mut(key) else {
            self.holders.insert(key.clone(), owner.clone());
            return;
        };
        let all = self
            .contested
            .entry(key.clone())
            .or_insert_with(|| vec![holder.clone()]);
        let at = all.partition_point(|other| other < owner);
        all.insert(at, owner.clone());
        if owner < holder {
            *holder = owner.clone();
        }
    }

    fn leave(&mut self, key: &K, owner: &Arc<O>) {
        let Some(all) = self.contested.get_mut(key) else {
            self.holders.remove(key);
            return;
        };
        all.retain(|other| other != owner);
        if let Some(first) = all.first() {
            self.holders.insert(key.clone(), first.clone());
        }
        if all.len() < 2 {
            self.contested.remove(key);
        }
    }

    fn value_with<'a>(&'a self, key: &K, owner: &O, entries: &'a [(K, V)]) -> Option<&'a V> {
        let holder = self.holders.get(key)?;
        if **holder == *owner {
            find(entries, key)
        } else {
            find(self.by_owner.get(holder)?, key)
        }
    }

    /// What is wanted under this key.
    pub fn get(&self, key: &K) -> Option<&V> {
        find(self.by_owner.get(self.holders.get(key)?)?, key)
    }

    /// The keys that several owners want, with all of them: the first has it.
    pub fn contested(&self) -> impl Iterator<Item = (&K, impl Iterator<Item = &O>)> {
        self.contested
            .iter()
            .map(|(key, all)| (key, all.iter().map(|owner| &**owner)))
    }

    /// Everything wanted, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.holders.keys().filter_map(|key| Some((key, self.get(key)?)))
    }

    /// How many entries are wanted.
    pub fn len(&self) -> usize {
        self.holders.len()
    }

    /// True where nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }
}

/// The value of a key among entries in order.
fn find<'a, K: Ord, V>(entries: &'a [(K, V)], key: &K) -> Option<&'a V> {
    let at = entries.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
    entries.get(at).map(|(_, value)| value)
}

/// The steps from what is there to what is wanted, over the union of both: what is only there is removed.
/// Additions and replacements come before removals, so that nothing is missing in between.
pub fn steps<K, V>(wanted: &BTreeMap<K, V>, actual: &BTreeMap<K, V>) -> Vec<Step<K, V>>
where
    K: Clone + Ord,
    V: Clone + PartialEq,
{
    let put = wanted.iter().filter(|(key, value)| actual.get(key) != Some(value));
    let removed = actual.keys().filter(|key| !wanted.contains_key(key));
    put.map(|(key, value)| Step::Put(key.clone(), value.clone()))
        .chain(removed.map(|key| Step::Remove(key.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_passes_from_one_owner_to_the_next() {
        let mut wanted = Wanted::default();
        assert_eq!(wanted.set(&"b", BTreeMap::from([(1, 'b')])), vec![Step::Put(1, 'b')]);
        assert_eq!(wanted.set(&"a", BTreeMap::from([(1, 'a')])), vec![Step::Put(1, 'a')]);
        assert_eq!(wanted.set(&"b", BTreeMap::from([(1, 'B')])), vec![]);
        let contested: Vec<_> = wanted
            .contested()
            .map(|(key, owners)| (*key, owners.copied().collect()))
            .collect();
        assert_eq!(contested, [(1, vec!["a", "b"])]);
        assert_eq!(wanted.set(&"a", BTreeMap::new()), vec![Step::Put(1, 'B')]);
        assert_eq!(wanted.contested().count(), 0);
        assert_eq!(wanted.set(&"b", BTreeMap::new()), vec![Step::Remove(1)]);
        assert!(wanted.is_empty());
    }

    fn play(actual: &mut BTreeMap<u8, u8>, steps: Vec<Step<u8, u8>>) {
        for step in steps {
            match step {
                Step::Put(key, value) => {
                    actual.insert(key, value);
                }
                Step::Remove(key) => assert!(actual.remove(&key).is_some(), "removed what was not there"),
            }
        }
    }

    proptest! {
        #[test]
        fn steps_played_in_order_give_what_is_wanted(
            sets in prop::collection::vec((0u8..4, prop::collection::btree_map(0u8..6, 0u8..3, 0..4)), 0..40),
        ) {
            let mut wanted = Wanted::default();
            let mut actual = BTreeMap::new();
            let mut owners: BTreeMap<u8, BTreeMap<u8, u8>> = BTreeMap::new();
            for (owner, entries) in sets {
                owners.insert(owner, entries.clone());
                play(&mut actual, wanted.set(&owner, entries));
                let mut expected = BTreeMap::new();
                for entries in owners.values().rev() {
                    expected.extend(entries.clone());
                }
                prop_assert_eq!(&actual, &expected);
                let listed: BTreeMap<u8, u8> = wanted.iter().map(|(k, v)| (*k, *v)).collect();
                prop_assert_eq!(&listed, &expected);
            }
        }

        #[test]
        fn a_diff_of_the_union_reaches_the_wanted_state(
            wanted in prop::collection::btree_map(0u8..10, 0u8..3, 0..10),
            mut actual in prop::collection::btree_map(0u8..10, 0u8..3, 0..10),
        ) {
            let steps = steps(&wanted, &actual);
            play(&mut actual, steps);
            prop_assert_eq!(actual, wanted);
        }
    }
}
