//! Network namespaces without a name: they live as long as this process holds them, and end with it however it ends.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace of the benchmark's own.
pub(super) struct Netns(File);

impl Netns {
    /// Makes a namespace, with its loopback up.
    pub(super) fn new() -> Result<Self> {
        let made = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace; are you root?")?;
            File::open("/proc/thread-self/ns/net").context("cannot open the new network namespace")
        })?;
        let netns = Self(made);
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// A path that every process may open as long as this one holds the namespace.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Moves the calling thread into the namespace; it should do nothing else afterwards.
    pub(super) fn enter(&self) -> Result<()> {
        setns(&self.0, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace of the benchmark's own")
    }

    /// Does something inside, on a thread of its own.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_thread(|| {
            self.enter()?;
            work()
        })
    }

    /// Runs lines of `ip` commands inside.
    pub(super) fn ip(&self, lines: &str) -> Result<()> {
        self.feed("ip", &["-batch", "-"], lines)
    }

    /// Sets a switch under `/proc/sys/net`.
    pub(super) fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{name}");
        self.run(|| std::fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}")))
    }

    /// Runs a command inside, with this input.
    pub(super) fn feed(&self, program: &str, args: &[&str], input: &str) -> Result<()> {
        self.run(|| {
            let mut child = Command::new(program)
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .with_context(|| {
                    format!(
                        "cannot start {program}; on Debian: apt-get install {}",
                        package(program)
                    )
                })?;
            let mut stdin = child.stdin.take().with_context(|| format!("{program} has no input"))?;
            // Written while the command runs: it may read line by line, and it says on its own what it dislikes.
            let written = stdin.write_all(input.as_bytes());
            drop(stdin);
            let output = child
                .wait_with_output()
                .with_context(|| format!("cannot wait for {program}"))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                bail!(
                    "{program} failed ({}): {}",
                    output.status,
                    said.lines().next().unwrap_or_default()
                );
            }
            written.with_context(|| format!("{program} did not read all of its input"))
        })
    }
}

fn package(program: &str) -> &str {
    match program {
        "ip" => "iproute2",
        "nft" => "nftables",
        "iptables-restore" => "iptables",
        other => other,
    }
}

/// A namespace belongs to a thread, so work in one gets a thread that ends with it.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let done = std::thread::scope(|scope| scope.spawn(work).join());
    done.unwrap_or_else(|_| Err(anyhow!("a thread of the benchmark panicked")))
}
