//! Unpacks one layer. Whatever an archive's paths and links say, nothing is touched outside the folder: every path is
//! resolved by the kernel as if the folder were the root. Whiteouts become those of overlayfs.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dev, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use tar::{Entry, EntryType};

/// Hides what lower layers have at this name.
const WHITEOUT: &str = ".wh.";
/// Hides everything that lower layers have in this folder.
const OPAQUE: &str = ".wh..wh..opq";

/// Unpacks a tar stream into a new folder.
pub(super) fn unpack(stream: &mut impl Read, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    let layer = Layer {
        root: rustix::fs::open(to, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?,
    };
    rustix::fs::fchmod(&layer.root, Mode::from_raw_mode(0o755))?;
    for entry in tar::Archive::new(stream).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        layer
            .take(&mut entry)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    }
    Ok(())
}

struct Layer {
    root: OwnedFd,
}

/// A relative path without `.` and `..`.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other("the path leads out of the image"));
            }
        }
    }
    Ok(clean)
}

impl Layer {
    fn open(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    /// Opens a folder, making what is missing of it.
    fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.open(path) {
            Err(rustix::io::Errno::NOENT) => {
                let (parent, name) = split(path)?;
                let parent = self.folder(parent)?;
                match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                Ok(self.open(path)?)
            }
            found => Ok(found?),
        }
    }

    fn take<R: Read>(&self, entry: &mut Entry<'_, R>) -> io::Result<()> {
        let path = inside(&entry.path()?)?;
        let kind = entry.header().entry_type();
        if path.as_os_str().is_empty() {
            return self.own(&self.root, entry);
        }
        let (parent, name) = split(&path)?;
        let parent = self.folder(parent)?;
        match name.to_str() {
            Some(OPAQUE) => {
                rustix::fs::fsetxattr(&parent, "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
                return Ok(());
            }
            Some(name) if name.starts_with(WHITEOUT) => {
                let hidden = &name[WHITEOUT.len()..];
                if hidden.is_empty() || hidden == "." || hidden == ".." {
                    return Err(io::Error::other("not a whiteout"));
                }
                remove(&parent, OsStr::new(hidden))?;
                let none: Dev = 0;
                rustix::fs::mknodat(&parent, hidden, FileType::CharacterDevice, Mode::empty(), none)?;
                return Ok(());
            }
            _ => {}
        }
        match kind {
            EntryType::Directory => {
                let open = || {
                    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    rustix::fs::openat(&parent, name, flags, Mode::empty())
                };
                let folder = match open() {
                    Ok(folder) => folder,
                    Err(_) => {
                        remove(&parent, name)?;
                        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                        open()?
                    }
                };
                self.own(&folder, entry)
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                remove(&parent, name)?;
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))?;
                let mut file = std::fs::File::from(file);
                io::copy(entry, &mut file)?;
                self.own(&file, entry)
            }
            EntryType::Symlink => {
                let target = entry
                    .link_name()?
                    .ok_or_else(|| io::Error::other("a link without target"))?;
                remove(&parent, name)?;
                rustix::fs::symlinkat(&*target, &parent, name)?;
                let (uid, gid) = owner(entry)?;
                Ok(rustix::fs::chownat(
                    &parent,
                    name,
                    Some(uid),
                    Some(gid),
                    AtFlags::SYMLINK_NOFOLLOW,
                )?)
            }
            EntryType::Link => {
                let target = entry
                    .link_name()?
                    .ok_or_else(|| io::Error::other("a link without target"))?;
                let target = inside(&target)?;
                let (folder, file) = split(&target)?;
                let folder = self.open(folder)?;
                remove(&parent, name)?;
                Ok(rustix::fs::linkat(folder, file, &parent, name, AtFlags::empty())?)
            }
            EntryType::Fifo => {
                remove(&parent, name)?;
                rustix::fs::mknodat(&parent, name, FileType::Fifo, mode(entry)?, 0)?;
                let (uid, gid) = owner(entry)?;
                Ok(rustix::fs::chownat(
                    &parent,
                    name,
                    Some(uid),
                    Some(gid),
                    AtFlags::SYMLINK_NOFOLLOW,
                )?)
            }
            // Devices come from the runtime, never from an image.
            _ => Ok(()),
        }
    }

    /// Gives a file or folder its owner, mode, attributes and time.
    fn own<R: Read>(&self, file: impl AsFd, entry: &mut Entry<'_, R>) -> io::Result<()> {
        let (uid, gid) = owner(entry)?;
        rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        // After the owner: changing that takes the set-user-id bits away.
        rustix::fs::fchmod(&file, mode(entry)?)?;
        let seconds = i64::try_from(entry.header().mtime().unwrap_or(0)).unwrap_or(0);
        for extension in entry.pax_extensions()?.into_iter().flatten().flatten() {
            if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr."))
                && (name.starts_with("user.") || name == "security.capability")
            {
                // Not every file system takes every attribute; the file is good without.
                rustix::fs::fsetxattr(&file, name, extension.value_bytes(), XattrFlags::empty()).ok();
            }
        }
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        };
        Ok(rustix::fs::futimens(
            &file,
            &Timestamps {
                last_access: time,
                last_modification: time,
            },
        )?)
    }
}

fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name)),
        _ => Err(io::Error::other("the path names nothing")),
    }
}

/// Makes room for a new entry of this name.
fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {
            // The parent's descriptor pins where this is, whatever links there are on the way.
            use std::os::fd::AsRawFd as _;
            std::fs::remove_dir_all(Path::new(&format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name))
        }
        Err(error) => Err(error.into()),
    }
}

fn owner<R: Read>(entry: &Entry<'_, R>) -> io::Result<(Uid, Gid)> {
    // Left blank by some writers; the image is root's then.
    let id = |id: io::Result<u64>| u32::try_from(id.unwrap_or(0)).map_err(|_| io::Error::other("owner out of range"));
    let header = entry.header();
    Ok((Uid::from_raw(id(header.uid())?), Gid::from_raw(id(header.gid())?)))
}

fn mode<R: Read>(entry: &Entry<'_, R>) -> io::Result<Mode> {
    Ok(Mode::from_raw_mode(entry.header().mode()? & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    use tar::{Builder, Header};

    /// Appends an entry with any path, also those that the builder would refuse.
    fn add(tar: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, link: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o4750);
        header.set_uid(7);
        header.set_gid(8);
        header.set_size(content.len() as u64);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        tar.append(&header, content).unwrap();
    }

    fn unpacked(entries: &[(EntryType, &str, &str, &str)]) -> (tempfile::TempDir, io::Result<()>) {
        let mut tar = Builder::new(Vec::new());
        for (kind, path, link, content) in entries {
            add(&mut tar, *kind, path, link, content.as_bytes());
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("outside"), "untouched").unwrap();
        let bytes = tar.into_inner().unwrap();
        let result = unpack(&mut &bytes[..], &dir.path().join("layer"));
        (dir, result)
    }

    use EntryType::{Directory, Link, Regular, Symlink};

    #[test]
    fn keeps_what_matters() {
        let (dir, result) = unpacked(&[
            (Directory, "./d/", "", ""),
            (Regular, "d/f", "", "text"),
            (Symlink, "d/s", "/d/f", ""),
            (Link, "h", "d/f", ""),
            (Regular, "new/deep/x", "", "1"),
            (Regular, "d/f2", "", "old"),
            (Regular, "d/f2", "", "new"),
        ]);
        result.unwrap();
        let layer = dir.path().join("layer");
        let metadata = std::fs::metadata(layer.join("d/f")).unwrap();
        assert_eq!(
            (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777),
            (7, 8, 0o4750)
        );
        assert_eq!(std::fs::metadata(layer.join("h")).unwrap().ino(), metadata.ino());
        assert_eq!(std::fs::read_link(layer.join("d/s")).unwrap(), Path::new("/d/f"));
        assert_eq!(std::fs::read_to_string(layer.join("d/f2")).unwrap(), "new");
        assert!(layer.join("new/deep/x").exists());
    }

    #[test]
    fn nothing_leaves_the_folder() {
        for entries in [
            &[(Regular, "../outside", "", "bad")][..],
            &[(Regular, "a/../../outside", "", "bad")],
            &[(Symlink, "up", "..", ""), (Regular, "up/outside", "", "bad")],
            &[(Symlink, "abs", "/tmp", ""), (Regular, "abs/kubelet-escape", "", "bad")],
            &[(Symlink, "l", "../outside", ""), (Regular, "l", "", "bad")],
            &[(Link, "hard", "../outside", ""), (Regular, "hard", "", "bad")],
            &[
                (Symlink, "d", "..", ""),
                (Directory, "d", "", ""),
                (Regular, "d/outside", "", "bad"),
            ],
            &[(Symlink, "up", "..", ""), (Regular, "up/.wh.outside", "", "")],
        ] {
            let (dir, _) = unpacked(entries);
            assert_eq!(
                std::fs::read_to_string(dir.path().join("outside")).unwrap(),
                "untouched",
                "{entries:?}"
            );
            assert!(!Path::new("/tmp/kubelet-escape").exists());
        }
        let (_dir, result) = unpacked(&[(Regular, "../outside", "", "bad")]);
        assert!(result.unwrap_err().to_string().contains("leads out of the image"));
    }

    #[test]
    fn whiteouts_are_overlayfs() {
        let (dir, result) = unpacked(&[(Regular, "d/.wh.gone", "", ""), (Regular, "o/.wh..wh..opq", "", "")]);
        result.unwrap();
        let gone = std::fs::symlink_metadata(dir.path().join("layer/d/gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(dir.path().join("layer/o"), "trusted.overlay.opaque", &mut value).unwrap();
        assert_eq!(&value[..length], b"y");
    }
}
