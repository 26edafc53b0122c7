//! The datapath in the running kernel: each test in namespaces and a cgroup of its own.

mod differential;
mod isolation;
mod limits;
mod outside;
mod pods;
mod restart;
mod services;
mod sockets;
mod upgrade;
pub(super) mod world;
