//! The kernel programs and their maps: loaded once, pinned, and kept equal to what the node wants.
//!
//! ```text
//! /sys/fs/bpf/weft/maps/<name>-<version>  a map each; the agent that comes next finds them filled
//! /sys/fs/bpf/weft/links/<hook>           a socket hook on the node's cgroup
//! /sys/fs/bpf/weft/links/pod-<ifindex>    the hook on the host side of a pod's veth
//! /sys/fs/bpf/weft/links/limit-<ifindex>  the one in front of it, where the pod's sending is limited
//! /sys/fs/bpf/weft/links/in-<ifindex>     the hook for what comes by a link to the outside, and
//! /sys/fs/bpf/weft/links/out-<ifindex>    for what leaves by it
//! ```
//!
//! Pins outlive the agent, so traffic flows while it is away. The next agent swaps its own programs into the pinned
//! links, each in one step: at no moment is a hook empty or doubled.

mod datapath;
mod error;
mod links;
mod node;
mod pins;
mod pods;
mod range;
mod services;
mod sys;
mod table;

pub use datapath::{Config, Counter, Datapath, Feature, Usage};
pub use error::Error;
pub use links::PodHooks;
pub use node::Here;
pub use pods::{Drops, PodLink, Rate};
pub use weft_packet::Reason;

/// What a call on the datapath gives.
pub type Result<T> = std::result::Result<T, Error>;

/// The programs, built by this crate's build script from weft-ebpf.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weft-ebpf.o"));

#[cfg(test)]
mod tests;
