//! The words of Weft: what a cluster wants from its network, and the rules that decide it.
//!
//! No I/O, no async, no Kubernetes client. Every room reads and writes these types, and only these;
//! that is how rooms stay strangers to each other.
//!
//! ```text
//! Kubernetes objects --(cluster)--> Change --> State --compile--> Forwarding, Routes --(dataplane)--> kernel
//!                                                 \------------------------(dns)--> answers
//! ```

pub mod change;
pub mod cni;
pub mod compile;
pub mod desired;
pub mod endpoint;
pub mod explain;
pub mod hostport;
pub mod ipam;
pub mod maglev;
pub mod name;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod report;
pub mod selector;
pub mod service;
pub mod state;

#[cfg(test)]
mod testing;

pub use change::Change;
pub use compile::{Backend, Frontend};
pub use endpoint::{Endpoint, EndpointPort, EndpointSlice};
pub use name::ObjectKey;
pub use namespace::Namespace;
pub use node::Node;
pub use pod::{Pod, PodMeta};
pub use service::{
    IpMode, LoadBalancerIp, Protocol, Service, ServicePort, ServiceType, SessionAffinity, TrafficPolicy,
};
pub use state::{Dirty, State};
