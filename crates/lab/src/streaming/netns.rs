//! Connects to a port inside a pod's network namespace.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot enter the pod's network namespace {}: {source}; the pod may have just ended", path.display())]
    Enter { path: PathBuf, source: io::Error },
    #[error(
        "failed to connect to localhost:{port} inside the pod, IPv4: {v4}, IPv6: {v6}; does anything listen on it?"
    )]
    Connect { port: u16, v4: io::Error, v6: io::Error },
    #[error("cannot start a thread to connect from: {0}")]
    Thread(io::Error),
    #[error("the connecting thread ended without an answer")]
    NoAnswer,
    #[error("cannot use the connection to port {port}: {source}")]
    Register { port: u16, source: io::Error },
}

/// Connects to a port on the pod's loopback, over IPv4 or else IPv6.
pub(super) async fn connect(netns: &Path, port: u16) -> Result<tokio::net::TcpStream, Error> {
    let (answer, answered) = oneshot::channel();
    let path = netns.to_owned();
    // A thread of its own: it stays in the pod's namespace and must never serve anything else.
    let dial = move || {
        // Nobody waits any more when the client has gone.
        let _unwanted = answer.send(dial(path, port));
    };
    let thread = std::thread::Builder::new().name("port-forward".into());
    thread.spawn(dial).map_err(Error::Thread)?;
    let stream = answered.await.map_err(|_| Error::NoAnswer)??;
    let register = |source| Error::Register { port, source };
    stream.set_nonblocking(true).map_err(register)?;
    tokio::net::TcpStream::from_std(stream).map_err(register)
}

fn dial(path: PathBuf, port: u16) -> Result<TcpStream, Error> {
    let entered = File::open(&path).and_then(|netns| setns(netns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
    if let Err(source) = entered {
        return Err(Error::Enter { path, source });
    }
    let to = |address: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE);
    let v4 = match to(Ipv4Addr::LOCALHOST.into()) {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    to(Ipv6Addr::LOCALHOST.into()).map_err(|v6| Error::Connect { port, v4, v6 })
}
