//! Entering a network namespace. It is per thread: asynchronous work is done on a thread of its own that ends with it,
//! blocking work on the calling thread, which comes back. No other task of the process ever runs in a foreign namespace.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::{NetError, Rtnl};

/// An open network namespace; it cannot vanish while this lives.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    path: PathBuf,
}

impl Namespace {
    /// Opens the namespace behind a path such as `/run/netns/x` or `/proc/7/ns/net`.
    pub fn open(path: &Path) -> Result<Self, NetError> {
        let failed = |source| NetError::Namespace {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let kind = fstatfs(&file).map_err(|errno| failed(errno.into()))?;
        // Once unmounted, the file below the mount is an empty ordinary one.
        if kind.filesystem_type() != NSFS_MAGIC {
            return Err(NetError::NotANamespace { path: path.to_owned() });
        }
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Opens the namespace; `None` where it has gone.
    pub fn open_if_there(path: &Path) -> Result<Option<Self>, NetError> {
        match Self::open(path) {
            Ok(namespace) => Ok(Some(namespace)),
            Err(NetError::NotANamespace { .. }) => Ok(None),
            Err(NetError::Namespace { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is the namespace that the calling thread is in.
    pub(super) fn is_here(&self) -> Result<bool, NetError> {
        let failed = |source| NetError::Namespace {
            path: self.path.clone(),
            source,
        };
        let here = std::fs::metadata("/proc/thread-self/ns/net").map_err(failed)?;
        let own = self.file.metadata().map_err(failed)?;
        Ok((here.dev(), here.ino()) == (own.dev(), own.ino()))
    }

    /// Whether any process that this one can see is inside. It has to see all of them: an agent in a container needs
    /// the machine's process namespace. Reads all of `/proc`, so it is for a thread that may block.
    pub fn has_processes(&self) -> Result<bool, NetError> {
        let failed = |source| NetError::Namespace {
            path: self.path.clone(),
            source,
        };
        let own = self.file.metadata().map_err(failed)?;
        let same = |other: std::fs::Metadata| (other.dev(), other.ino()) == (own.dev(), own.ino());
        let processes = std::fs::read_dir("/proc").map_err(failed)?.flatten();
        let mut processes =
            processes.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit));
        // One that has just ended has no namespace any more.
        Ok(processes.any(|entry| std::fs::metadata(entry.path().join("ns/net")).is_ok_and(same)))
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Does blocking work inside, on the calling thread, which comes back from there. The files under `/proc/sys/net` are
    /// those of this namespace meanwhile.
    pub(super) fn enter<T>(&self, work: impl FnOnce() -> Result<T, NetError>) -> Result<T, NetError> {
        let failed = |source| NetError::Namespace {
            path: self.path.clone(),
            source,
        };
        let home = Home(File::open("/proc/thread-self/ns/net").map_err(failed)?);
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
        let result = work();
        drop(home);
        result
    }

    /// Runs `work` inside, with a netlink connection to it. The files under `/proc/sys/net` are those of this
    /// namespace, too. `work` must not block for long on anything but the kernel.
    pub async fn run<T, F, Fut>(&self, work: F) -> Result<T, NetError>
    where
        T: Send + 'static,
        F: FnOnce(Rtnl) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, NetError>>,
    {
        let failed = |source| NetError::Namespace {
            path: self.path.clone(),
            source,
        };
        let file = self.file.try_clone().map_err(failed)?;
        let path = self.path.clone();
        let (done, result) = tokio::sync::oneshot::channel();
        let body = move || {
            // The receiver is gone only where the caller was cancelled; then nobody wants the result.
            let _ = done.send(inside(&file, &path, work));
        };
        std::thread::Builder::new()
            .name("netns".into())
            .spawn(body)
            .map_err(failed)?;
        result
            .await
            .map_err(|_| NetError::Netlink("the thread in the namespace panicked".into()))?
    }
}

/// Where a thread came from; dropped, it is back.
struct Home(File);

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(errno) = setns(&self.0, CloneFlags::CLONE_NEWNET) {
            // Whatever this thread did next would change a pod's network instead of the node's. A killed agent loses
            // nothing, one that goes on like this would.
            tracing::error!("cannot come back from a pod's network namespace: {errno}");
            std::process::abort();
        }
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn inside<T, F, Fut>(file: &File, path: &Path, work: F) -> Result<T, NetError>
where
    F: FnOnce(Rtnl) -> Fut,
    Fut: Future<Output = Result<T, NetError>>,
{
    let failed = |source| NetError::Namespace {
        path: path.to_owned(),
        source,
    };
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(async { work(Rtnl::connect()?).await })
}
