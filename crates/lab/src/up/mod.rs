//! A lab from nothing and back to nothing: namespaces, cgroups, processes, demo, and the checks that prove it.
//!
//! ```text
//! weft lab up ── spawns ──> supervisor ── starts and restarts ──> api, controller (root namespace)
//!     │                          │                                kubelet ┐
//!     │                          └── makes: segment, nodes         agent  ├ in each node's namespaces
//!     └── applies the demo, waits for it                           dns    ┘
//! ```
//!
//! All that a lab is on a machine hangs on four handles, and `down` needs nothing else to undo it: one cgroup
//! subtree (kills every process), the named network namespaces, one tmpfs, and one lock file.

mod balancer;
mod bootstrap;
mod cgroup;
mod change;
mod check;
mod control;
mod daemon;
mod error;
mod exec;
pub mod internet;
mod lifecycle;
mod mounts;
mod netns;
mod nodes;
mod router;
mod segment;
pub mod spec;
mod supervisor;

pub use change::{add_node, readdress_node, reboot_node, remove_node};
pub use check::{Check, check};
pub use error::Error;
pub use lifecycle::{Down, Options, Up, down, list, ready, restart, up};
pub use spec::{Lab, NodeSpec, Spec};
pub use supervisor::supervise;

/// Runs a function in a node's network and mount namespace, on a thread of its own that ends with it.
pub use daemon::{enter, processes};
