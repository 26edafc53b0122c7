//! The netlink socket that carries transactions, and what the kernel answers to them.

use std::ffi::CStr;
use std::io;

use netlink_bindings::nftables::{Chained, Nfgenmsg, OpGetgenDo};
use netlink_bindings::traits::NetlinkRequest as _;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::INET;

const HEADER: usize = 16;
/// linux/netlink.h.
const ACKNOWLEDGE: u16 = 4;
const ERROR: u16 = 2;

/// Sends a batch and waits for what the kernel says to it: one acknowledgement at the end, or an error.
pub(super) fn send(mut messages: Vec<u8>) -> io::Result<()> {
    acknowledge_last(&mut messages);
    let socket = exchange(&messages)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        match failure(&answer) {
            Some(0) => return Ok(()),
            Some(code) => return Err(io::Error::from_raw_os_error(-code)),
            None => {}
        }
    }
}

/// Counts the transactions of this network namespace, whoever made them.
pub(in crate::net) fn generation() -> io::Result<u32> {
    let mut message = Chained::new(1);
    drop(message.request().op_getgen_do(&Nfgenmsg::new()));
    let socket = exchange(&message.finalize().into_chained().into_buf())?;
    let (answer, _) = socket.recv_from_full()?;
    if let Some(code) = failure(&answer).filter(|code| *code != 0) {
        return Err(io::Error::from_raw_os_error(-code));
    }
    let (_, attributes) = OpGetgenDo::decode_reply(answer.get(HEADER..).unwrap_or_default());
    attributes.get_id().map_err(|error| io::Error::other(error.to_string()))
}

/// Whether a set or map of an inet table has this key; false also where there is no such table.
pub(in crate::net) fn has_element(table: &CStr, set: &CStr, key: &[u8]) -> io::Result<bool> {
    let mut message = Chained::new(1);
    let header = Nfgenmsg {
        nfgen_family: INET,
        ..Nfgenmsg::new()
    };
    let mut request = message.request().op_getsetelem_do(&header);
    let list = request.encode().push_table(table).push_set(set).nested_elements();
    let item = list.nested_elem().nested_key().push_value(key).end_nested();
    drop(item.end_nested().end_nested());
    drop(request);
    let socket = exchange(&message.finalize().into_chained().into_buf())?;
    let (answer, _) = socket.recv_from_full()?;
    match failure(&answer).map(|code| io::Error::from_raw_os_error(-code)) {
        None => Ok(true),
        Some(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Some(error) => Err(error),
    }
}

/// Sends to the kernel, which has answered by the time this returns.
fn exchange(messages: &[u8]) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    socket.send(messages, 0)?;
    Ok(socket)
}

/// The error number of an answer that is an acknowledgement (0) or an error (negative).
fn failure(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(answer.get(HEADER..HEADER + 4)?.try_into().ok()?);
    (kind == ERROR).then_some(code)
}

/// Only the last message before the batch's end asks for an acknowledgement; errors come in any case.
fn acknowledge_last(messages: &mut [u8]) {
    let (mut at, mut starts) = (0, vec![]);
    while let Some(length) = messages
        .get(at..at + 4)
        .and_then(|length| length.try_into().ok())
        .map(u32::from_ne_bytes)
    {
        starts.push(at);
        at += (length as usize).max(HEADER).next_multiple_of(4);
    }
    let last = starts.len().saturating_sub(2);
    for (index, start) in starts.into_iter().enumerate() {
        let flags = u16::from_ne_bytes([messages[start + 6], messages[start + 7]]);
        let flags = if index == last {
            flags | ACKNOWLEDGE
        } else {
            flags & !ACKNOWLEDGE
        };
        messages[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
    }
}
