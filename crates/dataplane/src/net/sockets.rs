//! UDP sockets that are to be closed although their owners hold them: the kernel ends what they are connected to, and
//! tells the owner with ECONNABORTED.

use std::collections::HashSet;
use std::io;

use netlink_bindings::inet_diag::{Chained, Msg, OpUdpDiagDump, ReqV2};
use netlink_bindings::traits::NetlinkRequest as _;
use rtnetlink::sys::{Socket, protocols::NETLINK_SOCK_DIAG};

use super::netlink::{self, HEADER};
use super::{Namespace, NetError};

/// linux/sock_diag.h: SOCK_DESTROY.
const DESTROY: u16 = 21;
/// linux/netlink.h: NLM_F_REQUEST and NLM_F_ACK.
const REQUEST: u16 = 1 | 4;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
const UDP: u8 = 17;
/// net/tcp_states.h, which UDP shares: TCP_ESTABLISHED is what a connected socket is in.
const CONNECTED: u32 = 1 << 1;

/// Closes those of these sockets that are connected ones of UDP in the calling thread's network namespace; `cookies`
/// are the kernel's numbers of them. Returns how many it were.
pub fn close(cookies: &HashSet<u64>) -> Result<usize, NetError> {
    let failed = |source| NetError::Kernel {
        what: "close UDP sockets whose endpoint has gone".to_owned(),
        source,
    };
    let mut count = 0;
    for family in [IPV4, IPV6] {
        count += close_family(family, cookies).map_err(failed)?;
    }
    Ok(count)
}

/// As [`close`], in another namespace. The calling thread comes back from there.
pub fn close_in(namespace: &Namespace, cookies: &HashSet<u64>) -> Result<usize, NetError> {
    namespace.enter(|| close(cookies))
}

fn close_family(family: u8, cookies: &HashSet<u64>) -> io::Result<usize> {
    let socket = netlink::open(NETLINK_SOCK_DIAG)?;
    let found = list(&socket, family)?;
    let stale = found
        .iter()
        .filter(|found| cookies.contains(&u64::from_ne_bytes(found.sockid.cookie)));
    let mut count = 0;
    for found in stale {
        count += usize::from(destroy(&socket, found)?);
    }
    Ok(count)
}

/// Every connected socket of UDP.
fn list(socket: &Socket, family: u8) -> io::Result<Vec<Msg>> {
    let mut message = Chained::new(1);
    drop(message.request().op_udp_diag_dump(&request(family)));
    socket.send(&message.finalize().into_chained().into_buf(), 0)?;
    let mut found = vec![];
    netlink::dump(socket, |body| found.push(OpUdpDiagDump::decode_reply(body).0))?;
    Ok(found)
}

fn request(family: u8) -> ReqV2 {
    ReqV2 {
        family,
        protocol: UDP,
        states: CONNECTED,
        ..ReqV2::new()
    }
}

/// False where it is closed already.
fn destroy(socket: &Socket, found: &Msg) -> io::Result<bool> {
    let request = ReqV2 {
        sockid: found.sockid.clone(),
        ..request(found.family)
    };
    let body = request.as_slice();
    let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(DESTROY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    netlink::remove(socket, &message)
}
