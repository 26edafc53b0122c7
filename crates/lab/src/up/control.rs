//! How the lab's supervisor is told to start and stop nodes: one request and one answer, each a line of JSON, over a
//! unix socket in the lab's folder.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};

use serde::{Deserialize, Serialize};

use super::{Error, Lab};

/// What the supervisor can be told. What a node is, it reads from the lab's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Request {
    /// Make the node and start its daemons.
    Start(String),
    /// End the node at once and whole, as a power cut does; its disk stays.
    Stop(String),
    /// Put the addresses of the record in force on the running node.
    Readdress(String),
}

/// The supervisor's ear; dropped, it listens no more.
pub(super) fn listen(lab: &Lab) -> Result<UnixListener, Error> {
    let path = lab.supervisor_socket();
    UnixListener::bind(&path).map_err(Error::io("listen at", path))
}

/// Does what it is told, one request after another, for ever.
pub(super) fn serve(listener: &UnixListener, mut obey: impl FnMut(Request) -> Result<(), Error>) {
    for stream in listener.incoming() {
        let served = stream.and_then(|mut stream| {
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line)?;
            let request: Request = serde_json::from_str(&line)?;
            tracing::info!(?request, "told");
            let answer: Answer = obey(request).map_err(|error| error.to_string());
            writeln!(stream, "{}", serde_json::to_string(&answer)?)
        });
        if let Err(error) = served {
            tracing::warn!(%error, "a request could not be heard or answered");
        }
    }
}

type Answer = Result<(), String>;

/// Tells the supervisor of a lab, and waits until it is done.
pub(super) fn tell(lab: &Lab, request: &Request) -> Result<(), Error> {
    let path = lab.supervisor_socket();
    let exchange = || -> std::io::Result<Answer> {
        let mut stream = UnixStream::connect(&path)?;
        writeln!(stream, "{}", serde_json::to_string(request)?)?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    };
    exchange()
        .map_err(Error::io("talk to the lab's supervisor at", &path))?
        .map_err(Error::Supervisor)
}
