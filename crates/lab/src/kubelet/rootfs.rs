//! The root file system of a container: an overlay over its image, whose writable layer lives and dies with it.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Container;
use nix::mount::MsFlags;

use super::error::Error;
use super::images::{Image, Images};
use super::sandbox::detach;

/// How much a container may say at its end.
const LONGEST_MESSAGE: usize = 4096;

/// How much of its log stands in for that.
const LONGEST_LOG_TAIL: usize = 2048;

/// Mounts a fresh root in a container's folder.
pub(super) fn mount(dir: &Path, image: &Image, images: &Images) -> Result<PathBuf, Error> {
    unmount(dir);
    let root = dir.join("rootfs");
    let (upper, work) = (dir.join("upper"), dir.join("work"));
    for path in [&root, &upper, &work] {
        std::fs::create_dir_all(path).map_err(Error::io("create folder", path))?;
    }
    let lower = if image.is_builtin() {
        "/".to_owned()
    } else {
        // The uppermost comes first.
        let layers = image
            .layers
            .iter()
            .rev()
            .map(|layer| images.dir().join(layer).display().to_string());
        layers.collect::<Vec<_>>().join(":")
    };
    let options = format!(
        "lowerdir={lower},upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    nix::mount::mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        MsFlags::empty(),
        Some(&*options),
    )
    .map_err(Error::nix("mount root file system at", &root))?;
    Ok(root)
}

/// Takes it away, with all that was written to it.
pub(super) fn unmount(dir: &Path) {
    detach(&dir.join("rootfs"));
    for name in ["upper", "work"] {
        std::fs::remove_dir_all(dir.join(name)).ok();
    }
}

/// What a container left in its termination log, or at the end of its output where it asked for that.
pub(super) fn last_words(spec: &Container, dir: &Path, log_dir: &Path, number: u32, code: i32) -> Option<String> {
    let text = std::fs::read(dir.join("termination-log")).unwrap_or_default();
    if !text.is_empty() {
        let end = text.len().min(LONGEST_MESSAGE);
        return Some(String::from_utf8_lossy(&text[..end]).into_owned());
    }
    if code == 0 || spec.termination_message_policy.as_deref() != Some("FallbackToLogsOnError") {
        return None;
    }
    let log = std::fs::read_to_string(log_dir.join(format!("{number}.log"))).ok()?;
    let lines: Vec<&str> = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let mut tail = lines[lines.len().saturating_sub(80)..].join("\n");
    let mut cut = tail.len().saturating_sub(LONGEST_LOG_TAIL);
    while !tail.is_char_boundary(cut) {
        cut += 1;
    }
    Some(tail.split_off(cut)).filter(|tail| !tail.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = Container::default();
        std::fs::write(dir.path().join("3.log"), "t stdout F one\nt stderr F two words\n").unwrap();
        assert_eq!(last_words(&spec, dir.path(), dir.path(), 3, 1), None);
        spec.termination_message_policy = Some("FallbackToLogsOnError".into());
        assert_eq!(
            last_words(&spec, dir.path(), dir.path(), 3, 1).as_deref(),
            Some("one\ntwo words")
        );
        assert_eq!(last_words(&spec, dir.path(), dir.path(), 3, 0), None);
        std::fs::write(dir.path().join("termination-log"), "bye").unwrap();
        assert_eq!(last_words(&spec, dir.path(), dir.path(), 3, 0).as_deref(), Some("bye"));
    }
}
