//! Netlink where rtnetlink has no words for what is asked: a socket, and what the kernel says on it.

use std::io;

use rtnetlink::sys::{Socket, SocketAddr};

/// What every message begins with.
pub(super) const HEADER: usize = 16;
/// linux/netlink.h.
pub(super) const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A socket of this protocol to the kernel.
pub(super) fn open(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Passes on each message of the dump that was asked for, without its outermost header.
pub(super) fn dump(socket: &Socket, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    loop {
        let (answer, _) = socket.recv_from_full()?;
        for (kind, body) in messages(&answer) {
            match kind {
                DONE => return Ok(()),
                ERROR => return Err(code(body).unwrap_or_else(|| io::Error::other("an acknowledgement"))),
                _ => each(body),
            }
        }
    }
}

/// Asks to remove something, and to acknowledge it. False where it has gone meanwhile.
pub(super) fn remove(socket: &Socket, request: &[u8]) -> io::Result<bool> {
    socket.send(request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    match messages(&answer).find_map(|(_, body)| code(body)) {
        None => Ok(true),
        Some(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Some(error) => Err(error),
    }
}

/// The type and the content of each message.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The error in an error message; none in an acknowledgement.
fn code(body: &[u8]) -> Option<io::Error> {
    let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
    (code != 0).then(|| io::Error::from_raw_os_error(-code))
}
