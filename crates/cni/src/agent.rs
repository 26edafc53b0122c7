//! Talks to the agent: one line of JSON there, one line back.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use weft_model::cni::{CniError, Request, Response};

/// How long ADD and STATUS wait for an agent that is starting.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);
/// How long the agent may take for its answer: longer than it waits for anything itself.
const ANSWER: Duration = Duration::from_secs(60);

/// The agent cannot be asked, or broke off before it answered.
#[derive(Debug)]
pub(crate) struct Away {
    pub(crate) why: String,
}

impl Away {
    pub(crate) fn into_error(self, code: u32) -> CniError {
        CniError::new(code, "the Weft agent of this node does not answer", self.why)
    }
}

/// Asks once.
pub(crate) fn ask(socket: &Path, request: &Request) -> Result<Response, Away> {
    exchange(socket, request).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "it is not running; see `weft status`",
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it did not answer in time; see its log",
            io::ErrorKind::InvalidData => "plugin and agent are of different versions; install both from one release",
            _ => "see its log",
        };
        Away {
            why: format!("{}: {error}; {hint}", socket.display()),
        }
    })
}

/// Asks until the agent answers or patience ends; then the runtime is told so with this code.
pub(crate) fn ask_patiently(socket: &Path, request: &Request, code: u32) -> Result<Response, CniError> {
    let start = Instant::now();
    loop {
        match ask(socket, request) {
            Ok(response) => return Ok(response),
            Err(away) if start.elapsed() >= PATIENCE => return Err(away.into_error(code)),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn exchange(socket: &Path, request: &Request) -> io::Result<Response> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    if BufReader::new(stream).read_line(&mut answer)? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "it broke off without an answer",
        ));
    }
    serde_json::from_str(&answer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}
