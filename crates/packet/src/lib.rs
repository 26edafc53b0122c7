//! The way of a packet through a node: parsing, rewriting, service and pod lookup, verdicts.
//!
//! `no_std`, and generic over two small traits: [`Packet`] (how to read and rewrite a packet) and [`Maps`]
//! (how to look something up). The kernel programs instantiate the walk with the kernel's packets and maps; tests,
//! the fuzzer and `weft trace` with their own. So an explanation is the datapath's own code, and cannot drift from it.
//!
//! | place | function |
//! | --- | --- |
//! | a packet leaves a pod (tcx ingress on the host side of its veth) | [`pod::from_pod`] |
//! | a packet arrives from another host, or leaves for one (tcx of uplinks and tunnels) | [`node::from_outside`], [`node::to_outside`] |
//! | a socket connects or sends | [`service::connect`], [`service::send`] |
//! | a socket receives, or asks who its peer is | [`service::source`] |
//!
//! Nearly everything is `#[inline(always)]`: the kernel programs are one function each, which the verifier walks once.
//! Where that would take more than the 512 bytes of the kernel's stack, functions stay functions there.

#![no_std]

#[cfg(any(test, feature = "host"))]
extern crate std;

pub mod access;
pub mod addr;
pub mod checksum;
mod choice;
mod datagram;
mod flow;
mod frontend;
pub mod header;
#[cfg(any(test, feature = "host"))]
pub mod host;
mod icmp;
pub mod layout;
pub mod limit;
mod neighbour;
pub mod node;
pub mod pod;
mod sender;
pub mod service;
mod transit;
pub mod verdict;

pub use access::{Maps, Packet};
pub use addr::{Addr, Port};
pub use layout::{
    Affinity, AffinityKey, BackendKey, Config, Flow, FragmentKey, Frontend, Interface, Limit, Maglev, MemberKey,
    PeerKey, Plain, Pod, Ports, Prefix, Service, Set, SockAddr, Tuple,
};
pub use transit::Scratch;
pub use verdict::{Reason, Verdict};
