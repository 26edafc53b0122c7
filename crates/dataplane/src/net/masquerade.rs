//! What leaves the cluster leaves with the node's address: nobody outside has a route back to a pod.
//!
//! ```text
//! table inet weft {
//!     set pods4 { … }         this node's pod ranges
//!     set cluster4 { … }      where the pod's own address stays: every node's pod ranges and addresses, link-local ones
//!     chain outgoing { type nat hook postrouting priority srcnat;
//!         meta nfproto ipv4 ip saddr @pods4 ip daddr != @cluster4 masquerade
//!     }
//! }                           and the same for IPv6
//! ```
//!
//! A change is a transaction of the set elements that differ; where somebody else has changed or removed the table, all
//! of it is written anew. Its cost is one lookup for a connection's first packet.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_bindings::nftables::{PushSetelemListElemAttrs, SetElemFlags, SetFlags};
use netlink_bindings::traits::Pusher;
use weft_model::compile::Masquerade;

use super::NetError;
use super::nft::{self, Batch, Expr, Place, REGISTER};

const TABLE: &CStr = c"weft";
const CHAIN: &CStr = c"outgoing";
/// How many elements go into one message; its attributes are limited to 64 KiB.
const ELEMENTS: usize = 500;

/// What differs between the families.
struct Family {
    nfproto: u8,
    pods: &'static CStr,
    cluster: &'static CStr,
    /// Set type of nftables' own tools, so that `nft list` prints addresses.
    key_type: u32,
    length: u32,
    source: u32,
    destination: u32,
}

const FAMILIES: [Family; 2] = [
    Family {
        nfproto: nft::IPV4,
        pods: c"pods4",
        cluster: c"cluster4",
        key_type: 7,
        length: 4,
        source: 12,
        destination: 16,
    },
    Family {
        nfproto: nft::IPV6,
        pods: c"pods6",
        cluster: c"cluster6",
        key_type: 8,
        length: 16,
        source: 8,
        destination: 24,
    },
];

/// What was written, and how the kernel said it right after.
#[derive(Clone, Debug)]
pub struct Written {
    ranges: Masquerade,
    /// Number of the last of the kernel's transactions that is known to have left it so.
    generation: u32,
    contents: Vec<u8>,
}

/// Makes the kernel masquerade so, in the namespace of the calling thread, with as little as will do given what was
/// `written` last.
pub fn ensure(ranges: &Masquerade, written: Option<Written>) -> Result<Written, NetError> {
    let written = match written {
        Some(written) => written.still_there().map_err(cannot_look)?,
        None => None,
    };
    match written {
        Some(written) if written.ranges == *ranges => return Ok(written),
        Some(written) => change(&written.ranges, ranges).or_else(|_| set(ranges))?,
        None => set(ranges)?,
    }
    let generation = nft::generation().map_err(cannot_look)?;
    let contents = contents().map_err(cannot_look)?;
    Ok(Written {
        ranges: ranges.clone(),
        generation,
        // Somebody was faster: the next look finds that it is not what was written.
        contents: contents.unwrap_or_default(),
    })
}

impl Written {
    /// This, where nobody has changed it; whoever changes anything of nftables is a reason to look.
    fn still_there(self) -> io::Result<Option<Self>> {
        let generation = nft::generation()?;
        if generation == self.generation {
            return Ok(Some(self));
        }
        let same = contents()?.is_some_and(|contents| contents == self.contents);
        Ok(same.then_some(Self { generation, ..self }))
    }
}

fn cannot_look(source: io::Error) -> NetError {
    NetError::Kernel {
        what: "read the nftables rules for masquerading".into(),
        source,
    }
}

fn contents() -> io::Result<Option<Vec<u8>>> {
    let sets: Vec<&CStr> = FAMILIES
        .iter()
        .flat_map(|family| [family.pods, family.cluster])
        .collect();
    nft::contents(TABLE, CHAIN, &sets)
}

fn set(ranges: &Masquerade) -> Result<(), NetError> {
    let mut batch = Batch::new();
    batch.replace_table(TABLE);
    batch.add_nat_chain(TABLE, CHAIN, Place::PostRouting, nft::SOURCE_NAT);
    let mut id = 0;
    for family in &FAMILIES {
        for (name, nets) in [(family.pods, &ranges.pods), (family.cluster, &ranges.cluster)] {
            id += 1;
            add_set(&mut batch, family, name, id);
            put_elements(&mut batch, name, &family.intervals(nets), true);
        }
        let rule = [
            Expr::Family(family.nfproto),
            Expr::Network(family.source, family.length, REGISTER),
            Expr::In(family.pods),
            Expr::Network(family.destination, family.length, REGISTER),
            Expr::NotIn(family.cluster),
            Expr::Masquerade,
        ];
        batch.add_rule(TABLE, CHAIN, &rule);
    }
    batch.commit("set the nftables rules for masquerading")
}

/// Takes the sets from one content to the other. Fails as a whole where they are not what they were.
fn change(before: &Masquerade, after: &Masquerade) -> Result<(), NetError> {
    let mut batch = Batch::new();
    for family in &FAMILIES {
        for (name, before, after) in [
            (family.pods, &before.pods, &after.pods),
            (family.cluster, &before.cluster, &after.cluster),
        ] {
            let (before, after) = (family.intervals(before), family.intervals(after));
            let gone: BTreeSet<_> = before.difference(&after).copied().collect();
            let new: BTreeSet<_> = after.difference(&before).copied().collect();
            put_elements(&mut batch, name, &gone, false);
            put_elements(&mut batch, name, &new, true);
        }
    }
    batch.commit("change the nftables rules for masquerading")
}

/// Takes the table away.
pub fn remove() -> Result<(), NetError> {
    let mut batch = Batch::new();
    batch.remove_table(TABLE);
    batch.commit("remove the nftables rules for masquerading")
}

fn add_set(batch: &mut Batch, family: &Family, name: &CStr, id: u32) {
    let header = batch.header.clone();
    let mut set = batch.request().set_create().op_newset_do(&header);
    let encoder = set.encode().push_table(TABLE).push_name(name).push_id(id);
    encoder
        .push_flags(SetFlags::Interval as u32)
        .push_key_type(family.key_type)
        .push_key_len(family.length);
}

fn put_elements(batch: &mut Batch, set: &CStr, intervals: &BTreeSet<Interval>, add: bool) {
    let header = batch.header.clone();
    let elements: Vec<Element> = intervals.iter().flat_map(Interval::elements).collect();
    for chunk in elements.chunks(ELEMENTS) {
        // Both requests have the same attributes, and each a type of its own.
        if add {
            let mut request = batch.request().set_create().op_newsetelem_do(&header);
            let list = request.encode().push_table(TABLE).push_set(set).nested_elements();
            push(list, chunk).end_nested();
        } else {
            let mut request = batch.request().op_delsetelem_do(&header);
            let list = request.encode().push_table(TABLE).push_set(set).nested_elements();
            push(list, chunk).end_nested();
        }
    }
}

fn push<P: Pusher>(mut list: PushSetelemListElemAttrs<P>, elements: &[Element]) -> PushSetelemListElemAttrs<P> {
    for element in elements {
        let mut item = list.nested_elem();
        if element.end {
            item = item.push_flags(&(SetElemFlags::IntervalEnd as u32).to_be_bytes());
        }
        list = item.nested_key().push_value(&element.key).end_nested().end_nested();
    }
    list
}

/// A border in an interval set: from here on in, or from here on out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Element {
    key: Vec<u8>,
    end: bool,
}

/// Addresses in a row: the first, the last, and whether they are of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Interval {
    first: u128,
    last: u128,
    v4: bool,
}

impl Interval {
    fn elements(&self) -> impl Iterator<Item = Element> + use<> {
        let v4 = self.v4;
        let key = move |value: u128| match v4 {
            true => (value as u32).to_be_bytes().to_vec(),
            false => value.to_be_bytes().to_vec(),
        };
        let top = if v4 { u128::from(u32::MAX) } else { u128::MAX };
        let start = Element {
            key: key(self.first),
            end: false,
        };
        // A range up to the very last address has no end.
        let end = (self.last < top).then(|| Element {
            key: key(self.last + 1),
            end: true,
        });
        std::iter::once(start).chain(end)
    }
}

impl Family {
    /// These ranges, of this family: merged, because the kernel refuses intervals that overlap.
    fn intervals(&self, nets: &[IpNet]) -> BTreeSet<Interval> {
        let v4 = self.nfproto == nft::IPV4;
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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn elements(nets: &[IpNet], family: usize) -> Vec<Element> {
        FAMILIES[family]
            .intervals(nets)
            .iter()
            .flat_map(Interval::elements)
            .collect()
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
        let text: Vec<_> = elements(&nets, 0).iter().map(|e| (e.key.clone(), e.end)).collect();
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
        assert_eq!(elements(&nets, 1).len(), 2);
    }

    proptest! {
        #[test]
        fn borders_rise_and_tell_who_is_in(
            nets in prop::collection::vec((any::<u32>(), 0u8..=32), 0..12), probe in any::<u32>(),
        ) {
            let nets: Vec<IpNet> = nets.into_iter().map(|(ip, len)| IpNet::new(IpAddr::V4(ip.into()), len).unwrap()).collect();
            let borders = elements(&nets, 0);
            prop_assert!(borders.windows(2).all(|pair| pair[0].key < pair[1].key && pair[0].end != pair[1].end));
            let key = probe.to_be_bytes().to_vec();
            let inside = borders.iter().rev().find(|border| border.key <= key).is_some_and(|border| !border.end);
            let ip = IpAddr::V4(probe.into());
            prop_assert_eq!(inside, nets.iter().any(|net| net.contains(&ip)));
        }
    }
}
