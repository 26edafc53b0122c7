//! A pod's link: a veth pair between its namespace and the node's, routed and not bridged.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{In6AddrGenMode, LinkAttribute};
use netlink_packet_route::route::RouteType;
use serde::{Deserialize, Serialize};
use weft_model::cni::Bandwidth;

use super::batch::{Connection, Request};
use super::limit::Limit;
use super::route::{self, Route};
use super::rtnl::{self, Link, Rtnl};
use super::{Namespace, NetError, default_of, gateway_for, removal, request, sysctl};
use crate::aside;

/// How long the kernel may take to put an address to use, and how long to wait between looks.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_micros(50);
/// Routing tables in a pod, for its interfaces besides the first, are this and the interface's index.
const FIRST_TABLE: u32 = 1000;

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
    /// Limits of what the pod sends and receives.
    #[serde(default)]
    pub limits: Bandwidth,
}

impl PodLink {
    fn has_ipv6(&self) -> bool {
        self.ips.iter().any(IpAddr::is_ipv6)
    }
}

/// Connects the pod, and waits until its addresses are in use. On failure nothing of it is left. Returns the index of
/// the host side.
pub async fn set_up(pod: &PodLink) -> Result<u32, NetError> {
    let connected = connect(pod).await?;
    let index = connected.index;
    let ready = connected.ready().await;
    ready.map(|()| index).inspect_err(|_| undo(pod))
}

/// A pod whose link is there, with everything about it, but whose IPv6 address the kernel may not have put to use yet:
/// a worker of its does a moment after the address was added. Time for something else.
pub struct Connected {
    /// Index of the host side.
    pub index: u32,
    ips: Vec<IpAddr>,
    inside: Connection,
}

impl Connected {
    /// A pod is ready when its network is: waits until the kernel has put its addresses to use.
    pub async fn ready(mut self) -> Result<(), NetError> {
        blocking(move || wait_until_taken(&mut self.inside, &self.ips)).await
    }
}

/// Makes the pod's link. On failure nothing of it is left.
pub async fn connect(pod: &PodLink) -> Result<Connected, NetError> {
    let pod = pod.clone();
    blocking(move || build(&pod)).await
}

fn build(pod: &PodLink) -> Result<Connected, NetError> {
    let netns = Namespace::open(&pod.netns)?;
    if netns.is_here()? {
        return Err(NetError::OwnNamespace {
            path: pod.netns.clone(),
        });
    }
    let mut node = Connection::open()?;
    let pair = match make(&mut node, &netns, pod) {
        Err(error) if error.errno() == Some(nix::libc::EEXIST) => {
            // One of the two names is taken: the pod's, which is not ours to touch, or the host side's, which an
            // interrupted ADD of the same container has left.
            refuse_if_taken(&netns, pod)?;
            removal::remove(&pod.host_ifname)?;
            make(&mut node, &netns, pod)?
        }
        made => made?,
    };
    let built = netns
        .enter(|| build_inside(pod, pair.inside))
        .and_then(|inside| build_here(&mut node, pod, pair.here).map(|()| inside));
    let inside = built.inspect_err(|_| undo(pod))?;
    Ok(Connected {
        index: pair.here,
        ips: pod.ips.clone(),
        inside,
    })
}

fn undo(pod: &PodLink) {
    if let Err(undo) = removal::remove(&pod.host_ifname) {
        tracing::warn!(link = pod.host_ifname, "cannot undo a failed setup: {undo}");
    }
}

fn refuse_if_taken(netns: &Namespace, pod: &PodLink) -> Result<(), NetError> {
    let found = netns.enter(|| Connection::open()?.serve(vec![request::look_up(&pod.ifname)]));
    match found {
        Ok(_) => Err(NetError::InterfaceExists {
            ifname: pod.ifname.clone(),
            netns: pod.netns.clone(),
        }),
        Err(error) if error.is_missing() => Ok(()),
        Err(error) => Err(error),
    }
}

/// The indexes of both ends, each in its namespace.
struct Pair {
    here: u32,
    inside: u32,
}

fn make(node: &mut Connection, netns: &Namespace, pod: &PodLink) -> Result<Pair, NetError> {
    let here = request::End {
        name: &pod.host_ifname,
        mac: pod.host_mac,
    };
    let there = request::End {
        name: &pod.ifname,
        mac: pod.mac,
    };
    let answers = node.serve(vec![
        request::veth(&here, &there, netns.raw_fd(), pod.mtu),
        request::look_up(&pod.host_ifname),
    ])?;
    pair_in(&answers).ok_or_else(|| vanished(&pod.host_ifname))
}

fn build_here(node: &mut Connection, pod: &PodLink, index: u32) -> Result<(), NetError> {
    let mut requests = vec![];
    if sysctl::has_ipv6() {
        // Nobody talks to the host side's own link-local address.
        requests.push(request::link_local(&pod.host_ifname, In6AddrGenMode::None));
    }
    requests.push(request::up(&pod.host_ifname));
    requests.extend(Limit::into_pod(&pod.limits, pod.mtu).map(|limit| limit.request(index)));
    requests.extend(pod.ips.iter().flat_map(|ip| ways(pod, *ip, index)));
    node.serve(requests).map(drop)
}

/// The node's own way to one of the pod's addresses.
fn ways(pod: &PodLink, ip: IpAddr, index: u32) -> [Request; 2] {
    [
        request::neighbour(index, ip, pod.mac),
        request::route(&host_route(pod, ip, index)),
    ]
}

fn host_route(pod: &PodLink, ip: IpAddr, index: u32) -> Route {
    let source = pod.node_ips.iter().find(|node| node.is_ipv4() == ip.is_ipv4()).copied();
    Route {
        link: Some(index),
        source,
        ..Route::ours(IpNet::from(ip))
    }
}

/// What the pod has of its own. Gives the connection to its namespace.
fn build_inside(pod: &PodLink, index: u32) -> Result<Connection, NetError> {
    let mut inside = Connection::open()?;
    let mut requests = vec![request::up("lo")];
    if pod.has_ipv6() {
        let switch = |name: &str| format!("ipv6/conf/{}/{name}", pod.ifname);
        sysctl::set(&switch("disable_ipv6"), "0")?;
        sysctl::write(&switch("accept_dad"), "0")?;
        sysctl::write(&switch("accept_ra"), "0")?;
        // The only link-local address that the datapath takes for the pod's own.
        requests.push(request::link_local(&pod.ifname, In6AddrGenMode::Eui64));
    }
    requests.push(request::up(&pod.ifname));
    requests.extend(Limit::out_of_pod(&pod.limits, pod.mtu).map(|limit| limit.request(index)));
    requests.extend(pod.ips.iter().map(|ip| request::own_address(index, *ip)));
    for ip in &pod.ips {
        requests.push(request::neighbour(index, gateway_for(*ip), pod.host_mac));
    }
    inside.serve(requests)?;
    for ip in &pod.ips {
        lead_out(&mut inside, *ip, index)?;
    }
    Ok(inside)
}

/// The way out of the pod. Where another interface has it already, it stays there, and only what comes from this
/// interface's address leaves by this one: the node takes it from nowhere else.
fn lead_out(inside: &mut Connection, ip: IpAddr, index: u32) -> Result<(), NetError> {
    let route = default_route(ip, index);
    match inside.serve(vec![request::first_route(&route)]).map(drop) {
        Err(error) if error.errno() == Some(nix::libc::EEXIST) => {
            let table = FIRST_TABLE + index;
            let requests = vec![request::route_in(table, &route), request::rule(ip, table)];
            inside.serve(requests).map(drop)
        }
        result => result,
    }
}

fn wait_until_taken(inside: &mut Connection, ips: &[IpAddr]) -> Result<(), NetError> {
    for ip in ips.iter().filter(|ip| ip.is_ipv6()) {
        let start = Instant::now();
        while !is_local(&inside.serve(vec![request::way_to(*ip)])?) {
            if start.elapsed() > PATIENCE {
                let message = format!("the kernel has not put {ip} to use in time; the node is overloaded, try again");
                return Err(NetError::Differs(message));
            }
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

fn is_local(answers: &[RouteNetlinkMessage]) -> bool {
    let local = |answer: &RouteNetlinkMessage| matches!(answer, RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Local);
    answers.iter().any(local)
}

fn pair_in(answers: &[RouteNetlinkMessage]) -> Option<Pair> {
    answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => {
            let here = link.header.index;
            let peer = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Link(index) => Some(*index),
                _ => None,
            });
            // Not said where it is the same number.
            let inside = peer.unwrap_or(here);
            Some(Pair { here, inside })
        }
        _ => None,
    })
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

/// Gives a pod's link another MTU, on both sides; its own side's only where nobody else has changed that.
pub async fn set_mtu(pod: &PodLink, mtu: u32) -> Result<(), NetError> {
    let pod = pod.clone();
    blocking(move || {
        Connection::open()?.serve(vec![request::mtu(&pod.host_ifname, mtu)])?;
        Namespace::open(&pod.netns)?.enter(|| {
            let mut inside = Connection::open()?;
            match look_up(&mut inside, &pod.ifname)? {
                Some(link) if link.mtu == pod.mtu => inside.serve(vec![request::mtu(&pod.ifname, mtu)]).map(drop),
                _ => Ok(()),
            }
        })
    })
    .await
}

/// Disconnects a pod by removing the host side: the pod's side, routes and neighbours go with it.
/// Gives the host side's index; `None` where there was nothing to do.
pub async fn tear_down(host_ifname: &str) -> Result<Option<u32>, NetError> {
    let host_ifname = host_ifname.to_owned();
    blocking(move || removal::remove(&host_ifname)).await
}

/// Gives the node its routes to these pods back, and their Ethernet addresses, where somebody removed them or where they
/// have another source than the node's addresses now, by the kernel's `routes`. A pod whose link has gone is none of this
/// one's business. Returns whose were put right.
pub async fn restore(
    rtnl: &Rtnl,
    routes: &[Route],
    pods: Vec<PodLink>,
    node_ips: &[IpAddr],
) -> Result<Vec<IpAddr>, NetError> {
    let ours = routes.iter().filter(|route| route.ours);
    let there: HashMap<IpNet, &Route> = ours.map(|route| (route.to, route)).collect();
    let neighbours: HashSet<(u32, IpAddr, Mac)> = rtnl.permanent_neighbours().await?.into_iter().collect();
    let mut restored = vec![];
    for pod in pods {
        let pod = PodLink {
            node_ips: node_ips.to_vec(),
            ..pod
        };
        let right = |ip: &&IpAddr| {
            let found = there.get(&IpNet::from(**ip));
            found.is_some_and(|route| {
                let known = route
                    .link
                    .is_some_and(|link| neighbours.contains(&(link, **ip, pod.mac)));
                known && route.source == host_route(&pod, **ip, 0).source
            })
        };
        let wrong: Vec<IpAddr> = pod.ips.iter().filter(|ip| !right(ip)).copied().collect();
        if !wrong.is_empty() {
            restored.extend(blocking(move || reconnect(&pod, wrong)).await?);
        }
    }
    Ok(restored)
}

fn reconnect(pod: &PodLink, ips: Vec<IpAddr>) -> Result<Vec<IpAddr>, NetError> {
    let mut node = Connection::open()?;
    let Some(host) = look_up(&mut node, &pod.host_ifname)? else {
        return Ok(vec![]);
    };
    match node.serve(ips.iter().flat_map(|ip| ways(pod, *ip, host.index)).collect()) {
        Ok(_) => Ok(ips),
        // It goes in this moment, or is down.
        Err(error) if error.is_missing() || error.errno() == Some(nix::libc::ENETDOWN) => Ok(vec![]),
        Err(error) => Err(error),
    }
}

/// Compares what is there with what was set up, on both sides. Gives the index of the host side.
pub async fn check(pod: &PodLink) -> Result<u32, NetError> {
    let pod = pod.clone();
    blocking(move || compare(&pod)).await
}

fn compare(pod: &PodLink) -> Result<u32, NetError> {
    let mut node = Connection::open()?;
    let host = look_up(&mut node, &pod.host_ifname)?
        .ok_or_else(|| NetError::Differs(format!("the host side {} is missing", pod.host_ifname)))?;
    same_link(&host, &pod.host_ifname, pod.host_mac)?;
    for ip in &pod.ips {
        let routes = routes_in(&answers_to(&mut node, request::route_to(*ip))?);
        if !routes
            .iter()
            .any(|route| route.to == IpNet::from(*ip) && route.link == Some(host.index))
        {
            let message = format!("the node has no route to {ip} over {}", pod.host_ifname);
            return Err(NetError::Differs(message));
        }
    }
    same_limit(&mut node, host.index, Limit::into_pod(&pod.limits, pod.mtu), "receives")?;
    Namespace::open(&pod.netns)?.enter(|| compare_inside(pod))?;
    Ok(host.index)
}

fn compare_inside(pod: &PodLink) -> Result<(), NetError> {
    let mut inside = Connection::open()?;
    let link = look_up(&mut inside, &pod.ifname)?
        .ok_or_else(|| NetError::Differs(format!("interface {} is missing in the pod", pod.ifname)))?;
    same_link(&link, &pod.ifname, pod.mac)?;
    for ip in &pod.ips {
        if !is_local(&answers_to(&mut inside, request::way_to(*ip))?) {
            return Err(NetError::Differs(format!(
                "interface {} has lost its address {ip}",
                pod.ifname
            )));
        }
        let wanted = default_route(*ip, link.index);
        let routes = routes_in(&answers_to(&mut inside, request::routes(*ip))?);
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
    same_limit(
        &mut inside,
        link.index,
        Limit::out_of_pod(&pod.limits, pod.mtu),
        "sends",
    )
}

fn same_limit(at: &mut Connection, index: u32, wanted: Option<Limit>, what: &str) -> Result<(), NetError> {
    let Some(wanted) = wanted else { return Ok(()) };
    let answers = answers_to(at, Limit::look_up(index))?;
    let is = |answer: &RouteNetlinkMessage| matches!(answer, RouteNetlinkMessage::NewQueueDiscipline(queue) if wanted.is(queue));
    match answers.iter().any(is) {
        true => Ok(()),
        false => Err(NetError::Differs(format!(
            "the queue that limits what the pod {what} is not as it was set up"
        ))),
    }
}

/// What the kernel answers; nothing where what was asked for is not there.
fn answers_to(connection: &mut Connection, request: Request) -> Result<Vec<RouteNetlinkMessage>, NetError> {
    match connection.serve(vec![request]) {
        Err(error) if error.is_missing() || error.errno() == Some(nix::libc::ENETUNREACH) => Ok(vec![]),
        answers => answers,
    }
}

fn look_up(connection: &mut Connection, name: &str) -> Result<Option<Link>, NetError> {
    let answers = answers_to(connection, request::look_up(name))?;
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(rtnl::parse_link(link)),
        _ => None,
    }))
}

fn routes_in(answers: &[RouteNetlinkMessage]) -> Vec<Route> {
    let route = |answer: &RouteNetlinkMessage| match answer {
        RouteNetlinkMessage::NewRoute(message) => route::parse(message),
        _ => None,
    };
    answers.iter().filter_map(route).collect()
}

/// Off the threads that run everything else: the kernel may keep it waiting for its lock.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    let done = aside::blocking(work).await;
    done.map_err(|error| NetError::Netlink(error.to_string()))?
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
