//! Removing a pod's link, without waiting for what nobody needs.
//!
//! The kernel takes both ends out of their namespaces within a millisecond: names, addresses, routes and hooks are
//! gone. Then it waits for a grace period of RCU, some 20 ms, before it gives the memory back, and answers only after
//! that. It says on the way that the link has gone, and that is what is waited for here.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;

use super::NetError;
use super::batch::{Answer, Connection};
use super::request;
use crate::grace::Expedited;

/// Removes a link by its name, and with it its other end, wherever that is. Gives its index; `None` where there was
/// none. Blocks.
pub(super) fn remove(name: &str) -> Result<Option<u32>, NetError> {
    let mut connection = Connection::open()?;
    let (bytes, first) = connection.encode(&[request::look_up(name), request::remove(name)]);
    let _quick = Expedited::start();
    let sender = connection.clone();
    std::thread::Builder::new()
        .name("unlink".into())
        .spawn(move || {
            // What is wrong with the connection, the receiver is told, too.
            let _ = sender.send(&bytes);
        })
        .map_err(|error| NetError::Netlink(format!("cannot start a thread: {error}")))?;
    let mut index = None;
    loop {
        for (sequence, answer) in connection.receive()? {
            match answer {
                Answer::Message(RouteNetlinkMessage::NewLink(link)) => index = Some(link.header.index),
                Answer::Message(RouteNetlinkMessage::DelLink(link)) if Some(link.header.index) == index => {
                    return Ok(index);
                }
                Answer::Done(result) if sequence != first => return done(name, result, index),
                _ => {}
            }
        }
    }
}

fn done(name: &str, result: io::Result<()>, index: Option<u32>) -> Result<Option<u32>, NetError> {
    let what = || format!("remove {name}");
    match result.map_err(|source| NetError::Kernel { what: what(), source }) {
        Ok(()) => Ok(index),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}
