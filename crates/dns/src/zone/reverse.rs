//! From an address back to its names, and the ranges in which an unknown address is nobody's.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;
use ipnet::IpNet;
use weft_model::ObjectKey;

use super::label::Label;

/// Who has an address: a Service itself, or an endpoint below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) key: Arc<ObjectKey>,
    pub(super) label: Option<Label>,
}

/// What a reverse name asks about.
pub(super) enum Asked<'a> {
    /// One address and its owners.
    Address(Vec<&'a Owner>),
    /// A whole range of the cluster's: a name that has names below it, and nothing of its own.
    Range,
    /// An address of the cluster's that nobody has.
    Nobody,
}

/// Whose a range of the cluster's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RangeOf {
    Node,
    Pool,
    Services,
}

/// Addresses and their owners.
#[derive(Debug, Default)]
pub(super) struct Reverse {
    /// The same owner is listed as often as it was added.
    owners: HashMap<IpAddr, Vec<Owner>>,
    fixed: Vec<IpNet>,
    told: BTreeMap<(RangeOf, Box<str>), Vec<IpNet>>,
}

impl Reverse {
    pub(super) fn new(fixed: Vec<IpNet>) -> Self {
        Self {
            fixed,
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, ip: IpAddr, owner: Owner) {
        // Room for one: few addresses ever have a second owner.
        self.owners
            .entry(ip)
            .or_insert_with(|| Vec::with_capacity(1))
            .push(owner);
    }

    pub(super) fn remove(&mut self, ip: IpAddr, owner: &Owner) {
        let Some(owners) = self.owners.get_mut(&ip) else { return };
        if let Some(at) = owners.iter().position(|o| o == owner) {
            owners.swap_remove(at);
        }
        if owners.is_empty() {
            self.owners.remove(&ip);
        }
    }

    /// Sets the ranges that an object of this name stands for; none where it has gone.
    pub(super) fn set_ranges(&mut self, of: RangeOf, name: &str, ranges: Vec<IpNet>) {
        let key = (of, name.into());
        match ranges.is_empty() {
            true => drop(self.told.remove(&key)),
            false => drop(self.told.insert(key, ranges)),
        }
    }

    /// What a name below `in-addr.arpa.` or `ip6.arpa.` asks about; `None` if it is not the cluster's to answer.
    pub(super) fn find(&self, name: &Name) -> Option<Asked<'_>> {
        let net = name.parse_arpa_name().ok()?;
        if net.prefix_len() < net.max_prefix_len() {
            let ours = |range: &IpNet| net.prefix_len() > 0 && range.contains(&net);
            return self.ranges().any(ours).then_some(Asked::Range);
        }
        let ip = net.addr();
        // `+1` and `001` parse as numbers too, but are other names.
        if Name::from(ip) != *name {
            return None;
        }
        match self.owners.get(&ip) {
            Some(owners) => Some(Asked::Address(Self::canonical(owners))),
            None => self.ranges().any(|range| range.contains(&ip)).then_some(Asked::Nobody),
        }
    }

    /// The Services that have the address, or else the endpoints: sorted, each once.
    fn canonical(owners: &[Owner]) -> Vec<&Owner> {
        let services_only = owners.iter().any(|o| o.label.is_none());
        let mut chosen: Vec<&Owner> = owners.iter().filter(|o| !services_only || o.label.is_none()).collect();
        chosen.sort();
        chosen.dedup();
        chosen
    }

    fn ranges(&self) -> impl Iterator<Item = &IpNet> {
        self.fixed.iter().chain(self.told.values().flatten())
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }
}
