//! Where addresses come from that are not this cluster's to give: a cloud's, as a rule. The controller asks, for one
//! node and one pool at a time.
//!
//! [`Provider`] is the interface behind which each cloud has its own implementation. [`Http`] is the one that asks
//! anybody over HTTP; what it says and wants to hear is in [`http`].
//!
//! Two rules make a provider safe to use over a network that loses answers:
//!
//! - **assign says how many a node is to have in all**, and the answer is all that it has. Asked twice, nothing is
//!   assigned twice, and what an answer that was lost had assigned is in the next one.
//! - **release of what is not assigned succeeds.**

mod error;
pub mod http;

use futures::future::BoxFuture;
use ipnet::IpNet;
use weft_model::ipam::spec::Count;

pub use error::ProviderError;
pub use http::Http;

/// What a provider has assigned to one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Name of the node.
    pub node: String,
    /// Blocks, or single addresses.
    pub cidrs: Vec<IpNet>,
}

/// A source of addresses. Every call is for one pool; each ends by itself, in an error if need be.
pub trait Provider: Send + Sync {
    /// Has the node have this many blocks of each family in all, or as many as there are. Returns all it has.
    fn assign(&self, pool: &str, node: &str, blocks: Count) -> BoxFuture<'_, Result<Vec<IpNet>, ProviderError>>;

    /// Takes blocks from a node.
    fn release(&self, pool: &str, node: &str, cidrs: &[IpNet]) -> BoxFuture<'_, Result<(), ProviderError>>;

    /// Everything that is assigned to nodes.
    fn list(&self, pool: &str) -> BoxFuture<'_, Result<Vec<Assignment>, ProviderError>>;
}
