//! A cgroup of the benchmark's own, so that the socket hooks it attaches see its threads and nobody else's sockets.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

const PREFIX: &str = "weft-bench-";

/// The benchmark's place in the hierarchy; leaving it removes it.
pub(super) struct Home {
    path: PathBuf,
    before: PathBuf,
}

impl Home {
    /// Moves this process into a new cgroup. Empty ones that a killed run left behind are removed.
    pub(super) fn enter() -> Result<Self> {
        let mount = mount()?;
        sweep(&mount)?;
        let path = mount.join(format!("{PREFIX}{}", std::process::id()));
        let before = mount.join(current()?.trim_start_matches('/'));
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        let home = Self { path, before };
        join(&home.path.join("cgroup.procs"), "0")?;
        Ok(home)
    }

    /// A cgroup below that single threads can join.
    pub(super) fn threads(&self, name: &str) -> Result<Threads> {
        let path = self.path.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        let threads = Threads(path);
        let kind = threads.0.join("cgroup.type");
        fs::write(&kind, "threaded").with_context(|| format!("cannot make a threaded cgroup of {}", kind.display()))?;
        Ok(threads)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let left = join(&self.before.join("cgroup.procs"), "0");
        let gone = left.and_then(|()| fs::remove_dir(&self.path).context("it is in use"));
        if let Err(error) = gone {
            eprintln!(
                "weft: the cgroup {} is left for the next run: {error:#}",
                self.path.display()
            );
        }
    }
}

/// Does something that moves this process into another cgroup, and moves it back: a lab ends with all that is in its own.
pub(super) fn and_back<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = mount()?.join(current()?.trim_start_matches('/'));
    let result = work();
    join(&before.join("cgroup.procs"), "0")?;
    result
}

/// A cgroup of threads.
pub(super) struct Threads(PathBuf);

impl Threads {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Moves the calling thread into it.
    pub(super) fn join(&self) -> Result<()> {
        join(&self.0.join("cgroup.threads"), &nix::unistd::gettid().to_string())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!(
                "weft: the cgroup {} is left for the next run: {error}",
                self.0.display()
            );
        }
    }
}

fn join(file: &Path, who: &str) -> Result<()> {
    fs::write(file, who).with_context(|| format!("cannot move into the cgroup of {}", file.display()))
}

fn mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let mut paths = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
    });
    paths
        .next()
        .context("no cgroup2 file system is mounted; try: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

fn current() -> Result<String> {
    let own = fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    Ok(own.context("this process is in no cgroup of version 2")?.to_owned())
}

fn sweep(mount: &Path) -> Result<()> {
    let entries = fs::read_dir(mount).with_context(|| format!("cannot list {}", mount.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let below = fs::read_dir(entry.path()).into_iter().flatten().flatten();
            // The kernel refuses to remove a cgroup that is in use, and its files go with it.
            for child in below.filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir())) {
                let _in_use = fs::remove_dir(child.path());
            }
            let _in_use = fs::remove_dir(entry.path());
        }
    }
    Ok(())
}
