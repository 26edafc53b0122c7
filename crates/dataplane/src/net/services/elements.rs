//! Sets and frontends as elements of the table's sets and maps.

use std::ffi::CStr;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use weft_model::compile::{Backend, Choice, Frontend, Rule, SetKey, Source, Target, WhenEmpty};

use super::names::{Family, Pick, SIZES, View, family};
use crate::net::nft::{Element, Value};

/// An element, and what it is in.
pub(super) type Placed = (&'static CStr, Element);

/// The backends of one choice, as the kernel has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    /// The set's number in the table.
    pub(super) number: u32,
    /// The backend in each slot.
    pub(super) backends: Vec<Backend>,
    /// How long a silent client keeps its backend.
    pub(super) affinity: Option<Duration>,
}

/// A frontend as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) rule: Rule,
    /// Numbers of its two sets.
    pub(super) inside: u32,
    pub(super) outside: u32,
}

impl Slots {
    /// The chain that picks one of them, unless there is none.
    pub(super) fn pick(&self, key: &SetKey) -> Option<Pick> {
        let backends = self.backends.len() as u32;
        (backends > 0).then_some(Pick {
            v4: !key.ipv6,
            backends,
            affinity: self.affinity,
        })
    }

    /// What is in the table for it.
    pub(super) fn elements(&self, key: &SetKey) -> Vec<Placed> {
        let family = family(!key.ipv6);
        let number = self.number.to_ne_bytes();
        let mut found = vec![];
        if let Some(pick) = self.pick(key) {
            let element = Element {
                comment: Some(name(key)),
                ..Element::new(number.to_vec(), Value::Goto(pick.chain()))
            };
            found.push((SIZES, element));
        }
        for (slot, backend) in (0u32..).zip(&self.backends) {
            let slot = [number, slot.to_ne_bytes()].concat();
            let address = address(backend.ip, backend.port);
            if self.affinity.is_some() {
                let member = [&number[..], &address].concat();
                found.push((family.members, Element::new(member, Value::Member)));
            }
            found.push((family.backends, Element::new(slot, Value::Data(address))));
        }
        found
    }

    /// Puts these backends into slots, so that as many as can be stay where they are.
    pub(super) fn arrange(&mut self, wanted: &[Backend]) {
        let mut missing: Vec<Backend> = wanted.to_vec();
        missing.retain(|backend| !self.backends.contains(backend));
        let mut slots = std::mem::take(&mut self.backends).into_iter();
        let mut arranged: Vec<Option<Backend>> = vec![];
        for backend in slots.by_ref() {
            let kept = wanted.contains(&backend).then_some(backend);
            arranged.push(kept.or_else(|| missing.pop()));
        }
        arranged.extend(missing.into_iter().map(Some));
        // Holes are filled from the end.
        let mut at = 0;
        while at < arranged.len() {
            match arranged.get(at) {
                Some(None) => drop(arranged.swap_remove(at)),
                _ => at += 1,
            }
        }
        self.backends = arranged.into_iter().flatten().collect();
    }
}

impl Entry {
    /// What is in the table for it; but for the cluster address, which others may share.
    pub(super) fn elements(&self, frontend: &Frontend) -> Vec<Placed> {
        let family = family(frontend.ip.is_ipv4());
        let key = frontend_key(frontend);
        let [inside, outside] = &family.views;
        let mut found = vec![];
        let mut add = |view: &View, target: &Target, number: u32| {
            let set = Value::Data(number.to_ne_bytes().to_vec());
            found.push((view.frontends, Element::new(key.clone(), set)));
            if let (Source::Masquerade, Some(masquerade)) = (target.source, view.masquerade) {
                found.push((masquerade, Element::new(key.clone(), Value::Member)));
            }
            if target.when_empty == WhenEmpty::Drop {
                found.push((view.silent, Element::new(key.clone(), Value::Member)));
            }
        };
        add(inside, &self.rule.inside, self.inside);
        add(outside, &self.rule.outside, self.outside);
        if let Some(ranges) = &self.rule.source_ranges {
            found.push((family.restricted, Element::new(key.clone(), Value::Member)));
            found.extend(allowed(family, &key, ranges));
        }
        found
    }
}

/// Who may connect to a frontend. Ranges in others are left out: the kernel refuses intervals that overlap.
fn allowed(family: &'static Family, key: &[u8], ranges: &[IpNet]) -> Vec<Placed> {
    let own: Vec<IpNet> = ranges
        .iter()
        .filter(|net| net.addr().is_ipv4() == family.v4)
        .copied()
        .collect();
    let element = |net: IpNet| {
        let bound = |ip: IpAddr| [key, &octets(ip)].concat();
        Element::new(bound(net.network()), Value::UpTo(bound(net.broadcast())))
    };
    let merged = IpNet::aggregate(&own);
    merged.into_iter().map(|net| (family.allowed, element(net))).collect()
}

/// An address in the table's sets.
pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn word(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn address(ip: IpAddr, port: u16) -> Vec<u8> {
    [&octets(ip)[..], &word(port)].concat()
}

fn frontend_key(frontend: &Frontend) -> Vec<u8> {
    let protocol = [frontend.protocol.number(), 0, 0, 0];
    [&octets(frontend.ip)[..], &protocol, &word(frontend.port)].concat()
}

/// A set's name, by which who reads the table knows it, and the next agent finds its number.
pub(super) fn name(key: &SetKey) -> String {
    let family = if key.ipv6 { "IPv6" } else { "IPv4" };
    let choice = match key.choice {
        Choice::Cluster => "all endpoints",
        Choice::Local => "local endpoints",
    };
    format!("{} port {}/{} {family} {choice}", key.service, key.port, key.protocol)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn backends(numbers: impl IntoIterator<Item = u8>) -> Vec<Backend> {
        let backend = |n: u8| Backend {
            ip: IpAddr::from([10, 0, 0, n]),
            port: 80,
        };
        numbers.into_iter().map(backend).collect()
    }

    proptest! {
        #[test]
        fn slots_hold_what_is_wanted_and_as_little_as_can_moves(
            before in prop::collection::btree_set(any::<u8>(), 0..20),
            after in prop::collection::btree_set(any::<u8>(), 0..20),
        ) {
            let mut slots = Slots { backends: backends(before.clone()), ..Slots::default() };
            slots.arrange(&backends(after.clone()));
            let found: BTreeSet<Backend> = slots.backends.iter().copied().collect();
            prop_assert_eq!(slots.backends.len(), after.len());
            prop_assert_eq!(&found, &backends(after.clone()).into_iter().collect());
            let changed = slots.backends.iter().zip(backends(before.clone())).filter(|(a, b)| **a != *b).count();
            // Each that comes or goes costs one slot at most.
            prop_assert!(changed <= before.symmetric_difference(&after).count());
        }
    }
}
