//! Where pods' addresses come from: the node's own ranges, or pools that a controller shares out in blocks.
//!
//! ```text
//! IPPool --pool--> what is in force --+
//!                                     +--ledger (controller)--> NodeAddresses.spec: blocks of each node
//! NodeAddresses.status: demand -------+                             |
//!        ^                                                          v
//!        +------------------------------------------------- node (agent) --> one address of a block for each pod
//! ```
//!
//! A block changes hands by a handshake that cannot take an address in use: the agent stops giving from a block
//! that nobody uses and says so in its status for good; the controller removes the block from the node's spec; only
//! then may another node get it.
//!
//! Pure bookkeeping: who has which address is persisted elsewhere (attachments, objects of the API), and taken in
//! again at the start.

pub mod choice;
pub mod ledger;
pub mod node;
pub mod overlap;
pub mod pool;
pub mod range;
mod space;
pub mod spec;

pub use choice::{ChoiceError, Source};
pub use ledger::{Foreign, Grant, Ledger, Shortfall};
pub use node::{NodePools, PoolsError};
pub use overlap::Overlap;
pub use pool::{Pool, PoolError};
pub use range::{Ipam, IpamError, Usage};
pub use spec::{IpPool, NodeAddresses, NodeAddressesSpec, NodeAddressesStatus, PoolBlocks, PoolSpec, PoolStatus};

/// Why a pod gets no address, whichever source it was to come from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// There is no source.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// The node's own ranges give none.
    #[error(transparent)]
    Ranges(#[from] IpamError),
    /// The pools give none.
    #[error(transparent)]
    Pools(#[from] PoolsError),
    /// One source gave what somebody has from another.
    #[error(
        "address {ip} is in use by {other}, who has it from another source; two of the node's pod CIDRs and pools overlap, correct one"
    )]
    Overlap {
        /// The address.
        ip: std::net::IpAddr,
        /// Who has it.
        other: String,
    },
}
