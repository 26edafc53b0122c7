//! What the maps of services hold, as the agent remembers it; read from them once, when it starts.

use std::collections::{BTreeSet, HashMap, HashSet};

use weft_model::compile::SetKey;
use weft_packet::{Addr, BackendKey, Frontend, MemberKey, Prefix, Service, Set, SockAddr};

use super::tables::{Counts, PRESENT, Tables, Writes};
use crate::bpf::Result;
use crate::bpf::range::Ranges;

/// A frontend in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) service: Service,
    /// Its address is the Service's own: other ports of it are refused.
    pub(super) cluster_ip: bool,
}

/// A set in the kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub(super) slots: Vec<SockAddr>,
    /// Bits of [`Set`].
    pub(super) flags: u32,
    pub(super) uses: Uses,
    /// Some [`SetKey`] has it. Those of an earlier agent have none at first.
    pub(super) claimed: bool,
}

/// What a set is used for, by any of its frontends. What was once in use is kept up until the set goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    /// From outside, by an address that other nodes have, too: they are all to choose the same backend.
    pub(super) maglev: bool,
    /// Somebody remembers a backend for longer than a connection.
    pub(super) members: bool,
}

impl Uses {
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            maglev: self.maglev || other.maglev,
            members: self.members || other.members,
        }
    }
}

#[derive(Default)]
pub(super) struct Known {
    pub(super) frontends: HashMap<Frontend, Entry>,
    /// How many frontends have an address that is a Service's own.
    pub(super) addresses: HashMap<Addr, usize>,
    pub(super) sets: HashMap<u32, Held>,
    pub(super) numbers: HashMap<SetKey, u32>,
    /// The ranges of each scope, and the frontends that look into them.
    pub(super) ranges: HashMap<u32, BTreeSet<Prefix>>,
    pub(super) ranged: HashMap<u32, HashSet<Frontend>>,
    pub(super) counts: Counts,
    next: u32,
}

impl Known {
    /// Reads what is there, and the writes that remove what an agent that died half-way left out of reach.
    pub(super) fn read(tables: &Tables, ranges: &Ranges) -> Result<(Self, Writes)> {
        let (mut known, mut writes) = (Self::default(), Writes::default());
        let mut found: HashMap<BackendKey, SockAddr> = tables.backends.entries()?.into_iter().collect();
        let mut members: HashSet<MemberKey> = tables.members.entries()?.into_iter().map(|(key, _)| key).collect();
        for (number, Set { count, mut flags }) in tables.sets.entries()? {
            let slots = (0..count).map(|slot| found.remove(&BackendKey { set: number, slot }));
            let Some(slots) = slots.collect::<Option<Vec<SockAddr>>>() else {
                // No agent of ours leaves this. Without it, what leads there refuses, until it is made anew.
                writes.gone_sets.push(number);
                continue;
            };
            if flags & Set::MEMBERS != 0 {
                let missing = slots.iter().map(|backend| MemberKey::new(number, backend));
                let missing = missing.filter(|key| !members.remove(key)).map(|key| (key, PRESENT));
                writes.members.extend(missing);
                known.counts.members += slots.len();
            }
            if flags & Set::MAGLEV != 0 {
                known.counts.maglev += 1;
            }
            flags &= Set::MAGLEV | Set::MEMBERS;
            known.counts.backends += slots.len();
            let held = Held {
                slots,
                flags,
                uses: Uses::default(),
                claimed: false,
            };
            known.sets.insert(number, held);
        }
        writes.gone_backends.extend(found.into_keys());
        writes.gone_members.extend(members);
        let has_table = |number: &u32| known.sets.get(number).is_some_and(|held| held.flags & Set::MAGLEV != 0);
        writes
            .gone_tables
            .extend(tables.maglev.keys()?.into_iter().filter(|number| !has_table(number)));

        let (addresses, frontends): (Vec<_>, Vec<_>) = tables
            .frontends
            .entries()?
            .into_iter()
            .partition(|(key, _)| *key == Frontend::address(key.addr));
        let addresses: HashSet<Addr> = addresses.into_iter().map(|(key, _)| key.addr).collect();
        for (key, service) in frontends {
            let cluster_ip = addresses.contains(&key.addr);
            known.note(key, Some(Entry { service, cluster_ip }));
        }
        let unused = addresses.into_iter().filter(|addr| !known.addresses.contains_key(addr));
        writes.gone_frontends.extend(unused.map(Frontend::address));
        for scope in ranges.scopes() {
            match known.ranged.contains_key(&scope) {
                true => drop(known.ranges.insert(scope, ranges.of(scope).collect())),
                false => writes.gone_ranges.extend(ranges.of(scope)),
            }
        }
        known.counts.sets = known.sets.len();
        known.next = known.sets.keys().max().map_or(0, |max| max.wrapping_add(1));
        Ok((known, writes))
    }

    /// Gives the sets that are there their names back.
    pub(super) fn claim(&mut self, numbers: HashMap<SetKey, u32>) {
        for (key, number) in numbers {
            let Some(held) = self.sets.get_mut(&number) else {
                continue;
            };
            held.claimed = true;
            held.uses = Uses {
                maglev: held.flags & Set::MAGLEV != 0,
                members: held.flags & Set::MEMBERS != 0,
            };
            self.numbers.insert(key, number);
        }
    }

    /// Notes what a frontend is from now on; returns what it was, and its address where that becomes a Service's own
    /// (true) or is none any more (false).
    pub(super) fn note(&mut self, key: Frontend, entry: Option<Entry>) -> (Option<Entry>, Option<(Addr, bool)>) {
        let before = match entry {
            Some(entry) => self.frontends.insert(key, entry),
            None => self.frontends.remove(&key),
        };
        let scope = |entry: &Option<Entry>| {
            entry
                .map(|e| e.service)
                .filter(|s| s.has(Service::RANGES))
                .map(|s| s.outside)
        };
        let (was_ranged, is_ranged) = (scope(&before), scope(&entry));
        if was_ranged != is_ranged {
            if let Some(users) = was_ranged.and_then(|scope| self.ranged.get_mut(&scope)) {
                users.remove(&key);
            }
            if let Some(scope) = is_ranged {
                self.ranged.entry(scope).or_default().insert(key);
            }
            self.ranged.retain(|_, users| !users.is_empty());
        }
        let (was, is) = (
            before.is_some_and(|e| e.cluster_ip),
            entry.is_some_and(|e| e.cluster_ip),
        );
        let address = match (was, is) {
            (false, true) => {
                let users = self.addresses.entry(key.addr).or_default();
                *users += 1;
                (*users == 1).then_some((key.addr, true))
            }
            (true, false) => {
                let users = self.addresses.entry(key.addr).or_default();
                *users = users.saturating_sub(1);
                let last = *users == 0;
                if last {
                    self.addresses.remove(&key.addr);
                }
                last.then_some((key.addr, false))
            }
            _ => None,
        };
        self.counts.frontends = self.frontends.len() + self.addresses.len();
        (before, address)
    }

    /// Notes how many entries a change of a set makes more or fewer.
    pub(super) fn recount(&mut self, before: Set, after: Set) {
        let members = |set: Set| if set.has(Set::MEMBERS) { set.count as usize } else { 0 };
        let maglev = |set: Set| usize::from(set.has(Set::MAGLEV));
        let counts = &mut self.counts;
        counts.sets = self.sets.len();
        counts.backends = counts.backends + after.count as usize - before.count as usize;
        counts.members = counts.members + members(after) - members(before);
        counts.maglev = counts.maglev + maglev(after) - maglev(before);
    }

    /// A number that no set has, and that has not been given before for as long as there are others: what a client
    /// remembers of a set that has gone is not taken for another's.
    pub(super) fn free_number(&mut self) -> u32 {
        while self.sets.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        number
    }
}
