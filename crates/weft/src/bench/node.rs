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

/// Fields of `/proc/pid/stat` (proc(5)), counted from one: the first behind the name, and the first of two times each.
const AFTER_NAME: usize = 3;
const USER: usize = 14;
const CHILDREN: usize = 16;
/// What those times are counted in, milliseconds: hundredths of a second for everybody who asks.
const TICK: u64 = 10;

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
    /// This one.
    pub(super) fn this() -> Self {
        Self(std::process::id() as i32)
    }

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

    /// The time of a core that it has used, all of its threads, also those that have ended.
    pub(super) fn cpu(self) -> Result<Duration> {
        self.times(USER)
    }

    /// The same of its children that have ended and been waited for, and of theirs.
    pub(super) fn cpu_of_children(self) -> Result<Duration> {
        self.times(CHILDREN)
    }

    /// The sum of two of the times in `/proc/pid/stat`, the first of which is this one.
    fn times(self, first: usize) -> Result<Duration> {
        let stat = self.read("stat")?;
        // The name before may hold anything.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace());
        let times = fields.into_iter().flatten().skip(first - AFTER_NAME).take(2);
        let ticks: Option<u64> = times.map(|time| time.parse::<u64>().ok()).sum();
        let ticks = ticks.with_context(|| format!("cannot read the times in /proc/{}/stat", self.0))?;
        Ok(Duration::from_millis(ticks * TICK))
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
