//! Runs the OCI runtime: start, signal, remove, run a command inside; and learns how a container ended.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};
use tokio::io::unix::AsyncFd;
use tokio::process::Command;

use super::error::Error;
use super::keeper::Keeper;
use super::stdio::Streams3;
use crate::streaming;

/// The runtime of this node.
#[derive(Clone, Debug)]
pub(super) struct Runtime {
    info: streaming::Runtime,
    /// `crun 1.8.1`, for the node's status.
    pub(super) version: String,
    /// The process that starts containers and survives this one; `None`: this one does it itself.
    pub(super) keeper: Option<Keeper>,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// With this code; 128 plus the signal's number where a signal ended it.
    Code { code: i32, signal: Option<i32> },
    /// While no kubelet was looking.
    Unknown,
}

/// What a command inside a container said.
#[derive(Debug)]
pub(super) struct ExecOutcome {
    pub(super) code: i32,
    pub(super) output: String,
}

impl Runtime {
    /// Finds `crun`, or `runc`.
    pub(super) async fn find(root: PathBuf, keeper: Option<Keeper>) -> Result<Self, Error> {
        let places = [
            "/usr/bin",
            "/usr/sbin",
            "/usr/local/bin",
            "/usr/local/sbin",
            "/bin",
            "/sbin",
        ];
        let found = ["crun", "runc"]
            .iter()
            .flat_map(|name| places.iter().map(move |dir| Path::new(dir).join(name)))
            .find(|path| path.is_file());
        let Some(binary) = found else {
            let message = "no OCI runtime found: neither crun nor runc; install one: apt-get install -y crun";
            return Err(Error::Runtime(message.to_owned()));
        };
        let output = Command::new(&binary).arg("--version").output().await;
        let output = output.map_err(Error::io("run", &binary))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text
            .lines()
            .next()
            .and_then(|line| line.split_whitespace().last())
            .unwrap_or("0");
        Ok(Self {
            version: version.to_owned(),
            keeper,
            info: streaming::Runtime { program: binary, root },
        })
    }

    /// For those who run it themselves.
    pub(super) fn info(&self) -> &streaming::Runtime {
        &self.info
    }

    fn is_crun(&self) -> bool {
        self.info.program.file_name().is_some_and(|name| name == "crun")
    }

    /// A command of the runtime with its global flags in place.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.info.program);
        command.arg("--root").arg(&self.info.root);
        if self.is_crun() {
            command.args(["--cgroup-manager", "cgroupfs"]);
        }
        command
    }

    /// `crun` or `runc`.
    pub(super) fn name(&self) -> &'static str {
        if self.is_crun() { "crun" } else { "runc" }
    }

    /// Creates and starts a container; the id of its first process. The other end of its terminal, if it has one,
    /// is sent to the socket `console`.
    pub(super) async fn start(
        &self,
        id: &str,
        bundle: &Path,
        streams: Streams3,
        console: Option<&Path>,
    ) -> Result<i32, Error> {
        let (pid_file, log) = (bundle.join("pid"), bundle.join("runtime.log"));
        for old in [&pid_file, &log] {
            std::fs::remove_file(old).ok();
        }
        let mut command = self.command();
        command
            .arg("--log")
            .arg(&log)
            .args(["run", "--detach", "--bundle"])
            .arg(bundle);
        command.arg("--pid-file").arg(&pid_file);
        if let Some(socket) = console {
            command.arg("--console-socket").arg(socket);
        }
        command.arg(id);
        let failed = Error::io("run", &self.info.program);
        let code = match &self.keeper {
            Some(keeper) => keeper.run(words(&command), streams).await.map_err(failed)?,
            None => {
                let (stdin, stdout, stderr) = streams.open().map_err(Error::io("open streams of", bundle))?;
                let status = command.stdin(stdin).stdout(stdout).stderr(stderr).status().await;
                status.map_err(failed)?.code().unwrap_or(137)
            }
        };
        if code != 0 {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            self.delete(id).await;
            return Err(Error::Runtime(failure(&text, &format!("exit status {code}"))));
        }
        let text = std::fs::read_to_string(&pid_file).map_err(Error::io("read", &pid_file))?;
        text.trim()
            .parse()
            .map_err(|_| Error::Runtime(format!("{} holds no process id: {text:?}", pid_file.display())))
    }

    /// Removes what is left of a container, killing what still runs in it.
    pub(super) async fn delete(&self, id: &str) {
        if !self.quiet(&["delete", "--force", id]).await {
            tracing::debug!(id, "nothing to delete");
        }
    }

    async fn quiet(&self, args: &[&str]) -> bool {
        let mut command = self.command();
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().await.is_ok_and(|status| status.success())
    }

    /// Runs a command in a container; standard output and error come back together, at most 10 kB.
    pub(super) async fn exec(&self, id: &str, argv: &[String], limit: Duration) -> Result<ExecOutcome, String> {
        let mut command = self.command();
        command
            .arg("exec")
            .arg(id)
            .args(argv)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        // Whoever asked may go, as a probe does when its container ends. The runtime stays, to wait for its child:
        // a container cannot end while somebody in it has not been waited for.
        let mut run = tokio::spawn(async move { command.output().await });
        let output = match tokio::time::timeout(limit, &mut run).await {
            Ok(ended) => ended.unwrap_or_else(|error| Err(error.into())),
            Err(_) => {
                run.abort();
                return Err(format!("command timed out: {argv:?} timed out after {limit:?}"));
            }
        };
        match output {
            Err(error) => Err(format!("cannot run {}: {error}", self.info.program.display())),
            Ok(output) => {
                let mut text = output.stdout;
                text.extend(output.stderr);
                text.truncate(10 * 1024);
                Ok(ExecOutcome {
                    code: output.status.code().unwrap_or(137),
                    output: String::from_utf8_lossy(&text).into_owned(),
                })
            }
        }
    }
}

/// Program and arguments of a command.
fn words(command: &Command) -> Vec<String> {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect()
}

/// The runtime's own words without its decoration.
fn failure(log: &str, status: &str) -> String {
    let line = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or(status);
    // runc: time="..." level=error msg="..."; crun: <time>: <message>
    let text = match line.split_once(" msg=") {
        Some((_, text)) => text.trim_matches('"').replace("\\\"", "\""),
        None => match line.split_once("Z: ") {
            Some((_, text)) => text.to_owned(),
            None => line.to_owned(),
        },
    };
    format!(
        "failed to create containerd task: OCI runtime create failed: {}",
        text.trim()
    )
}

/// A running process that can be waited for, whoever's child it is.
#[derive(Debug)]
pub(super) struct Process {
    pid: i32,
    ticks: Option<u64>,
    pidfd: AsyncFd<OwnedFd>,
}

impl Process {
    /// Takes hold of a process; `None` when it has gone. `started` guards against another process of the same
    /// number: see [`start_time`].
    pub(super) fn open(pid: i32, started: Option<u64>) -> Option<Self> {
        let fd = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::NONBLOCK).ok()?;
        if started.is_some() && start_time(pid) != started {
            return None;
        }
        #[expect(
            deprecated,
            reason = "an OwnedFd stays open while it is registered; the replacement is not safe to call"
        )]
        let pidfd = AsyncFd::with_interest(fd, tokio::io::Interest::READABLE).ok()?;
        Some(Self {
            pid,
            ticks: started,
            pidfd,
        })
    }

    /// Sends a signal; one that has gone does not mind.
    pub(super) fn signal(&self, number: i32) {
        if let Some(signal) = rustix::process::Signal::from_named_raw(number) {
            rustix::process::pidfd_send_signal(self.pidfd.get_ref(), signal).ok();
        }
    }

    /// Waits for its end. A child tells its code itself; of a container that the keeper started, the keeper knows it.
    pub(super) async fn wait(&self, keeper: Option<&Keeper>) -> Exit {
        if self.pidfd.readable().await.is_err() {
            return Exit::Unknown;
        }
        let fd = std::os::fd::AsFd::as_fd(self.pidfd.get_ref());
        match rustix::process::waitid(WaitId::PidFd(fd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code { code, signal: None },
                (None, Some(signal)) => Exit::Code {
                    code: 128 + signal,
                    signal: Some(signal),
                },
                (None, None) => Exit::Unknown,
            },
            Ok(None) | Err(_) => match keeper {
                Some(keeper) => keeper.exit(self.pid, self.ticks).await,
                None => Exit::Unknown,
            },
        }
    }
}

/// When a process started, in the kernel's ticks: with its number, a name that is never used twice.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets and may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_runtimes() {
        let crun =
            "2026-01-01T00:00:00.000000Z: executable file `nope` not found in $PATH: No such file or directory\n";
        assert!(
            failure(crun, "")
                .ends_with("create failed: executable file `nope` not found in $PATH: No such file or directory")
        );
        let runc = "time=\"2026\" level=error msg=\"exec: \\\"nope\\\": not found\"\n";
        assert!(failure(runc, "").ends_with("create failed: exec: \"nope\": not found"));
        assert!(failure("", "exit status: 1").ends_with("exit status: 1"));
    }

    #[expect(clippy::zombie_processes, reason = "what is tested here is what waits for it")]
    #[tokio::test]
    async fn waits_for_children_and_knows_strangers() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read x; exit 7"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let started = start_time(pid);
        assert!(Process::open(pid, started.map(|ticks| ticks + 1)).is_none());
        let process = Process::open(pid, started).unwrap();
        drop(child.stdin.take());
        assert_eq!(process.wait(None).await, Exit::Code { code: 7, signal: None });
    }
}
