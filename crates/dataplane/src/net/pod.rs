//! A pod's link: a veth pair between its namespace and the node's, routed and not bridged.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::rtnl::{End, Link, Route};
use super::{Namespace, NetError, Rtnl, default_of, gateway_for, sysctl};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Not six hexadecimal bytes with colons between them.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an Ethernet address such as 02:00:00:00:00:01")]
pub struct BadMac(String);

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        bytes.map_err(|_| bad())?.try_into().map(Mac).map_err(|_| bad())
    }
}

impl TryFrom<String> for Mac {
    type Error = BadMac;

    fn try_from(text: String) -> Result<Self, BadMac> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// A pod's link as it is to be, or as it was set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodLink {
    /// Path of the pod's namespace.
    pub netns: PathBuf,
    /// Name of the interface in the pod.
    pub ifname: String,
    /// Name of the host side.
    pub host_ifname: String,
    /// Ethernet address of the pod's side.
    pub mac: Mac,
    /// Ethernet address of the host side: the pod's gateway.
    pub host_mac: Mac,
    /// The pod's addresses, at most one of each family.
    pub ips: Vec<IpAddr>,
    /// MTU of both sides.
    pub mtu: u32,
    /// The node's addresses: source of what the node sends to the pod.
    pub node_ips: Vec<IpAddr>,
}

impl PodLink {
    fn has_ipv6(&self) -> bool {
        self.ips.iter().any(IpAddr::is_ipv6)
    }
}

/// Connects the pod. On failure nothing of it is left. Returns the index of the host side.
pub async fn set_up(rtnl: &Rtnl, pod: &PodLink) -> Result<u32, NetError> {
    let netns = Namespace::open(&pod.netns)?;
    let ifname = pod.ifname.clone();
    if netns
        .run(move |inside| async move { inside.link(&ifname).await })
        .await?
        .is_some()
    {
        return Err(NetError::InterfaceExists {
            ifname: pod.ifname.clone(),
            netns: pod.netns.clone(),
        });
    }
    // Of an ADD that was interrupted, by the same container: its name says so.
    rtnl.remove_link(&pod.host_ifname).await?;
    match build(rtnl, &netns, pod).await {
        Ok(index) => Ok(index),
        Err(error) => {
            if let Err(undo) = tear_down(rtnl, &pod.host_ifname).await {
                tracing::warn!(link = pod.host_ifname, "cannot undo a failed setup: {undo}");
            }
            Err(error)
        }
    }
}

async fn build(rtnl: &Rtnl, netns: &Namespace, pod: &PodLink) -> Result<u32, NetError> {
    let here = End {
        name: &pod.host_ifname,
        mac: pod.host_mac,
    };
    let there = End {
        name: &pod.ifname,
        mac: pod.mac,
    };
    rtnl.add_veth(here, there, netns.raw_fd(), pod.mtu).await?;
    let host = rtnl
        .link(&pod.host_ifname)
        .await?
        .ok_or_else(|| vanished(&pod.host_ifname))?;
    if sysctl::has_ipv6() {
        // Nobody talks to the host side's own link-local address.
        sysctl::set(&format!("ipv6/conf/{}/addr_gen_mode", pod.host_ifname), "1")?;
    }
    rtnl.set_up(host.index).await?;
    let inner = pod.clone();
    netns
        .run(move |inside| async move { build_inside(&inside, &inner).await })
        .await?;
    for ip in &pod.ips {
        rtnl.put_neighbour(host.index, *ip, pod.mac).await?;
        rtnl.put_route(&host_route(pod, *ip, host.index)).await?;
    }
    Ok(host.index)
}

fn host_route(pod: &PodLink, ip: IpAddr, index: u32) -> Route {
    let source = pod.node_ips.iter().find(|node| node.is_ipv4() == ip.is_ipv4()).copied();
    Route {
        link: Some(index),
        source,
        ..Route::ours(IpNet::from(ip))
    }
}

async fn build_inside(rtnl: &Rtnl, pod: &PodLink) -> Result<(), NetError> {
    if let Some(lo) = rtnl.link("lo").await? {
        rtnl.set_up(lo.index).await?;
    }
    let link = rtnl.link(&pod.ifname).await?.ok_or_else(|| vanished(&pod.ifname))?;
    if pod.has_ipv6() {
        let switch = |name: &str| format!("ipv6/conf/{}/{name}", pod.ifname);
        sysctl::set(&switch("disable_ipv6"), "0")?;
        sysctl::set(&switch("accept_dad"), "0")?;
        sysctl::set(&switch("accept_ra"), "0")?;
        // The only link-local address that the datapath takes for the pod's own.
        sysctl::set(&switch("addr_gen_mode"), "0")?;
    }
    rtnl.set_up(link.index).await?;
    for ip in &pod.ips {
        rtnl.add_address(link.index, IpNet::from(*ip)).await?;
    }
    for ip in &pod.ips {
        rtnl.put_neighbour(link.index, gateway_for(*ip), pod.host_mac).await?;
        rtnl.put_route(&default_route(*ip, link.index)).await?;
    }
    for ip in &pod.ips {
        if let IpAddr::V6(ip) = ip {
            wait_until_taken(rtnl, *ip).await?;
        }
    }
    Ok(())
}

/// A pod is ready when its network is: not before the kernel has put its IPv6 address to use.
async fn wait_until_taken(rtnl: &Rtnl, ip: Ipv6Addr) -> Result<(), NetError> {
    for _ in 0..1000 {
        if rtnl.takes(ip).await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err(NetError::Differs(format!(
        "the kernel has not put {ip} to use within a second; the node is overloaded, try again"
    )))
}

fn default_route(ip: IpAddr, index: u32) -> Route {
    Route {
        via: Some(gateway_for(ip)),
        link: Some(index),
        ..Route::ours(default_of(ip))
    }
}

fn vanished(name: &str) -> NetError {
    NetError::Differs(format!(
        "link {name} vanished while it was set up; the pod is being deleted"
    ))
}

/// Disconnects a pod by removing the host side: the pod's side, routes and neighbours go with it.
/// False where there was nothing to do.
pub async fn tear_down(rtnl: &Rtnl, host_ifname: &str) -> Result<bool, NetError> {
    rtnl.remove_link(host_ifname).await
}

/// Compares what is there with what was set up, on both sides.
pub async fn check(rtnl: &Rtnl, pod: &PodLink) -> Result<(), NetError> {
    let host = rtnl.link(&pod.host_ifname).await?;
    let host = host.ok_or_else(|| NetError::Differs(format!("the host side {} is missing", pod.host_ifname)))?;
    same_link(&host, &pod.host_ifname, pod.host_mac)?;
    let routes = rtnl.routes().await?;
    for ip in &pod.ips {
        if !routes
            .iter()
            .any(|route| route.to == IpNet::from(*ip) && route.link == Some(host.index))
        {
            let message = format!("the node has no route to {ip} over {}", pod.host_ifname);
            return Err(NetError::Differs(message));
        }
    }
    let netns = Namespace::open(&pod.netns)?;
    let inner = pod.clone();
    netns
        .run(move |inside| async move { check_inside(&inside, &inner).await })
        .await
}

async fn check_inside(rtnl: &Rtnl, pod: &PodLink) -> Result<(), NetError> {
    let link = rtnl.link(&pod.ifname).await?;
    let link = link.ok_or_else(|| NetError::Differs(format!("interface {} is missing in the pod", pod.ifname)))?;
    same_link(&link, &pod.ifname, pod.mac)?;
    let addresses = rtnl.addresses(Some(link.index)).await?;
    let routes = rtnl.routes().await?;
    for ip in &pod.ips {
        if !addresses.iter().any(|(_, address)| address.addr() == *ip) {
            return Err(NetError::Differs(format!(
                "interface {} has lost its address {ip}",
                pod.ifname
            )));
        }
        let wanted = default_route(*ip, link.index);
        if !routes
            .iter()
            .any(|route| (route.to, route.via) == (wanted.to, wanted.via))
        {
            return Err(NetError::Differs(format!(
                "the pod has lost its default route via {}",
                gateway_for(*ip)
            )));
        }
    }
    Ok(())
}

fn same_link(link: &Link, name: &str, mac: Mac) -> Result<(), NetError> {
    if !link.up {
        return Err(NetError::Differs(format!("interface {name} is down")));
    }
    match link.mac {
        Some(found) if found == mac => Ok(()),
        found => {
            let found = found.map_or("none".to_owned(), |mac| mac.to_string());
            Err(NetError::Differs(format!(
                "interface {name} has Ethernet address {found} instead of {mac}"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ethernet_addresses_are_read_as_written() {
        let mac = Mac([2, 0, 0xab, 0, 0, 1]);
        assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
        for bad in ["", "02:00", "02:00:00:00:00:0g", "02:00:00:00:00:00:01"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
