//! A lab of one node for a benchmark, and its agent seen from outside.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use weft_lab::up::{self, Lab};

use super::cgroup;
use super::cni::plugin::CONFLIST;

const NODE: &str = "node-1";
/// How long the agent may take until its node can have pods.
const PATIENCE: Duration = Duration::from_secs(60);

/// One lab of one node, gone at the end.
pub(super) struct Node(Lab);

impl Node {
    pub(super) fn start(lab: &str) -> Result<Self> {
        let weft = std::env::current_exe().context("cannot find this program's own path")?;
        let up = ["lab", "up", "--name", lab, "--nodes", "1", "--no-demo"];
        let output = Command::new(weft).args(up).output().context("cannot start a lab")?;
        let node = Self(Lab::new(lab)?);
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cannot start a lab: {}", said.trim());
        // A machine with another runtime's configuration has nodes that are ready before the agent is.
        node.enter(|| {
            let deadline = Instant::now() + PATIENCE;
            while !Path::new(CONFLIST).exists() {
                ensure!(
                    Instant::now() < deadline,
                    "the agent has not written {CONFLIST}; see its log"
                );
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        })?;
        Ok(node)
    }

    pub(super) fn lab(&self) -> &Lab {
        &self.0
    }

    /// Does something in the node's namespaces.
    pub(super) fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        cgroup::and_back(|| up::enter(&self.0, NODE, work)?)
    }

    /// The agent's process.
    pub(super) fn agent(&self) -> Result<Process> {
        let pids = up::processes(&self.0, NODE, "agent")?;
        let pid = pids
            .first()
            .context("the node has no agent; see `weft lab logs agent`")?;
        Ok(Process(*pid))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = up::down(&self.0) {
            let lab = self.0.name();
            eprintln!("weft: the lab {lab} is left: {error}; remove it with `weft lab down --name {lab}`");
        }
    }
}

/// A process, as /proc shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process(i32);

impl Process {
    pub(super) fn id(self) -> i32 {
        self.0
    }

    /// A size of its memory in MiB: `VmRSS` now, `VmHWM` at most until now.
    pub(super) fn memory(&self, field: &str) -> Result<f64> {
        let status = self.read("status")?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib: Option<f64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        Ok(kib.with_context(|| format!("/proc/{}/status has no {field}", self.0))? / 1024.0)
    }

    /// The time of a core that it has used.
    pub(super) fn cpu(&self) -> Result<Duration> {
        // Nanoseconds on a core, of the whole process: the sum over its threads.
        let mut total = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.0)).context("the agent has gone")? {
            let path = task.context("the agent has gone")?.path().join("schedstat");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let on_cpu: Option<u64> = text.split(' ').next().and_then(|n| n.parse().ok());
            total += on_cpu.unwrap_or_default();
        }
        Ok(Duration::from_nanos(total))
    }

    /// How many descriptors it holds.
    pub(super) fn descriptors(&self) -> Result<usize> {
        let dir = format!("/proc/{}/fd", self.0);
        Ok(std::fs::read_dir(&dir)
            .with_context(|| format!("cannot list {dir}"))?
            .count())
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.0);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}
