//! Whom a container runs as.

use std::io::Read as _;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod};
use oci_spec::runtime::User;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::Image;

/// The user that the pod, the container and the image agree on.
pub(super) fn of(pod: &Pod, container: &Container, image: &Image, rootfs: &Path) -> Result<User, String> {
    let for_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let own = container.security_context.as_ref();
    let set_uid = own.and_then(|s| s.run_as_user).or(for_pod.and_then(|s| s.run_as_user));
    let set_gid = own
        .and_then(|s| s.run_as_group)
        .or(for_pod.and_then(|s| s.run_as_group));
    let not_root = own
        .and_then(|s| s.run_as_non_root)
        .or(for_pod.and_then(|s| s.run_as_non_root))
        == Some(true);

    let passwd = read(rootfs, "etc/passwd");
    let group = read(rootfs, "etc/group");
    let (name, group_name) = match set_uid {
        Some(uid) => (uid.to_string(), None),
        None => match image.user.split_once(':') {
            Some((user, group)) => (user.to_owned(), Some(group)),
            None => (image.user.clone(), None),
        },
    };
    let entry = entry(&passwd, &name);
    let uid = match name.as_str() {
        "" => 0,
        name => match (name.parse(), &entry) {
            (Ok(uid), _) => uid,
            (Err(_), Some(entry)) => entry.uid,
            (Err(_), None) => {
                return Err(format!(
                    "unable to find user {name}: no matching entries in passwd file"
                ));
            }
        },
    };
    if not_root && uid == 0 {
        return Err(match set_uid {
            Some(_) => "container's runAsUser breaks non-root policy".to_owned(),
            None => "container has runAsNonRoot and image will run as root".to_owned(),
        });
    }
    let gid = match (set_gid, group_name) {
        (Some(gid), _) => u32::try_from(gid).map_err(|_| format!("runAsGroup {gid} is out of range"))?,
        (None, Some(name)) => match name.parse() {
            Ok(gid) => gid,
            Err(_) => find_group(&group, name)
                .ok_or_else(|| format!("unable to find group {name}: no matching entries in group file"))?,
        },
        (None, None) => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut more: Vec<u32> = entry.iter().flat_map(|entry| member_of(&group, &entry.name)).collect();
    let wanted = for_pod
        .and_then(|s| s.supplemental_groups.clone())
        .into_iter()
        .flatten();
    more.extend(
        wanted
            .chain(for_pod.and_then(|s| s.fs_group))
            .filter_map(|gid| u32::try_from(gid).ok()),
    );
    more.push(gid);
    more.sort_unstable();
    more.dedup();
    let mut user = User::default();
    user.set_uid(uid).set_gid(gid).set_additional_gids(Some(more));
    Ok(user)
}

/// The home folder of a user.
pub(super) fn home(uid: u32, rootfs: &Path) -> String {
    match entry(&read(rootfs, "etc/passwd"), &uid.to_string()) {
        Some(entry) if !entry.home.is_empty() => entry.home,
        _ => "/".to_owned(),
    }
}

struct Entry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// The passwd line of a user, by name or number.
fn entry(passwd: &str, wanted: &str) -> Option<Entry> {
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let found = fields.first() == Some(&wanted) || fields.get(2) == Some(&wanted);
        found.then_some(())?;
        Some(Entry {
            name: fields[0].to_owned(),
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
            home: fields.get(5).copied().unwrap_or_default().to_owned(),
        })
    })
}

fn find_group(group: &str, name: &str) -> Option<u32> {
    group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then_some(())?;
        fields.nth(1)?.parse().ok()
    })
}

fn member_of(group: &str, user: &str) -> Vec<u32> {
    group
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            fields.get(3)?.split(',').any(|member| member == user).then_some(())?;
            fields.get(2)?.parse().ok()
        })
        .collect()
}

/// Reads a file of the container; its links cannot lead out of it.
fn read(rootfs: &Path, path: &str) -> String {
    let mut text = String::new();
    let open = || {
        let root = rustix::fs::open(rootfs, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        rustix::fs::openat2(
            root,
            path,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        )
    };
    if let Ok(file) = open() {
        // Not text, or too long to be sensible: as if it were empty.
        let read = std::fs::File::from(file).take(1 << 20).read_to_string(&mut text);
        if read.is_err() {
            text.clear();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn user(pod: Value, own: Value, image: &str) -> Result<(u32, u32, Vec<u32>), String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(
            dir.path().join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(dir.path().join("etc/group"), "root:x:0:\nwww:x:40:web,x\n").unwrap();
        let pod = serde_json::from_value(json!({"spec": {"containers": [], "securityContext": pod}})).unwrap();
        let container = serde_json::from_value(json!({"name": "c", "securityContext": own})).unwrap();
        let image = Image {
            user: image.to_owned(),
            ..Image::default()
        };
        let user = of(&pod, &container, &image, dir.path())?;
        assert_eq!(home(33, dir.path()), "/var/www");
        Ok((user.uid(), user.gid(), user.additional_gids().clone().unwrap()))
    }

    #[test]
    fn who() {
        assert_eq!(user(json!({}), json!({}), ""), Ok((0, 0, vec![0])));
        assert_eq!(user(json!({}), json!({}), "web"), Ok((33, 34, vec![34, 40])));
        assert_eq!(user(json!({}), json!({}), "web:www"), Ok((33, 40, vec![40])));
        assert_eq!(user(json!({}), json!({}), "5:6"), Ok((5, 6, vec![6])));
        let pod = json!({"runAsUser": 1000, "runAsGroup": 3, "fsGroup": 9, "supplementalGroups": [7]});
        assert_eq!(user(pod.clone(), json!({}), "web"), Ok((1000, 3, vec![3, 7, 9])));
        assert_eq!(user(pod, json!({"runAsUser": 33}), ""), Ok((33, 3, vec![3, 7, 9, 40])));
        assert!(
            user(json!({"runAsNonRoot": true}), json!({}), "")
                .unwrap_err()
                .contains("will run as root")
        );
        assert!(
            user(json!({}), json!({}), "nobody")
                .unwrap_err()
                .contains("unable to find user nobody")
        );
    }
}
