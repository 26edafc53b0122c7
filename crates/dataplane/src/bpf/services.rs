//! Frontends and their backends: what the kernel has, and the smallest change to what it should have.
//!
//! A frontend's backends are slots `0..count` of its set. Every single map write leaves a state that a connection may
//! meet: slots are written before the count covers them, and given up only after it no longer does. So a frontend
//! never has a wrong backend, and has none only where none is wanted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use aya::Ebpf;
use weft_model::{Protocol, compile};
use weft_packet::layout::name;
use weft_packet::{Addr, BackendKey, Frontend, Port, Service, Set, SockAddr};

use super::table::Table;
use super::{Error, Result, Usage};

pub(super) struct Services {
    frontends: Table<Frontend, Service>,
    sets: Table<u32, Set>,
    backends: Table<BackendKey, SockAddr>,
    /// What the maps hold.
    known: BTreeMap<Frontend, Known>,
    used_sets: HashSet<u32>,
    next_set: u32,
}

struct Known {
    number: u32,
    /// How many slots a reader counts.
    count: u32,
    /// The occupied slots: those that count, and after a failure perhaps more.
    slots: Vec<SockAddr>,
}

impl Services {
    /// Reads what the maps hold, and removes what an agent that died half-way left out of reach.
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self> {
        let mut frontends = Table::<Frontend, Service>::take(ebpf, name::FRONTENDS)?;
        let mut sets = Table::<u32, Set>::take(ebpf, name::SETS)?;
        let mut backends = Table::<BackendKey, SockAddr>::take(ebpf, name::BACKENDS)?;
        let mut found: HashMap<BackendKey, SockAddr> = backends.entries()?.into_iter().collect();
        let mut counts: HashMap<u32, Set> = sets.entries()?.into_iter().collect();
        let mut known = BTreeMap::new();
        for (frontend, Service { inside: set, .. }) in frontends.entries()? {
            let count = counts.remove(&set).unwrap_or_default().count;
            let slots: Option<Vec<_>> = (0..count).map(|slot| found.remove(&BackendKey { set, slot })).collect();
            if let Some(slots) = slots
                && frontend_of(&frontend).is_some()
            {
                known.insert(
                    frontend,
                    Known {
                        number: set,
                        count,
                        slots,
                    },
                );
            } else {
                // No agent of ours leaves this. Without it, reconciliation makes the frontend anew.
                frontends.remove(frontend)?;
            }
        }
        for set in counts.into_keys() {
            sets.remove(set)?;
        }
        for key in found.into_keys() {
            backends.remove(key)?;
        }
        let used_sets: HashSet<u32> = known.values().map(|set| set.number).collect();
        let next_set = used_sets.iter().max().map_or(0, |max| max.wrapping_add(1));
        Ok(Self {
            frontends,
            sets,
            backends,
            known,
            used_sets,
            next_set,
        })
    }

    /// Makes the frontend lead to these backends; none: connections to it are refused.
    ///
    /// On an error, readers find what was there before, or a valid state on the way.
    pub(super) fn set(&mut self, frontend: &compile::Frontend, backends: &[compile::Backend]) -> Result<()> {
        let wanted = backends
            .iter()
            .map(|backend| {
                if backend.ip.is_ipv4() != frontend.ip.is_ipv4() {
                    return Err(Error::MixedFamilies {
                        frontend: frontend.ip,
                        backend: backend.ip,
                    });
                }
                Ok(SockAddr::new(backend.ip.into(), Port::from_host(backend.port)))
            })
            .collect::<Result<Vec<_>>>()?;
        let key = key_of(frontend);
        let Some(set) = self.known.get(&key) else {
            return self.add(key, &wanted);
        };
        let ops = plan(&set.slots, &wanted);
        let result = ops.into_iter().try_for_each(|op| self.apply(key, op));
        if result.is_err() {
            self.trim(key)?;
        }
        result
    }

    fn add(&mut self, key: Frontend, wanted: &[SockAddr]) -> Result<()> {
        let number = self.free_set();
        self.used_sets.insert(number);
        let empty = Known {
            number,
            count: 0,
            slots: Vec::new(),
        };
        self.known.insert(key, empty);
        let service = Service {
            inside: number,
            outside: number,
            ..Service::default()
        };
        let result = [Op::Resize(0)]
            .into_iter()
            .chain(plan(&[], wanted))
            .try_for_each(|op| self.apply(key, op))
            .and_then(|()| self.frontends.insert(key, service));
        if result.is_err() {
            self.remove_key(key)?;
        }
        result
    }

    /// Forgets a frontend: connections to its address are no longer ours.
    pub(super) fn remove(&mut self, frontend: &compile::Frontend) -> Result<()> {
        self.remove_key(key_of(frontend))
    }

    fn remove_key(&mut self, key: Frontend) -> Result<()> {
        if !self.known.contains_key(&key) {
            return Ok(());
        }
        self.frontends.remove(key)?;
        if let Some(set) = self.known.get_mut(&key) {
            self.sets.remove(set.number)?;
            set.count = 0;
        }
        self.trim(key)?;
        if let Some(set) = self.known.remove(&key) {
            self.used_sets.remove(&set.number);
        }
        Ok(())
    }

    /// What the kernel has.
    pub(super) fn all(&self) -> BTreeMap<compile::Frontend, Vec<compile::Backend>> {
        self.known
            .iter()
            .filter_map(|(key, set)| Some((frontend_of(key)?, set.slots.iter().map(backend_of).collect())))
            .collect()
    }

    pub(super) fn usage(&self) -> [Usage; 2] {
        [
            self.frontends.usage(self.known.len()),
            self.backends
                .usage(self.known.values().map(|set| set.slots.len()).sum()),
        ]
    }

    /// One write, and the note of it.
    fn apply(&mut self, key: Frontend, op: Op) -> Result<()> {
        let Some(known) = self.known.get_mut(&key) else {
            return Ok(());
        };
        let set = known.number;
        match op {
            Op::Write(slot, backend) => {
                self.backends.insert(BackendKey { set, slot }, backend)?;
                match known.slots.get_mut(slot as usize) {
                    Some(place) => *place = backend,
                    None => known.slots.push(backend),
                }
            }
            Op::Resize(count) => {
                self.sets.insert(set, Set { count, flags: 0 })?;
                known.count = count;
            }
            Op::Clear(slot) => {
                self.backends.remove(BackendKey { set, slot })?;
                known.slots.truncate(slot as usize);
            }
        }
        Ok(())
    }

    /// Empties the slots that no reader counts.
    fn trim(&mut self, key: Frontend) -> Result<()> {
        let Some(known) = self.known.get(&key) else {
            return Ok(());
        };
        for slot in (known.count..known.slots.len() as u32).rev() {
            self.apply(key, Op::Clear(slot))?;
        }
        Ok(())
    }

    fn free_set(&mut self) -> u32 {
        while self.used_sets.contains(&self.next_set) {
            self.next_set = self.next_set.wrapping_add(1);
        }
        self.next_set
    }
}

/// One map write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    /// Puts a backend into a slot.
    Write(u32, SockAddr),
    /// Makes the set end before this slot.
    Resize(u32),
    /// Empties a slot that the set no longer reaches.
    Clear(u32),
}

/// The writes that lead from the reachable slots to the wanted backends, in an order that is safe at every step:
/// as many as there are differences, whatever the size of the set. What can fail for want of room comes first,
/// before anything has changed for a reader.
fn plan(current: &[SockAddr], wanted: &[SockAddr]) -> Vec<Op> {
    let mut unmet: HashSet<SockAddr> = wanted.iter().copied().collect();
    let mut holes: Vec<u32> = Vec::new();
    for (slot, backend) in (0..).zip(current) {
        if !unmet.remove(backend) {
            holes.push(slot);
        }
    }
    let mut missing: Vec<SockAddr> = Vec::new();
    for backend in wanted {
        if unmet.remove(backend) {
            missing.push(*backend);
        }
    }

    let mut ops = Vec::new();
    // More new ones than old ones to replace: these go behind the last, and are reachable all at once.
    let before = current.len() as u32;
    let appended = missing.split_off(missing.len().min(holes.len()));
    let after = before + appended.len() as u32;
    ops.extend((before..).zip(appended).map(|(slot, backend)| Op::Write(slot, backend)));
    if after > before {
        ops.push(Op::Resize(after));
    }
    // New ones in the places of old ones.
    let unfilled = holes.split_off(missing.len());
    ops.extend(
        holes
            .into_iter()
            .zip(missing)
            .map(|(slot, backend)| Op::Write(slot, backend)),
    );
    // More old ones than new ones: the last ones move into the holes, and the set ends earlier. From the end, so
    // that what moves is never itself a hole.
    let mut slots: Vec<SockAddr> = current.to_vec();
    for op in &ops {
        if let Op::Write(slot, backend) = op
            && let Some(place) = slots.get_mut(*slot as usize)
        {
            *place = *backend;
        }
    }
    for hole in unfilled.iter().rev() {
        if let Some(last) = slots.pop()
            && let Some(place) = slots.get_mut(*hole as usize)
        {
            *place = last;
            ops.push(Op::Write(*hole, last));
        }
    }
    if !unfilled.is_empty() {
        let end = before - unfilled.len() as u32;
        ops.push(Op::Resize(end));
        ops.extend((end..before).rev().map(Op::Clear));
    }
    ops
}

fn key_of(frontend: &compile::Frontend) -> Frontend {
    Frontend::new(
        Addr::from(frontend.ip),
        Port::from_host(frontend.port),
        frontend.protocol.number(),
    )
}

fn frontend_of(key: &Frontend) -> Option<compile::Frontend> {
    let protocol = match key.protocol {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        _ => return None,
    };
    Some(compile::Frontend {
        ip: IpAddr::from(key.addr),
        port: key.port.host(),
        protocol,
    })
}

fn backend_of(slot: &SockAddr) -> compile::Backend {
    compile::Backend {
        ip: IpAddr::from(slot.addr),
        port: slot.port.host(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bpf::datapath::load;
    use crate::bpf::tests::world::{backend_at, run, tcp};

    fn backend(n: u8) -> SockAddr {
        SockAddr::new(Addr::from_v4_bytes([10, 0, 0, n]), Port::from_host(80))
    }

    /// The maps as a connection sees them: slots, and how many of them count.
    struct View {
        slots: HashMap<u32, SockAddr>,
        count: u32,
    }

    impl View {
        fn apply(&mut self, op: Op) {
            match op {
                Op::Write(slot, backend) => {
                    self.slots.insert(slot, backend);
                }
                Op::Resize(count) => self.count = count,
                Op::Clear(slot) => {
                    assert!(self.slots.remove(&slot).is_some(), "cleared an empty slot");
                }
            }
        }

        fn reachable(&self) -> Vec<SockAddr> {
            (0..self.count)
                .map(|slot| *self.slots.get(&slot).expect("a reachable slot is filled"))
                .collect()
        }
    }

    #[test]
    fn one_endpoint_among_a_thousand_is_a_handful_of_writes() {
        let many: Vec<_> = (0..1000u16)
            .map(|n| {
                SockAddr::new(
                    Addr::from_v4_bytes([10, 0, (n >> 8) as u8, n as u8]),
                    Port::from_host(80),
                )
            })
            .collect();
        assert_eq!(plan(&many, &many), []);
        assert_eq!(plan(&many[..999], &many).len(), 2);
        let mut fewer = many.clone();
        fewer.remove(17);
        assert_eq!(plan(&many, &fewer).len(), 3);
        let mut other = many.clone();
        other[500] = SockAddr::new(Addr::from_v4_bytes([10, 1, 0, 1]), Port::from_host(80));
        assert_eq!(plan(&many, &other).len(), 1);
    }

    /// An agent dies after any of its writes: the next one finds a frontend that works, and no slot out of reach.
    #[test]
    fn a_change_that_was_cut_short_is_continued() {
        run(module_path!(), "a_change_that_was_cut_short_is_continued", |world| {
            let maps = world.bpffs.join("maps");
            std::fs::create_dir(&maps).unwrap();
            let frontend = tcp("10.96.0.1", 80);
            let set = |from: u8, to: u8| {
                (from..to)
                    .map(|n| backend_at(&format!("10.0.0.{n}"), 80))
                    .collect::<Vec<_>>()
            };
            let slots = |set: &[compile::Backend]| {
                set.iter()
                    .map(|b| SockAddr::new(b.ip.into(), Port::from_host(b.port)))
                    .collect::<Vec<_>>()
            };
            for (before, after) in [
                (set(0, 3), set(1, 7)),
                (set(0, 7), set(5, 8)),
                (set(0, 4), set(4, 8)),
                (set(0, 4), set(0, 0)),
            ] {
                let steps = plan(&slots(&before), &slots(&after)).len();
                for died_after in 0..=steps {
                    let mut services = Services::open(&mut load(&maps).unwrap()).unwrap();
                    services.remove(&frontend).unwrap();
                    services.set(&frontend, &before).unwrap();
                    for op in plan(&slots(&before), &slots(&after)).into_iter().take(died_after) {
                        services.apply(key_of(&frontend), op).unwrap();
                    }
                    drop(services);

                    let mut services = Services::open(&mut load(&maps).unwrap()).unwrap();
                    let found = services.all()[&frontend].clone();
                    assert!(found.iter().all(|b| before.contains(b) || after.contains(b)));
                    assert!(!found.is_empty() || after.is_empty());
                    assert_eq!(services.backends.entries().unwrap().len(), found.len());
                    services.set(&frontend, &after).unwrap();
                    let mut found = services.all()[&frontend].clone();
                    found.sort();
                    assert_eq!(found, after);
                }
            }
        });
    }

    proptest! {
        #[test]
        fn every_step_is_safe_and_the_last_is_right(
            current in proptest::collection::vec(0u8..12, 0..12),
            wanted in proptest::collection::vec(0u8..12, 0..12),
        ) {
            let current: Vec<_> = current.into_iter().map(backend).collect();
            let wanted: Vec<_> = wanted.into_iter().map(backend).collect();
            let mut view = View { slots: (0..).zip(current.iter().copied()).collect(), count: current.len() as u32 };
            for op in plan(&current, &wanted) {
                view.apply(op);
                let reachable = view.reachable();
                prop_assert!(reachable.iter().all(|b| current.contains(b) || wanted.contains(b)));
                prop_assert!(!reachable.is_empty() || current.is_empty() || wanted.is_empty());
                // What is there before and after is there throughout.
                prop_assert!(current.iter().all(|b| !wanted.contains(b) || reachable.contains(b)));
            }
            let mut reachable = view.reachable();
            reachable.sort();
            let mut expected = wanted.clone();
            expected.sort();
            expected.dedup();
            prop_assert_eq!(reachable, expected);
            prop_assert_eq!(view.slots.len() as u32, view.count);
        }
    }
}
