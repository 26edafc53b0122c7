//! How the node is reached from outside: the links that carry the hooks, its own addresses, and who is inside. Looked
//! at again whenever the kernel tells of a change.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tracing::warn;
use weft_dataplane::bpf::Here;
use weft_dataplane::net::{NetError, name, refuse, tunnel};
use weft_model::{State, compile};

use super::node::Node;

pub(super) struct Outside {
    node: Arc<Node>,
    /// What was said last, so that it is said once.
    complaint: Option<String>,
}

impl Outside {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node, complaint: None }
    }

    /// Where Services' addresses are taken from, and where the cluster's pods are.
    pub(super) fn ranges(&mut self, state: &State) {
        let pods: Vec<IpNet> = state.nodes().flat_map(|node| compile::ranges(state, node)).collect();
        let result = self.node.set_service_ranges(&service_cidrs(state), &pods);
        self.complain(result.err().map(|error| error.to_string()));
    }

    /// Compares hooks and addresses with the kernel's links.
    pub(super) async fn look(&mut self, state: &State) {
        let result = match self.here(state).await {
            Ok(here) => self.node.datapath().set_node(&here).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let result = result.and_then(|()| refuse::ensure().map_err(|error| error.to_string()));
        self.complain(result.err());
    }

    async fn here(&self, state: &State) -> Result<Here, NetError> {
        let rtnl = &self.node.rtnl;
        let services = service_cidrs(state);
        let links = rtnl.links().await?;
        let link_of = |index: u32| links.iter().find(|link| link.index == index);
        let leads_out =
            |index: u32| link_of(index).is_some_and(|link| link.name != "lo" && !name::is_host_side(&link.name));
        // The name service's address is a Service's, also where it is on a link.
        let reached = |ip: &IpAddr| !is_only_here(ip) && !services.iter().any(|range| range.contains(ip));
        let addresses: Vec<(u32, IpAddr)> = rtnl
            .addresses(None)
            .await?
            .into_iter()
            .map(|(index, net)| (index, net.addr()))
            .filter(|(_, ip)| reached(ip))
            .collect();
        let tunnel = links
            .iter()
            .find(|link| tunnel::is_ours(&link.name))
            .map(|link| link.index);
        let outside = addresses
            .iter()
            .map(|(index, _)| *index)
            .filter(|index| leads_out(*index));
        let own: BTreeSet<IpAddr> = addresses.iter().map(|(_, ip)| *ip).collect();
        let node_ips = state.local().map(|node| node.internal_ips.clone()).unwrap_or_default();
        let source = |v4: bool| {
            let known = node_ips
                .iter()
                .find(|ip| ip.is_ipv4() == v4 && own.contains(ip))
                .copied();
            let any = addresses
                .iter()
                .filter(|(index, ip)| ip.is_ipv4() == v4 && leads_out(*index));
            known.or_else(|| any.map(|(_, ip)| *ip).next())
        };
        let (v4, v6) = (source(true), source(false));
        Ok(Here {
            links: outside.chain(tunnel).collect(),
            v4: v4.and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }),
            v6: v6.and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None }),
            tunnel,
            addresses: own,
        })
    }

    fn complain(&mut self, complaint: Option<String>) {
        if let Some(why) = complaint.as_ref().filter(|why| self.complaint.as_ref() != Some(why)) {
            warn!("{why}; node ports and load balancers' addresses may not be reached from outside of the cluster");
        }
        self.complaint = complaint;
    }
}

fn service_cidrs(state: &State) -> Vec<IpNet> {
    state
        .service_cidrs()
        .flat_map(|range| range.cidrs.iter().copied())
        .collect()
}

/// Addresses that nobody else reaches the node by.
fn is_only_here(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}
