//! Where pods' addresses come from: the node's own ranges, or pools that a controller shares out in blocks.
//!
//! ```text
//! IPPool --pool--> what is in force --+
//!                                     +--grant (controller)--> NodeAddresses.spec: blocks of each node
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

pub mod node;
pub mod pool;
pub mod range;
pub mod spec;

pub use node::{NodePools, PoolsError};
pub use pool::{Pool, PoolError};
pub use range::{Ipam, IpamError, Usage};
pub use spec::{IpPool, NodeAddresses, NodeAddressesSpec, NodeAddressesStatus, PoolBlocks, PoolSpec, PoolStatus};
