//! Takes the addresses to listen on, and waits for those that are not free or not there yet.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::time::sleep;

use crate::Error;

const PAUSE: Duration = Duration::from_millis(250);

/// Attempts between two messages: ten seconds.
const QUIET: u32 = 40;

/// A UDP socket.
pub(crate) async fn udp(address: SocketAddr) -> Result<UdpSocket, Error> {
    let mut attempt = 0;
    loop {
        match UdpSocket::bind(address).await {
            Ok(socket) => return Ok(socket),
            Err(source) => pause(address, "UDP", source, &mut attempt).await?,
        }
    }
}

/// A TCP listener; `transport` says what for.
pub(crate) async fn tcp(address: SocketAddr, transport: &'static str) -> Result<TcpListener, Error> {
    let mut attempt = 0;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(source) => pause(address, transport, source, &mut attempt).await?,
        }
    }
}

/// Waits a little if that may help; the error, in our words, if not.
async fn pause(
    address: SocketAddr,
    transport: &'static str,
    source: io::Error,
    attempt: &mut u32,
) -> Result<(), Error> {
    let hint = match source.kind() {
        io::ErrorKind::AddrInUse => "another process has it (see `ss -lnptu`); waiting until it is free",
        io::ErrorKind::AddrNotAvailable => "no interface has this address; waiting until one has",
        io::ErrorKind::PermissionDenied => return Err(Error::Denied { address, transport }),
        _ => {
            return Err(Error::Bind {
                address,
                transport,
                source,
            });
        }
    };
    if attempt.is_multiple_of(QUIET) {
        tracing::warn!(%address, transport, "cannot listen yet: {hint}");
    }
    *attempt = attempt.wrapping_add(1);
    sleep(PAUSE).await;
    Ok(())
}
