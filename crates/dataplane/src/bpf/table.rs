//! A kernel hash map with the key and value types of weft-packet, and errors that name it.

use std::io;

use aya::Ebpf;
use aya::maps::{HashMap, IterableMap as _, MapData, MapError};
use weft_packet::Plain;

use super::{Error, Result, Usage, sys};

/// Lets aya hand a type of weft-packet to the kernel: neither crate is ours to implement the other's trait for.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Raw<T>(pub(super) T);

#[expect(unsafe_code, reason = "aya asks for a promise about the bytes of keys and values")]
// SAFETY: Plain promises the same: no padding, and every bit pattern is a value.
unsafe impl<T: Plain> aya::Pod for Raw<T> {}

/// How many entries go to the kernel at once: more gain nothing, and take memory.
const BATCH: usize = 4096;

/// How many bytes an entry takes in the kernel: its own, and those of the list and the bucket that it is in
/// (kernel/bpf/hashtab.c: struct htab_elem, struct bucket).
pub(super) const fn entry_size<K, V>() -> usize {
    size_of::<K>() + size_of::<V>() + 64
}

pub(super) struct Table<K, V> {
    name: &'static str,
    map: HashMap<MapData, Raw<K>, Raw<V>>,
    capacity: u32,
    /// How many entries were written or removed.
    writes: u64,
}

impl<K: Plain, V: Plain> Table<K, V> {
    /// Takes the map of this name out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self> {
        let map = ebpf.take_map(name).ok_or(Error::Incomplete { name })?;
        let fail = Error::map(name, "open");
        let data = match map {
            aya::maps::Map::HashMap(data) | aya::maps::Map::LruHashMap(data) => data,
            _ => return Err(Error::Incomplete { name }),
        };
        // A pinned map keeps the size that it was made with.
        let capacity = data.info().map_err(fail)?.max_entries();
        let map = HashMap::try_from(aya::maps::Map::HashMap(data)).map_err(fail)?;
        Ok(Self {
            name,
            map,
            capacity,
            writes: 0,
        })
    }

    /// How many entries were written or removed since it was opened.
    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    /// How full it is, with so many entries.
    pub(super) fn usage(&self, used: usize) -> Usage {
        Usage {
            map: self.name,
            used,
            capacity: self.capacity as usize,
            entry_size: entry_size::<K, V>(),
        }
    }

    /// One entry.
    pub(super) fn get(&self, key: K) -> Result<Option<V>> {
        match self.map.get(&Raw(key), 0) {
            Ok(value) => Ok(Some(value.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(self.failed("read", source)),
        }
    }

    /// Adds or replaces an entry, in one step for whoever reads it.
    pub(super) fn insert(&mut self, key: K, value: V) -> Result<()> {
        self.writes += 1;
        self.map
            .insert(Raw(key), Raw(value), 0)
            .map_err(|source| match &source {
                MapError::SyscallError(e) if full(&e.io_error) => self.is_full(),
                _ => self.failed("write to", source),
            })
    }

    /// Adds or replaces entries, each in one step for whoever reads it, in their order. After an error, some of the
    /// first ones are written.
    pub(super) fn insert_all(&mut self, entries: &[(K, V)]) -> Result<()> {
        if let [(key, value)] = entries {
            return self.insert(*key, *value);
        }
        for some in entries.chunks(BATCH) {
            let (keys, values): (Vec<K>, Vec<V>) = some.iter().copied().unzip();
            self.writes += some.len() as u64;
            sys::update_batch(self.map.map().fd(), &keys, &values).map_err(|e| match full(&e) {
                true => self.is_full(),
                false => self.failed("write to", e.into()),
            })?;
        }
        Ok(())
    }

    /// Removes an entry, if it is there.
    pub(super) fn remove(&mut self, key: K) -> Result<()> {
        self.writes += 1;
        match self.map.remove(&Raw(key)) {
            Ok(()) => Ok(()),
            Err(MapError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(self.failed("remove from", source)),
        }
    }

    /// Removes entries, those that are there.
    pub(super) fn remove_all(&mut self, keys: &[K]) -> Result<()> {
        keys.iter().try_for_each(|key| self.remove(*key))
    }

    /// Everything in it.
    pub(super) fn entries(&self) -> Result<Vec<(K, V)>> {
        sys::lookup_all(self.map.map().fd()).map_err(|e| self.failed("read", e.into()))
    }

    /// Every key in it.
    pub(super) fn keys(&self) -> Result<Vec<K>> {
        let keys = self.map.keys();
        keys.map(|key| key.map(|key| key.0).map_err(|source| self.failed("read", source)))
            .collect()
    }

    /// Takes the place of the table before: the same map, or a larger one that is filled with what that one holds.
    /// Nobody may write to either meanwhile.
    pub(super) fn follow(&mut self, before: &Self) -> Result<()> {
        if self.capacity != before.capacity {
            self.insert_all(&before.entries()?)?;
        }
        self.writes = before.writes;
        Ok(())
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

/// What the kernel says when a hash map is full.
fn full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::ArgumentListTooLong | io::ErrorKind::StorageFull
    )
}
