//! From the steps of one Service to writes: decided as a whole before anything is written.

use std::collections::{BTreeSet, HashMap, HashSet};

use weft_model::compile::{Backend, FrontendKind, Rule, SetKey, Source, Step, WhenEmpty};
use weft_model::{Protocol, maglev};
use weft_packet::{BackendKey, Frontend, Maglev, MemberKey, Port, Prefix, Service, Set, SockAddr};

use super::key_of;
use super::known::{Entry, Known, Uses};
use super::slots::Change;
use super::tables::{Counts, PRESENT, Writes};
use crate::bpf::range::prefix;
use crate::bpf::{Error, Result};

/// What a change of one Service does to the maps.
#[derive(Default)]
pub(in crate::bpf) struct Plan {
    sets: Vec<SetPlan>,
    puts: Vec<(Frontend, Rule)>,
    removed: Vec<Frontend>,
    forgotten: Vec<SetKey>,
    /// How many entries are added, at most.
    pub(super) needs: Counts,
    /// A UDP backend goes.
    pub(super) releases: bool,
}

struct SetPlan {
    key: SetKey,
    /// The set that an earlier agent or change left, if there is one.
    number: Option<u32>,
    change: Change,
    uses: Uses,
}

impl Plan {
    pub(super) fn of(known: &Known, steps: &[Step]) -> Result<Self> {
        let mut plan = Self::default();
        let mut wanted: HashMap<&SetKey, Option<&[Backend]>> = HashMap::new();
        let mut uses: HashMap<&SetKey, Uses> = HashMap::new();
        for step in steps {
            match step {
                Step::Set(key, backends) => drop(wanted.insert(key, Some(backends))),
                Step::Forget(key) => {
                    plan.releases |= key.protocol == Protocol::Udp;
                    plan.forgotten.push(key.clone());
                }
                Step::Put(frontend, rule) => {
                    for target in [&rule.inside, &rule.outside] {
                        wanted.entry(&target.set).or_insert(None);
                        let of = uses.entry(&target.set).or_default();
                        of.members |= rule.affinity.is_some();
                    }
                    uses.entry(&rule.outside.set).or_default().maglev |= rule.kind != FrontendKind::ClusterIp;
                    plan.put(known, key_of(frontend), rule);
                }
                Step::Remove(frontend) => {
                    let key = key_of(frontend);
                    plan.releases |= frontend.protocol == Protocol::Udp;
                    plan.removed.push(key);
                }
            }
        }
        let mut adopted = HashSet::new();
        for (key, backends) in wanted {
            let number = known.numbers.get(key).copied();
            let number = number.or_else(|| plan.left_for(known, key).filter(|number| adopted.insert(*number)));
            plan.set(known, key, number, backends, uses.remove(key).unwrap_or_default())?;
        }
        Ok(plan)
    }

    fn put(&mut self, known: &Known, key: Frontend, rule: &Rule) {
        self.needs.frontends += usize::from(!known.frontends.contains_key(&key));
        let new_address = rule.kind == FrontendKind::ClusterIp && !known.addresses.contains_key(&key.addr);
        self.needs.frontends += usize::from(new_address);
        self.needs.ranges += rule.source_ranges.iter().flatten().count();
        self.puts.push((key, rule.clone()));
    }

    /// The set of an earlier agent that a frontend leads to which is to lead to the set of this name.
    fn left_for(&self, known: &Known, key: &SetKey) -> Option<u32> {
        let numbers = self.puts.iter().flat_map(|(frontend, rule)| {
            let service = known.frontends.get(frontend).map(|entry| entry.service);
            let inside = service
                .filter(|_| rule.inside.set == *key)
                .map(|service| service.inside);
            let outside = service
                .filter(|_| rule.outside.set == *key)
                .map(|service| service.outside);
            inside.into_iter().chain(outside)
        });
        let unclaimed = |number: &u32| known.sets.get(number).is_some_and(|held| !held.claimed);
        numbers.into_iter().find(unclaimed)
    }

    fn set(
        &mut self,
        known: &Known,
        key: &SetKey,
        number: Option<u32>,
        backends: Option<&[Backend]>,
        uses: Uses,
    ) -> Result<()> {
        let held = number.and_then(|number| known.sets.get(&number));
        let slots = held.map(|held| &held.slots[..]).unwrap_or_default();
        let before = held.map(|held| held.uses).unwrap_or_default();
        let uses = before.and(uses).and(Uses {
            maglev: false,
            members: key.protocol == Protocol::Udp,
        });
        let change = match backends {
            Some(backends) => Change::between(slots, &addresses(key, backends)?),
            None if held.is_some_and(|held| held.claimed && held.uses == uses) => return Ok(()),
            None => Change::between(slots, slots),
        };
        self.releases |= key.protocol == Protocol::Udp && !change.gone.is_empty();
        self.needs.sets += usize::from(held.is_none());
        self.needs.backends += change.appended.len();
        let has = |flag: u32| held.is_some_and(|held| held.flags & flag != 0);
        if uses.members {
            self.needs.members += match has(Set::MEMBERS) {
                true => change.added.len(),
                false => change.count as usize,
            };
        }
        self.needs.maglev += usize::from(uses.maglev && !has(Set::MAGLEV));
        self.sets.push(SetPlan {
            key: key.clone(),
            number,
            change,
            uses,
        });
        Ok(())
    }

    /// Notes everything as done, and the writes that do it.
    pub(super) fn carry_out(self, known: &mut Known, writes: &mut Writes) {
        for set in self.sets {
            set.carry_out(known, writes);
        }
        let mut ranges: HashMap<u32, BTreeSet<Prefix>> = HashMap::new();
        for (key, rule) in self.puts {
            put_frontend(key, &rule, known, writes, &mut ranges);
        }
        for key in self.removed {
            remove_frontend(key, known, writes);
        }
        for (scope, wanted) in ranges {
            let before = known.ranges.insert(scope, wanted.clone()).unwrap_or_default();
            writes.ranges.extend(wanted.difference(&before));
            writes.gone_ranges.extend(before.difference(&wanted));
        }
        let wanted = |prefix: &Prefix| known.ranges.get(&prefix.scope).is_some_and(|of| of.contains(prefix));
        writes.gone_ranges.retain(|prefix| !wanted(prefix));
        for key in self.forgotten {
            if let Some(number) = known.numbers.remove(&key) {
                forget(number, known, writes);
            }
        }
    }
}

impl SetPlan {
    fn carry_out(self, known: &mut Known, writes: &mut Writes) {
        let Self { key, change, uses, .. } = self;
        let number = self.number.unwrap_or_else(|| known.free_number());
        let fresh = !known.sets.contains_key(&number);
        known.numbers.insert(key, number);
        let held = known.sets.entry(number).or_default();
        let before = Set {
            count: held.slots.len() as u32,
            flags: held.flags,
        };
        let member = |backend: &SockAddr| MemberKey::new(number, backend);
        let slot = |slot: u32| BackendKey { set: number, slot };

        let appended = (before.count..).zip(&change.appended);
        writes
            .appended
            .extend(appended.map(|(at, backend)| (slot(at), *backend)));
        writes
            .replaced
            .extend(change.replaced.iter().map(|(at, backend)| (slot(*at), *backend)));
        writes.gone_backends.extend((change.count..before.count).map(slot));
        let touched = !(change.appended.is_empty() && change.replaced.is_empty() && change.count == before.count);
        change.apply(&mut held.slots);

        let mut after = Set {
            count: change.count,
            flags: 0,
        };
        if uses.members {
            after.flags |= Set::MEMBERS;
            let added = match before.has(Set::MEMBERS) {
                true => &change.added,
                false => &held.slots,
            };
            writes
                .members
                .extend(added.iter().map(|backend| (member(backend), PRESENT)));
        }
        if before.has(Set::MEMBERS) {
            writes.gone_members.extend(change.gone.iter().map(member));
        }
        if uses.maglev
            && let Some(table) = table(&held.slots)
        {
            after.flags |= Set::MAGLEV;
            if touched || !before.has(Set::MAGLEV) || !held.claimed {
                writes.tables.push((number, table));
            }
        } else if before.has(Set::MAGLEV) {
            writes.gone_tables.push(number);
        }
        if fresh || after != before {
            match after.count < before.count {
                true => writes.shrunk.push((number, after)),
                false => writes.grown.push((number, after)),
            }
        }
        (held.flags, held.uses, held.claimed) = (after.flags, uses, true);
        known.recount(before, after);
    }
}

fn put_frontend(
    key: Frontend,
    rule: &Rule,
    known: &mut Known,
    writes: &mut Writes,
    ranges: &mut HashMap<u32, BTreeSet<Prefix>>,
) {
    let number = |set: &SetKey| known.numbers.get(set).copied().unwrap_or_default();
    let (inside, outside) = (number(&rule.inside.set), number(&rule.outside.set));
    let flags = [
        (Service::INSIDE_DROPS, rule.inside.when_empty == WhenEmpty::Drop),
        (Service::OUTSIDE_DROPS, rule.outside.when_empty == WhenEmpty::Drop),
        (Service::KEEP_SOURCE, rule.outside.source == Source::Keep),
        (Service::RANGES, rule.source_ranges.is_some()),
    ];
    let service = Service {
        inside,
        outside,
        affinity: rule
            .affinity
            .map_or(0, |timeout| timeout.as_secs().min(u32::MAX.into()) as u32),
        flags: flags.iter().filter(|(_, set)| *set).map(|(flag, _)| flag).sum(),
    };
    if let Some(nets) = &rule.source_ranges {
        ranges
            .entry(outside)
            .or_default()
            .extend(nets.iter().map(|net| prefix(outside, net)));
    }
    let entry = Entry {
        service,
        cluster_ip: rule.kind == FrontendKind::ClusterIp,
    };
    let (before, address) = known.note(key, Some(entry));
    if before.is_none_or(|before| before.service != service) {
        writes.frontends.push((key, service));
    }
    write_address(address, writes);
    free_ranges(before, known, writes);
}

/// Notes that a frontend is no service of ours any more.
pub(super) fn remove_frontend(key: Frontend, known: &mut Known, writes: &mut Writes) {
    let (before, address) = known.note(key, None);
    if before.is_some() {
        writes.gone_frontends.push(key);
    }
    write_address(address, writes);
    free_ranges(before, known, writes);
}

fn write_address(address: Option<(weft_packet::Addr, bool)>, writes: &mut Writes) {
    match address {
        Some((addr, true)) => writes.frontends.push((Frontend::address(addr), Service::default())),
        Some((addr, false)) => writes.gone_frontends.push(Frontend::address(addr)),
        None => {}
    }
}

/// The ranges that nobody looks into any more.
fn free_ranges(before: Option<Entry>, known: &mut Known, writes: &mut Writes) {
    let scope = before
        .map(|before| before.service)
        .filter(|service| service.has(Service::RANGES));
    if let Some(scope) = scope.map(|service| service.outside)
        && !known.ranged.contains_key(&scope)
    {
        writes
            .gone_ranges
            .extend(known.ranges.remove(&scope).into_iter().flatten());
    }
}

/// Notes that a set is no more.
pub(super) fn forget(number: u32, known: &mut Known, writes: &mut Writes) {
    let Some(held) = known.sets.remove(&number) else { return };
    let before = Set {
        count: held.slots.len() as u32,
        flags: held.flags,
    };
    writes.gone_sets.push(number);
    writes
        .gone_backends
        .extend((0..before.count).map(|slot| BackendKey { set: number, slot }));
    if before.has(Set::MEMBERS) {
        writes
            .gone_members
            .extend(held.slots.iter().map(|backend| MemberKey::new(number, backend)));
    }
    if before.has(Set::MAGLEV) {
        writes.gone_tables.push(number);
    }
    known.recount(before, Set::default());
}

fn addresses(key: &SetKey, backends: &[Backend]) -> Result<Vec<SockAddr>> {
    let address = |backend: &Backend| match backend.ip.is_ipv6() == key.ipv6 {
        true => Ok(SockAddr::new(backend.ip.into(), Port::from_host(backend.port))),
        false => Err(Error::MixedFamilies {
            service: key.service.to_string(),
            backend: backend.ip,
        }),
    };
    backends.iter().map(address).collect()
}

/// The table for consistent hashing over these slots: the same on all nodes, whatever the order of their slots. None
/// where there is nothing to choose, or so much that a table of its size would not be fair.
fn table(slots: &[SockAddr]) -> Option<Maglev> {
    if slots.len() < 2 || slots.len() > maglev::MOST_BACKENDS {
        return None;
    }
    let mut sorted: Vec<(Backend, u16)> = slots.iter().map(super::backend_of).zip(0..).collect();
    sorted.sort_unstable();
    let (backends, places): (Vec<Backend>, Vec<u16>) = sorted.into_iter().unzip();
    let mut slots = [0; Maglev::SIZE];
    for (slot, index) in slots.iter_mut().zip(maglev::table(&backends)) {
        *slot = places.get(usize::from(index)).copied().unwrap_or_default();
    }
    Some(Maglev { slots, zero: 0 })
}
