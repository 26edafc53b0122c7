//! A lab's subtree of the machine's cgroup v2 tree: where every one of its processes is, and can be ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Error, Lab};

/// Where the kernel's cgroup v2 tree is mounted.
pub(super) fn mount_point() -> Result<PathBuf, Error> {
    let path = "/proc/self/mountinfo";
    let mounts = fs::read_to_string(path).map_err(Error::io("read", path))?;
    mounts
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut fields = before.split(' ').skip(3);
            let (root, target) = (fields.next()?, fields.next()?);
            (after.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(target))
        })
        .next()
        .ok_or(Error::NoCgroup2)
}

/// The lab's subtree.
pub(super) fn of_lab(lab: &Lab) -> Result<PathBuf, Error> {
    Ok(mount_point()?.join(format!("weft-{}", lab.name())))
}

/// Where a component of the control plane runs.
pub(super) fn of_control(lab: &Lab, component: &str) -> Result<PathBuf, Error> {
    Ok(of_lab(lab)?.join("control").join(component))
}

/// A node's subtree: what its socket hooks see.
pub(super) fn of_node(lab: &Lab, node: &str) -> Result<PathBuf, Error> {
    Ok(of_lab(lab)?.join(node))
}

/// Where a daemon of a node runs.
pub(super) fn of_daemon(lab: &Lab, node: &str, component: &str) -> Result<PathBuf, Error> {
    Ok(of_node(lab, node)?.join("daemons").join(component))
}

/// Makes a cgroup and those above it.
pub(super) fn create(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::io("create cgroup", path))
}

/// The processes directly in a cgroup; none where it does not exist.
pub(super) fn processes(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// False of a process that has been killed and only takes its time to end.
pub(super) fn lives_on(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let killed = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")))
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask & (1 << (nix::libc::SIGKILL - 1)) != 0);
    // Past the signal, the program is let go of first.
    !killed && fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

/// Moves the calling process.
pub(super) fn join(path: &Path) -> Result<(), Error> {
    let procs = path.join("cgroup.procs");
    fs::write(&procs, "0").map_err(Error::io("join cgroup", procs))
}

/// Kills everything in a subtree. The processes end a moment later.
pub(super) fn kill(path: &Path) -> Result<(), Error> {
    fs::write(path.join("cgroup.kill"), "1").map_err(Error::io("kill the processes of cgroup", path))
}

/// Kills everything in a subtree and removes it. Waits until the last process has gone.
pub(super) fn destroy(path: &Path) -> Result<(), Error> {
    if !path.exists() {
        return Ok(());
    }
    kill(path)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match remove_tree(path) {
            Ok(()) => return Ok(()),
            // A killed process leaves its cgroup a moment later.
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(Error::io("remove cgroup", path)(error)),
        }
    }
}

fn remove_tree(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_killed_does_not_live_on() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(lives_on(pid));
        child.kill().unwrap();
        // Nobody has waited for it yet: it is still listed.
        let deadline = Instant::now() + Duration::from_secs(5);
        while lives_on(pid) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!lives_on(pid));
        child.wait().unwrap();
    }
}
