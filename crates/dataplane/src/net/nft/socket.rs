//! The netlink socket that carries transactions, and what the kernel answers to them.

use std::ffi::{CStr, CString};
use std::io;

use netlink_bindings::nftables::{
    Chained, Nfgenmsg, ObjData, OpGetchainDump, OpGetgenDo, OpGetobjDump, OpGetsetelemDump, SetelemListElemAttrs,
};
use netlink_bindings::traits::NetlinkRequest as _;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::sys::{Socket, protocols::NETLINK_NETFILTER};

use super::{COUNTER, INET, comment};
use crate::net::netlink::{self, ERROR, HEADER};

/// What a socket sends without being asked for more, less what the kernel needs besides.
const USUAL: usize = 64 << 10;
/// linux/netlink.h.
const ACKNOWLEDGE: u16 = 4;
/// linux/netfilter/nfnetlink.h: struct nfgenmsg.
const FAMILY_HEADER: usize = 4;

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
    let header = header();
    let mut request = message.request().op_getsetelem_do(&header);
    let list = request.encode().push_table(table).push_set(set).nested_elements();
    let item = list.nested_elem().nested_key().push_value(key).end_nested();
    drop(item.end_nested().end_nested());
    drop(request);
    is_there(&message.finalize().into_chained().into_buf())
}

/// What the kernel says about a chain's rules and the elements of sets, in an inet table: the same bytes as long as
/// nobody changes them. `None` where one of them is not there.
pub(in crate::net) fn contents(table: &CStr, chain: &CStr, sets: &[&CStr]) -> io::Result<Option<Vec<u8>>> {
    let header = header();
    let mut rules = Chained::new(1);
    let mut request = rules.request().op_getrule_dump(&header);
    request.encode().push_table(table).push_chain(chain);
    drop(request);
    let mut dumps = vec![rules];
    for set in sets {
        let mut elements = Chained::new(1);
        let mut request = elements.request().op_getsetelem_dump(&header);
        request.encode().push_table(table).push_set(set);
        drop(request);
        dumps.push(elements);
    }
    let mut found = vec![];
    for dump in dumps {
        match append_dump(&dump.finalize().into_chained().into_buf(), &mut found) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        }
    }
    Ok(Some(found))
}

/// Whether there is a table of this family (nfproto) and name.
pub(in crate::net) fn has_table(family: u8, table: &CStr) -> io::Result<bool> {
    let mut message = Chained::new(1);
    let header = Nfgenmsg {
        nfgen_family: family,
        ..Nfgenmsg::new()
    };
    let mut request = message.request().op_gettable_do(&header);
    request.encode().push_name(table);
    drop(request);
    is_there(&message.finalize().into_chained().into_buf())
}

/// Whether the kernel answers, and not that there is no such thing.
fn is_there(question: &[u8]) -> io::Result<bool> {
    let socket = exchange(question)?;
    let (answer, _) = socket.recv_from_full()?;
    match failure(&answer).map(|code| io::Error::from_raw_os_error(-code)) {
        None => Ok(true),
        Some(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Some(error) => Err(error),
    }
}

/// Names of all chains of an inet table; none where there is no such table.
pub(in crate::net) fn chains(table: &CStr) -> io::Result<Vec<CString>> {
    let mut message = Chained::new(1);
    drop(message.request().op_getchain_dump(&header()));
    let mut found = vec![];
    dump(&message.finalize().into_chained().into_buf(), |body| {
        let (_, attributes) = OpGetchainDump::decode_reply(body);
        if attributes.get_table().is_ok_and(|name| name == table)
            && let Ok(name) = attributes.get_name()
        {
            found.push(name.to_owned());
        }
    })?;
    Ok(found)
}

/// Key and comment of each element of a set or map of an inet table; none where there is no such table.
pub(in crate::net) fn comments(table: &CStr, set: &CStr) -> io::Result<Vec<(Vec<u8>, String)>> {
    let mut message = Chained::new(1);
    let mut request = message.request().op_getsetelem_dump(&header());
    request.encode().push_table(table).push_set(set);
    drop(request);
    let mut found = vec![];
    let dumped = dump(&message.finalize().into_chained().into_buf(), |body| {
        let (_, attributes) = OpGetsetelemDump::decode_reply(body);
        let elements = attributes.get_elements().into_iter().flatten().flatten();
        for SetelemListElemAttrs::Elem(element) in elements {
            if let Ok(key) = element.get_key().and_then(|key| key.get_value())
                && let Ok(Some(text)) = element.get_userdata().map(comment)
            {
                found.push((key.to_vec(), text.to_owned()));
            }
        }
    });
    match dumped {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        result => result.map(|()| found),
    }
}

/// Name and number of packets of each counter of an inet table; none where there is no such table.
pub(in crate::net) fn counters(table: &CStr) -> io::Result<Vec<(String, u64)>> {
    let mut message = Chained::new(1);
    let mut request = message.request().op_getobj_dump(&header());
    request.encode().push_table(table).push_type(COUNTER);
    drop(request);
    let mut found = vec![];
    let dumped = dump(&message.finalize().into_chained().into_buf(), |body| {
        let (_, attributes) = OpGetobjDump::decode_reply(body);
        if let Ok(name) = attributes.get_name()
            && let Ok(ObjData::Counter(counter)) = attributes.get_data()
            && let Ok(packets) = counter.get_packets()
        {
            found.push((name.to_string_lossy().into_owned(), packets));
        }
    });
    match dumped {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        result => result.map(|()| found),
    }
}

fn header() -> Nfgenmsg {
    Nfgenmsg {
        nfgen_family: INET,
        ..Nfgenmsg::new()
    }
}

/// Appends the attributes of each message of a dump: their headers count the kernel's transactions.
fn append_dump(question: &[u8], found: &mut Vec<u8>) -> io::Result<()> {
    dump(question, |body| {
        found.extend(body.get(FAMILY_HEADER..).unwrap_or_default())
    })
}

/// Passes on each message of a dump, without its outermost header.
fn dump(question: &[u8], each: impl FnMut(&[u8])) -> io::Result<()> {
    netlink::dump(&exchange(question)?, each)
}

/// Sends to the kernel, which has answered by the time this returns.
fn exchange(messages: &[u8]) -> io::Result<Socket> {
    let socket = netlink::open(NETLINK_NETFILTER)?;
    socket.set_non_blocking(true)?;
    // A transaction is one datagram, however large.
    if messages.len() > USUAL {
        setsockopt(&socket, sockopt::SndBufForce, &messages.len().saturating_mul(2))?;
    }
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
