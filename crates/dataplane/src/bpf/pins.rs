//! Where the maps are pinned: by name and version of their layout, so that those of two agents stand side by side.
//!
//! An agent whose layout differs from what it finds makes maps of its own and fills them, while the programs that are
//! attached go on with theirs. Then its programs take their places, and only then the others' pins go. At any
//! moment it may be killed, and the next one, of either version, starts over: it does the same again.
//!
//! A map that fills up has a larger one beside it for a moment, under the same name with [`LARGER`] behind it. Both hold
//! the same until the larger one has taken the name, so that an agent that finds both can go on with either.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use weft_packet::layout::Family;

use super::{Error, Result};

/// What the name of a larger map ends with, until it has taken the place of the smaller one.
const LARGER: &str = "-larger";

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

    /// Where a map of ours is pinned that is to take the place of a smaller one.
    pub(super) fn larger(&self, map: &str) -> Option<PathBuf> {
        let mut name = self.of(map)?.into_os_string();
        name.push(LARGER);
        Some(name.into())
    }

    /// Gives larger maps the names of the smaller ones.
    pub(super) fn rename_larger(&self, maps: &[&str]) -> Result<()> {
        for map in maps {
            if let (Some(larger), Some(pin)) = (self.larger(map), self.of(map)) {
                fs::rename(&larger, &pin).map_err(Error::file("rename", &larger))?;
            }
        }
        Ok(())
    }

    /// Lets go of larger maps that have not taken any place.
    pub(super) fn remove_larger(&self) -> Result<()> {
        let is_larger = |file: &OsString| file.to_str().is_some_and(|name| name.ends_with(LARGER));
        self.remove(self.others()?.into_iter().filter(is_larger))
    }

    fn of(&self, map: &str) -> Option<PathBuf> {
        let family = Family::ALL.iter().find(|family| family.maps.contains(&map))?;
        Some(self.path(family, map))
    }

    /// Whether there are maps of another layout: programs that are attached may use them still.
    pub(super) fn any_others(&self) -> Result<bool> {
        Ok(!self.others()?.is_empty())
    }

    /// Lets go of every pin that is not ours.
    pub(super) fn remove_others(&self) -> Result<()> {
        self.remove(self.others()?.into_iter())
    }

    fn remove(&self, files: impl Iterator<Item = OsString>) -> Result<()> {
        for file in files {
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
