//! Services by the kernel's own means: one nftables table, whose rules never change, and the maps that they look into.
//!
//! ```text
//! table inet weft-services {
//!     map frontends-inside4 { 10.96.0.10 . udp . 53 : 0:1, 0.0.0.0 . tcp . 30080 : 0:2, … }      address -> set
//!     map sizes             { 0:1 : goto pick4-2, … }                            set -> chain for its number of backends
//!     map backends4         { 0:1 . 0x0 : 10.244.0.2 . 5353, 0:1 . 0x1 : … }     (set, slot) -> backend
//!     chain prerouting { type nat hook prerouting priority dstnat
//!         from a pod of this node: goto inside4;  of another: goto remote-pods4;  from elsewhere: goto outside4 }
//!     chain output { goto inside4 }
//!     chain inside4 {
//!         the packet's address -> set -> chain for its size;  the same for a node port
//!         the packet's address, if its set is empty: refuse, or drop where a traffic policy wants that
//!         an unused port of a live address: refuse;  an address that no Service has: drop }
//!     chain pick4-2 { dnat to meta priority . numgen random mod 2 map @backends4 }
//!     chain hairpin { what goes back where it came from: mark }
//!     chain postrouting { what is marked: masquerade }
//!     chain forward { ct state invalid drop }
//! }
//! ```
//!
//! So an endpoint's change is the elements of one set, however many frontends lead to it and however many Services
//! there are; a connection's first packet costs five hash lookups, and the kernel's conntrack does the rest: answers,
//! fragments, ICMP errors. `nft list table inet weft-services` shows all of it; sets have their Services' names as comments.
//! From chain to chain the number of the set goes in the packet's priority, which has no meaning yet: a router sets it
//! anew, and a packet of this node's own loses at most the priority of its first one. Marks belong to others.
//!
//! Node ports are open on every address of the node but the loopback: to let the answer of a pod elsewhere return to
//! 127.0.0.1, the uplink would have to accept packets to it from every neighbour (CVE-2020-8558).

mod counters;
mod elements;
mod names;
mod rules;
mod stale;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{CStr, CString};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_model::compile::{Backend, Frontend, FrontendKind, Rule, SetKey, Step};

use super::NetError;
use super::nft::{self, Batch, Element, Value};
pub use counters::refusals;
use elements::{Entry, Placed, Slots, octets};
use names::{FAMILIES, Pick, TABLE, family};

/// What the table holds.
#[derive(Debug, Default)]
pub struct Services {
    sets: BTreeMap<SetKey, Slots>,
    frontends: BTreeMap<Frontend, Entry>,
    /// How many sets each chain that picks serves.
    picks: BTreeMap<Pick, usize>,
    /// How many frontends each cluster address has.
    live: BTreeMap<IpAddr, usize>,
    service_cidrs: Vec<IpNet>,
    pods: Vec<IpNet>,
    /// Numbers that an earlier agent gave, by the names of the sets.
    earlier: HashMap<String, u32>,
    next_number: u32,
    /// Where everything has been written: how the kernel said the rules right after, and its transaction then.
    written: Option<(u32, Vec<u8>)>,
}

/// What a change replaced, to have it back where the kernel refuses the change.
#[derive(Default)]
struct Before {
    sets: BTreeMap<SetKey, Option<Slots>>,
    frontends: BTreeMap<Frontend, Option<Entry>>,
}

/// What there is in the table for some sets and frontends.
#[derive(Default)]
struct Contents {
    elements: BTreeSet<Placed>,
    picks: BTreeMap<Pick, usize>,
    live: BTreeMap<IpAddr, usize>,
}

/// A transaction, and what it leads from and to.
struct Change {
    /// Chains that its elements lead to, and that have to be in force before: nobody uses them until then.
    chains: Option<Batch>,
    batch: Batch,
    old: Contents,
    new: Contents,
}

impl Services {
    /// Knows of no Service; what an earlier agent left in the kernel stays in force until [`Services::replace`].
    pub fn open() -> Result<Self, NetError> {
        let earlier = nft::comments(TABLE, names::SIZES).map_err(cannot_look)?;
        let number = |(key, name): (Vec<u8>, String)| Some((name, u32::from_ne_bytes(key.try_into().ok()?)));
        let earlier: HashMap<String, u32> = earlier.into_iter().filter_map(number).collect();
        Ok(Self {
            next_number: earlier.values().max().map_or(1, |max| max.wrapping_add(1)),
            earlier,
            ..Self::default()
        })
    }

    /// Takes these steps in one transaction: all of them are in force, or no packet goes another way than before. A chain
    /// that they lead to for the first time is made in one before. Where somebody else has changed the table, all of it
    /// is written anew.
    pub fn apply(&mut self, steps: &[Step]) -> Result<(), NetError> {
        match self.try_apply(steps) {
            Err(error) if error.is_missing() || error.errno() == Some(nix::libc::EEXIST) => {
                self.write_all()?;
                self.try_apply(steps)
            }
            result => result,
        }
    }

    fn try_apply(&mut self, steps: &[Step]) -> Result<(), NetError> {
        let before = self.take_in(steps);
        let Change {
            chains,
            batch,
            old,
            new,
        } = self.change(&before);
        let messages = batch.messages() + chains.as_ref().map_or(0, Batch::messages);
        tracing::debug!(messages, "services change");
        let mut batches = chains.into_iter().chain([batch]);
        if let Err(error) = batches.try_for_each(|batch| batch.commit("change the nftables rules for services")) {
            self.take_back(before);
            return Err(error);
        }
        count(&mut self.picks, &old.picks, &new.picks);
        count(&mut self.live, &old.live, &new.live);
        self.forget_flows_since(&before);
        Ok(())
    }

    /// The transaction that follows from what has been noted, given what was known before.
    fn change(&self, before: &Before) -> Change {
        let old = before.contents();
        let new = self.contents_of(before);
        let mut chains = None;
        for pick in new.picks.keys().filter(|pick| !self.picks.contains_key(pick)) {
            rules::write_pick(chains.get_or_insert_with(Batch::new), pick);
        }
        let mut batch = Batch::new();
        let (live, unused) = self.live_changes(&old, &new);
        let gone = old.elements.difference(&new.elements).chain(&unused);
        put(&mut batch, gone, Batch::delete_elements);
        let come = new.elements.difference(&old.elements).chain(&live);
        put(&mut batch, come, Batch::add_elements);
        for (pick, gone) in &old.picks {
            if !new.picks.contains_key(pick) && self.picks.get(pick) == Some(gone) {
                rules::delete_pick(&mut batch, pick);
            }
        }
        Change {
            chains,
            batch,
            old,
            new,
        }
    }

    /// Makes the table hold this and nothing else, whatever was there; no packet meets a state in between. What clients keep by affinity stays. Where the kernel refuses all of it, each Service is tried alone.
    pub fn replace(&mut self, all: &[Vec<Step>]) -> Vec<Result<(), NetError>> {
        self.sets.clear();
        self.frontends.clear();
        for steps in all {
            self.take_in(steps);
        }
        if self.write_all().is_ok() {
            self.forget_all_stale_flows();
            return all.iter().map(|_| Ok(())).collect();
        }
        self.sets.clear();
        self.frontends.clear();
        let empty = self.write_all();
        if let Err(error) = empty {
            let what = error.to_string();
            return all.iter().map(|_| Err(NetError::Differs(what.clone()))).collect();
        }
        all.iter().map(|steps| self.apply(steps)).collect()
    }

    /// Says where cluster addresses come from, of which those that no Service has are dropped, and where the cluster's
    /// pods are, which are inside.
    pub fn set_ranges(&mut self, service_cidrs: &[IpNet], pods: &[IpNet]) -> Result<(), NetError> {
        if self.service_cidrs == service_cidrs && self.pods == pods {
            return Ok(());
        }
        self.service_cidrs = service_cidrs.to_vec();
        self.pods = pods.to_vec();
        let mut batch = Batch::new();
        write_sets(&mut batch);
        for family in FAMILIES {
            batch.flush_set(TABLE, family.ranges);
            batch.flush_set(TABLE, family.pods);
        }
        self.write_ranges(&mut batch);
        batch.commit("change the ranges in the nftables rules for services")
    }

    /// Writes the table as it should be, from what is known.
    pub fn write_all(&mut self) -> Result<(), NetError> {
        let contents = self.contents();
        // Of another version, whose sets are others: what clients keep by affinity is lost with it.
        self.write(&contents, false).or_else(|_| self.write(&contents, true))?;
        (self.picks, self.live) = (contents.picks, contents.live);
        self.earlier.clear();
        let seen = nft::generation().and_then(|generation| Ok((generation, rules::listed()?)));
        self.written = Some(seen.map_err(cannot_look)?);
        Ok(())
    }

    /// Writes the table anew where somebody has flushed or deleted it. Costs one short question as long as nobody
    /// changes any rules. An element that somebody else takes away is noticed only when it is to change.
    pub fn look(&mut self) -> Result<(), NetError> {
        let Some((generation, rules)) = &mut self.written else {
            return Ok(());
        };
        let now = nft::generation().map_err(cannot_look)?;
        if now == *generation {
            return Ok(());
        }
        if rules::listed().map_err(cannot_look)? == *rules {
            *generation = now;
            return Ok(());
        }
        tracing::warn!("somebody has changed the nftables rules for services: writing them again");
        self.write_all()
    }

    fn write(&self, contents: &Contents, anew: bool) -> Result<(), NetError> {
        let what = "write the nftables rules for services";
        let failed = |source| NetError::Kernel {
            what: what.to_owned(),
            source,
        };
        let write_picks = |batch: &mut Batch| contents.picks.keys().for_each(|pick| rules::write_pick(batch, pick));
        let mut batch = Batch::new();
        if anew {
            batch.replace_table(TABLE);
            write_sets(&mut batch);
        } else {
            let mut before = Batch::new();
            write_sets(&mut before);
            write_picks(&mut before);
            before.commit(what)?;
        }
        let keep = FAMILIES.map(|family| family.affinity);
        for set in rules::sets().iter().filter(|set| !keep.contains(&set.name)) {
            batch.flush_set(TABLE, set.name);
        }
        rules::write(&mut batch);
        if anew {
            write_picks(&mut batch);
        } else {
            let picks: BTreeSet<CString> = contents.picks.keys().map(Pick::chain).collect();
            let constant = rules::constant_chains();
            let there = nft::chains(TABLE).map_err(failed)?;
            let wanted = |chain: &CString| picks.contains(chain) || constant.contains(&chain.as_c_str());
            for chain in there.iter().filter(|chain| !wanted(chain)) {
                batch.delete_chain(TABLE, chain);
            }
        }
        let live: Vec<Placed> = contents.live.keys().map(live_element).collect();
        put(&mut batch, contents.elements.iter().chain(&live), Batch::add_elements);
        self.write_ranges(&mut batch);
        batch.commit(what)
    }

    fn write_ranges(&self, batch: &mut Batch) {
        for family in FAMILIES {
            for (set, nets) in [(family.ranges, &self.service_cidrs), (family.pods, &self.pods)] {
                let elements: Vec<Element> = nft::intervals(nets, family.v4)
                    .iter()
                    .flat_map(nft::Interval::elements)
                    .collect();
                batch.add_elements(TABLE, set, &elements);
            }
        }
    }

    /// Notes the steps, and returns what was known before of all that they touch.
    fn take_in(&mut self, steps: &[Step]) -> Before {
        let mut before = Before::default();
        for step in steps {
            match step {
                Step::Set(key, backends) => self.slots(key, &mut before).arrange(backends),
                Step::Forget(key) => {
                    let gone = self.sets.remove(key);
                    before.sets.entry(key.clone()).or_insert(gone);
                }
                Step::Put(frontend, rule) => {
                    let entry = self.entry(rule, &mut before);
                    let old = self.frontends.insert(*frontend, entry);
                    before.frontends.entry(*frontend).or_insert(old);
                }
                Step::Remove(frontend) => {
                    let gone = self.frontends.remove(frontend);
                    before.frontends.entry(*frontend).or_insert(gone);
                }
            }
        }
        before
    }

    fn entry(&mut self, rule: &Rule, before: &mut Before) -> Entry {
        let mut number = |key: &SetKey| {
            let slots = self.slots(key, before);
            slots.affinity = rule.affinity;
            slots.number
        };
        Entry {
            inside: number(&rule.inside.set),
            outside: number(&rule.outside.set),
            rule: rule.clone(),
        }
    }

    /// The set of this key, with a number of its own.
    fn slots(&mut self, key: &SetKey, before: &mut Before) -> &mut Slots {
        let known = self.sets.get(key);
        before.sets.entry(key.clone()).or_insert_with(|| known.cloned());
        let (earlier, next) = (&mut self.earlier, &mut self.next_number);
        self.sets.entry(key.clone()).or_insert_with(|| {
            let number = earlier.remove(&elements::name(key)).unwrap_or_else(|| {
                *next = next.wrapping_add(1);
                next.wrapping_sub(1)
            });
            Slots {
                number,
                ..Slots::default()
            }
        })
    }

    fn take_back(&mut self, before: Before) {
        for (key, slots) in before.sets {
            match slots {
                Some(slots) => drop(self.sets.insert(key, slots)),
                None => drop(self.sets.remove(&key)),
            }
        }
        for (frontend, entry) in before.frontends {
            match entry {
                Some(entry) => drop(self.frontends.insert(frontend, entry)),
                None => drop(self.frontends.remove(&frontend)),
            }
        }
    }

    fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        self.sets.iter().for_each(|(key, slots)| contents.add_set(key, slots));
        self.frontends
            .iter()
            .for_each(|(at, entry)| contents.add_frontend(at, entry));
        contents
    }

    /// What there is now for what a change has touched.
    fn contents_of(&self, touched: &Before) -> Contents {
        let mut contents = Contents::default();
        for (key, slots) in touched.sets.keys().filter_map(|key| self.sets.get_key_value(key)) {
            contents.add_set(key, slots);
        }
        for (at, entry) in touched
            .frontends
            .keys()
            .filter_map(|at| self.frontends.get_key_value(at))
        {
            contents.add_frontend(at, entry);
        }
        contents
    }

    /// Cluster addresses that get their first frontend, and those that lose their last.
    fn live_changes(&self, old: &Contents, new: &Contents) -> (Vec<Placed>, Vec<Placed>) {
        let count = |counts: &BTreeMap<IpAddr, usize>, ip: &IpAddr| counts.get(ip).copied().unwrap_or_default();
        let after = |ip: &IpAddr| count(&self.live, ip) + count(&new.live, ip) - count(&old.live, ip);
        let first = new.live.keys().filter(|ip| !self.live.contains_key(ip));
        let last = old.live.keys().filter(|ip| after(ip) == 0);
        (first.map(live_element).collect(), last.map(live_element).collect())
    }

    /// What the table holds: frontends, sets, backends.
    pub fn len(&self) -> (usize, usize, usize) {
        let backends = self.sets.values().map(|slots| slots.backends.len()).sum();
        (self.frontends.len(), self.sets.len(), backends)
    }

    /// The backends that a frontend leads to from either side; `None` where there is no such frontend.
    pub fn backends(&self, frontend: &Frontend) -> Option<impl Iterator<Item = &Backend>> {
        let Rule { inside, outside, .. } = &self.frontends.get(frontend)?.rule;
        let sets = [&inside.set, &outside.set].map(|key| self.sets.get(key));
        Some(sets.into_iter().flatten().flat_map(|slots| &slots.backends))
    }
}

impl Before {
    fn had(&self, frontend: &Frontend) -> bool {
        self.frontends.get(frontend).is_some_and(Option::is_some)
    }

    fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        for (key, slots) in &self.sets {
            slots.iter().for_each(|slots| contents.add_set(key, slots));
        }
        for (at, entry) in &self.frontends {
            entry.iter().for_each(|entry| contents.add_frontend(at, entry));
        }
        contents
    }
}

impl Contents {
    fn add_set(&mut self, key: &SetKey, slots: &Slots) {
        self.elements.extend(slots.elements(key));
        if let Some(pick) = slots.pick(key) {
            *self.picks.entry(pick).or_default() += 1;
        }
    }

    fn add_frontend(&mut self, frontend: &Frontend, entry: &Entry) {
        self.elements.extend(entry.elements(frontend));
        if entry.rule.kind == FrontendKind::ClusterIp {
            *self.live.entry(frontend.ip).or_default() += 1;
        }
    }
}

fn cannot_look(source: io::Error) -> NetError {
    NetError::Kernel {
        what: "read the nftables rules for services".to_owned(),
        source,
    }
}

/// Whether an agent has left its rules here.
pub fn is_there() -> Result<bool, NetError> {
    nft::has_table(nft::INET, TABLE).map_err(cannot_look)
}

/// Takes the table away: Services are no longer translated here.
pub fn remove() -> Result<(), NetError> {
    let mut batch = Batch::new();
    batch.remove_table(TABLE);
    batch.commit("remove the nftables rules for services")
}

fn write_sets(batch: &mut Batch) {
    batch.add_table(TABLE);
    for reason in counters::REASONS {
        batch.add_counter(TABLE, reason.name);
    }
    for (id, set) in (1..).zip(rules::sets()) {
        batch.add_set(TABLE, id, &set);
    }
}

fn live_element(ip: &IpAddr) -> Placed {
    (family(ip.is_ipv4()).live, Element::new(octets(*ip), Value::Member))
}

/// Elements, sorted by what they are in.
fn put<'a>(
    batch: &mut Batch,
    elements: impl Iterator<Item = &'a Placed>,
    write: impl Fn(&mut Batch, &CStr, &CStr, Vec<&'a Element>),
) {
    let mut by_set: BTreeMap<&CStr, Vec<&Element>> = BTreeMap::new();
    for (set, element) in elements {
        by_set.entry(set).or_default().push(element);
    }
    for (set, elements) in by_set {
        write(batch, TABLE, set, elements);
    }
}

/// Adds what has come to the counts, and takes away what has gone; what is counted no more is not kept.
fn count<K: Ord + Clone>(counts: &mut BTreeMap<K, usize>, old: &BTreeMap<K, usize>, new: &BTreeMap<K, usize>) {
    for (key, many) in new {
        *counts.entry(key.clone()).or_default() += many;
    }
    for (key, many) in old {
        if let Some(left) = counts.get_mut(key) {
            *left -= many;
        }
    }
    counts.retain(|_, many| *many > 0);
}
