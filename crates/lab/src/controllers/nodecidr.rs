//! A pod CIDR of each family for every node, never the same one twice: what is assigned is read from the nodes, so
//! nothing is forgotten over a restart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Value, json};

use super::cache::Object;
use super::context::Context;
use super::error::Error;
use super::object::{Key, list, text};
use super::queue::{Queue, Reconcile, work};
use super::{Config, kinds};
use crate::events::Recorder;

pub(crate) struct NodeCidrs {
    ctx: Context,
    events: Recorder,
}

pub(crate) async fn run(ctx: Context) {
    let queue = Arc::new(Queue::default());
    ctx.enqueue(&kinds::NODES, &queue);
    ctx.synced(&[&kinds::NODES]).await;
    let events = ctx.recorder("cidrAllocator");
    // One worker: two that choose at once could choose the same.
    work(Arc::new(NodeCidrs { ctx, events }), queue, 1).await;
}

impl Reconcile for NodeCidrs {
    fn name(&self) -> &'static str {
        "nodecidr"
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let cache = self.ctx.cache(&kinds::NODES);
        let Some(node) = cache.get(key).filter(|node| assigned(node).is_empty()) else {
            return Ok(None);
        };
        let taken: Vec<IpNet> = cache.all().iter().flat_map(|node: &Object| assigned(node)).collect();
        let Some(cidrs) = choose(&self.ctx.config, &taken) else {
            let message =
                "no pod CIDR is left in the cluster's range; remove nodes, or start the cluster with a wider one";
            self.events.warning(&node, "CIDRNotAvailable", message);
            return Err(Error::NotYet(message.to_owned()));
        };
        let patch = json!({"spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs}});
        self.ctx.patch(&kinds::NODES, &node, patch).await?;
        Ok(None)
    }
}

/// The CIDRs that a node has.
fn assigned(node: &Value) -> Vec<IpNet> {
    let all = list(node, "/spec/podCIDRs").iter().filter_map(Value::as_str);
    let first = Some(text(node, "/spec/podCIDR")).filter(|cidr| !cidr.is_empty());
    all.chain(first).filter_map(|cidr| cidr.parse().ok()).collect()
}

/// The first free CIDR of each family that the cluster has, the primary one first.
fn choose(config: &Config, taken: &[IpNet]) -> Option<Vec<IpNet>> {
    let free = |candidate: &IpNet| !taken.iter().any(|t| t.contains(candidate) || candidate.contains(t));
    let v4 = |n| nth_v4(config.pod_cidr_v4, config.node_mask_v4, n);
    let v6 = |n| nth_v6(config.pod_cidr_v6, config.node_mask_v6, n);
    let families = config.families.pick::<&dyn Fn(u32) -> Option<IpNet>>(&v4, &v6);
    families
        .into_iter()
        .map(|nth| (0..).map_while(nth).find(free))
        .collect()
}

fn nth_v4(range: Ipv4Net, mask: u8, n: u32) -> Option<IpNet> {
    let step = 1_u32.checked_shl(32 - u32::from(mask))?;
    let first = u32::from(range.network()).checked_add(n.checked_mul(step)?)?;
    let net = IpNet::new(IpAddr::V4(Ipv4Addr::from(first)), mask).ok()?;
    IpNet::V4(range).contains(&net).then_some(net)
}

fn nth_v6(range: Ipv6Net, mask: u8, n: u32) -> Option<IpNet> {
    let step = 1_u128.checked_shl(128 - u32::from(mask))?;
    let first = u128::from(range.network()).checked_add(u128::from(n).checked_mul(step)?)?;
    let net = IpNet::new(IpAddr::V6(Ipv6Addr::from(first)), mask).ok()?;
    IpNet::V6(range).contains(&net).then_some(net)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::Families;

    fn config() -> Config {
        Config {
            pod_cidr_v4: "10.244.0.0/22".parse().unwrap(),
            ..Config::default()
        }
    }

    #[test]
    fn the_first_free_one_until_none_is_left() {
        let mut taken = vec!["10.244.2.0/24".parse().unwrap()];
        let both = |first: &str, second: &str| vec![first.parse().unwrap(), second.parse().unwrap()];
        let chosen = choose(&config(), &taken).unwrap();
        assert_eq!(chosen, both("10.244.0.0/23", "fd00:10:244::/64"));
        taken.extend(chosen);
        assert_eq!(choose(&config(), &taken), None);
        taken.remove(0);
        let chosen = choose(&config(), &taken);
        assert_eq!(chosen, Some(both("10.244.2.0/23", "fd00:10:244:1::/64")));
    }

    #[test]
    fn a_cluster_of_one_family_has_one_each() {
        for (families, cidr) in [(Families::Ipv4, "10.244.0.0/23"), (Families::Ipv6, "fd00:10:244::/64")] {
            let config = Config { families, ..config() };
            assert_eq!(choose(&config, &[]), Some(vec![cidr.parse().unwrap()]));
        }
    }

    #[test]
    fn a_default_range_has_128() {
        let config = Config::default();
        let mut taken = Vec::new();
        while let Some(both) = choose(&config, &taken) {
            taken.extend(both);
        }
        assert_eq!(taken.len(), 256);
    }
}
