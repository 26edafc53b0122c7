//! The contents of the two custom resources, as they stand in the API: `IPPool` (what may be given to pods) and
//! `NodeAddresses` (which blocks a node has, and what it wants).

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::selector::Selector;

/// The name of the pool for pods that no other source of addresses fits.
pub const DEFAULT_POOL: &str = "default";

/// `spec` of an IPPool, as its author wrote it; [`Pool::new`](super::Pool::new) checks it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolSpec {
    /// The networks, of one family or both.
    pub cidrs: Vec<String>,
    /// How much a node gets at a time.
    pub block_size: BlockSize,
    /// The nodes that may use the pool; all of them where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Selector>,
    /// The namespaces whose pods use the pool without asking for it by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    /// How many addresses of each family a node keeps free, so that a burst of pods need not wait.
    pub pre_allocate: u32,
    /// How many addresses of each family a node has at least, used or not.
    pub min_allocate: u32,
    /// How many addresses beyond those a node may keep before it gives blocks back.
    pub max_above_watermark: u32,
    /// Who really has the addresses, where they are not this cluster's to give.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
}

impl Default for PoolSpec {
    fn default() -> Self {
        Self {
            cidrs: vec![],
            block_size: BlockSize::default(),
            node_selector: None,
            namespace_selector: None,
            pre_allocate: 8,
            min_allocate: 0,
            max_above_watermark: 8,
            provider: None,
        }
    }
}

/// Prefix length of a block in each family; 32 and 128 are single addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockSize {
    /// Of IPv4 blocks.
    pub ipv4: u8,
    /// Of IPv6 blocks.
    pub ipv6: u8,
}

impl Default for BlockSize {
    fn default() -> Self {
        Self { ipv4: 28, ipv6: 124 }
    }
}

/// An outside source of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provider {
    /// One that is asked over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProvider>,
}

/// A provider that is asked over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpProvider {
    /// Where it listens.
    pub url: String,
}

/// `status` of an IPPool, written by the controller alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolStatus {
    /// The generation of the spec that was judged last.
    pub observed_generation: i64,
    /// The last spec that was found good: what nodes go by. An edit that is refused leaves it as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<PoolSpec>,
    /// Addresses of the pool.
    pub capacity: Count,
    /// Addresses that nodes have, used or not.
    pub allocated: Count,
    /// How many nodes have any.
    pub nodes: u32,
    /// Whether the pool does its work, and if not, why and what to do.
    pub conditions: Vec<Condition>,
}

impl PoolStatus {
    /// Whether both say the same, whenever they began to.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let mut dated = self.clone();
        for condition in &mut dated.conditions {
            let of = other.conditions.iter().find(|of| of.type_ == condition.type_);
            condition.last_transition_time = of.map(|of| of.last_transition_time.clone()).unwrap_or_default();
        }
        dated == *other
    }

    /// Whether both say the same but for numbers, which change all the time.
    pub fn differs_in_numbers_only(&self, other: &Self) -> bool {
        let gist = |of: &Self| {
            of.conditions
                .iter()
                .map(|of| (of.type_.clone(), of.status.clone(), of.reason.clone()))
                .collect::<Vec<_>>()
        };
        (self.observed_generation, &self.in_force) == (other.observed_generation, &other.in_force)
            && gist(self) == gist(other)
    }
}

/// A number of addresses in each family, at most `i64::MAX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Count {
    /// IPv4 addresses.
    pub ipv4: u64,
    /// IPv6 addresses.
    pub ipv6: u64,
}

/// A condition, as `metav1.Condition` has it; when it last changed is filled in by who writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What it is about, such as `Ready`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word for machines.
    pub reason: String,
    /// What was found and what to do, for people.
    pub message: String,
    /// When `status` last changed (RFC 3339).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_transition_time: String,
}

/// `spec` of a NodeAddresses, written by the controller alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAddressesSpec {
    /// What the node's pods may have, by pool. Nobody else may give any of it.
    pub allocated: Vec<PoolBlocks>,
    /// What the node asked for and does not get, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refusal>,
}

/// Blocks of one pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolBlocks {
    /// Name of the pool.
    pub pool: String,
    /// The blocks, in order.
    pub cidrs: Vec<IpNet>,
}

/// Why a node does not get what it asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Name of the pool, or a wanted address that no pool has.
    pub pool: String,
    /// The cause and what to do.
    pub message: String,
}

/// `status` of a NodeAddresses, written by the node's agent alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAddressesStatus {
    /// Which run of the agent wrote this. It changes at every start, so that no write of an earlier run, still
    /// under way, can land: all are made with a precondition on the object's version.
    pub session: String,
    /// How many addresses of each pool the node wants to have in all.
    pub requested: Vec<Request>,
    /// Addresses that the node wants above all, from whatever pool has them.
    pub wanted: Vec<IpAddr>,
    /// Blocks that nobody uses and from which the node gives no more. Never taken back.
    pub releasing: Vec<PoolBlocks>,
    /// What of it is in use.
    pub used: Vec<Used>,
}

/// How many addresses of one pool a node wants to have in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// Name of the pool.
    pub pool: String,
    /// IPv4 addresses.
    pub ipv4: u64,
    /// IPv6 addresses.
    pub ipv6: u64,
}

/// How much of what a node has of one pool is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Used {
    /// Name of the pool.
    pub pool: String,
    /// Addresses that pods have.
    pub used: u64,
    /// Addresses that the node has.
    pub capacity: u64,
}

/// An IPPool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpPool {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.resourceVersion`; of two versions of an object, the later is greater.
    pub version: u64,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp` (RFC 3339).
    pub created: String,
    /// True once its deletion has been asked for.
    pub deleting: bool,
    /// True where the controller's finalizer keeps it until nobody uses it.
    pub held: bool,
    /// What its author wants.
    pub spec: PoolSpec,
    /// What the controller says about it.
    pub status: PoolStatus,
}

/// A NodeAddresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// `metadata.name`, the node's.
    pub node: String,
    /// `metadata.resourceVersion`; of two versions of an object, the later is greater.
    pub version: u64,
    /// What the node has.
    pub spec: NodeAddressesSpec,
    /// What the node wants.
    pub status: NodeAddressesStatus,
}

impl NodeAddresses {
    /// Every block of the node, whatever its pool.
    pub fn blocks(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.spec.allocated.iter().flat_map(|of| of.cidrs.iter().copied())
    }
}
