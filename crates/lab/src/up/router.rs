//! The router of the segment: knows which node each pod CIDR is behind, as the route table of a cloud's network
//! does. The control plane's answers to pods go by it.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::segment::{Net, with_netlink};
use super::{Error, Lab, netns};
use crate::client::{Client, Event, ListOptions, Res, meta};

/// Follows the Nodes on a thread of its own: one route a pod CIDR, through the node's address of that family.
pub(super) fn start(lab: &Lab, segment: File) -> Result<(), Error> {
    let client = Client::unix(lab.api_socket());
    let run = move || {
        let ended = netns::inside(&segment, || with_netlink(async |net| follow(&net, &client).await));
        if let Err(error) = ended {
            tracing::error!(%error, "the segment's router ended; pods cannot reach the API server");
        }
    };
    let spawned = std::thread::Builder::new().spawn(run);
    spawned.map(drop).map_err(Error::io("start a thread for", "the router"))
}

async fn follow(net: &Net, client: &Client) -> Result<(), Error> {
    let mut known: BTreeMap<String, Vec<(IpNet, IpAddr)>> = BTreeMap::new();
    let mut nodes = client.informer(Res::new("", "v1", "nodes"), "", ListOptions::default());
    while let Some(event) = nodes.recv().await {
        let (node, wanted) = match event {
            Event::Applied(node) => (meta(&node, "name").to_owned(), routes(&node)),
            Event::Deleted(node) => (meta(&node, "name").to_owned(), Vec::new()),
            Event::Synced => continue,
        };
        let had = known.remove(&node).unwrap_or_default();
        for route in had.iter().filter(|route| !wanted.contains(route)) {
            report(&node, net.remove_route(*route).await);
        }
        for route in wanted.iter().filter(|route| !had.contains(route)) {
            report(&node, net.route(*route).await);
        }
        known.insert(node, wanted);
    }
    Ok(())
}

/// One node's trouble is no other's.
fn report(node: &str, result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::warn!(node, %error, "the pods of this node cannot reach the API server");
    }
}

/// The pod CIDRs of a Node, each by way of its address of that family.
fn routes(node: &Value) -> Vec<(IpNet, IpAddr)> {
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    let internal = addresses.filter(|address| address["type"] == "InternalIP");
    let ips: Vec<IpAddr> = internal
        .filter_map(|address| address["address"].as_str()?.parse().ok())
        .collect();
    let cidrs = node["spec"]["podCIDRs"].as_array().into_iter().flatten();
    let cidrs = cidrs.filter_map(|cidr| cidr.as_str()?.parse::<IpNet>().ok());
    let via = |cidr: &IpNet| ips.iter().find(|ip| ip.is_ipv4() == cidr.addr().is_ipv4()).copied();
    cidrs.filter_map(|cidr| Some((cidr, via(&cidr)?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_range_goes_by_the_address_of_its_family() {
        let node = json!({
            "spec": {"podCIDRs": ["10.244.2.0/23", "fd00:10:244:1::/64", "junk"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "node-1"},
                {"type": "InternalIP", "address": "10.89.0.11"},
            ]},
        });
        let expected = ("10.244.2.0/23".parse().unwrap(), "10.89.0.11".parse().unwrap());
        assert_eq!(routes(&node), [expected]);
        assert!(routes(&json!({})).is_empty());
    }
}
