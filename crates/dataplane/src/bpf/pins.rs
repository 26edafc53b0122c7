//! Where the maps are pinned: by name and version of their layout, so that those of two agents stand side by side.
//!
//! An agent whose layout differs from what it finds makes maps of its own and fills them, while the programs that are
//! attached go on with theirs. Then its programs take their places, and only then the others' pins go. At any
//! moment it may be killed, and the next one, of either version, starts over: it does the same again.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use weft_packet::layout::Family;

use super::{Error, Result};

/// The directory of the maps' pins.
pub(super) struct Pins(PathBuf);

impl Pins {
    pub(super) fn at(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// Where a map of ours is pinned.
    pub(super) fn path(&self, family: &Family, map: &str) -> PathBuf {
        self.0.join(format!("{map}-{}", family.version))
    }

    /// Whether maps of another layout are there: programs that are attached may use them still.
    pub(super) fn has_others(&self, family: &Family) -> Result<bool> {
        let stem = |file: &OsString| Some(file.to_str()?.split('-').next()?.to_owned());
        let others = self.others()?;
        Ok(others
            .iter()
            .filter_map(stem)
            .any(|stem| family.maps.contains(&stem.as_str())))
    }

    /// Whether there are any pins that are not ours.
    pub(super) fn any_others(&self) -> Result<bool> {
        Ok(!self.others()?.is_empty())
    }

    /// Lets go of every pin that is not ours.
    pub(super) fn remove_others(&self) -> Result<()> {
        for file in self.others()? {
            let path = self.0.join(file);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::file("remove", &path)(e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The names of the pins that are not ours.
    fn others(&self) -> Result<Vec<OsString>> {
        let ours: Vec<PathBuf> = Family::ALL
            .iter()
            .flat_map(|family| family.maps.iter().map(|map| self.path(family, map)))
            .collect();
        let fail = Error::file("list", &self.0);
        let mut others = vec![];
        for entry in fs::read_dir(&self.0).map_err(&fail)? {
            let entry = entry.map_err(&fail)?;
            if !ours.contains(&entry.path()) {
                others.push(entry.file_name());
            }
        }
        Ok(others)
    }
}
