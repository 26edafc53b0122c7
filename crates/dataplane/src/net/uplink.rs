//! How the node itself is connected: what its pods' MTU and the source of its own traffic follow from.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{NetError, Route, Rtnl};

/// The link by which other nodes are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its MTU.
    pub mtu: u32,
    /// Those of the node's addresses that really are on this machine.
    pub node_ips: Vec<IpAddr>,
}

/// MTU of Ethernet, where no uplink says otherwise.
pub const DEFAULT_MTU: u32 = 1500;

/// The link that has the node's address, or else the one of the default route.
pub async fn find(rtnl: &Rtnl, node_ips: &[IpAddr]) -> Result<Option<Uplink>, NetError> {
    let addresses = rtnl.addresses(None).await?;
    let here = |ip: &&IpAddr| addresses.iter().any(|(_, address)| address.addr() == **ip);
    let local: Vec<IpAddr> = node_ips.iter().filter(here).copied().collect();
    let owner = |ip: &IpAddr| {
        addresses
            .iter()
            .find(|(_, address)| address.addr() == *ip)
            .map(|(index, _)| *index)
    };
    let mut index = local.iter().find_map(owner);
    if index.is_none() {
        let routes = rtnl.routes().await?;
        index = routes
            .iter()
            .find(|route| route.to.prefix_len() == 0)
            .and_then(|route| route.link);
    }
    let Some(index) = index else { return Ok(None) };
    let link = rtnl.link_at(index).await?;
    Ok(link.map(|link| Uplink {
        name: link.name,
        index,
        mtu: link.mtu,
        node_ips: local,
    }))
}

/// The networks that the kernel knows a way to without Weft, by its routes, and whether they are on a segment of this
/// node's.
pub fn networks(routes: &[Route]) -> Vec<(IpNet, bool)> {
    let link_local = |net: &IpNet| matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
    let foreign = routes
        .iter()
        .filter(|route| !route.ours && !route.unreachable && !link_local(&route.to));
    let mut networks: Vec<_> = foreign.map(|route| (route.to, route.via.is_none())).collect();
    networks.sort_unstable();
    networks.dedup();
    networks
}
