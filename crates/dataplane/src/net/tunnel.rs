//! The link through which packets reach nodes on other network segments: one for all of them, because it is the route
//! that says where a packet leaves the tunnel ("lightweight tunnel" in the kernel, `external` in `ip link`).
//!
//! ```text
//! 10.244.4.0/23 encap ip id 87 dst 10.90.0.12 via 10.90.0.12 dev weft-vxlan onlink proto 87
//! 10.90.0.12 dev weft-vxlan lladdr 02:57:0a:5a:00:0c PERMANENT
//! ```
//!
//! VXLAN (RFC 7348) and Geneve (RFC 8926) carry Ethernet frames, and the far end takes only those that are addressed
//! to it. A node's Ethernet address in the tunnel therefore follows from its IP address, see [`mac`]: nothing has to be
//! asked for or told, and any VXLAN device with the right address is a peer. IPIP (RFC 2003, RFC 2473) carries packets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::link::{
    InfoData, InfoGeneve, InfoIpTunnel, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use sha2::{Digest, Sha256};

use super::{Mac, NetError, Rtnl, sysctl};

/// How packets are wrapped between nodes. All nodes of a cluster have to agree on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encapsulation {
    /// Ethernet in UDP; every kernel has it.
    #[default]
    Vxlan,
    /// Ethernet in UDP, extensible.
    Geneve,
    /// IP in IP: the least overhead, but only IPv4 over IPv4, and either over IPv6.
    Ipip,
}

impl fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vxlan => "VXLAN",
            Self::Geneve => "Geneve",
            Self::Ipip => "IPIP",
        })
    }
}

/// The tunnel as the operator wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How packets are wrapped.
    pub encapsulation: Encapsulation,
    /// The UDP port that nodes send to; of no meaning for IPIP.
    pub port: u16,
    /// Number of the virtual network, below 2^24.
    pub vni: u32,
}

/// The number of Weft's virtual network, where nothing else is said: 'W'.
pub const DEFAULT_VNI: u32 = 87;

impl Config {
    /// This encapsulation with the port that is registered for it, and [`DEFAULT_VNI`].
    pub fn new(encapsulation: Encapsulation) -> Self {
        Self {
            encapsulation,
            port: match encapsulation {
                Encapsulation::Vxlan | Encapsulation::Ipip => 4789,
                Encapsulation::Geneve => 6081,
            },
            vni: DEFAULT_VNI,
        }
    }

    /// Bytes that the tunnel to this end adds to a packet.
    pub fn overhead(&self, end: IpAddr) -> u32 {
        let outer = if end.is_ipv4() { 20 } else { 40 };
        match self.encapsulation {
            // UDP, the tunnel's header, the Ethernet header inside.
            Encapsulation::Vxlan | Encapsulation::Geneve => outer + 8 + 8 + 14,
            Encapsulation::Ipip => outer,
        }
    }

    /// Whether the tunnel to this end takes packets to such a range.
    pub(super) fn carries(&self, to: IpNet, end: IpAddr) -> bool {
        self.carries_ethernet() || end.is_ipv6() || to.addr().is_ipv4()
    }

    fn carries_ethernet(&self) -> bool {
        self.encapsulation != Encapsulation::Ipip
    }

    /// The link for tunnels that end at an address of this family.
    fn link(&self, end: IpAddr) -> &'static str {
        match self.encapsulation {
            Encapsulation::Vxlan => "weft-vxlan",
            Encapsulation::Geneve => "weft-geneve",
            Encapsulation::Ipip if end.is_ipv4() => "weft-ipip",
            Encapsulation::Ipip => "weft-ip6ip",
        }
    }

    fn info(&self, end: IpAddr) -> (InfoKind, InfoData) {
        match self.encapsulation {
            Encapsulation::Vxlan => {
                let info = [
                    InfoVxlan::CollectMetadata(true),
                    InfoVxlan::Learning(false),
                    InfoVxlan::Port(self.port),
                    // Weft sends checksums over IPv6; other peers may not.
                    InfoVxlan::UDPZeroCsumRX(true),
                ];
                (InfoKind::Vxlan, InfoData::Vxlan(info.into()))
            }
            Encapsulation::Geneve => {
                let info = [
                    InfoGeneve::CollectMetadata,
                    InfoGeneve::Port(self.port),
                    InfoGeneve::UdpZeroCsum6Rx(true),
                ];
                (InfoKind::Geneve, InfoData::Geneve(info.into()))
            }
            Encapsulation::Ipip => {
                let kind = if end.is_ipv4() {
                    InfoKind::IpIp
                } else {
                    InfoKind::Ip6Tnl
                };
                (kind, InfoData::IpTunnel(vec![InfoIpTunnel::CollectMetadata]))
            }
        }
    }
}

/// Every name that a tunnel's link can have.
const LINKS: [&str; 4] = ["weft-vxlan", "weft-geneve", "weft-ipip", "weft-ip6ip"];

/// Whether a link of this name is our tunnel.
pub fn is_ours(link: &str) -> bool {
    LINKS.contains(&link)
}

/// What the tunnel needs to know about the node that it starts at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// MTU of the uplink.
    pub mtu: u32,
    /// The node's addresses as its Node object has them; peers know the node's end of the tunnel by the first.
    pub node_ips: Vec<IpAddr>,
    /// Those of them that really are on this machine: source of what the node itself sends to pods.
    pub local_ips: Vec<IpAddr>,
    /// Nodes to which the way takes less than the uplink, and how much: see [`Rtnl::narrow_ways`].
    pub narrow: BTreeMap<IpAddr, u32>,
}

/// The tunnel's links, by name.
pub(super) type Links = BTreeMap<&'static str, u32>;

/// The Ethernet address of the node with this address within the tunnel: `02:57` and the four bytes of an IPv4 address;
/// for IPv6, `02:36` and the first four of the SHA-256 of the address's sixteen.
pub fn mac(node: IpAddr) -> Mac {
    let (tag, [a, b, c, d]) = match node {
        IpAddr::V4(ip) => (0x57, ip.octets()),
        IpAddr::V6(ip) => {
            let hash = Sha256::digest(ip.octets());
            (0x36, [hash[0], hash[1], hash[2], hash[3]])
        }
    };
    Mac([0x02, tag, a, b, c, d])
}

/// The gateway under which a range behind the tunnel's end is routed. Where the families differ, and always for IPv6
/// (whose kernel refuses a gateway that it knows another way to), a link-local address made of the end's [`mac`].
pub(super) fn gateway(config: &Config, to: &IpNet, end: IpAddr) -> Option<IpAddr> {
    if !config.carries_ethernet() {
        return None;
    }
    match (to, end) {
        (IpNet::V4(_), IpAddr::V4(_)) => Some(end),
        _ => Some(link_local(end).into()),
    }
}

fn link_local(end: IpAddr) -> Ipv6Addr {
    let Mac([_, tag, a, b, c, d]) = mac(end);
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, tag.into(), pair(a, b), pair(c, d))
}

/// The link that leads to this end.
pub(super) fn link_to(config: &Config, links: &Links, end: IpAddr) -> Option<u32> {
    links.get(config.link(end)).copied()
}

/// Makes the links that these ends need, as they have to be, and removes those that nobody needs. With the link of a
/// tunnel go its routes.
pub(super) async fn ensure(
    rtnl: &Rtnl,
    config: &Config,
    here: &Here,
    ends: &BTreeSet<IpAddr>,
) -> Result<Links, NetError> {
    // Of each link, an end that says what it is like. All ends share one MTU: the one that fits the longest header.
    let wanted: BTreeMap<&str, IpAddr> = ends.iter().map(|end| (config.link(*end), *end)).collect();
    for name in LINKS.into_iter().filter(|name| !wanted.contains_key(name)) {
        rtnl.remove_link(name).await?;
    }
    let overhead = ends.iter().map(|end| config.overhead(*end)).max().unwrap_or_default();
    let mut links = Links::new();
    for (name, end) in wanted {
        links.insert(
            config.link(end),
            ensure_link(rtnl, config, here, name, end, overhead).await?,
        );
    }
    Ok(links)
}

async fn ensure_link(
    rtnl: &Rtnl,
    config: &Config,
    here: &Here,
    name: &str,
    end: IpAddr,
    overhead: u32,
) -> Result<u32, NetError> {
    let mtu = here.mtu.saturating_sub(overhead);
    let mac = here
        .node_ips
        .first()
        .map(|ip| mac(*ip))
        .filter(|_| config.carries_ethernet());
    let (kind, info) = config.info(end);
    let mut there = look(rtnl, name).await?;
    if there.as_ref().is_some_and(|found| !found.is(&kind, &info)) {
        rtnl.remove_link(name).await?;
        there = None;
    }
    if there.is_none() {
        let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind)
            .set_info_data(info)
            .name(name.to_owned());
        let made = rtnl.handle.link().add(message.arp(false).build()).execute().await;
        made.map_err(|error| refused(config, name, error))?;
        there = look(rtnl, name).await?;
    }
    let found = there.ok_or_else(|| NetError::Differs(format!("link {name} vanished while it was set up")))?;
    if found.up && found.mtu == mtu && mac.is_none_or(|mac| found.mac == Some(mac)) {
        return Ok(found.index);
    }
    if !found.up {
        // What the other end sends from its node's address would by rights have come by the uplink: loose (2). The
        // kernel takes the larger of this and the switch for all links.
        sysctl::set(&format!("ipv4/conf/{name}/rp_filter"), "2")?;
        if sysctl::has_ipv6() {
            // Nobody talks to the link's own link-local address.
            sysctl::set(&format!("ipv6/conf/{name}/addr_gen_mode"), "1")?;
        }
    }
    let mut message = LinkMessageBuilder::<LinkUnspec>::default()
        .index(found.index)
        .mtu(mtu)
        .up();
    if let Some(mac) = mac {
        message = message.address(mac.0.to_vec());
    }
    let set = rtnl.handle.link().set(message.build()).execute().await;
    set.map_err(|error| refused(config, name, error))?;
    Ok(found.index)
}

/// What the kernel's refusal of a tunnel means.
fn refused(config: &Config, name: &str, error: rtnetlink::Error) -> NetError {
    let error = NetError::kernel(format!("set up the tunnel's link {name}"))(error);
    let encapsulation = config.encapsulation;
    match error.errno() {
        Some(nix::libc::EOPNOTSUPP) => NetError::NoEncapsulation { encapsulation },
        Some(nix::libc::EADDRINUSE | nix::libc::EEXIST) => NetError::PortTaken {
            encapsulation,
            port: config.port,
        },
        _ => error,
    }
}

/// A tunnel's link as the kernel describes it.
struct Found {
    index: u32,
    up: bool,
    mtu: u32,
    mac: Option<Mac>,
    kind: Option<InfoKind>,
    data: Option<InfoData>,
}

impl Found {
    /// Whether it is of this kind, collects metadata, and listens on the same port.
    fn is(&self, kind: &InfoKind, wanted: &InfoData) -> bool {
        let same = match (wanted, &self.data) {
            (InfoData::Vxlan(wanted), Some(InfoData::Vxlan(found))) => {
                let fixed = |info: &&InfoVxlan| matches!(info, InfoVxlan::CollectMetadata(_) | InfoVxlan::Port(_));
                wanted.iter().filter(fixed).all(|info| found.contains(info))
            }
            (InfoData::Geneve(wanted), Some(InfoData::Geneve(found))) => {
                let fixed = |info: &&InfoGeneve| matches!(info, InfoGeneve::CollectMetadata | InfoGeneve::Port(_));
                wanted.iter().filter(fixed).all(|info| found.contains(info))
            }
            (InfoData::IpTunnel(wanted), Some(InfoData::IpTunnel(found))) => {
                wanted.iter().all(|info| found.contains(info))
            }
            _ => false,
        };
        same && self.kind.as_ref() == Some(kind)
    }
}

async fn look(rtnl: &Rtnl, name: &str) -> Result<Option<Found>, NetError> {
    let found = rtnl.handle.link().get().match_name(name.to_owned()).execute();
    let found: Result<Vec<LinkMessage>, _> = found.try_collect().await;
    match found.map_err(NetError::kernel(format!("look up link {name}"))) {
        Ok(found) => Ok(found.into_iter().next().map(describe)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

fn describe(message: LinkMessage) -> Found {
    let mut found = Found {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        mtu: 0,
        mac: None,
        kind: None,
        data: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => found.mtu = mtu,
            LinkAttribute::Address(bytes) => found.mac = bytes.try_into().ok().map(Mac),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => found.kind = Some(kind),
                        LinkInfo::Data(data) => found.data = Some(data),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// Tells the kernel the Ethernet address of each end.
pub(super) async fn put_neighbours(
    rtnl: &Rtnl,
    config: &Config,
    links: &Links,
    ends: &BTreeSet<IpAddr>,
) -> Result<(), NetError> {
    for (link, ip, mac) in neighbours(config, links, ends) {
        rtnl.put_neighbour(link, ip, mac).await?;
    }
    Ok(())
}

/// The same, of what is not there yet; and removes what no end needs.
pub(super) async fn reconcile_neighbours(
    rtnl: &Rtnl,
    config: &Config,
    links: &Links,
    ends: &BTreeSet<IpAddr>,
) -> Result<(), NetError> {
    if !config.carries_ethernet() {
        return Ok(());
    }
    let wanted = neighbours(config, links, ends);
    let there = rtnl.permanent_neighbours().await?;
    for (link, ip, mac) in wanted.iter().filter(|wanted| !there.contains(wanted)) {
        rtnl.put_neighbour(*link, *ip, *mac).await?;
    }
    for (link, ip, _) in there {
        let ours = links.values().any(|index| *index == link);
        if ours && !wanted.iter().any(|(_, wanted, _)| *wanted == ip) {
            rtnl.remove_neighbour(link, ip).await?;
        }
    }
    Ok(())
}

fn neighbours(config: &Config, links: &Links, ends: &BTreeSet<IpAddr>) -> Vec<(u32, IpAddr, Mac)> {
    if !config.carries_ethernet() {
        return vec![];
    }
    let ipv6 = sysctl::has_ipv6();
    let of = |end: &IpAddr| {
        let own = end.is_ipv4().then_some(*end);
        let other = ipv6.then(|| link_local(*end).into());
        let link = link_to(config, links, *end);
        let mac = mac(*end);
        let ips = own.into_iter().chain(other);
        link.into_iter()
            .flat_map(move |link| ips.clone().map(move |ip| (link, ip, mac)))
            .collect::<Vec<_>>()
    };
    ends.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ethernet_addresses_follow_from_the_nodes() {
        let v4: IpAddr = "10.90.0.12".parse().unwrap();
        assert_eq!(mac(v4).to_string(), "02:57:0a:5a:00:0c");
        assert_eq!(link_local(v4).to_string(), "fe80::57:a5a:c");
        let (one, two): (IpAddr, IpAddr) = ("fd90::12".parse().unwrap(), "fd91::12".parse().unwrap());
        assert_ne!(mac(one), mac(two));
        assert!([v4, one, two].iter().all(|ip| mac(*ip).0[0] & 3 == 2));
    }

    #[test]
    fn headers_are_counted() {
        let (v4, v6) = ("10.90.0.12".parse().unwrap(), "fd90::12".parse().unwrap());
        let overhead = |encapsulation| {
            let config = Config::new(encapsulation);
            (config.overhead(v4), config.overhead(v6))
        };
        assert_eq!(overhead(Encapsulation::Vxlan), (50, 70));
        assert_eq!(overhead(Encapsulation::Geneve), (50, 70));
        assert_eq!(overhead(Encapsulation::Ipip), (20, 40));
    }
}
