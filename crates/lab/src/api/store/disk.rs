//! The embedded database under the store. It lives on a tmpfs, where an immediate commit costs no disk but
//! survives the death of the process.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

use super::{Change, Key, Object, ResourceKey};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const LAST_CHANGES: TableDefinition<'_, &str, u64> = TableDefinition::new("last-changes");

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file cannot be opened.
    #[error("cannot open the API server's database {path}: {source}; is another API server of this lab running?")]
    Open {
        /// The file.
        path: PathBuf,
        /// What redb said.
        source: redb::DatabaseError,
    },
    /// Reading or writing failed.
    #[error("the API server's database failed: {0}; is the run directory's tmpfs full?")]
    Access(#[from] redb::Error),
    /// What is stored is not what this program writes.
    #[error("the API server's database holds a malformed entry {key:?}; delete the file to start afresh")]
    Malformed {
        /// The entry.
        key: String,
    },
}

/// The open database.
#[derive(Debug)]
pub(super) struct Disk {
    database: Database,
}

impl Disk {
    pub(super) fn open(path: &Path) -> Result<Self, DiskError> {
        let open = |source| DiskError::Open {
            path: path.to_owned(),
            source,
        };
        let database = Database::create(path).map_err(open)?;
        let disk = Self { database };
        disk.make_tables().map_err(DiskError::Access)?;
        Ok(disk)
    }

    fn make_tables(&self) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        write.open_table(OBJECTS)?;
        write.open_table(LAST_CHANGES)?;
        Ok(write.commit()?)
    }

    /// Every stored object.
    pub(super) fn objects(&self) -> Result<Vec<(Key, Object)>, DiskError> {
        let entries = self.entries().map_err(DiskError::Access)?;
        let decode = |(path, json): (String, Vec<u8>)| {
            let malformed = |path: &str| DiskError::Malformed { key: path.to_owned() };
            let key = parse(&path).ok_or_else(|| malformed(&path))?;
            let value: Value = serde_json::from_slice(&json).map_err(|_| malformed(&path))?;
            let version = value.pointer("/metadata/resourceVersion").and_then(Value::as_str);
            let version = version.and_then(|v| v.parse().ok()).ok_or_else(|| malformed(&path))?;
            Ok((
                key,
                Object {
                    value,
                    json: Bytes::from(json),
                    version,
                },
            ))
        };
        entries.into_iter().map(decode).collect()
    }

    fn entries(&self) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
        let read = self.database.begin_read()?;
        let mut entries = Vec::new();
        for entry in read.open_table(OBJECTS)?.iter()? {
            let (key, json) = entry?;
            entries.push((key.value().to_owned(), json.value().to_vec()));
        }
        Ok(entries)
    }

    /// The version of each resource's last change, deletions included.
    pub(super) fn last_changes(&self) -> Result<HashMap<ResourceKey, u64>, DiskError> {
        let read = || -> Result<Vec<(String, u64)>, redb::Error> {
            let read = self.database.begin_read()?;
            let mut entries = Vec::new();
            for entry in read.open_table(LAST_CHANGES)?.iter()? {
                let (key, version) = entry?;
                entries.push((key.value().to_owned(), version.value()));
            }
            Ok(entries)
        };
        let split = |(key, version): (String, u64)| {
            let (group, plural) = key
                .split_once('/')
                .ok_or_else(|| DiskError::Malformed { key: key.clone() })?;
            Ok(((group.to_owned(), plural.to_owned()), version))
        };
        read().map_err(DiskError::Access)?.into_iter().map(split).collect()
    }

    /// Writes changes, all or none; permanent on return.
    pub(super) fn commit(&self, changes: &[(Key, Change)]) -> Result<(), DiskError> {
        self.try_commit(changes).map_err(DiskError::Access)
    }

    fn try_commit(&self, changes: &[(Key, Change)]) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut objects = write.open_table(OBJECTS)?;
            let mut last = write.open_table(LAST_CHANGES)?;
            for (key, change) in changes {
                let path = path(key);
                if change.deleted {
                    objects.remove(path.as_str())?;
                } else {
                    objects.insert(path.as_str(), &*change.object.json)?;
                }
                last.insert(format!("{}/{}", key.group, key.plural).as_str(), change.object.version)?;
            }
        }
        Ok(write.commit()?)
    }
}

fn path(key: &Key) -> String {
    format!("{}/{}/{}/{}", key.group, key.plural, key.namespace, key.name)
}

fn parse(path: &str) -> Option<Key> {
    let mut parts = path.splitn(4, '/').map(str::to_owned);
    Some(Key {
        group: parts.next()?,
        plural: parts.next()?,
        namespace: parts.next()?,
        name: parts.next()?,
    })
}
