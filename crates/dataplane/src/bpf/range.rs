//! A kernel map of address ranges, longest prefix first, as a set.

use std::collections::BTreeSet;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError};
use ipnet::IpNet;
use weft_packet::{Addr, Prefix};

use super::table::entry_size;
use super::{Error, Result, Usage};

/// What follows the length in the kernel's key: scope and address.
type Scoped = [u8; 20];

pub(super) struct Ranges {
    name: &'static str,
    map: LpmTrie<MapData, Scoped, u32>,
    capacity: u32,
    known: BTreeSet<Prefix>,
    writes: u64,
}

impl Ranges {
    /// Takes the map of this name out of the loaded object, and reads what is in it.
    pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self> {
        let map = ebpf.take_map(name).ok_or(Error::Incomplete { name })?;
        let fail = Error::map(name, "open");
        let data = match map {
            aya::maps::Map::LpmTrie(data) => data,
            _ => return Err(Error::Incomplete { name }),
        };
        let capacity = data.info().map_err(fail)?.max_entries();
        let map = LpmTrie::try_from(aya::maps::Map::LpmTrie(data)).map_err(fail)?;
        let mut ranges = Self {
            name,
            map,
            capacity,
            known: BTreeSet::new(),
            writes: 0,
        };
        let keys: Result<_> = ranges
            .map
            .keys()
            .map(|key| key.map_err(fail))
            .collect::<Result<Vec<_>>>();
        ranges.known = keys?.iter().map(prefix_of).collect();
        Ok(ranges)
    }

    /// How full it is.
    pub(super) fn usage(&self) -> Usage {
        Usage {
            map: self.name,
            used: self.known.len(),
            capacity: self.capacity as usize,
            entry_size: entry_size::<Prefix, u32>(),
        }
    }

    /// How many entries were written or removed since it was opened.
    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    /// Whether there is room for so many more.
    pub(super) fn has_room_for(&self, more: usize) -> Result<()> {
        match self.known.len() + more > self.capacity as usize {
            true => Err(self.is_full()),
            false => Ok(()),
        }
    }

    /// Adds a range, if it is not there.
    pub(super) fn insert(&mut self, prefix: Prefix) -> Result<()> {
        if self.known.contains(&prefix) {
            return Ok(());
        }
        self.writes += 1;
        match self.map.insert(&key_of(&prefix), 1, 0) {
            Ok(()) => self.known.insert(prefix),
            Err(MapError::SyscallError(e)) if e.io_error.kind() == std::io::ErrorKind::StorageFull => {
                return Err(self.is_full());
            }
            Err(source) => return Err(self.failed("write to", source)),
        };
        Ok(())
    }

    /// Removes a range, if it is there.
    pub(super) fn remove(&mut self, prefix: Prefix) -> Result<()> {
        if !self.known.remove(&prefix) {
            return Ok(());
        }
        self.writes += 1;
        self.map
            .remove(&key_of(&prefix))
            .map_err(|source| self.failed("remove from", source))
    }

    /// Makes these the ranges of a scope: new ones first.
    pub(super) fn set(&mut self, scope: u32, wanted: &BTreeSet<Prefix>) -> Result<()> {
        let gone: Vec<Prefix> = self.of(scope).filter(|prefix| !wanted.contains(prefix)).collect();
        wanted.iter().try_for_each(|prefix| self.insert(*prefix))?;
        gone.into_iter().try_for_each(|prefix| self.remove(prefix))
    }

    /// The ranges of a scope.
    pub(super) fn of(&self, scope: u32) -> impl Iterator<Item = Prefix> {
        self.known.iter().copied().filter(move |prefix| prefix.scope == scope)
    }

    /// Every scope that has ranges.
    pub(super) fn scopes(&self) -> BTreeSet<u32> {
        self.known.iter().map(|prefix| prefix.scope).collect()
    }

    fn is_full(&self) -> Error {
        Error::MapFull {
            map: self.name,
            capacity: self.capacity,
        }
    }

    fn failed(&self, action: &'static str, source: MapError) -> Error {
        Error::map(self.name, action)(source)
    }
}

/// A range of people's as one of the maps'.
pub(super) fn prefix(scope: u32, net: &IpNet) -> Prefix {
    Prefix::new(scope, Addr::from(net.network()), net.prefix_len())
}

fn key_of(prefix: &Prefix) -> Key<Scoped> {
    let mut data = [0; 20];
    data[..4].copy_from_slice(&prefix.scope.to_ne_bytes());
    data[4..].copy_from_slice(&prefix.addr.bytes());
    Key::new(prefix.length, data)
}

fn prefix_of(key: &Key<Scoped>) -> Prefix {
    let data = key.data();
    let (mut scope, mut addr) = ([0; 4], [0; 16]);
    scope.copy_from_slice(&data[..4]);
    addr.copy_from_slice(&data[4..]);
    Prefix {
        length: key.prefix_len(),
        scope: u32::from_ne_bytes(scope),
        addr: Addr::from_v6_bytes(addr),
    }
}
