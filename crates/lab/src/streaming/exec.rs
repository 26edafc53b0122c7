//! Runs a command in a container through the OCI runtime, its streams connected to a client's.

use std::convert::Infallible;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::console::{ConsoleSocket, Terminal};
use super::containers::Runtime;
use super::pipe::{Input, Output, PIECE};
use super::remote::Streams;
use super::scratch::Scratch;
use super::window::Windows;

/// After the command's end its output is read until it pauses this long: something it left running may hold it open.
const PAUSE: Duration = Duration::from_millis(200);

/// Why a command did not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot start the OCI runtime {}: {source}; is it installed?", program.display())]
    Start { program: PathBuf, source: std::io::Error },
    #[error("error executing command in container: {0}")]
    Runtime(String),
    #[error("cannot connect the command's terminal: {0}")]
    Terminal(std::io::Error),
    #[error("cannot prepare the call of the OCI runtime in {}: {source}", path.display())]
    Scratch { path: PathBuf, source: std::io::Error },
    #[error("cannot learn how the command ended: {0}")]
    Wait(std::io::Error),
}

/// What to run where.
pub(super) struct Exec {
    pub(super) runtime: Runtime,
    pub(super) container: String,
    pub(super) command: Vec<String>,
    pub(super) tty: bool,
}

impl Exec {
    /// Runs the command to its end; the exit code, as a shell counts them.
    pub(super) async fn run(self, streams: Streams) -> Result<i32, Error> {
        let scratch = Scratch::new().map_err(|source| Error::Scratch {
            path: std::env::temp_dir(),
            source,
        })?;
        let log = scratch.path("log");
        let mut command = Command::new(&self.runtime.program);
        command
            .arg("--root")
            .arg(&self.runtime.root)
            .arg("--log")
            .arg(&log)
            .arg("exec");
        let status = if self.tty {
            let path = scratch.path("console");
            let console = ConsoleSocket::bind(&path).map_err(Error::Terminal)?;
            command.arg("--tty").arg("--console-socket").arg(&path);
            self.start(command, false)?.on_terminal(&console, streams).await
        } else {
            self.start(command, streams.stdin.is_some())?.on_pipes(streams).await
        }?;
        if !status.success()
            && let Ok(said) = tokio::fs::read_to_string(&log).await
            && let Some(line) = said.lines().rfind(|line| !line.trim().is_empty())
        {
            return Err(Error::Runtime(line.trim().to_owned()));
        }
        Ok(exit_code(status))
    }

    fn start(&self, mut command: Command, stdin: bool) -> Result<Running, Error> {
        let piped = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
        let child = command
            .arg(&self.container)
            .args(&self.command)
            .stdin(piped(stdin))
            .stdout(piped(!self.tty))
            .stderr(piped(!self.tty))
            .spawn();
        let child = child.map_err(|source| Error::Start {
            program: self.runtime.program.clone(),
            source,
        })?;
        let ended = CancellationToken::new();
        Ok(Running { child, ended })
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status
        .code()
        .or(status.signal().map(|signal| 128 + signal))
        .unwrap_or(255)
}

/// The runtime, which lives exactly as long as the command.
struct Running {
    child: Child,
    ended: CancellationToken,
}

impl Running {
    async fn on_pipes(mut self, streams: Streams) -> Result<ExitStatus, Error> {
        let (stdin, stdout, stderr) = (
            self.child.stdin.take(),
            self.child.stdout.take(),
            self.child.stderr.take(),
        );
        let ended = self.ended.clone();
        let wait = async move {
            let status = self.child.wait().await.map_err(Error::Wait);
            self.ended.cancel();
            status
        };
        let input = async {
            if let (Some(input), Some(stdin)) = (streams.stdin, stdin) {
                feed(input, stdin).await;
            }
            std::future::pending::<Infallible>().await
        };
        let all = async {
            tokio::join!(
                wait,
                drain(stdout, streams.stdout.as_ref(), &ended),
                drain(stderr, streams.stderr.as_ref(), &ended)
            )
        };
        tokio::select! {
            (status, (), ()) = all => status,
            never = input => match never {},
        }
    }

    async fn on_terminal(mut self, console: &ConsoleSocket, streams: Streams) -> Result<ExitStatus, Error> {
        let terminal = tokio::select! {
            biased;
            terminal = console.receive() => terminal.map_err(Error::Terminal)?,
            // The runtime failed before it came to the terminal, and has logged why.
            status = self.child.wait() => return status.map_err(Error::Wait),
        };
        let ended = self.ended.clone();
        let wait = async move {
            let status = self.child.wait().await.map_err(Error::Wait);
            self.ended.cancel();
            status
        };
        let input = async {
            tokio::join!(type_in(streams.stdin, &terminal), resize(streams.resize, &terminal));
            std::future::pending::<Infallible>().await
        };
        let all = async { tokio::join!(wait, show(&terminal, streams.stdout.as_ref(), &ended)) };
        tokio::select! {
            (status, ()) = all => status,
            never = input => match never {},
        }
    }
}

/// Over when the command has ended and its output has paused.
async fn paused(ended: &CancellationToken) {
    ended.cancelled().await;
    tokio::time::sleep(PAUSE).await;
}

/// The client's input into a pipe; its end closes the pipe.
async fn feed(mut input: Input, mut pipe: impl AsyncWrite + Unpin) {
    while let Some(bytes) = input.recv().await {
        if pipe.write_all(&bytes).await.is_err() {
            // The command has closed its input and takes no more.
            return;
        }
    }
}

/// A pipe to the client; read on even when the client does not want it, so that the command is not held up.
async fn drain(pipe: Option<impl AsyncRead + Unpin>, output: Option<&Output>, ended: &CancellationToken) {
    let Some(mut pipe) = pipe else { return };
    loop {
        let mut buffer = BytesMut::with_capacity(PIECE);
        let read = tokio::select! {
            read = pipe.read_buf(&mut buffer) => read,
            () = paused(ended) => return,
        };
        if !matches!(read, Ok(1..)) {
            return;
        }
        if let Some(output) = output
            && output.send(buffer.freeze()).await.is_err()
        {
            return;
        }
    }
}

async fn show(terminal: &Terminal, output: Option<&Output>, ended: &CancellationToken) {
    loop {
        let read = tokio::select! {
            read = terminal.read() => read,
            () = paused(ended) => return,
        };
        let Ok(Some(bytes)) = read else { return };
        if let Some(output) = output
            && output.send(bytes).await.is_err()
        {
            return;
        }
    }
}

async fn type_in(input: Option<Input>, terminal: &Terminal) {
    let Some(mut input) = input else { return };
    while let Some(bytes) = input.recv().await {
        if terminal.write(&bytes).await.is_err() {
            return;
        }
    }
}

async fn resize(input: Option<Input>, terminal: &Terminal) {
    let Some(input) = input else { return };
    let mut windows = Windows::new(input);
    while let Some(size) = windows.next().await {
        if let Err(error) = terminal.resize(size) {
            tracing::debug!(%error, "cannot resize a terminal");
        }
    }
}
