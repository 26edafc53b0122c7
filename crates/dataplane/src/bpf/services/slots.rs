//! The backends of one set as slots, and the smallest change from those that are there to those that are wanted.

use std::collections::HashSet;

use weft_packet::SockAddr;

/// What has to be done to the slots of a set, as little as there are differences, whatever its size. In this order
/// every single write leaves backends that are there or wanted, and those that are both throughout.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// These go behind the last slot. The set reaches them when it is made longer, all at once.
    pub(super) appended: Vec<SockAddr>,
    /// These take the places of others.
    pub(super) replaced: Vec<(u32, SockAddr)>,
    /// So many slots there are then; what is behind is emptied.
    pub(super) count: u32,
    /// Backends that are in it then, and were not before.
    pub(super) added: Vec<SockAddr>,
    /// Backends that were in it, and are not any more.
    pub(super) gone: Vec<SockAddr>,
}

impl Change {
    /// From the slots of a set to what is wanted in it.
    pub(super) fn between(current: &[SockAddr], wanted: &[SockAddr]) -> Self {
        let all: HashSet<SockAddr> = wanted.iter().copied().collect();
        let (mut unmet, mut holes, mut gone) = (all.clone(), vec![], vec![]);
        for (slot, backend) in (0u32..).zip(current) {
            if unmet.remove(backend) {
                continue;
            }
            holes.push(slot);
            // One that is there twice was about to be moved when an agent died.
            if !all.contains(backend) {
                gone.push(*backend);
            }
        }
        let added: Vec<SockAddr> = wanted.iter().copied().filter(|backend| unmet.remove(backend)).collect();
        let (in_holes, behind) = added.split_at(added.len().min(holes.len()));
        let mut replaced: Vec<_> = holes.iter().copied().zip(in_holes.iter().copied()).collect();
        // Fewer than before: what stands behind the new end moves into the holes before it.
        let unfilled = &holes[in_holes.len()..];
        let count = (current.len() - unfilled.len() + behind.len()) as u32;
        let is_hole = |slot: &u32| unfilled.binary_search(slot).is_ok();
        let moved = (count..current.len() as u32).filter(|slot| !is_hole(slot));
        let moved = moved.filter_map(|slot| current.get(slot as usize));
        replaced.extend(unfilled.iter().copied().zip(moved.copied()));
        Self {
            appended: behind.to_vec(),
            replaced,
            count,
            gone,
            added,
        }
    }

    /// The slots after it.
    pub(super) fn apply(&self, slots: &mut Vec<SockAddr>) {
        slots.extend(&self.appended);
        for (slot, backend) in &self.replaced {
            if let Some(place) = slots.get_mut(*slot as usize) {
                *place = *backend;
            }
        }
        slots.truncate(self.count as usize);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_packet::{Addr, Port};

    use super::*;

    fn backend(n: u16) -> SockAddr {
        let [high, low] = n.to_be_bytes();
        SockAddr::new(Addr::from_v4_bytes([10, 0, high, low]), Port::from_host(80))
    }

    #[test]
    fn one_endpoint_among_a_thousand_is_a_handful_of_writes() {
        let many: Vec<_> = (0..1000).map(backend).collect();
        assert_eq!(
            Change::between(&many, &many),
            Change {
                count: 1000,
                ..Change::default()
            }
        );
        let added = Change::between(&many[..999], &many);
        assert_eq!((added.appended.len(), added.replaced.len(), added.count), (1, 0, 1000));
        let mut fewer = many.clone();
        fewer.remove(17);
        let removed = Change::between(&many, &fewer);
        assert_eq!(
            (removed.appended.len(), &removed.replaced[..]),
            (0, &[(17, many[999])][..])
        );
        assert_eq!((removed.count, &removed.gone[..]), (999, &[many[17]][..]));
        let mut other = many.clone();
        other[500] = backend(5000);
        let replaced = Change::between(&many, &other);
        assert_eq!((replaced.replaced.len(), replaced.count), (1, 1000));
    }

    proptest! {
        #[test]
        fn every_step_is_safe_and_the_last_is_right(
            current in prop::collection::btree_set(0u16..12, 0..12).prop_map(Vec::from_iter).prop_shuffle(),
            wanted in prop::collection::vec(0u16..12, 0..12),
        ) {
            let current: Vec<_> = current.into_iter().map(backend).collect();
            let wanted: Vec<_> = wanted.into_iter().map(backend).collect();
            let change = Change::between(&current, &wanted);
            // What a reader meets after each write, in the order of the writes.
            let mut slots = current.clone();
            let mut met = vec![slots.clone()];
            slots.extend(&change.appended);
            met.push(slots.clone());
            for (slot, backend) in &change.replaced {
                slots[*slot as usize] = *backend;
                met.push(slots.clone());
            }
            slots.truncate(change.count as usize);
            met.push(slots.clone());
            for slots in &met {
                prop_assert!(slots.iter().all(|b| current.contains(b) || wanted.contains(b)));
                prop_assert!(!slots.is_empty() || current.is_empty() || wanted.is_empty());
                prop_assert!(current.iter().all(|b| !wanted.contains(b) || slots.contains(b)));
            }
            let mut applied = current.clone();
            change.apply(&mut applied);
            prop_assert_eq!(&applied, &slots);
            slots.sort();
            let mut expected = wanted.clone();
            expected.sort();
            expected.dedup();
            prop_assert_eq!(slots, expected);
            prop_assert!(change.gone.iter().all(|b| current.contains(b) && !wanted.contains(b)));
            prop_assert!(change.added.iter().all(|b| !current.contains(b) && wanted.contains(b)));
        }
    }
}
