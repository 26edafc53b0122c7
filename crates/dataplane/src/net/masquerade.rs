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
use netlink_bindings::nftables::{
    Chained, MetaKeys, Nfgenmsg, PayloadBase, PushExprListAttrs, Registers, SetElemFlags, SetFlags,
};
use netlink_bindings::traits::Pusher;
use netlink_bindings::utils::push_header;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use weft_model::compile::Masquerade;

use super::NetError;

const TABLE: &CStr = c"weft";
const CHAIN: &CStr = c"masquerade";
/// linux/netfilter.h: nfproto.
const INET: u8 = 1;
/// linux/netfilter.h: nf_inet_hooks.
const POST_ROUTING: u32 = 4;
/// linux/netfilter_ipv4.h: nf_ip_hook_priorities.
const SOURCE_NAT: i32 = 100;
/// linux/netfilter/nfnetlink.h: the batch is for nftables.
const SUBSYSTEM: u16 = 10;
/// linux/netfilter/nf_tables.h: nft_lookup_attributes.
const LOOKUP_SOURCE: u16 = 2;
/// linux/netfilter/nf_tables.h: nft_lookup_flags.
const NOT_IN: u32 = 1;
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
        nfproto: 2,
        pods: c"pods4",
        cluster: c"cluster4",
        key_type: 7,
        length: 4,
        source: 12,
        destination: 16,
    },
    Family {
        nfproto: 10,
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
    let mut batch = Chained::new(1);
    batch_edge(&mut batch, true);
    // Adding before deleting, so that deleting never misses; then anew.
    let header = Nfgenmsg {
        nfgen_family: INET,
        ..Nfgenmsg::new()
    };
    batch
        .request()
        .set_create()
        .op_newtable_do(&header)
        .encode()
        .push_name(TABLE);
    batch.request().op_deltable_do(&header).encode().push_name(TABLE);
    batch
        .request()
        .set_create()
        .op_newtable_do(&header)
        .encode()
        .push_name(TABLE);
    let mut chain = batch.request().set_create().op_newchain_do(&header);
    let encoder = chain
        .encode()
        .push_table(TABLE)
        .push_name(CHAIN)
        .push_type(c"nat")
        .push_policy(1);
    encoder
        .nested_hook()
        .push_num(POST_ROUTING)
        .push_priority(SOURCE_NAT)
        .end_nested();
    drop(chain);
    let mut id = 0;
    for family in &FAMILIES {
        for (name, nets) in [(family.pods, &ranges.pods), (family.cluster, &ranges.cluster)] {
            id += 1;
            add_set(&mut batch, &header, family, name, id);
            add_elements(&mut batch, &header, name, &elements(nets, family.length == 4));
        }
        add_rule(&mut batch, &header, family);
    }
    batch_edge(&mut batch, false);
    let messages = batch.finalize().into_chained().into_buf();
    send(messages)
}

/// Takes the table away.
pub fn remove() -> Result<(), NetError> {
    let mut batch = Chained::new(1);
    batch_edge(&mut batch, true);
    let header = Nfgenmsg {
        nfgen_family: INET,
        ..Nfgenmsg::new()
    };
    batch
        .request()
        .set_create()
        .op_newtable_do(&header)
        .encode()
        .push_name(TABLE);
    batch.request().op_deltable_do(&header).encode().push_name(TABLE);
    batch_edge(&mut batch, false);
    send(batch.finalize().into_chained().into_buf())
}

fn batch_edge(batch: &mut Chained<'_>, begin: bool) {
    let mut header = Nfgenmsg::new();
    header.set_res_id(SUBSYSTEM);
    match begin {
        true => drop(batch.request().op_batch_begin_do(&header)),
        false => drop(batch.request().op_batch_end_do(&header)),
    }
}

fn add_set(batch: &mut Chained<'_>, header: &Nfgenmsg, family: &Family, name: &CStr, id: u32) {
    let mut set = batch.request().set_create().op_newset_do(header);
    let encoder = set.encode().push_table(TABLE).push_name(name).push_id(id);
    encoder
        .push_flags(SetFlags::Interval as u32)
        .push_key_type(family.key_type)
        .push_key_len(family.length);
}

fn add_elements(batch: &mut Chained<'_>, header: &Nfgenmsg, set: &CStr, elements: &[Element]) {
    for chunk in elements.chunks(ELEMENTS) {
        let mut request = batch.request().set_create().op_newsetelem_do(header);
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

fn add_rule(batch: &mut Chained<'_>, header: &Nfgenmsg, family: &Family) {
    let mut request = batch.request().set_create().set_append().op_newrule_do(header);
    let list = request
        .encode()
        .push_table(TABLE)
        .push_chain(CHAIN)
        .nested_expressions();
    let meta = list.nested_elem().nested_data_meta();
    let list = meta
        .push_dreg(REGISTER)
        .push_key(MetaKeys::Nfproto as u32)
        .end_nested()
        .end_nested();
    let compare = list.nested_elem().nested_data_cmp().push_sreg(REGISTER).push_op(0);
    let list = compare
        .nested_data()
        .push_value(&[family.nfproto])
        .end_nested()
        .end_nested()
        .end_nested();
    let list = look_up(list, family.source, family.length, family.pods, 0);
    let list = look_up(list, family.destination, family.length, family.cluster, NOT_IN);
    list.nested_elem().push_name(c"masq").end_nested().end_nested();
}

const REGISTER: u32 = Registers::Reg1 as u32;

/// Loads a field of the IP header and looks it up in a set.
fn look_up<P: Pusher>(
    list: PushExprListAttrs<P>,
    offset: u32,
    length: u32,
    set: &CStr,
    flags: u32,
) -> PushExprListAttrs<P> {
    let load = list.nested_elem().nested_data_payload().push_dreg(REGISTER);
    let load = load
        .push_base(PayloadBase::NetworkHeader as u32)
        .push_offset(offset)
        .push_len(length);
    let list = load.end_nested().end_nested();
    let mut lookup = list.nested_elem().nested_data_lookup().push_set(set).push_flags(flags);
    // Not `push_sreg`: the description that the crate is generated from numbers it 3, the kernel 2.
    push_header(lookup.as_vec_mut(), LOOKUP_SOURCE, 4);
    lookup.as_vec_mut().extend(REGISTER.to_be_bytes());
    lookup.end_nested().end_nested()
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

const HEADER: usize = 16;
/// linux/netlink.h.
const ACKNOWLEDGE: u16 = 4;
const ERROR: u16 = 2;

/// Sends a batch and waits for what the kernel says to it: one acknowledgement at the end, or an error.
fn send(mut messages: Vec<u8>) -> Result<(), NetError> {
    acknowledge_last(&mut messages);
    let failed = |what: &str| {
        let what = format!("{what} the nftables rules for masquerading");
        move |source| NetError::Kernel { what, source }
    };
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed("open a socket for"))?;
    socket
        .bind_auto()
        .and_then(|_| socket.connect(&SocketAddr::new(0, 0)))
        .map_err(failed("open a socket for"))?;
    // The kernel has answered by the time sending returns.
    socket.set_non_blocking(true).map_err(failed("open a socket for"))?;
    socket.send(&messages, 0).map_err(failed("send"))?;
    loop {
        let (answer, _) = socket.recv_from_full().map_err(failed("set"))?;
        let kind = answer
            .get(4..6)
            .and_then(|kind| kind.try_into().ok())
            .map(u16::from_ne_bytes);
        let code = answer
            .get(HEADER..HEADER + 4)
            .and_then(|code| code.try_into().ok())
            .map(i32::from_ne_bytes);
        match (kind, code) {
            (Some(ERROR), Some(0)) => return Ok(()),
            (Some(ERROR), Some(code)) => return Err(failed("set")(std::io::Error::from_raw_os_error(-code))),
            _ => {}
        }
    }
}

/// Only the last message before the batch's end asks for an acknowledgement; errors come in any case.
fn acknowledge_last(messages: &mut [u8]) {
    let (mut at, mut starts) = (0, vec![]);
    while let Some(length) = messages
        .get(at..at + 4)
        .and_then(|length| length.try_into().ok())
        .map(u32::from_ne_bytes)
    {
        starts.push(at);
        at += (length as usize).max(HEADER).next_multiple_of(4);
    }
    let last = starts.len().saturating_sub(2);
    for (index, start) in starts.into_iter().enumerate() {
        let flags = u16::from_ne_bytes([messages[start + 6], messages[start + 7]]);
        let flags = if index == last {
            flags | ACKNOWLEDGE
        } else {
            flags & !ACKNOWLEDGE
        };
        messages[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
    }
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
