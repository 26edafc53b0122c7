//! Kubernetes on one side, the words of `model` on the other. The only room that knows a Kubernetes client.
//!
//! ```text
//! API server --list, watch--> convert (one object at a time) --> model::Change --> agent, dns
//! API server <--status------ report <------------------------- model::report::NodeReport
//! ```

pub mod ask;
mod client;
mod convert;
mod custom;
mod error;
mod events;
mod field;
mod health;
pub mod ip_pool;
pub mod lease;
pub mod node_addresses;
pub mod node_network;
mod watch;

pub use client::Client;
pub use convert::Malformed;
pub use custom::definitions;
pub use error::Error;
pub use events::{AgentEvent, Events, PodEvent, ServiceEvent};
pub use health::Health;
pub use watch::{Kind, watch};

/// Connects with the kubeconfig at this path, or without one as a pod of the cluster does.
///
/// Nothing is sent yet: an API server that is away is not an error here but one of every request, and
/// watches wait for it for ever.
pub async fn connect(kubeconfig: Option<&std::path::Path>) -> Result<Client, Error> {
    Client::connect(kubeconfig).await
}
