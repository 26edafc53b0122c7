//! Network namespaces for tests: nameless, so that nothing is left however a test ends.

#[allow(dead_code, reason = "only some tests ask who is seen")]
pub(crate) mod greeting;
#[allow(dead_code, reason = "each test binary uses a part")]
pub(crate) mod segments;
#[allow(dead_code, reason = "only tunnels have ways")]
pub(crate) mod ways;
#[allow(dead_code, reason = "each test binary uses a part")]
pub(crate) mod world;

use std::fs::File;
use std::future::Future;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace of its own; it goes when the last process and file of it goes.
pub(crate) struct Netns {
    file: File,
}

impl Netns {
    /// A new and empty namespace.
    pub(crate) fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self {
            file: file.join().unwrap(),
        }
    }

    /// A path by which any process can open it, as long as this lives.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Runs `work` on a thread in the namespace.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let file = self.file.try_clone().unwrap();
        std::thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// Runs `work` to its end on a thread in the namespace.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap()
    }

    /// Runs async `work` to its end in the namespace.
    pub(crate) fn block_on<T, F, Fut>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T>,
    {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(work())
        })
    }
}

/// Runs `ip` in the namespace of the calling thread.
#[allow(dead_code, reason = "each test binary uses some of these")]
pub(crate) fn ip(args: &str) {
    let status = std::process::Command::new("ip").args(args.split(' ')).status().unwrap();
    assert!(status.success(), "ip {args}");
}
