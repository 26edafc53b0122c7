//! Pods of two nodes that share a segment, over Weft's routes, directly or by its tunnel, and over the same made by hand.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use weft_dataplane::net::tunnel::{self, Config, Encapsulation, Here};
use weft_dataplane::net::{Namespace, routes};
use weft_model::compile::{NextHop, Routes};

use super::cgroup::Home;
use super::load::Pair;
use super::netns::Netns;
use super::subject::{CLIENT, SERVER, Subject, many_ports};
use super::weft;

const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
const MTU: u32 = 1500;

/// How packets get from one node to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By a route.
    Direct,
    /// By VXLAN.
    Tunnel,
}

/// Two nodes with Weft's routes and programs.
pub(super) fn weft(home: &Home, way: Way) -> Result<Subject> {
    let [west, east] = nodes()?;
    let [client, server] = [Arc::new(Netns::new()?), Arc::new(Netns::new()?)];
    many_ports(&client)?;
    let mut kept: Vec<Box<dyn std::any::Any>> = vec![];
    for (node, netns, ip, id, at) in pods(&west, &east, &client, &server) {
        let (mut datapath, cgroup) = weft::datapath(home)?;
        weft::connect(node, netns, ip, id, NODES[at], &mut datapath)?;
        kept.push(Box::new((datapath, cgroup)));
    }
    for (node, at, other, pod) in [(&west, 0, 1, *SERVER.ip()), (&east, 1, 0, CLIENT)] {
        let end = IpAddr::from(NODES[other]);
        let hop = match way {
            Way::Direct => NextHop::Via(end),
            Way::Tunnel => NextHop::Tunnel(end),
        };
        set_routes(node, NODES[at].into(), [(IpAddr::from(pod).into(), hop)].into())?;
    }
    subject([west, east], client, server, kept)
}

/// Two nodes whose routes, and VXLAN devices for one peer, are made by hand; without programs.
pub(super) fn plain(way: Way) -> Result<Subject> {
    let [west, east] = nodes()?;
    let [client, server] = [Arc::new(Netns::new()?), Arc::new(Netns::new()?)];
    many_ports(&client)?;
    for (node, netns, ip, id, at) in pods(&west, &east, &client, &server) {
        weft::link(node, netns, ip, id, NODES[at])?;
    }
    for (node, at, other, pod) in [(&west, 0, 1, *SERVER.ip()), (&east, 1, 0, CLIENT)] {
        let (here, there) = (NODES[at], NODES[other]);
        let (mine, theirs) = (tunnel::mac(here.into()), tunnel::mac(there.into()));
        node.ip(&match way {
            Way::Direct => format!("route add {pod}/32 via {there}"),
            Way::Tunnel => format!(
                "link add vx0 address {mine} mtu 1450 type vxlan id 87 dstport 4789 local {here} remote {there} nolearning
link set vx0 up
neigh add {there} lladdr {theirs} dev vx0 nud permanent
route add {pod}/32 via {there} dev vx0 onlink"
            ),
        })?;
    }
    subject([west, east], client, server, vec![])
}

/// A pod of each node: where, in what, its address, its name, and which node's it is.
fn pods<'a>(
    west: &'a Netns,
    east: &'a Netns,
    client: &'a Netns,
    server: &'a Netns,
) -> [(&'a Netns, &'a Netns, Ipv4Addr, &'static str, usize); 2] {
    [
        (west, client, CLIENT, "client", 0),
        (east, server, *SERVER.ip(), "server", 1),
    ]
}

fn nodes() -> Result<[Arc<Netns>; 2]> {
    let [west, east] = [Arc::new(Netns::new()?), Arc::new(Netns::new()?)];
    west.ip(&format!(
        "link add eth0 type veth peer name eth0 netns {}",
        east.path().display()
    ))?;
    for (node, ip) in [(&west, NODES[0]), (&east, NODES[1])] {
        node.sysctl("ipv4/ip_forward", "1")?;
        node.ip(&format!("addr add {ip}/24 dev eth0\nlink set eth0 up"))?;
    }
    Ok([west, east])
}

fn set_routes(node: &Netns, ip: IpAddr, wanted: Routes) -> Result<()> {
    let here = Here {
        mtu: MTU,
        node_ips: vec![ip],
        local_ips: vec![ip],
        ..Here::default()
    };
    let config = Config::new(Encapsulation::Vxlan);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let inside = Namespace::open(&node.path())?;
    let set = inside.run(move |rtnl| async move { routes::reconcile(&rtnl, &config, &here, &wanted).await });
    match runtime.block_on(set)?.0.first() {
        Some(failed) => bail!("{}", failed.why),
        None => Ok(()),
    }
}

fn subject(
    nodes: [Arc<Netns>; 2],
    client: Arc<Netns>,
    server: Arc<Netns>,
    mut kept: Vec<Box<dyn std::any::Any>>,
) -> Result<Subject> {
    let (at_client, at_server) = (client.clone(), server.clone());
    let to = SocketAddr::V4(SERVER);
    let pair = Pair::start(move || at_server.enter(), move || at_client.enter(), to, to)?;
    kept.push(Box::new((nodes, client, server)));
    Ok(Subject { pair, _kept: kept })
}
