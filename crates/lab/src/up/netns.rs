//! Named network namespaces, as `ip netns` lists them, and threads that work inside one.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::Error;

const DIR: &str = "/run/netns";

/// The file that names a namespace.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Makes a network namespace with `lo` in it and gives it a name; an open handle on it.
pub(super) fn create(name: &str) -> Result<File, Error> {
    let path = path(name);
    fs::create_dir_all(DIR).map_err(Error::io("create", DIR))?;
    File::create_new(&path).map_err(Error::io("create network namespace", &path))?;
    let bind = || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(
            Some("/proc/thread-self/ns/net"),
            &path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
    };
    on_thread(bind).map_err(Error::io("create network namespace", &path))?;
    File::open(&path).map_err(Error::io("open network namespace", &path))
}

/// Takes a namespace's name away; the kernel ends it with its last process. Fine if there is none.
pub(super) fn remove(name: &str) -> Result<(), Error> {
    let path = path(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(Error::io("unmount network namespace", path)(error)),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove network namespace", path)(error))
        }
        _ => Ok(()),
    }
}

/// The names of all namespaces that begin so.
pub(super) fn list(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(DIR).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// Runs a function inside a network namespace, on a thread that ends with it.
pub(super) fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    on_thread(|| {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).map_err(Error::io("enter the network namespace of", DIR))?;
        work()
    })
}

/// Namespaces belong to threads; a thread that has changed its own is never used for anything else.
pub(super) fn on_thread<T: Send, E: Send>(work: impl FnOnce() -> Result<T, E> + Send) -> Result<T, E> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
