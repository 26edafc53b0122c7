//! The layer `pods` of the report: how many are attached, and how full the sources of their addresses are.

use weft_model::ipam::Usage;
use weft_model::report::Layer;

use crate::agent::node::Node;

const ALMOST_FULL: f64 = 0.8;

/// How the node's pods and their addresses are doing.
pub(in crate::agent) fn layer(node: &Node) -> Layer {
    let count = node.attachments().len();
    let usage = node.ipam().usage();
    let pools = node.pools();
    let mut parts: Vec<String> = usage.iter().map(text).collect();
    for used in pools.book().status().used {
        parts.push(format!(
            "{} of {} addresses of pool {}",
            used.used, used.capacity, used.pool
        ));
    }
    let mut message = match parts.is_empty() {
        true => format!("{count} attached"),
        false => format!("{count} attached, {} in use", parts.join(", ")),
    };
    let leaks = node.progress().leaks;
    if leaks > 0 {
        message += &format!("; {leaks} that nobody had detached were collected");
    }
    if usage.is_empty() && pools.usable().next().is_none() {
        let why = pools
            .unusable()
            .next()
            .map(|(name, why)| format!("; IPPool {name}: {why}"));
        let remedy = "let a controller assign spec.podCIDRs (kube-controller-manager: --allocate-node-cidrs=true), or create an IPPool called default";
        let message = format!(
            "node {} has no pod CIDR and no IPPool: new pods wait{}",
            node.name,
            why.unwrap_or_default()
        );
        return Layer::failed("pods", message, remedy);
    }
    if let Some(overlap) = node.ipam().refused() {
        let message = format!("{message}; {overlap}: new pods wait");
        return Layer::failed(
            "pods",
            message,
            "correct one of them; pods that are attached keep their addresses",
        );
    }
    let lost: Vec<String> = pools
        .book()
        .lost()
        .filter(|user| !node.ipam().covers(user.ip))
        .map(|user| user.ip.to_string())
        .collect();
    if let Some(first) = lost.first() {
        let message = format!(
            "{message}; {} in use are of no pod CIDR or block of this node, such as {first}",
            lost.len()
        );
        return Layer::degraded(
            "pods",
            message,
            "put the pod CIDR or IPPool back, or delete these pods (`kubectl get pods -o wide`)",
        );
    }
    if let Some(refusal) = pools.at().and_then(|at| at.spec.refused.first()) {
        let message = format!("{message}; pool {}: {}", refusal.pool, refusal.message);
        return Layer::degraded(
            "pods",
            message,
            "see `kubectl get ippools`; pods that need more addresses of it wait",
        );
    }
    let remedy = "delete pods on this node, or give the node a larger pod CIDR";
    let fuller = |part: f64| {
        usage
            .iter()
            .any(|usage| usage.used as f64 >= part * usage.capacity as f64)
    };
    if fuller(1.0) {
        return Layer::failed("pods", format!("{message}: new pods wait"), remedy);
    }
    match fuller(ALMOST_FULL) {
        true => Layer::degraded("pods", message, remedy),
        false => Layer::ok("pods", message),
    }
}

fn text(usage: &Usage) -> String {
    match usage.capacity {
        // Nobody needs to know the size of an IPv6 range to the last address.
        0..=0xffff_ffff => format!("{} of {} addresses of {}", usage.used, usage.capacity, usage.cidr),
        _ => format!("{} addresses of {}", usage.used, usage.cidr),
    }
}
