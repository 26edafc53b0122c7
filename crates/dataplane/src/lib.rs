//! The model, made real in the kernel: eBPF programs and maps (`bpf`), links, routes and neighbours (`net`).

pub mod aside;
pub mod bpf;
mod grace;
pub mod memory;
pub mod net;
