//! Ports of the node that lead to its pods. The rules are constant; a pod is an element of a map or two.
//!
//! ```text
//! table inet weft-hostport {
//!     map one4 { … }          (address, protocol, port) -> (pod's address, port): of one address of the node
//!     map every4 { … }                 (protocol, port) -> (pod's address, port): of every one; and both for IPv6
//!     chain translate {
//!         meta nfproto ipv4 dnat ip to ip daddr . meta l4proto . th dport map @one4
//!         meta nfproto ipv4 dnat ip to meta l4proto . th dport map @every4    (IPv6: but not of ::1)
//!     }
//!     chain prerouting  { type nat hook prerouting priority dstnat; fib daddr type local jump translate }
//!     chain output      { type nat hook output priority dstnat; fib daddr type local jump translate }
//!     chain postrouting { type nat hook postrouting priority srcnat;
//!         ct status dnat oifname "weft*" iifname "weft*" iifname != "weft-*" masquerade
//!         ct status dnat oifname "weft*" ip saddr 127.0.0.0/8 masquerade
//!     }
//! }
//! ```
//!
//! Clients outside keep their address. A pod of this node does not: the answer of another pod of this node would be
//! delivered directly, past the translation back. Nor does 127.0.0.1, which in the pod is the pod.
//!
//! The table is there only while a pod has a host port.

use std::ffi::CStr;
use std::net::{IpAddr, SocketAddr};

use netlink_bindings::nftables::{MetaKeys, SetFlags};
use weft_model::hostport::{HostPort, HostPorts};

use super::nft::{self, Batch, Element, Expr, Place, REGISTER, Value};
use super::{NetError, name, sysctl};

const TABLE: &CStr = c"weft-hostport";
const TRANSLATE: &CStr = c"translate";
const POST_ROUTING: &CStr = c"postrouting";
/// Registers of four bytes: the first four are [`REGISTER`].
const WORD: u32 = 8;
/// nftables' own numbers of data types, six bits each in a concatenation, so that `nft list` prints them.
const ADDRESS_V4: u32 = 7;
const ADDRESS_V6: u32 = 8;
const PROTOCOL: u32 = 12;
const PORT: u32 = 13;

/// Offset of the source address (RFC 791).
const IPV4_SOURCE: u32 = 12;
/// An answer to it could not come back over a pod's link: IPv6 has no switch for that. It stays the node's own.
const LOOPBACK_V6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// What differs between the families.
struct Family {
    nfproto: u8,
    one: &'static CStr,
    every: &'static CStr,
    address: u32,
    length: u32,
    destination: u32,
}

const FAMILIES: [Family; 2] = [
    Family {
        nfproto: nft::IPV4,
        one: c"one4",
        every: c"every4",
        address: ADDRESS_V4,
        length: 4,
        destination: 16,
    },
    Family {
        nfproto: nft::IPV6,
        one: c"one6",
        every: c"every6",
        address: ADDRESS_V6,
        length: 16,
        destination: 24,
    },
];

/// Makes the node's ports lead so and not otherwise, whatever was there, in the namespace of the calling thread.
/// Without ports nothing stays.
pub fn set(ports: &HostPorts) -> Result<(), NetError> {
    let mut batch = Batch::new();
    if ports.is_empty() {
        batch.remove_table(TABLE);
        return batch.commit("remove the nftables rules for host ports");
    }
    batch.replace_table(TABLE);
    batch.add_chain(TABLE, TRANSLATE);
    for (at, family) in FAMILIES.iter().enumerate() {
        let id = 2 * at as u32;
        add_map(&mut batch, family, family.one, id + 1, true);
        add_map(&mut batch, family, family.every, id + 2, false);
        add_translation(&mut batch, family);
    }
    for (chain, place) in [(c"prerouting", Place::PreRouting), (c"output", Place::Output)] {
        batch.add_nat_chain(TABLE, chain, place, nft::DESTINATION_NAT);
        batch.add_rule(TABLE, chain, &[Expr::ToLocal, Expr::Jump(TRANSLATE)]);
    }
    batch.add_nat_chain(TABLE, POST_ROUTING, Place::PostRouting, nft::SOURCE_NAT);
    add_masquerade(&mut batch);
    put_elements(&mut batch, ports, true);
    batch.commit("set the nftables rules for host ports")
}

/// Adds ports to those that are there. Fails as a whole where the table has gone: then [`set`] all of them.
pub fn add(ports: &HostPorts) -> Result<(), NetError> {
    let mut batch = Batch::new();
    put_elements(&mut batch, ports, true);
    batch.commit("add host ports to the nftables rules")
}

/// Removes ports from those that are there. Fails as a whole where one is not: then [`set`] what is left.
pub fn remove(ports: &HostPorts) -> Result<(), NetError> {
    let mut batch = Batch::new();
    put_elements(&mut batch, ports, false);
    batch.commit("remove host ports from the nftables rules")
}

/// The first of these ports that the kernel does not know, in their order.
pub fn first_missing(ports: &HostPorts) -> Result<Option<HostPort>, NetError> {
    for (port, to) in ports {
        let map = map_of(port);
        match nft::has_element(TABLE, map, &element(port, to).key) {
            Ok(true) => {}
            Ok(false) => return Ok(Some(*port)),
            Err(source) => {
                let what = format!("look up host port {port} in the nftables rules");
                return Err(NetError::Kernel { what, source });
            }
        }
    }
    Ok(None)
}

/// A number that changes with every change of this namespace's nftables, whoever makes it: as long as it is what it
/// was, the rules are.
pub fn generation() -> Result<u32, NetError> {
    nft::generation().map_err(|source| NetError::Kernel {
        what: "ask for the generation of the nftables rules".to_owned(),
        source,
    })
}

/// Lets answers to 127.0.0.1 return over the pod's link. Only those: from a pod, a packet *to* 127.0.0.0/8 is dropped
/// by the pod's hook before the kernel sees it.
pub fn return_to_loopback(host_ifname: &str) -> Result<(), NetError> {
    sysctl::set(&format!("ipv4/conf/{host_ifname}/route_localnet"), "1")
}

fn add_map(batch: &mut Batch, family: &Family, name: &CStr, id: u32, of_one: bool) {
    let header = batch.header.clone();
    let (port, mut key_type, mut key_length) = ((PROTOCOL << 6) | PORT, 0, 0);
    if of_one {
        (key_type, key_length) = (family.address << 12, family.length);
    }
    key_type |= port;
    key_length += 8;
    let mut set = batch.request().set_create().op_newset_do(&header);
    let map = set.encode().push_table(TABLE).push_name(name).push_id(id);
    let map = map.push_flags(SetFlags::Map as u32);
    let map = map.push_key_type(key_type).push_key_len(key_length);
    map.push_data_type((family.address << 6) | PORT)
        .push_data_len(family.length + 4);
}

fn add_translation(batch: &mut Batch, family: &Family) {
    let words = family.length / 4;
    let translate = [Expr::Destination(family.nfproto, REGISTER, WORD + words)];
    let one = [
        Expr::Family(family.nfproto),
        Expr::Network(family.destination, family.length, REGISTER),
        Expr::Protocol(WORD + words),
        Expr::Port(WORD + words + 1),
        Expr::Map(family.one, REGISTER, REGISTER),
    ];
    let not_loopback = [
        Expr::Network(family.destination, family.length, REGISTER),
        Expr::Different(&LOOPBACK_V6),
    ];
    let every = [
        Expr::Protocol(REGISTER),
        Expr::Port(WORD + 1),
        Expr::Map(family.every, REGISTER, REGISTER),
    ];
    batch.add_rule(TABLE, TRANSLATE, &[&one[..], &translate].concat());
    let guard = match family.nfproto {
        nft::IPV6 => &not_loopback[..],
        _ => &[],
    };
    let every = [&[Expr::Family(family.nfproto)], guard, &every, &translate].concat();
    batch.add_rule(TABLE, TRANSLATE, &every);
}

fn add_masquerade(batch: &mut Batch) {
    let to_pod = [Expr::Translated, Expr::Interface(MetaKeys::Oifname, name::PREFIX)];
    let from_pod = [
        Expr::Interface(MetaKeys::Iifname, name::PREFIX),
        // The tunnel's name begins so; pods of other nodes keep their address.
        Expr::OtherInterface(MetaKeys::Iifname, "weft-"),
        Expr::Masquerade,
    ];
    batch.add_rule(TABLE, POST_ROUTING, &[&to_pod[..], &from_pod].concat());
    let from_loopback = [
        Expr::Family(nft::IPV4),
        Expr::Network(IPV4_SOURCE, 1, REGISTER),
        Expr::Equal(&[127]),
        Expr::Masquerade,
    ];
    batch.add_rule(TABLE, POST_ROUTING, &[&to_pod[..], &from_loopback].concat());
}

/// The map that a port is in.
fn map_of(port: &HostPort) -> &'static CStr {
    let [v4, v6] = &FAMILIES;
    let family = if port.ip.is_ipv4() { v4 } else { v6 };
    if port.ip.is_unspecified() {
        family.every
    } else {
        family.one
    }
}

fn put_elements(batch: &mut Batch, ports: &HostPorts, add: bool) {
    for family in &FAMILIES {
        for map in [family.one, family.every] {
            let ours = ports.iter().filter(|(port, _)| map_of(port) == map);
            let elements: Vec<Element> = ours.map(|(port, to)| element(port, to)).collect();
            match add {
                true => batch.add_elements(TABLE, map, &elements),
                false => batch.delete_elements(TABLE, map, &elements),
            }
        }
    }
}

fn element(port: &HostPort, to: &SocketAddr) -> Element {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let word = |port: u16| {
        let [high, low] = port.to_be_bytes();
        [high, low, 0, 0]
    };
    let mut key = match port.ip.is_unspecified() {
        true => vec![],
        false => octets(port.ip),
    };
    key.extend([port.protocol.number(), 0, 0, 0]);
    key.extend(word(port.port));
    let mut value = octets(to.ip());
    value.extend(word(to.port()));
    Element::new(key, Value::Data(value))
}
