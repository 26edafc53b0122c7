//! Volumes of a pod: made before its containers start, kept up to date while they run, removed at the end.

mod atomic;
mod content;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume, VolumeMount};
use nix::mount::MsFlags;

use super::error::Error;
use super::node::Node;
use super::quantity;
use super::sandbox::detach;
use super::spec::Bind;

/// When the content of a volume has to be made anew at the latest.
pub(super) type RenewAt = Option<tokio::time::Instant>;

/// Makes all volumes of a pod; those that exist are brought up to date.
pub(super) async fn set_up(node: &Node, pod: &Pod) -> Result<RenewAt, Error> {
    let mut renew = RenewAt::None;
    for volume in volumes(pod) {
        let path = path(node, pod, volume);
        if let Some(next) = one(node, pod, volume, &path).await? {
            renew = Some(renew.map_or(next, |before| before.min(next)));
        }
    }
    Ok(renew)
}

/// Brings the content of volumes up to date, in pods that run.
pub(super) async fn refresh(node: &Node, pod: &Pod) -> Result<RenewAt, Error> {
    set_up(node, pod).await
}

/// Takes all volumes of a pod away.
pub(super) fn tear_down(node: &Node, pod: &Pod) -> Result<(), Error> {
    for volume in volumes(pod).filter(|volume| volume.empty_dir.is_some()) {
        detach(&path(node, pod, volume));
    }
    let dir = node.config.volume_dir(uid(pod));
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", dir)(error)),
        _ => Ok(()),
    }
}

/// Names of the ConfigMaps and of the Secrets whose changes show in this pod's volumes.
pub(super) fn references(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for volume in volumes(pod) {
        config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        let sources = volume
            .projected
            .iter()
            .flat_map(|projected| projected.sources.iter().flatten());
        for source in sources {
            config_maps.extend(source.config_map.iter().map(|source| source.name.clone()));
            secrets.extend(source.secret.iter().map(|source| source.name.clone()));
        }
    }
    (config_maps, secrets)
}

/// What a mount of a container is on the node. `expand` resolves `subPathExpr`.
pub(super) fn bind(
    node: &Node,
    pod: &Pod,
    mount: &VolumeMount,
    expand: impl Fn(&str) -> String,
) -> Result<Bind, String> {
    let volume = volumes(pod).find(|volume| volume.name == mount.name).ok_or_else(|| {
        format!(
            "volume \"{}\" of volume mount {} does not exist",
            mount.name, mount.mount_path
        )
    })?;
    let path = path(node, pod, volume);
    let expanded = mount
        .sub_path_expr
        .as_deref()
        .filter(|path| !path.is_empty())
        .map(expand);
    let source = match expanded
        .as_deref()
        .or(mount.sub_path.as_deref())
        .filter(|path| !path.is_empty())
    {
        Some(sub_path) => within(&path, sub_path).map_err(|error| {
            format!(
                "failed to prepare subPath \"{sub_path}\" of volume \"{}\": {error}",
                mount.name
            )
        })?,
        None => path,
    };
    let content = volume.empty_dir.is_none() && volume.host_path.is_none();
    Ok(Bind {
        source,
        destination: Path::new("/").join(&mount.mount_path),
        read_only: mount.read_only == Some(true) || content,
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => "rslave",
            Some("Bidirectional") => "rshared",
            _ => "rprivate",
        },
    })
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn path(node: &Node, pod: &Pod, volume: &Volume) -> PathBuf {
    match &volume.host_path {
        Some(source) => PathBuf::from(&source.path),
        None => node.config.volume_dir(uid(pod)).join("volumes").join(&volume.name),
    }
}

async fn one(node: &Node, pod: &Pod, volume: &Volume, path: &Path) -> Result<RenewAt, Error> {
    let failed = |message: String| Error::Volume {
        volume: volume.name.clone(),
        message,
    };
    if let Some(source) = &volume.host_path {
        host_path(path, source.type_.as_deref().unwrap_or_default()).map_err(failed)?;
        return Ok(None);
    }
    if let Some(source) = &volume.empty_dir {
        empty_dir(pod, path, source).map_err(failed)?;
        return Ok(None);
    }
    let payload = content::gather(node, pod, volume).await.map_err(failed)?;
    atomic::write(path, &payload.files).map_err(|error| failed(format!("cannot write {}: {error}", path.display())))?;
    Ok(payload.renew)
}

fn empty_dir(pod: &Pod, path: &Path, source: &EmptyDirVolumeSource) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    if path.exists() {
        return Ok(());
    }
    let failed = |error: std::io::Error| format!("cannot make {}: {error}", path.display());
    std::fs::create_dir_all(path).map_err(failed)?;
    if let Some("Memory") = source.medium.as_deref() {
        let limit = source.size_limit.as_ref().and_then(|limit| quantity::milli(&limit.0));
        let size = limit.map(|limit| format!("size={},", limit / 1000)).unwrap_or_default();
        let options = format!("{size}mode=777");
        nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(&*options))
            .map_err(|error| failed(error.into()))?;
    }
    let group = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref()?.fs_group);
    let group = group.and_then(|gid| u32::try_from(gid).ok());
    std::os::unix::fs::chown(path, None, group).map_err(failed)?;
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)
}

fn host_path(path: &Path, kind: &str) -> Result<(), String> {
    use std::os::unix::fs::FileTypeExt as _;
    let failed = |error: std::io::Error| format!("cannot make {}: {error}", path.display());
    match kind {
        "DirectoryOrCreate" if !path.exists() => std::fs::create_dir_all(path).map_err(failed)?,
        "FileOrCreate" if !path.exists() => drop(std::fs::File::create(path).map_err(failed)?),
        // As container engines do: what is bound has to exist.
        "" if !path.exists() => std::fs::create_dir_all(path).map_err(failed)?,
        _ => {}
    }
    let found =
        std::fs::metadata(path).map_err(|error| format!("hostPath type check failed: {}: {error}", path.display()))?;
    let (fits, wanted) = match kind {
        "Directory" | "DirectoryOrCreate" => (found.is_dir(), "directory"),
        "File" | "FileOrCreate" => (found.is_file(), "file"),
        "Socket" => (found.file_type().is_socket(), "socket file"),
        "CharDevice" => (found.file_type().is_char_device(), "character device"),
        "BlockDevice" => (found.file_type().is_block_device(), "block device"),
        _ => (true, ""),
    };
    match fits {
        true => Ok(()),
        false => Err(format!(
            "hostPath type check failed: {} is not a {wanted}",
            path.display()
        )),
    }
}

/// A place inside a volume, made if need be; links in the volume cannot lead out of it.
fn within(volume: &Path, sub_path: &str) -> std::io::Result<PathBuf> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    use std::os::fd::AsRawFd as _;
    let relative = Path::new(sub_path);
    let plain =
        |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir);
    if !relative.components().all(plain) {
        return Err(std::io::Error::other("must be relative and must not contain '..'"));
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(volume, flags, Mode::empty())?;
    let mut reached = PathBuf::new();
    for part in relative.components() {
        reached.push(part);
        match rustix::fs::openat2(&root, &reached, flags, Mode::empty(), resolve) {
            Err(rustix::io::Errno::NOENT) => {
                let parent = reached
                    .parent()
                    .filter(|parent| *parent != Path::new(""))
                    .unwrap_or(Path::new("."));
                let parent = rustix::fs::openat2(&root, parent, flags, Mode::empty(), resolve)?;
                rustix::fs::mkdirat(parent, part.as_os_str(), Mode::from_raw_mode(0o750))?;
            }
            found => drop(found?),
        }
    }
    let place = rustix::fs::openat2(&root, relative, flags, Mode::empty(), resolve)?;
    std::fs::read_link(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        std::fs::create_dir_all(volume.join("a")).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../../secret", volume.join("a/out")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("abs")).unwrap();
        assert_eq!(within(&volume, "a").unwrap(), volume.join("a"));
        assert_eq!(within(&volume, "new/deep").unwrap(), volume.join("new/deep"));
        for bad in ["../secret", "/etc", "a/../../x"] {
            assert!(within(&volume, bad).is_err(), "{bad}");
        }
        // Links are followed as if the volume were the whole file system.
        for link in ["a/out", "abs"] {
            assert!(
                within(&volume, link).map_or(true, |path| path.starts_with(&volume)),
                "{link}"
            );
        }
    }

    #[test]
    fn host_paths_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        assert!(
            host_path(&file, "File")
                .unwrap_err()
                .contains("hostPath type check failed")
        );
        host_path(&file, "FileOrCreate").unwrap();
        assert!(
            host_path(&file, "Directory")
                .unwrap_err()
                .ends_with("is not a directory")
        );
        host_path(&dir.path().join("d"), "").unwrap();
    }
}
