//! The node's pods: which address belongs to which veth.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::Ebpf;
use weft_packet::layout::name;
use weft_packet::{Addr, Pod};

use super::table::Table;
use super::{Result, Usage};

/// How a pod is reached from its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// Interface index of the host side of its veth.
    pub ifindex: u32,
    /// Ethernet address of the pod's side.
    pub mac: [u8; 6],
    /// Ethernet address of the host's side.
    pub host_mac: [u8; 6],
}

pub(super) struct Pods {
    table: Table<Addr, Pod>,
    /// What the map holds.
    known: BTreeMap<Addr, PodLink>,
}

impl Pods {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self> {
        let table = Table::<Addr, Pod>::take(ebpf, name::PODS)?;
        let link = |Pod { ifindex, mac, host_mac }| PodLink { ifindex, mac, host_mac };
        let known = table
            .entries()?
            .into_iter()
            .map(|(addr, pod)| (addr, link(pod)))
            .collect();
        Ok(Self { table, known })
    }

    pub(super) fn set(&mut self, ip: IpAddr, link: PodLink) -> Result<()> {
        let addr = Addr::from(ip);
        if self.known.get(&addr) == Some(&link) {
            return Ok(());
        }
        let PodLink { ifindex, mac, host_mac } = link;
        self.table.insert(addr, Pod { ifindex, mac, host_mac })?;
        self.known.insert(addr, link);
        Ok(())
    }

    pub(super) fn remove(&mut self, ip: IpAddr) -> Result<()> {
        let addr = Addr::from(ip);
        self.table.remove(addr)?;
        self.known.remove(&addr);
        Ok(())
    }

    pub(super) fn all(&self) -> BTreeMap<IpAddr, PodLink> {
        self.known
            .iter()
            .map(|(addr, link)| (IpAddr::from(*addr), *link))
            .collect()
    }

    pub(super) fn usage(&self) -> Usage {
        self.table.usage(self.known.len())
    }
}
