//! A pool of things that services take: who took what, checked against what is stored.
//!
//! The book is only a hint: an entry counts if the stored service still has the thing. So nothing need be given back
//! when a write fails later, a service goes, or changes its type; a stale entry is simply taken over.

use std::collections::HashMap;
use std::hash::Hash;

/// A service: namespace and name.
pub(super) type Owner = (String, String);

/// Things numbered from 0, of which the low ones are given out last, so that people who ask for one find it free.
#[derive(Debug)]
pub(super) struct Pool<T> {
    book: HashMap<T, Owner>,
    thing: fn(u32) -> T,
    size: u32,
    /// Numbers below this are given out only when no others are left.
    kept_for_asking: u32,
}

impl<T: Copy + Eq + Hash> Pool<T> {
    pub(super) fn new(size: u32, kept_for_asking: u32, thing: fn(u32) -> T) -> Self {
        Self {
            book: HashMap::new(),
            thing,
            size,
            kept_for_asking,
        }
    }

    /// Notes what a stored service has.
    pub(super) fn note(&mut self, thing: T, owner: &Owner) {
        self.book.insert(thing, owner.clone());
    }

    /// Takes this very thing; false if somebody else has it.
    pub(super) fn take(&mut self, thing: T, owner: &Owner, has: impl Fn(&Owner, T) -> bool) -> bool {
        if let Some(holder) = self.book.get(&thing)
            && holder != owner
            && has(holder, thing)
        {
            return false;
        }
        self.note(thing, owner);
        true
    }

    /// Takes any thing that is free and not `reserved`; `None` if there is none.
    pub(super) fn take_any(
        &mut self,
        owner: &Owner,
        has: impl Fn(&Owner, T) -> bool,
        reserved: impl Fn(T) -> bool,
    ) -> Option<T> {
        let high = self.size - self.kept_for_asking;
        let start = rand::random_range(0..high.max(1));
        let upper = (0..high).map(|i| self.kept_for_asking + (start + i) % high);
        let order = upper.chain(0..self.kept_for_asking);
        let free = |thing: &T| {
            let taken = self.book.get(thing).is_some_and(|holder| has(holder, *thing));
            !taken && !reserved(*thing)
        };
        let thing = order.map(self.thing).find(free)?;
        self.note(thing, owner);
        Some(thing)
    }
}
