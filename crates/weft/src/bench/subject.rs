//! What Weft is compared with: links and rules between two namespaces, made the way others make them.

use std::any::Any;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::load::Pair;
use super::netns::Netns;
use super::rules;

/// The client's address.
pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
/// Where the server listens.
pub(super) const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, 3), 8080);

/// Kube-proxy's two kinds of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    Iptables,
    Nftables,
}

/// Two ends, and what keeps the way between them alive.
pub(super) struct Subject {
    pub(super) pair: Pair,
    pub(super) _kept: Vec<Box<dyn Any>>,
}

/// The limit: one veth pair, and nothing else.
pub(super) fn bare() -> Result<Subject> {
    let (client, server) = ends()?;
    client.ip(&format!(
        "link add eth0 type veth peer name eth0 netns {}
addr add {CLIENT}/24 dev eth0
link set eth0 up",
        server.path().display()
    ))?;
    server.ip(&format!("addr add {}/24 dev eth0\nlink set eth0 up", SERVER.ip()))?;
    subject(client, server, SERVER, None)
}

/// A Linux bridge in a namespace between, as the bridge plugin and Flannel make it.
pub(super) fn bridge() -> Result<Subject> {
    let (client, server) = ends()?;
    let node = Arc::new(Netns::new()?);
    node.ip("link add br0 type bridge\nlink set br0 up")?;
    for (name, end, address) in [("veth0", &client, CLIENT), ("veth1", &server, *SERVER.ip())] {
        node.ip(&format!(
            "link add {name} type veth peer name eth0 netns {}
link set {name} master br0
link set {name} up",
            end.path().display()
        ))?;
        end.ip(&format!("addr add {address}/24 dev eth0\nlink set eth0 up"))?;
    }
    subject(client, server, SERVER, Some(node))
}

/// Pods routed by their node, as the ptp plugin makes them.
pub(super) fn routed() -> Result<Subject> {
    let [client, server, node] = routed_ends()?;
    subject(client, server, SERVER, Some(node))
}

/// The same, with kube-proxy's rules on the node.
pub(super) fn kube_proxy(kind: Rules, services: u32) -> Result<Subject> {
    let [client, server, node] = routed_ends()?;
    let target = SocketAddrV4::new(rules::service_ip(services - 1), rules::PORT);
    match kind {
        Rules::Iptables => node.feed("iptables-restore", &["--noflush"], &rules::iptables(services, SERVER)?),
        Rules::Nftables => node.feed("nft", &["-f", "-"], &rules::nftables(services, SERVER)?),
    }
    .with_context(|| format!("cannot load {kind:?} rules for {services} services"))?;
    subject(client, server, target, Some(node))
}

/// Client, server, and the node between them.
fn routed_ends() -> Result<[Arc<Netns>; 3]> {
    let (client, server) = ends()?;
    let node = Arc::new(Netns::new()?);
    node.sysctl("ipv4/ip_forward", "1")?;
    for (name, end, address) in [("veth0", &client, CLIENT), ("veth1", &server, *SERVER.ip())] {
        node.ip(&format!(
            "link add {name} type veth peer name eth0 netns {}
link set {name} up
addr add 169.254.1.1/32 dev {name}
route add {address}/32 dev {name}",
            end.path().display()
        ))?;
        end.ip(&format!(
            "addr add {address}/32 dev eth0
link set eth0 up
route add 169.254.1.1/32 dev eth0
route add default via 169.254.1.1 dev eth0"
        ))?;
    }
    Ok([client, server, node])
}

fn ends() -> Result<(Arc<Netns>, Arc<Netns>)> {
    let client = Netns::new()?;
    many_ports(&client)?;
    Ok((Arc::new(client), Arc::new(Netns::new()?)))
}

/// Room for the connections of a whole run: their ports rest for a minute.
pub(super) fn many_ports(client: &Netns) -> Result<()> {
    client.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
    client.sysctl("ipv4/tcp_tw_reuse", "1")
}

fn subject(client: Arc<Netns>, server: Arc<Netns>, target: SocketAddrV4, node: Option<Arc<Netns>>) -> Result<Subject> {
    let (at_client, at_server) = (client.clone(), server.clone());
    let pair = Pair::start(
        move || at_server.enter(),
        move || at_client.enter(),
        SocketAddr::V4(SERVER),
        SocketAddr::V4(target),
    )?;
    Ok(Subject {
        pair,
        _kept: vec![Box::new(node), Box::new(client), Box::new(server)],
    })
}
