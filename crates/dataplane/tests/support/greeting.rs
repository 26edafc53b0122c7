//! A server that says hello once, and its client: who reaches whom, and as whom.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Netns;

/// How long a port may be somebody else's still, and an answer on its way.
const PATIENCE: Duration = Duration::from_secs(30);

/// Greets one client there. Gives where (port 0: any), and who came.
pub(crate) fn serve(netns: &Netns, at: SocketAddr) -> (SocketAddr, JoinHandle<IpAddr>) {
    let (ready, listening) = std::sync::mpsc::channel();
    let server = netns.spawn(move || {
        let listener = listen(at);
        ready.send(listener.local_addr().unwrap()).unwrap();
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        peer.ip().to_canonical()
    });
    (listening.recv().unwrap(), server)
}

/// Listens as soon as what a connection before has left of the port is gone.
fn listen(at: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(at) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            bound => return bound.unwrap(),
        }
    }
}

/// Connects from the namespace, and is greeted.
pub(crate) fn is_greeted(from: &Netns, at: SocketAddr) {
    let said = from.run(move || {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    });
    assert_eq!(said, "hello");
}
