//! What leaves the cluster leaves with the node's address: nobody outside has a route back to a pod.
//!
//! ```text
//! table inet weft {
//!     set pods4 { … }         this node's pod ranges
//!     set cluster4 { … }      every node's pod ranges and addresses: there the pod's own address stays
//!     chain masquerade { type nat hook postrouting priority srcnat;
//!         meta nfproto ipv4 ip saddr @pods4 ip daddr != @cluster4 masquerade
//!     }
//! }                           and the same for IPv6
//! ```
//!
//! The table is replaced whole, in one transaction. Its cost is one lookup for a connection's first packet.

use std::ffi::CStr;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_bindings::nftables::{SetElemFlags, SetFlags};
use weft_model::compile::Masquerade;

use super::NetError;
use super::nft::{self, Batch, Expr, Place, REGISTER};

const TABLE: &CStr = c"weft";
const CHAIN: &CStr = c"masquerade";
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

/// Makes the kernel masquerade so, in the namespace of the calling thread.
pub fn set(ranges: &Masquerade) -> Result<(), NetError> {
    let mut batch = Batch::new();
    batch.replace_table(TABLE);
    batch.add_nat_chain(TABLE, CHAIN, Place::PostRouting, nft::SOURCE_NAT);
    let mut id = 0;
    for family in &FAMILIES {
        for (name, nets) in [(family.pods, &ranges.pods), (family.cluster, &ranges.cluster)] {
            id += 1;
            add_set(&mut batch, family, name, id);
            add_elements(&mut batch, name, &elements(nets, family.length == 4));
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

fn add_elements(batch: &mut Batch, set: &CStr, elements: &[Element]) {
    let header = batch.header.clone();
    for chunk in elements.chunks(ELEMENTS) {
        let mut request = batch.request().set_create().op_newsetelem_do(&header);
        let mut list = request.encode().push_table(TABLE).push_set(set).nested_elements();
        for element in chunk {
            let mut item = list.nested_elem();
            if element.end {
                item = item.push_flags(&(SetElemFlags::IntervalEnd as u32).to_be_bytes());
            }
            list = item.nested_key().push_value(&element.key).end_nested().end_nested();
        }
        list.end_nested();
    }
}

/// A border in an interval set: from here on in, or from here on out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Element {
    key: Vec<u8>,
    end: bool,
}

/// The borders of these ranges, of one family: merged, because the kernel refuses intervals that overlap.
fn elements(nets: &[IpNet], v4: bool) -> Vec<Element> {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    let family = nets.iter().filter(|net| net.addr().is_ipv4() == v4);
    let mut ranges: Vec<(u128, u128)> = family.map(|net| (bits(net.network()), bits(net.broadcast()))).collect();
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = vec![];
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    let top = if v4 { u128::from(u32::MAX) } else { u128::MAX };
    let key = |value: u128| {
        if v4 {
            (value as u32).to_be_bytes().to_vec()
        } else {
            value.to_be_bytes().to_vec()
        }
    };
    let borders = merged.into_iter().flat_map(|(first, last)| {
        let start = Element {
            key: key(first),
            end: false,
        };
        // A range up to the very last address has no end.
        let end = (last < top).then(|| Element {
            key: key(last + 1),
            end: true,
        });
        [Some(start), end]
    });
    borders.flatten().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        let text: Vec<_> = elements(&nets, true).iter().map(|e| (e.key.clone(), e.end)).collect();
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
            prop_assert!(borders.windows(2).all(|pair| pair[0].key < pair[1].key && pair[0].end != pair[1].end));
            let key = probe.to_be_bytes().to_vec();
            let inside = borders.iter().rev().find(|border| border.key <= key).is_some_and(|border| !border.end);
            let ip = IpAddr::V4(probe.into());
            prop_assert_eq!(inside, nets.iter().any(|net| net.contains(&ip)));
        }
    }
}
