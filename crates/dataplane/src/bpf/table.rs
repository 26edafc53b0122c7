//! A kernel hash map with the key and value types of weft-packet, and errors that name it.

use std::io;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use weft_packet::Plain;

use super::{Error, Result, Usage};

/// Lets aya hand a type of weft-packet to the kernel: neither crate is ours to implement the other's trait for.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Raw<T>(pub(super) T);

#[expect(unsafe_code, reason = "aya asks for a promise about the bytes of keys and values")]
// SAFETY: Plain promises the same: no padding, and every bit pattern is a value.
unsafe impl<T: Plain> aya::Pod for Raw<T> {}

pub(super) struct Table<K, V> {
    name: &'static str,
    map: HashMap<MapData, Raw<K>, Raw<V>>,
    capacity: u32,
}

impl<K: Plain, V: Plain> Table<K, V> {
    /// Takes the map of this name out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self> {
        let map = ebpf.take_map(name).ok_or(Error::Incomplete { name })?;
        let fail = |source| Error::Map {
            map: name,
            action: "open",
            source: Box::new(source),
        };
        let data = match map {
            aya::maps::Map::HashMap(data) | aya::maps::Map::LruHashMap(data) => data,
            _ => return Err(Error::Incomplete { name }),
        };
        // A pinned map keeps the size that it was made with.
        let capacity = data.info().map_err(fail)?.max_entries();
        let map = HashMap::try_from(aya::maps::Map::HashMap(data)).map_err(fail)?;
        Ok(Self { name, map, capacity })
    }

    /// How full it is, with so many entries.
    pub(super) fn usage(&self, used: usize) -> Usage {
        Usage {
            map: self.name,
            used,
            capacity: self.capacity as usize,
        }
    }

    /// Adds or replaces an entry, in one step for whoever reads it.
    pub(super) fn insert(&mut self, key: K, value: V) -> Result<()> {
        self.map
            .insert(Raw(key), Raw(value), 0)
            .map_err(|source| match &source {
                MapError::SyscallError(e) if full(&e.io_error) => Error::MapFull {
                    map: self.name,
                    capacity: self.capacity,
                },
                _ => self.failed("write to", source),
            })
    }

    /// Removes an entry, if it is there.
    pub(super) fn remove(&mut self, key: K) -> Result<()> {
        match self.map.remove(&Raw(key)) {
            Ok(()) => Ok(()),
            Err(MapError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(self.failed("remove from", source)),
        }
    }

    /// Everything in it.
    pub(super) fn entries(&self) -> Result<Vec<(K, V)>> {
        self.map
            .iter()
            .map(|entry| {
                entry
                    .map(|(key, value)| (key.0, value.0))
                    .map_err(|source| self.failed("read", source))
            })
            .collect()
    }

    fn failed(&self, action: &'static str, source: MapError) -> Error {
        Error::Map {
            map: self.name,
            action,
            source: Box::new(source),
        }
    }
}

/// What the kernel says when a hash map is full.
fn full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::ArgumentListTooLong | io::ErrorKind::StorageFull
    )
}
