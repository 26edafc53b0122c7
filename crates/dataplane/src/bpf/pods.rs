//! The node's pods: which address belongs to which veth, and what each of them sent that it must not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::{Map, MapData, MapError, PerCpuHashMap, PerCpuValues};
use weft_packet::layout::name;
use weft_packet::{Addr, Interface, Limit, Pod, Reason};

use super::table::{Raw, Table, entry_size};
use super::{Error, Result, Usage};

/// How a pod is reached from its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// Interface index of the host side of its veth.
    pub ifindex: u32,
    /// Ethernet address of the pod's side.
    pub mac: [u8; 6],
    /// Ethernet address of the host's side.
    pub host_mac: [u8; 6],
    /// Whether what it receives is limited, and so has to pass the host side's queue.
    pub limited: bool,
    /// What it may send in a time, where that is limited.
    pub sends: Option<Rate>,
}

/// So much in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes per second, Ethernet headers included.
    pub bytes: u64,
    /// In how much time what may be sent at once is saved up, in nanoseconds.
    pub room: u64,
}

impl PodLink {
    fn new(pod: Pod, sends: Option<Rate>) -> Self {
        Self {
            ifindex: pod.ifindex,
            mac: pod.mac,
            host_mac: pod.host_mac,
            limited: pod.limited != 0,
            sends,
        }
    }
}

impl From<PodLink> for Pod {
    fn from(link: PodLink) -> Self {
        Self {
            ifindex: link.ifindex,
            mac: link.mac,
            host_mac: link.host_mac,
            limited: link.limited.into(),
        }
    }
}

/// Packets of a pod that ended at its hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drops {
    /// Why.
    pub reason: Reason,
    /// How many, since the pod came.
    pub count: u64,
}

pub(super) struct Pods {
    addresses: Table<Addr, Pod>,
    /// One for each interface that an address leads to: there before the address, and after it.
    interfaces: Interfaces,
    /// As those, of the pods that have one.
    limits: Table<u32, Limit>,
    /// What `addresses` and `limits` hold.
    known: BTreeMap<Addr, PodLink>,
}

/// Maps that are to take the place of others.
pub(super) struct Maps {
    addresses: Table<Addr, Pod>,
    interfaces: Interfaces,
    limits: Table<u32, Limit>,
}

impl Pods {
    /// Reads what the maps hold, and removes the interfaces that no address leads to: of an agent that died half-way.
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self> {
        let addresses = Table::<Addr, Pod>::take(ebpf, name::PODS)?;
        let mut interfaces = Interfaces::take(ebpf)?;
        let mut limits = Table::<u32, Limit>::take(ebpf, name::LIMITS)?;
        let rate = |limit: &Limit| Rate {
            bytes: limit.rate,
            room: limit.room,
        };
        let sends: BTreeMap<u32, Limit> = limits.entries()?.into_iter().collect();
        let known: BTreeMap<_, _> = addresses
            .entries()?
            .into_iter()
            .map(|(addr, pod)| (addr, PodLink::new(pod, sends.get(&pod.ifindex).map(rate))))
            .collect();
        let used: BTreeSet<u32> = known.values().map(|link| link.ifindex).collect();
        for ifindex in interfaces
            .drops()?
            .into_keys()
            .filter(|ifindex| !used.contains(ifindex))
        {
            interfaces.remove(ifindex)?;
        }
        for ifindex in sends.into_keys().filter(|ifindex| !used.contains(ifindex)) {
            limits.remove(ifindex)?;
        }
        Ok(Self {
            addresses,
            interfaces,
            limits,
            known,
        })
    }

    pub(super) fn set(&mut self, ip: IpAddr, link: PodLink) -> Result<()> {
        let addr = Addr::from(ip);
        let before = self.known.get(&addr).copied();
        if before == Some(link) {
            return Ok(());
        }
        let PodLink { ifindex, mac, .. } = link;
        if !self
            .known
            .values()
            .any(|other| (other.ifindex, other.mac) == (ifindex, mac))
        {
            self.interfaces.insert(ifindex, mac)?;
        }
        self.limit(link)?;
        self.addresses.insert(addr, link.into())?;
        self.known.insert(addr, link);
        match before {
            Some(before) => self.forget_unused(before.ifindex),
            None => Ok(()),
        }
    }

    pub(super) fn remove(&mut self, ip: IpAddr) -> Result<()> {
        let addr = Addr::from(ip);
        self.addresses.remove(addr)?;
        match self.known.remove(&addr) {
            Some(link) => self.forget_unused(link.ifindex),
            None => Ok(()),
        }
    }

    fn forget_unused(&mut self, ifindex: u32) -> Result<()> {
        match self.known.values().any(|link| link.ifindex == ifindex) {
            true => Ok(()),
            false => {
                self.limits.remove(ifindex)?;
                self.interfaces.remove(ifindex)
            }
        }
    }

    /// Its bucket is full at first.
    fn limit(&mut self, PodLink { ifindex, sends, .. }: PodLink) -> Result<()> {
        let same = |other: &PodLink| (other.ifindex, other.sends) == (ifindex, sends);
        match sends {
            _ if self.known.values().any(same) => Ok(()),
            None => self.limits.remove(ifindex),
            Some(Rate { bytes, room }) => self.limits.insert(
                ifindex,
                Limit {
                    rate: bytes,
                    room,
                    full_at: 0,
                },
            ),
        }
    }

    pub(super) fn get(&self, ip: IpAddr) -> Option<PodLink> {
        self.known.get(&Addr::from(ip)).copied()
    }

    /// Whether the pod behind an interface may send only so much.
    pub(super) fn sends_limited(&self, ifindex: u32) -> bool {
        let limited = |link: &PodLink| link.ifindex == ifindex && link.sends.is_some();
        self.known.values().any(limited)
    }

    pub(super) fn all(&self) -> BTreeMap<IpAddr, PodLink> {
        self.known
            .iter()
            .map(|(addr, link)| (IpAddr::from(*addr), *link))
            .collect()
    }

    /// What ended, for each interface from which anything did.
    pub(super) fn drops(&self) -> Result<BTreeMap<u32, Vec<Drops>>> {
        let mut drops = self.interfaces.drops()?;
        drops.retain(|_, drops| !drops.is_empty());
        Ok(drops)
    }

    /// How full the maps are.
    pub(super) fn usage(&self) -> [Usage; 3] {
        self.usage_with(0)
    }

    /// How full they are with so many more pods.
    pub(super) fn usage_with(&self, more: usize) -> [Usage; 3] {
        let interfaces: BTreeSet<u32> = self.known.values().map(|link| link.ifindex).collect();
        [
            self.addresses.usage(self.known.len() + more),
            self.interfaces.usage(interfaces.len() + more),
            // At most: those that have a limit.
            self.limits.usage(interfaces.len() + more),
        ]
    }

    /// The maps of another object, some of them larger, filled with what ours hold.
    pub(super) fn larger(&self, ebpf: &mut Ebpf) -> Result<Maps> {
        let mut addresses = Table::take(ebpf, name::PODS)?;
        addresses.follow(&self.addresses)?;
        let mut interfaces = Interfaces::take(ebpf)?;
        interfaces.follow(&self.interfaces)?;
        let mut limits = Table::take(ebpf, name::LIMITS)?;
        limits.follow(&self.limits)?;
        Ok(Maps {
            addresses,
            interfaces,
            limits,
        })
    }

    /// Goes on with maps that hold the same.
    pub(super) fn move_to(&mut self, maps: Maps) {
        (self.addresses, self.interfaces, self.limits) = (maps.addresses, maps.interfaces, maps.limits);
    }
}

/// The map of interfaces: the same value for each CPU, but for what that CPU counted.
struct Interfaces {
    map: PerCpuHashMap<MapData, u32, Raw<Interface>>,
    capacity: u32,
}

impl Interfaces {
    fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let map = ebpf
            .take_map(name::INTERFACES)
            .ok_or(Error::Incomplete { name: name::INTERFACES })?;
        let capacity = match &map {
            Map::PerCpuHashMap(data) => data.info().map_err(failed("open"))?.max_entries(),
            _ => return Err(Error::Incomplete { name: name::INTERFACES }),
        };
        let map = PerCpuHashMap::try_from(map).map_err(failed("open"))?;
        Ok(Self { map, capacity })
    }

    /// How full it is, with so many entries.
    fn usage(&self, used: usize) -> Usage {
        Usage {
            map: name::INTERFACES,
            used,
            capacity: self.capacity as usize,
            entry_size: entry_size::<u32, Interface>(),
        }
    }

    /// Takes the place of the map before: the same, or a larger one that is filled with what that one holds. What is
    /// counted meanwhile may be lost.
    fn follow(&mut self, before: &Self) -> Result<()> {
        if self.capacity == before.capacity {
            return Ok(());
        }
        for entry in before.map.iter() {
            let (ifindex, values) = entry.map_err(failed("read"))?;
            self.map.insert(ifindex, values, 0).map_err(failed("write to"))?;
        }
        Ok(())
    }

    /// Adds an interface from which nothing came yet.
    fn insert(&mut self, ifindex: u32, mac: [u8; 6]) -> Result<()> {
        let cpus = aya::util::nr_cpus().map_err(|(_, e)| failed("write to")(e.into()))?;
        let values = PerCpuValues::try_from(vec![Raw(Interface::new(mac)); cpus]);
        let values = values.map_err(|e| failed("write to")(e.into()))?;
        self.map.insert(ifindex, values, 0).map_err(failed("write to"))
    }

    /// Removes an interface, if it is there.
    fn remove(&mut self, ifindex: u32) -> Result<()> {
        match self.map.remove(&ifindex) {
            Err(MapError::SyscallError(e)) if e.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(failed("remove from")),
        }
    }

    /// Every interface, with what ended.
    fn drops(&self) -> Result<BTreeMap<u32, Vec<Drops>>> {
        let all = self.map.iter().map(|entry| {
            let (ifindex, values) = entry.map_err(failed("read"))?;
            let total = |index: usize| values.iter().filter_map(|Raw(cpu)| cpu.drops.get(index)).sum();
            let counted = Reason::DROPS.into_iter().enumerate().map(|(index, reason)| Drops {
                reason,
                count: total(index),
            });
            Ok((ifindex, counted.filter(|drops| drops.count > 0).collect()))
        });
        all.collect()
    }
}

fn failed(action: &'static str) -> impl Fn(MapError) -> Error {
    Error::map(name::INTERFACES, action)
}
