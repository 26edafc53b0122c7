//! Address space: which networks somebody holds, and which addresses of a network nobody does. Every question is
//! answered in the logarithm of what is held.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Networks and who holds them. They may nest, and be held by several.
#[derive(Clone, Debug)]
pub(super) struct Holdings<T> {
    held: BTreeMap<IpNet, Vec<T>>,
}

impl<T> Default for Holdings<T> {
    fn default() -> Self {
        Self { held: BTreeMap::new() }
    }
}

impl<T: PartialEq> Holdings<T> {
    /// False where it was there already.
    pub(super) fn insert(&mut self, net: IpNet, holder: T) -> bool {
        let holders = self.held.entry(net).or_default();
        let new = !holders.contains(&holder);
        if new {
            holders.push(holder);
        }
        new
    }

    /// False where it was not there.
    pub(super) fn remove(&mut self, net: &IpNet, holder: &T) -> bool {
        let Some(holders) = self.held.get_mut(net) else {
            return false;
        };
        let before = holders.len();
        holders.retain(|other| other != holder);
        let removed = holders.len() < before;
        if holders.is_empty() {
            self.held.remove(net);
        }
        removed
    }

    /// What shares addresses with a network: what contains it, and then what it contains.
    pub(super) fn overlapping(&self, net: &IpNet) -> impl Iterator<Item = (IpNet, &T)> {
        let outer =
            std::iter::successors(net.supernet(), IpNet::supernet).filter_map(|net| self.held.get_key_value(&net));
        let last = IpNet::from(net.broadcast());
        let inner = self.held.range(*net..=last);
        outer
            .chain(inner)
            .flat_map(|(net, holders)| holders.iter().map(|holder| (*net, holder)))
    }
}

/// The addresses of a network that nobody holds, as runs of neighbours.
#[derive(Clone, Debug)]
pub(super) struct Free {
    ipv4: bool,
    first: u128,
    last: u128,
    /// First and last address of each run.
    runs: BTreeMap<u128, u128>,
    /// Where the next search begins: what was just given back is used last.
    next: u128,
}

impl Free {
    /// A network of which nobody holds anything.
    pub(super) fn new(cidr: &IpNet) -> Self {
        let (first, last) = bounds(cidr);
        Self {
            ipv4: cidr.addr().is_ipv4(),
            first,
            last,
            runs: BTreeMap::from([(first, last)]),
            next: first,
        }
    }

    /// Takes what of a network is in this one.
    pub(super) fn take(&mut self, net: &IpNet) {
        let (first, last) = bounds(net);
        let before = self.runs.range(..=last).rev().take_while(|(_, end)| **end >= first);
        let hit: Vec<(u128, u128)> = before.map(|(start, end)| (*start, *end)).collect();
        for (start, end) in hit {
            self.runs.remove(&start);
            if start < first {
                self.runs.insert(start, first - 1);
            }
            if end > last {
                self.runs.insert(last + 1, end);
            }
        }
    }

    /// Gives back what of a network is in this one. Nobody may hold any of it.
    pub(super) fn give(&mut self, net: &IpNet) {
        let (first, last) = bounds(net);
        let (mut first, mut last) = (first.max(self.first), last.min(self.last));
        if first > last {
            return;
        }
        self.take(net);
        if let Some((start, end)) = self.runs.range(..first).next_back().map(|(start, end)| (*start, *end))
            && end + 1 == first
        {
            first = start;
        }
        if let Some(next) = last.checked_add(1)
            && let Some(end) = self.runs.remove(&next)
        {
            last = end;
        }
        self.runs.insert(first, last);
    }

    /// A block of this prefix length that nobody holds; it stays free until it is [taken](Self::take).
    pub(super) fn find(&self, prefix: u8) -> Option<IpNet> {
        let size = 1u128.checked_shl(u32::from(if self.ipv4 { 32 } else { 128 } - prefix))?;
        let fit = |from: u128, end: u128| {
            let start = from.checked_next_multiple_of(size)?;
            (start.checked_add(size - 1)? <= end).then_some(start)
        };
        let within = self
            .runs
            .range(..self.next)
            .next_back()
            .and_then(|(_, end)| fit(self.next, *end));
        let after = || self.runs.range(self.next..).find_map(|(start, end)| fit(*start, *end));
        let before = || self.runs.range(..self.next).find_map(|(start, end)| fit(*start, *end));
        let start = within.or_else(after).or_else(before)?;
        let ip = if self.ipv4 {
            IpAddr::V4(Ipv4Addr::from(start as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from(start))
        };
        IpNet::new(ip, prefix).ok()
    }

    /// Has the next search begin behind this block.
    pub(super) fn go_on_behind(&mut self, block: &IpNet) {
        self.next = bounds(block).1.saturating_add(1);
    }
}

fn bounds(net: &IpNet) -> (u128, u128) {
    match net {
        IpNet::V4(net) => (u32::from(net.network()).into(), u32::from(net.broadcast()).into()),
        IpNet::V6(net) => (net.network().into(), net.broadcast().into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn what_nests_is_found_from_inside_and_from_outside() {
        let mut holdings = Holdings::default();
        for (cidr, who) in [
            ("10.0.0.0/8", "a"),
            ("10.1.0.0/16", "b"),
            ("10.1.2.0/24", "c"),
            ("10.1.3.0/24", "d"),
            ("::/0", "e"),
        ] {
            assert!(holdings.insert(net(cidr), who));
        }
        assert!(!holdings.insert(net("10.1.2.0/24"), "c"));
        let of = |cidr: &str, holdings: &Holdings<&'static str>| -> Vec<&'static str> {
            holdings.overlapping(&net(cidr)).map(|(_, who)| *who).collect()
        };
        assert_eq!(of("10.1.2.128/25", &holdings), ["c", "b", "a"]);
        assert_eq!(of("10.1.0.0/16", &holdings), ["a", "b", "c", "d"]);
        assert_eq!(of("11.0.0.0/8", &holdings), [""; 0]);
        assert_eq!(of("0.0.0.0/0", &holdings), ["a", "b", "c", "d"]);
        assert!(holdings.remove(&net("10.1.0.0/16"), &"b") && !holdings.remove(&net("10.1.0.0/16"), &"b"));
        assert_eq!(of("10.1.2.9/32", &holdings), ["c", "a"]);
    }

    #[test]
    fn blocks_are_found_in_turn_and_what_was_given_back_comes_last() {
        let mut free = Free::new(&net("10.0.0.0/28"));
        let take = |free: &mut Free| {
            let block = free
                .find(30)
                .map(|block| (free.take(&block), free.go_on_behind(&block), block.to_string()));
            block.map(|(_, _, text)| text)
        };
        assert_eq!(take(&mut free).as_deref(), Some("10.0.0.0/30"));
        free.give(&net("10.0.0.0/30"));
        let rest: Vec<_> = std::iter::from_fn(|| take(&mut free)).collect();
        assert_eq!(rest, ["10.0.0.4/30", "10.0.0.8/30", "10.0.0.12/30", "10.0.0.0/30"]);
        assert_eq!(Free::new(&net("fd00::/64")).find(128), Some(net("fd00::/128")));
    }

    proptest! {
        /// Against a plain set of addresses.
        #[test]
        fn free_runs_are_what_a_set_of_addresses_would_be(
            ops in prop::collection::vec((any::<bool>(), 0u8..64, 26u8..=32), 0..60),
            prefix in 26u8..=32,
        ) {
            let mut free = Free::new(&net("10.0.0.0/26"));
            let mut model: BTreeSet<u8> = (0..64).collect();
            for (give, at, prefix) in ops {
                let block = IpNet::new(IpAddr::from([10, 0, 0, at]), prefix).unwrap().trunc();
                let addresses = block.hosts().chain([block.network(), block.broadcast()]);
                let last = addresses.filter_map(|ip| match ip { IpAddr::V4(ip) => Some(ip.octets()[3]), IpAddr::V6(_) => None });
                if give {
                    free.give(&block);
                    model.extend(last);
                } else {
                    free.take(&block);
                    free.go_on_behind(&block);
                    last.for_each(|at| { model.remove(&at); });
                }
            }
            let size = 1u8 << (32 - prefix);
            let fits = (0..64u8).step_by(size.into()).filter(|at| (*at..at + size).all(|a| model.contains(&a))).count();
            match free.find(prefix) {
                Some(block) => {
                    let IpAddr::V4(ip) = block.network() else { unreachable!() };
                    let at = ip.octets()[3];
                    prop_assert!(block == block.trunc() && (at..at + size).all(|a| model.contains(&a)));
                }
                None => prop_assert_eq!(fits, 0),
            }
        }
    }
}
