//! Replaces the files of a volume all at once: readers see the old set or the new one. The layout is the kubelet's:
//! `..data` links to a folder of one moment, and each visible name links through it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// A file's content and mode.
pub(super) type File = (Vec<u8>, u32);

/// Makes `dir` hold exactly these files, by relative path. Nothing is touched when it does already.
pub(super) fn write(dir: &Path, files: &BTreeMap<String, File>) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    let data = dir.join("..data");
    let before = std::fs::read_link(&data).ok();
    if before.as_ref().is_some_and(|before| holds(&dir.join(before), files)) {
        return Ok(());
    }
    let moment = format!(
        "..{}.{:08x}",
        jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S"),
        rand::random::<u32>()
    );
    let fresh = dir.join(&moment);
    std::fs::create_dir(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
    for (path, (content, mode)) in files {
        let path = fresh.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, content)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode))?;
    }
    let draft = dir.join("..data_tmp");
    std::fs::remove_file(&draft).ok();
    std::os::unix::fs::symlink(&moment, &draft)?;
    std::fs::rename(&draft, &data)?;

    let visible: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &visible {
        let link = dir.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink(Path::new("..data").join(name), link)?;
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let shown = name.to_string_lossy();
        if !shown.starts_with("..") && !visible.contains(&*shown) {
            std::fs::remove_file(dir.join(&name))?;
        }
    }
    match before {
        Some(before) => std::fs::remove_dir_all(dir.join(before)),
        None => Ok(()),
    }
}

fn holds(folder: &Path, files: &BTreeMap<String, File>) -> bool {
    let same = |(path, (content, mode)): (&String, &File)| {
        let path = folder.join(path);
        let permissions = std::fs::metadata(&path).map(|metadata| metadata.permissions().mode() & 0o7777);
        permissions.is_ok_and(|has| has == *mode) && std::fs::read(&path).is_ok_and(|has| has == *content)
    };
    count(folder) == files.len() && files.iter().all(same)
}

fn count(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => count(&entry.path()),
            _ => 1,
        })
        .sum()
}

/// Checks that a relative path cannot leave its volume.
pub(super) fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() || path.starts_with('/') || path.split('/').any(|part| part == ".." || part.is_empty()) {
        return Err(format!(
            "invalid path \"{path}\": must be relative and must not contain '..'"
        ));
    }
    if path.starts_with("..") {
        return Err(format!("invalid path \"{path}\": must not start with '..'"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> BTreeMap<String, File> {
        list.iter()
            .map(|(path, text)| ((*path).to_owned(), (text.as_bytes().to_vec(), 0o640)))
            .collect()
    }

    fn listing(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_everything_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        write(&volume, &files(&[("a", "1"), ("deep/b", "2")])).unwrap();
        assert_eq!(std::fs::read_to_string(volume.join("deep/b")).unwrap(), "2");
        assert_eq!(
            std::fs::metadata(volume.join("a")).unwrap().permissions().mode() & 0o777,
            0o640
        );
        let first = std::fs::read_link(volume.join("..data")).unwrap();
        write(&volume, &files(&[("a", "1"), ("deep/b", "2")])).unwrap();
        assert_eq!(
            std::fs::read_link(volume.join("..data")).unwrap(),
            first,
            "unchanged content is left alone"
        );
        write(&volume, &files(&[("a", "9"), ("c", "3")])).unwrap();
        let second = std::fs::read_link(volume.join("..data")).unwrap();
        assert_ne!(first, second);
        assert_eq!(std::fs::read_to_string(volume.join("a")).unwrap(), "9");
        assert_eq!(listing(&volume), [second.to_str().unwrap(), "..data", "a", "c"]);
    }

    #[test]
    fn paths() {
        for good in ["a", "a/b", ".hidden"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/../b", "..data", "a//b"] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }
}
