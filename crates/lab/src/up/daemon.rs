//! One daemon of the lab, started again whenever it ends; and the way into a node's namespaces.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

use super::{Error, Lab, cgroup, netns};

/// Open handles on the namespaces of a node; they live as long as a handle or a process in them.
#[derive(Debug)]
pub(super) struct Namespaces {
    pub(super) net: File,
    pub(super) mnt: File,
    pub(super) uts: File,
}

impl Namespaces {
    /// Moves the calling thread, and what it starts from now on, into the node.
    pub(super) fn join(&self) -> nix::Result<()> {
        // A mount namespace can be entered only by a thread that shares its working directory with no other.
        unshare(CloneFlags::CLONE_FS)?;
        setns(self.net.as_fd(), CloneFlags::CLONE_NEWNET)?;
        setns(self.uts.as_fd(), CloneFlags::CLONE_NEWUTS)?;
        setns(self.mnt.as_fd(), CloneFlags::CLONE_NEWNS)
    }
}

/// The processes of a node's daemon: `agent`, `dns` or `kubelet`.
pub fn processes(lab: &Lab, node: &str, daemon: &str) -> Result<Vec<i32>, Error> {
    Ok(cgroup::processes(&cgroup::of_daemon(lab, node, daemon)?))
}

/// Runs a function inside a node of a lab that is up, or on the network of its `router` or of the `internet` beyond.
/// Processes that it starts are in the node's namespaces, and in its cgroup, so that they are treated as the node's own.
pub fn enter<T: Send>(lab: &Lab, node: &str, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    match node {
        "router" => return enter_network(lab, &lab.segment_netns(), work),
        "internet" => return enter_network(lab, &lab.internet_netns(), work),
        _ => {}
    }
    let daemons = ["kubelet", "agent", "dns"];
    let pid = daemons.iter().find_map(|name| {
        let path = cgroup::of_daemon(lab, node, name).ok()?;
        cgroup::processes(&path).first().copied()
    });
    let pid = pid.ok_or_else(|| Error::NotUp {
        name: lab.name().to_owned(),
    })?;
    let open = |kind: &str| {
        let path = format!("/proc/{pid}/ns/{kind}");
        File::open(&path).map_err(Error::io("open", path))
    };
    let namespaces = Namespaces {
        net: open("net")?,
        mnt: open("mnt")?,
        uts: open("uts")?,
    };
    let leaf = cgroup::of_daemon(lab, node, "shell")?;
    cgroup::create(&leaf)?;
    cgroup::join(&leaf)?;
    netns::on_thread(|| {
        namespaces.join().map_err(Error::io("enter the namespaces of", node))?;
        Ok(work())
    })
}

fn enter_network<T: Send>(lab: &Lab, network: &str, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let network = File::open(netns::path(network)).map_err(|_| Error::NotUp {
        name: lab.name().to_owned(),
    })?;
    let leaf = cgroup::of_control(lab, "shell")?;
    cgroup::create(&leaf)?;
    cgroup::join(&leaf)?;
    netns::inside(&network, || Ok(work()))
}

/// A process that has to run as long as the lab is up.
pub(super) struct Daemon {
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) cgroup: PathBuf,
    pub(super) log: PathBuf,
    pub(super) place: Place,
}

/// Where a daemon runs.
pub(super) enum Place {
    /// In the machine's own namespaces.
    Machine,
    /// In a network namespace.
    Network(File),
    /// In a node.
    Node(Arc<Namespaces>),
}

impl Place {
    fn join(&self) -> nix::Result<()> {
        match self {
            Self::Machine => Ok(()),
            Self::Network(net) => setns(net.as_fd(), CloneFlags::CLONE_NEWNET),
            Self::Node(node) => node.join(),
        }
    }
}

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// After so long a daemon counts as started, and its next end as a new fault.
const SETTLED: Duration = Duration::from_secs(10);

/// A daemon that is kept running, until told otherwise.
pub(super) struct Kept {
    cgroup: PathBuf,
    unwanted: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Kept {
    /// Lets the daemon stay away when it ends the next time.
    pub(super) fn release(&self) {
        self.unwanted.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
    }

    /// Kills the daemon, and whatever it left in its cgroup, for good. Returns when it is gone.
    ///
    /// One process at a time: after `cgroup.kill` Linux 6.18 also kills whatever a later process of that cgroup clones
    /// into another one (`CLONE_INTO_CGROUP`, as `crun exec` does for a kubelet).
    pub(super) fn end(self) -> Result<(), Error> {
        self.release();
        // It may be just starting: not yet in its cgroup at the first look, but at a later one.
        while !self.thread.is_finished() {
            for pid in cgroup::processes(&self.cgroup) {
                // Gone already, if it fails.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // A panic of that thread is in the log; what it looked after is gone all the same.
        let _ = self.thread.join();
        Ok(())
    }
}

impl Daemon {
    /// Starts the daemon and keeps it running, on a thread of its own.
    pub(super) fn keep(self) -> Result<Kept, Error> {
        cgroup::create(&self.cgroup)?;
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.map_err(Error::io("open the log", &self.log))?;
        let name = self.args.join(" ");
        let (cgroup, unwanted) = (self.cgroup.clone(), Arc::new(AtomicBool::new(false)));
        let told = unwanted.clone();
        let run = move || {
            if let Err(error) = self.place.join() {
                tracing::error!(daemon = name, %error, "cannot enter the namespaces it is to run in");
                return;
            }
            let mut backoff = FIRST_BACKOFF;
            while !told.load(Ordering::Relaxed) {
                let started = Instant::now();
                let ended = self.run_once(&log);
                match &ended {
                    Ok(status) if told.load(Ordering::Relaxed) => tracing::info!(daemon = name, %status, "ended"),
                    Ok(status) => tracing::warn!(daemon = name, %status, "ended, starting it again"),
                    Err(error) => tracing::error!(daemon = name, %error, "cannot be started"),
                }
                // Who is killed has not failed.
                let killed = ended.is_ok_and(|status| status.signal() == Some(nix::libc::SIGKILL));
                backoff = if killed || started.elapsed() > SETTLED {
                    FIRST_BACKOFF
                } else {
                    backoff
                };
                if !told.load(Ordering::Relaxed) {
                    std::thread::park_timeout(backoff);
                }
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
            }
        };
        let thread = std::thread::Builder::new().spawn(run);
        let thread = thread.map_err(Error::io("start a thread for", "a daemon"))?;
        Ok(Kept {
            cgroup,
            unwanted,
            thread,
        })
    }

    /// The shell moves itself into the cgroup before it becomes the daemon, so that no child can escape it.
    fn run_once(&self, log: &File) -> std::io::Result<std::process::ExitStatus> {
        Command::new("/bin/sh")
            .args(["-c", r#"echo $$ > "$0" && exec "$@""#])
            .arg(in_own_cgroup_view(&self.cgroup, matches!(self.place, Place::Node(_))).join("cgroup.procs"))
            .arg(&self.program)
            .args(&self.args)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .status()
    }
}

/// A node sees its own subtree (`…/daemons/agent` below its root) at `/sys/fs/cgroup`.
fn in_own_cgroup_view(path: &Path, in_node: bool) -> PathBuf {
    match (in_node, path.parent(), path.file_name()) {
        (true, Some(_), Some(name)) => Path::new("/sys/fs/cgroup/daemons").join(name),
        _ => path.to_owned(),
    }
}
