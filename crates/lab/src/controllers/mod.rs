//! The controllers that a network needs to see at work: workloads, endpoints, addresses, the scheduler and the cleaners.
//! Each reads from mirrors of the API (`cache`), is told keys to look at (`queue`), and brings one object at a time to
//! where it should be. A slow or absent API server, or a malformed object, delays what it concerns and nothing else.

mod cache;
mod context;
mod daemonset;
mod deployment;
mod discovery;
mod endpointslice;
mod error;
mod gc;
mod hash;
mod index;
mod job;
mod kinds;
mod loadbalancer;
mod namespace;
mod nodecidr;
mod nodelife;
mod object;
mod podgc;
mod pods;
mod quantity;
mod queue;
mod replicaset;
mod revision;
mod scheduler;
mod selector;
mod serviceaccount;
mod statefulset;

use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::families::Families;
use context::Context;
pub use loadbalancer::load_balancer_ranges;

/// What the controllers have to be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether nodes get a part of the following ranges.
    pub node_ranges: bool,
    /// Which of the following ranges nodes get a part of.
    pub families: Families,
    /// Where the pods' IPv4 addresses come from.
    pub pod_cidr_v4: Ipv4Net,
    /// The prefix length of one node's part of it.
    pub node_mask_v4: u8,
    /// Where the pods' IPv6 addresses come from.
    pub pod_cidr_v6: Ipv6Net,
    /// The prefix length of one node's part of it.
    pub node_mask_v6: u8,
    /// How long a node may be silent before it counts as lost.
    pub node_grace: Duration,
    /// The certificate, in PEM, by which pods know the API server.
    pub ca_pem: String,
}

impl Default for Config {
    /// The ranges of a lab, without a certificate.
    fn default() -> Self {
        Self {
            node_ranges: true,
            families: Families::Dual,
            pod_cidr_v4: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16),
            node_mask_v4: 23,
            pod_cidr_v6: Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0), 48),
            node_mask_v6: 64,
            node_grace: Duration::from_secs(40),
            ca_pem: String::new(),
        }
    }
}

/// Runs every controller, until the future is dropped.
pub async fn run(client: Client, config: Config) {
    let ctx = Context::new(client, config);
    let mut tasks = JoinSet::new();
    start(&mut tasks, "serviceaccount", &ctx, serviceaccount::run);
    if ctx.config.node_ranges {
        start(&mut tasks, "nodecidr", &ctx, nodecidr::run);
    }
    start(&mut tasks, "scheduler", &ctx, scheduler::run);
    start(&mut tasks, "replicaset", &ctx, replicaset::run);
    start(&mut tasks, "deployment", &ctx, deployment::run);
    start(&mut tasks, "daemonset", &ctx, daemonset::run);
    start(&mut tasks, "statefulset", &ctx, statefulset::run);
    start(&mut tasks, "job", &ctx, job::run);
    start(&mut tasks, "endpointslice", &ctx, endpointslice::run);
    start(&mut tasks, "loadbalancer", &ctx, loadbalancer::run);
    start(&mut tasks, "namespace", &ctx, namespace::run);
    start(&mut tasks, "nodelife", &ctx, nodelife::run);
    start(&mut tasks, "podgc", &ctx, podgc::run);
    start(&mut tasks, "garbagecollector", &ctx, gc::run);
    while tasks.join_next().await.is_some() {}
}

/// Runs one controller, again and again should it ever end.
fn start<F>(tasks: &mut JoinSet<()>, name: &'static str, ctx: &Context, run: fn(Context) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let ctx = ctx.clone();
    tasks.spawn(async move {
        loop {
            if let Err(panic) = tokio::spawn(run(ctx.clone())).await {
                tracing::error!(controller = name, %panic, "the controller stopped; starting it again");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

#[cfg(test)]
mod tests;
