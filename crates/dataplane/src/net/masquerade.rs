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

use ipnet::IpNet;
use netlink_bindings::nftables::SetFlags;
use weft_model::compile::Masquerade;

use super::NetError;
use super::nft::{self, Batch, Element, Expr, Interval, Place, REGISTER};

const TABLE: &CStr = c"weft";
const CHAIN: &CStr = c"outgoing";

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
            batch.add_elements(TABLE, name, &elements(&family.intervals(nets)));
        }
        let rule = [
            Expr::Family(family.nfproto),
            Expr::Network(family.source, family.length, REGISTER),
            Expr::In(family.pods, REGISTER),
            Expr::Network(family.destination, family.length, REGISTER),
            Expr::NotIn(family.cluster, REGISTER),
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
            batch.delete_elements(TABLE, name, &elements(&gone));
            batch.add_elements(TABLE, name, &elements(&new));
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

fn elements(intervals: &BTreeSet<Interval>) -> Vec<Element> {
    intervals.iter().flat_map(Interval::elements).collect()
}

impl Family {
    fn intervals(&self, nets: &[IpNet]) -> BTreeSet<Interval> {
        nft::intervals(nets, self.nfproto == nft::IPV4)
    }
}
