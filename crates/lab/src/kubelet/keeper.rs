//! The parent of a node's containers: a process so small that it need never be restarted. It starts the OCI runtime
//! for the kubelet, inherits the containers, and remembers how they ended, so that no exit code is lost while the
//! kubelet is restarted.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use serde::{Deserialize, Serialize};

use super::runtime::{Exit, start_time};
use super::stdio::Streams3;

/// How many ends are remembered.
const REMEMBERED: usize = 4096;

/// How long to wait for the end of a process that is known to have ended.
const SOON: Duration = Duration::from_secs(1);

/// What the kubelet asks.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Run this program to its end.
    Run { argv: Vec<String>, streams: Streams3 },
    /// How did this process end? One that ended before anybody saw when it had started is the last of its number.
    Exit { pid: i32, ticks: Option<u64> },
}

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// The process ended with this code; 128 plus the number of a signal.
    Ended { code: i32, signal: Option<i32> },
    /// Nothing is known of it.
    Unknown,
    /// It could not be started.
    Failed(String),
}

#[derive(Default)]
struct Ledger {
    /// By process id and start: how it ended.
    ended: HashMap<(i32, u64), (i32, Option<i32>)>,
    order: VecDeque<(i32, u64)>,
    /// Children there are, at least for a moment.
    children: bool,
}

impl Ledger {
    /// How a process ended.
    fn find(&self, pid: i32, ticks: Option<u64>) -> Option<(i32, Option<i32>)> {
        let last = || self.order.iter().rev().find(|(number, _)| *number == pid).copied();
        let name = ticks.map(|ticks| (pid, ticks)).or_else(last)?;
        self.ended.get(&name).copied()
    }

    fn note(&mut self, name: (i32, u64), how: (i32, Option<i32>)) {
        if self.ended.insert(name, how).is_none() {
            self.order.push_back(name);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ended.remove(&oldest);
        }
    }
}

/// The ledger, and a bell for whoever waits for it to change.
type Shared = Arc<(Mutex<Ledger>, Condvar)>;

fn lock(shared: &Shared) -> MutexGuard<'_, Ledger> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a node's containers until killed. `socket` is where the kubelet calls.
pub fn keep(socket: &Path) -> std::io::Result<()> {
    // Out of the kubelet's cgroup, where it would be killed with it.
    let leaf = Path::new("/sys/fs/cgroup/daemons/keeper");
    if leaf.parent().is_some_and(Path::is_dir) {
        std::fs::create_dir_all(leaf)?;
        std::fs::write(leaf.join("cgroup.procs"), "0")?;
    }
    nix::sys::prctl::set_child_subreaper(true)?;
    // Whoever comes second finds the place taken and ends.
    let listener = UnixListener::bind(socket)?;
    let shared = Shared::default();
    let for_reaper = shared.clone();
    std::thread::spawn(move || reap(&for_reaper));
    for stream in listener.incoming() {
        let (stream, shared) = (stream?, shared.clone());
        std::thread::spawn(move || {
            // A kubelet that was killed meanwhile asks again when it is back.
            converse(&stream, &shared).ok();
        });
    }
    Ok(())
}

fn converse(stream: &UnixStream, shared: &Shared) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let answer = match serde_json::from_str(&line) {
        Ok(Request::Run { argv, streams }) => {
            run(&argv, &streams, shared).unwrap_or_else(|error| Answer::Failed(error.to_string()))
        }
        Ok(Request::Exit { pid, ticks }) => ending(shared, pid, ticks),
        Err(error) => Answer::Failed(error.to_string()),
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    (&*stream).write_all(text.as_bytes())
}

fn run(argv: &[String], streams: &Streams3, shared: &Shared) -> std::io::Result<Answer> {
    let (program, args) = argv.split_first().ok_or_else(|| std::io::Error::other("no program"))?;
    let (stdin, stdout, stderr) = streams.open()?;
    let mut command = std::process::Command::new(program);
    command.args(args).stdin(stdin).stdout(stdout).stderr(stderr);
    let (pid, ticks) = {
        // The reaper needs the ledger too, so until it is free the child is there to be looked at.
        let mut ledger = lock(shared);
        let child = command.spawn()?;
        ledger.children = true;
        shared.1.notify_all();
        let pid = i32::try_from(child.id()).map_err(std::io::Error::other)?;
        (pid, start_time(pid))
    };
    loop {
        match ending(shared, pid, ticks) {
            Answer::Unknown => {}
            answer => return Ok(answer),
        }
    }
}

/// How a process ended, if that is known soon.
fn ending(shared: &Shared, pid: i32, ticks: Option<u64>) -> Answer {
    let unknown = |ledger: &mut Ledger| ledger.find(pid, ticks).is_none();
    let waiting = shared.1.wait_timeout_while(lock(shared), SOON, unknown);
    let (ledger, _) = waiting.unwrap_or_else(PoisonError::into_inner);
    match ledger.find(pid, ticks) {
        Some((code, signal)) => Answer::Ended { code, signal },
        None => Answer::Unknown,
    }
}

/// Notes the end of every child and every orphan.
fn reap(shared: &Shared) {
    loop {
        // Without reaping: it keeps its number and its start while they are written down.
        let ended = match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Ok(WaitStatus::Exited(pid, code)) => Some((pid, (code, None))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => Some((pid, (128 + signal as i32, Some(signal as i32)))),
            _ => None,
        };
        let mut ledger = lock(shared);
        let Some((pid, how)) = ended else {
            let idle = shared.1.wait_timeout_while(ledger, SOON, |ledger| !ledger.children);
            idle.unwrap_or_else(PoisonError::into_inner).0.children = false;
            continue;
        };
        let name = (pid.as_raw(), start_time(pid.as_raw()).unwrap_or_default());
        ledger.note(name, how);
        drop(ledger);
        // Somebody who waits for it may start a process of the same number only after this.
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED).ok();
        shared.1.notify_all();
    }
}

/// The kubelet's way to its keeper.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    socket: PathBuf,
    program: PathBuf,
}

impl Keeper {
    /// The keeper of a node, started by `program lab keeper` when it is needed.
    pub(super) fn new(state_dir: &Path, program: &Path) -> Self {
        Self {
            socket: state_dir.join("keeper.sock"),
            program: program.to_owned(),
        }
    }

    /// Runs a program to its end; its exit code.
    pub(super) async fn run(&self, argv: Vec<String>, streams: Streams3) -> std::io::Result<i32> {
        let request = Request::Run { argv, streams };
        let answer = match self.ask(&request).await {
            Err(_) => {
                self.start().await?;
                self.ask(&request).await?
            }
            answer => answer?,
        };
        match answer {
            Answer::Ended { code, .. } => Ok(code),
            Answer::Failed(message) => Err(std::io::Error::other(message)),
            Answer::Unknown => Err(std::io::Error::other("the keeper lost the runtime")),
        }
    }

    /// How a process that has ended did so.
    pub(super) async fn exit(&self, pid: i32, ticks: Option<u64>) -> Exit {
        match self.ask(&Request::Exit { pid, ticks }).await {
            Ok(Answer::Ended { code, signal }) => Exit::Code { code, signal },
            _ => Exit::Unknown,
        }
    }

    async fn ask(&self, request: &Request) -> std::io::Result<Answer> {
        use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::UnixStream::connect(&self.socket).await?;
        let mut text = serde_json::to_string(request)?;
        text.push('\n');
        stream.write_all(text.as_bytes()).await?;
        let mut line = String::new();
        tokio::io::BufReader::new(stream).read_line(&mut line).await?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Starts the process, unless somebody else does at the same time.
    async fn start(&self) -> std::io::Result<()> {
        if tokio::net::UnixStream::connect(&self.socket).await.is_ok() {
            return Ok(());
        }
        std::fs::remove_file(&self.socket).ok();
        let mut command = std::process::Command::new(&self.program);
        command
            .args(["lab", "keeper", "--socket"])
            .arg(&self.socket)
            .stdin(std::process::Stdio::null());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        // It ends only if something is wrong; then it must not stay a zombie.
        std::thread::spawn(move || child.wait());
        for _ in 0..500 {
            if tokio::net::UnixStream::connect(&self.socket).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
        Err(std::io::Error::other(format!(
            "the keeper does not listen at {}",
            self.socket.display()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reaper would take the children of other tests in this process: only the ledger is tested here. The whole
    /// is tested where a kubelet is killed under running containers.
    #[test]
    fn ends_are_remembered_for_those_who_ask_later() {
        let shared = Shared::default();
        lock(&shared).note((7, 70), (3, None));
        assert!(matches!(
            ending(&shared, 7, Some(70)),
            Answer::Ended { code: 3, signal: None }
        ));
        let late = shared.clone();
        let teller = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            lock(&late).note((8, 80), (137, Some(9)));
            late.1.notify_all();
        });
        assert!(matches!(
            ending(&shared, 8, Some(80)),
            Answer::Ended {
                code: 137,
                signal: Some(9)
            }
        ));
        teller.join().unwrap();
        assert!(
            matches!(ending(&shared, 7, Some(71)), Answer::Unknown),
            "another process of the same number"
        );
        lock(&shared).note((7, 72), (4, None));
        assert!(
            matches!(ending(&shared, 7, None), Answer::Ended { code: 4, .. }),
            "the last of its number"
        );
    }
}
