//! Ranges of addresses as the borders of an interval set.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::element::{Element, Value};

/// Addresses in a row: the first, the last, and whether they are of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::net) struct Interval {
    first: u128,
    last: u128,
    v4: bool,
}

impl Interval {
    /// Its first address, and the one after its last, which a range up to the very last address has not.
    pub(in crate::net) fn elements(&self) -> impl Iterator<Item = Element> + use<> {
        let v4 = self.v4;
        let key = move |value: u128| match v4 {
            true => (value as u32).to_be_bytes().to_vec(),
            false => value.to_be_bytes().to_vec(),
        };
        let top = if v4 { u128::from(u32::MAX) } else { u128::MAX };
        let start = Element::new(key(self.first), Value::Member);
        let end = (self.last < top).then(|| Element::new(key(self.last + 1), Value::End));
        std::iter::once(start).chain(end)
    }
}

/// These ranges, those of one family: merged, because the kernel refuses intervals that overlap.
pub(in crate::net) fn intervals(nets: &[IpNet], v4: bool) -> BTreeSet<Interval> {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    let family = nets.iter().filter(|net| net.addr().is_ipv4() == v4);
    let mut ranges: Vec<(u128, u128)> = family.map(|net| (bits(net.network()), bits(net.broadcast()))).collect();
    ranges.sort_unstable();
    let mut merged: Vec<Interval> = vec![];
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.last.saturating_add(1) => before.last = last.max(before.last),
            _ => merged.push(Interval { first, last, v4 }),
        }
    }
    merged.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn elements(nets: &[IpNet], v4: bool) -> Vec<Element> {
        intervals(nets, v4).iter().flat_map(Interval::elements).collect()
    }

    #[test]
    fn neighbours_and_nested_ranges_become_one() {
        let nets: Vec<IpNet> = [
            "10.244.2.0/23",
            "10.244.0.0/23",
            "10.244.1.7/32",
            "10.89.0.10/32",
            "fd00::/64",
            "255.255.255.255/32",
        ]
        .map(|net| net.parse().unwrap())
        .to_vec();
        let text: Vec<_> = elements(&nets, true)
            .iter()
            .map(|e| (e.key.clone(), e.value == Value::End))
            .collect();
        assert_eq!(
            text,
            [
                (vec![10, 89, 0, 10], false),
                (vec![10, 89, 0, 11], true),
                (vec![10, 244, 0, 0], false),
                (vec![10, 244, 4, 0], true),
                (vec![255, 255, 255, 255], false),
            ]
        );
        assert_eq!(elements(&nets, false).len(), 2);
    }

    proptest! {
        #[test]
        fn borders_rise_and_tell_who_is_in(
            nets in prop::collection::vec((any::<u32>(), 0u8..=32), 0..12), probe in any::<u32>(),
        ) {
            let nets: Vec<IpNet> = nets.into_iter().map(|(ip, len)| IpNet::new(IpAddr::V4(ip.into()), len).unwrap()).collect();
            let borders = elements(&nets, true);
            prop_assert!(borders.windows(2).all(|pair| pair[0].key < pair[1].key && pair[0].value != pair[1].value));
            let key = probe.to_be_bytes().to_vec();
            let inside = borders.iter().rev().find(|border| border.key <= key).is_some_and(|border| border.value == Value::Member);
            let ip = IpAddr::V4(probe.into());
            prop_assert_eq!(inside, nets.iter().any(|net| net.contains(&ip)));
        }
    }
}
