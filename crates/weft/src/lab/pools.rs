//! Where a lab's pods get their addresses from, and the pool of one whose nodes have no ranges.

use serde_json::{Value, json};
use weft_lab::families::Families;
use weft_model::ipam::spec::DEFAULT_POOL;

/// Where pods' addresses come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Ipam {
    /// Every node has a range of its own (spec.podCIDRs).
    #[default]
    Ranges,
    /// Nodes have no ranges; an IPPool called default gives them blocks.
    Pools,
}

/// The objects of the network that the lab begins with.
pub(super) fn objects(ipam: Ipam, families: Families) -> Vec<Value> {
    let mut objects = weft_cluster::definitions();
    if ipam == Ipam::Pools {
        objects.push(json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "IPPool",
            "metadata": {"name": DEFAULT_POOL},
            "spec": {"cidrs": families.pick("10.244.0.0/16", "fd00:10:244::/64")},
        }));
    }
    objects
}
