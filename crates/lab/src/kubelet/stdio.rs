//! The streams of a container: FIFOs that it holds open itself, so that it outlives a kubelet; what it writes goes
//! to a log in the CRI format and to whoever is attached.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::Bytes;
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::error::Error;
use super::log::{Log, Output};
use super::lookup::Streams;
use crate::streaming::{AttachOutput, WindowSize};

/// How much output an attached client may lag behind before it misses some.
const BACKLOG: usize = 256;

/// How much input may wait for the container to read it.
const WAITING: usize = 64;

/// How much is read at once.
const BLOCK: usize = 16 * 1024;

/// What standard input a container wants.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdin_once: bool,
    pub(super) tty: bool,
}

/// The pump of one container's streams.
#[derive(Debug)]
pub(super) struct Pump {
    /// For attached clients.
    pub(super) streams: Streams,
    /// Dropped or sent: the container has ended, drain what is left.
    ended: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Pump {
    /// Drains what the ended container wrote and closes its log.
    pub(super) async fn finish(self) {
        self.ended.send(()).ok();
        self.task.await.ok();
    }
}

/// Makes the FIFOs and starts pumping; what the container is to be started with comes back.
pub(super) fn open(dir: &Path, log: PathBuf, wanted: Wanted) -> Result<(Pump, Streams3), Error> {
    for name in ["stdout", "stderr", "stdin"] {
        let path = dir.join(name);
        std::fs::remove_file(&path).ok();
        // Programs of any user may open /dev/stdout again; the folder above is root's alone.
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).map_err(Error::nix("make FIFO", &path))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&path, mode).map_err(Error::io("set mode of", &path))?;
    }
    let pump = resume(dir, log, wanted)?;
    let stdin = wanted.stdin.then_some(wanted.stdin_once);
    Ok((
        pump,
        Streams3::Fifos {
            dir: dir.to_owned(),
            stdin,
        },
    ))
}

/// The standard streams that a process starts with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Streams3 {
    /// None: it has a terminal.
    Null,
    /// The FIFOs of a container.
    Fifos {
        /// Where they are.
        dir: PathBuf,
        /// Whether there is a standard input, and if so, whether it ends with its first client.
        stdin: Option<bool>,
    },
}

impl Streams3 {
    /// Opens them for a process that is to be started.
    pub(super) fn open(&self) -> std::io::Result<(Stdio, Stdio, Stdio)> {
        let Self::Fifos { dir, stdin } = self else {
            return Ok((Stdio::null(), Stdio::null(), Stdio::null()));
        };
        // Read and write: the container's own descriptor counts as a reader, so a write never fails while no kubelet
        // reads; it waits when the pipe is full.
        let both = |name: &str| {
            std::fs::File::options()
                .read(true)
                .write(true)
                .open(dir.join(name))
                .map(Stdio::from)
        };
        let stdin = match stdin {
            None => Stdio::null(),
            Some(false) => both("stdin")?,
            // Only a reader: it sees the end when the kubelet closes its side.
            Some(true) => std::fs::File::open(dir.join("stdin"))?.into(),
        };
        Ok((stdin, both("stdout")?, both("stderr")?))
    }
}

/// Starts pumping FIFOs that exist: those of a container that an earlier kubelet started.
pub(super) fn resume(dir: &Path, log: PathBuf, wanted: Wanted) -> Result<Pump, Error> {
    let receiver = |name: &str| {
        let path = dir.join(name);
        let mut options = pipe::OpenOptions::new();
        options
            .read_write(true)
            .open_receiver(&path)
            .map_err(Error::io("open FIFO", &path))
    };
    let (stdout, stderr) = (receiver("stdout")?, receiver("stderr")?);
    let stdin = if wanted.stdin {
        let path = dir.join("stdin");
        let mut options = pipe::OpenOptions::new();
        Some(
            options
                .read_write(true)
                .open_sender(&path)
                .map_err(Error::io("open FIFO", &path))?,
        )
    } else {
        None
    };
    let log = Log::open(log)?;
    let (input, to_write) = mpsc::channel(WAITING);
    let streams = Streams {
        output: broadcast::channel(BACKLOG).0,
        stdin: wanted.stdin.then_some(input),
        resize: None,
    };
    let (ended, end) = oneshot::channel();
    if let Some(stdin) = stdin {
        tokio::spawn(feed(stdin, to_write, wanted.stdin_once));
    }
    let sink = Sink {
        log,
        output: streams.output.clone(),
    };
    let task = tokio::spawn(pump_pipes(stdout, stderr, sink, end));
    Ok(Pump { streams, ended, task })
}

/// Pumps a terminal, given its controlling side.
pub(super) fn terminal(master: OwnedFd, log: PathBuf) -> Result<Pump, Error> {
    let name = log.clone();
    rustix::fs::fcntl_setfl(&master, rustix::fs::OFlags::NONBLOCK)
        .map_err(|error| Error::io("prepare the terminal of", &name)(error.into()))?;
    #[expect(
        deprecated,
        reason = "an OwnedFd stays open while it is registered; the replacement is not safe to call"
    )]
    let master = AsyncFd::new(master).map_err(Error::io("poll the terminal of", &name))?;
    let log = Log::open(log)?;
    let (input, typed) = mpsc::channel(WAITING);
    let (resize, sizes) = mpsc::channel(WAITING);
    let streams = Streams {
        output: broadcast::channel(BACKLOG).0,
        stdin: Some(input),
        resize: Some(resize),
    };
    let (ended, end) = oneshot::channel();
    let sink = Sink {
        log,
        output: streams.output.clone(),
    };
    let task = tokio::spawn(pump_terminal(master, sink, typed, sizes, end));
    Ok(Pump { streams, ended, task })
}

/// Where output goes.
struct Sink {
    log: Log,
    output: broadcast::Sender<AttachOutput>,
}

impl Sink {
    fn take(&mut self, output: Output, data: &[u8]) {
        if let Err(error) = self.log.write(output, data) {
            tracing::warn!(%error, "cannot write a container's log");
        }
        if self.output.receiver_count() > 0 {
            let data = Bytes::copy_from_slice(data);
            let chunk = match output {
                Output::Stdout => AttachOutput::Stdout(data),
                Output::Stderr => AttachOutput::Stderr(data),
            };
            self.output.send(chunk).ok();
        }
    }
}

async fn pump_pipes(
    mut stdout: pipe::Receiver,
    mut stderr: pipe::Receiver,
    mut sink: Sink,
    mut end: oneshot::Receiver<()>,
) {
    let (mut first, mut second) = (vec![0; BLOCK], vec![0; BLOCK]);
    loop {
        tokio::select! {
            read = stdout.read(&mut first) => match read {
                Ok(count) => sink.take(Output::Stdout, &first[..count]),
                Err(_) => break,
            },
            read = stderr.read(&mut second) => match read {
                Ok(count) => sink.take(Output::Stderr, &second[..count]),
                Err(_) => break,
            },
            _ = &mut end => break,
        }
    }
    // Everything the container wrote is in the pipes by now.
    while let Ok(count @ 1..) = stdout.try_read(&mut first) {
        sink.take(Output::Stdout, &first[..count]);
    }
    while let Ok(count @ 1..) = stderr.try_read(&mut second) {
        sink.take(Output::Stderr, &second[..count]);
    }
    sink.log.close();
}

/// Writes what clients send to a container's standard input. An empty message is the end of it, where `stdinOnce`
/// says that there is one.
async fn feed(mut stdin: pipe::Sender, mut input: mpsc::Receiver<Bytes>, once: bool) {
    while let Some(data) = input.recv().await {
        if data.is_empty() && once || stdin.write_all(&data).await.is_err() {
            return;
        }
    }
}

async fn pump_terminal(
    master: AsyncFd<OwnedFd>,
    mut sink: Sink,
    mut typed: mpsc::Receiver<Bytes>,
    mut sizes: mpsc::Receiver<WindowSize>,
    mut end: oneshot::Receiver<()>,
) {
    let mut block = vec![0; BLOCK];
    loop {
        tokio::select! {
            ready = master.readable() => {
                let Ok(mut ready) = ready else { break };
                match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut block)?)) {
                    // The other side is closed: everything in the container that held it has ended.
                    Ok(Err(_) | Ok(0)) => break,
                    Ok(Ok(count)) => sink.take(Output::Stdout, &block[..count]),
                    Err(_would_block) => {}
                }
            }
            Some(data) = typed.recv() => type_in(&master, &data).await,
            Some(size) = sizes.recv() => resize(master.get_ref(), size),
            _ = &mut end => break,
        }
    }
    while let Ok(count @ 1..) = rustix::io::read(master.get_ref(), &mut block) {
        sink.take(Output::Stdout, &block[..count]);
    }
    sink.log.close();
}

async fn type_in(master: &AsyncFd<OwnedFd>, mut data: &[u8]) {
    while !data.is_empty() {
        let Ok(mut ready) = master.writable().await else { return };
        match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), data)?)) {
            Ok(Ok(count)) => data = &data[count..],
            Ok(Err(_)) => return,
            Err(_would_block) => {}
        }
    }
}

fn resize(master: &OwnedFd, size: WindowSize) {
    let size = rustix::termios::Winsize {
        ws_row: size.height,
        ws_col: size.width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(master, size).ok();
}

/// Waits on a socket for the controlling side of a container's terminal.
pub(super) fn receive_terminal(listener: &std::os::unix::net::UnixListener) -> std::io::Result<OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let (stream, _) = listener.accept()?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 4096];
    let mut parts = [std::io::IoSliceMut::new(&mut name)];
    rustix::net::recvmsg(&stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut files) = message
            && let Some(file) = files.next()
        {
            return Ok(file);
        }
    }
    Err(std::io::Error::other("the runtime sent no terminal"))
}
