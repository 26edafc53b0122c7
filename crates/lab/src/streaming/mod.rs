//! Streams into containers: logs, exec, attach and port-forward, as kubectl and client libraries speak them.
//! Plain HTTP/1.1 on a unix socket; the API server passes upgraded connections through byte for byte.
//!
//! ```text
//! server -> logs                                    plain answer, chunk by chunk
//!        -> remote  -> websocket | spdy -> pipe -> exec | attach
//!        -> forward -> websocket | spdy -> pipe -> a socket in the pod's network namespace
//! ```

mod attach;
mod console;
mod containers;
mod exec;
mod forward;
#[cfg(test)]
mod kubectl_tests;
mod logs;
mod netns;
mod pipe;
mod query;
mod remote;
mod scratch;
mod server;
mod spdy;
mod status;
#[cfg(test)]
mod testing;
mod upgrade;
mod websocket;
mod window;

pub use containers::{AttachOutput, Attachment, Container, Containers, LookupError, RunState, Runtime, WindowSize};
pub use server::serve;
