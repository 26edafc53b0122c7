//! What the walk has to know of its node: its own addresses, who is inside of the cluster, and with which address and
//! ports translated packets leave.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use aya::Ebpf;
use aya::maps::{Array, MapData, MapError};
use ipnet::IpNet;
use weft_packet::layout::{LOOPBACK_ADDRESS, NODE_ADDRESS, name};
use weft_packet::{Addr, Config};

use super::range::{Ranges, prefix};
use super::table::{Raw, Table};
use super::{Error, Result, Usage, sys};

/// This node, as the walk has to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// Every address by which others may reach the node: there its node ports are.
    pub addresses: BTreeSet<IpAddr>,
    /// The address that masqueraded packets come from, where the node has one of that family.
    pub v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub v6: Option<Ipv6Addr>,
    /// Interface index of the tunnel to other nodes, where there is one.
    pub tunnel: Option<u32>,
    /// Interface indexes of the links by which the node is reached, the tunnel among them.
    pub links: BTreeSet<u32>,
}

/// The kernel's usual one, where it does not say (net.ipv4.ip_local_port_range).
const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;
/// `--service-node-port-range` of the API server, as everybody leaves it.
const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;
/// Servers that every system has are below.
const FIRST_PORT: u16 = 10000;

pub(super) struct NodeMaps {
    config: Array<MapData, Raw<Config>>,
    addresses: Table<Addr, u32>,
    inside: Ranges,
    services: Ranges,
}

impl NodeMaps {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self> {
        let map = ebpf
            .take_map(name::CONFIG)
            .ok_or(Error::Incomplete { name: name::CONFIG })?;
        Ok(Self {
            config: Array::try_from(map).map_err(failed("open"))?,
            addresses: Table::take(ebpf, name::NODE_ADDRESSES)?,
            inside: Ranges::take(ebpf, name::INSIDE)?,
            services: Ranges::take(ebpf, name::SERVICE_RANGES)?,
        })
    }

    /// Where Services' addresses are taken from, and where the cluster's pods are.
    pub(super) fn set_ranges(&mut self, services: &[IpNet], pods: &[IpNet]) -> Result<()> {
        let prefixes = |nets: &[IpNet]| nets.iter().map(|net| prefix(0, net)).collect();
        self.inside.set(0, &prefixes(pods))?;
        self.services.set(0, &prefixes(services))
    }

    /// Makes the maps say who this node is; writes what differs.
    pub(super) fn set(&mut self, here: &Here) -> Result<()> {
        let ports = free_ports(&ephemeral_ports());
        let config = Config {
            netns: sys::netns_cookie().map_err(|e| failed("fill in")(e.into()))?,
            v4: here.v4.map_or(Addr::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), |ip| {
                Addr::from(IpAddr::V4(ip))
            }),
            v6: Addr::from(IpAddr::V6(here.v6.unwrap_or(Ipv6Addr::UNSPECIFIED))),
            tunnel: here.tunnel.unwrap_or_default(),
            first_port: *ports.start(),
            ports: ports.end() - ports.start() + 1,
        };
        if self.config.get(&0, 0).map_err(failed("read"))?.0 != config {
            self.config.set(0, Raw(config), 0).map_err(failed("write to"))?;
        }
        let own = here.addresses.iter().map(|ip| (Addr::from(*ip), NODE_ADDRESS));
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let loopback = loopback.map(|ip| (Addr::from(ip), LOOPBACK_ADDRESS));
        let wanted: BTreeSet<(Addr, u32)> = own.chain(loopback).collect();
        let known: BTreeSet<(Addr, u32)> = self.addresses.entries()?.into_iter().collect();
        for (addr, kind) in wanted.difference(&known) {
            self.addresses.insert(*addr, *kind)?;
        }
        let is_wanted = |addr: &Addr| wanted.iter().any(|(wanted, _)| wanted == addr);
        let mut gone = known.iter().map(|(addr, _)| *addr).filter(|addr| !is_wanted(addr));
        gone.try_for_each(|addr| self.addresses.remove(addr))
    }

    /// How full the maps are that a cluster's size fills.
    pub(super) fn usage(&self) -> [Usage; 2] {
        [self.inside.usage(), self.services.usage()]
    }
}

fn failed(action: &'static str) -> impl Fn(MapError) -> Error {
    Error::map(name::CONFIG, action)
}

/// The ports that the kernel gives to sockets which ask for none in particular.
fn ephemeral_ports() -> RangeInclusive<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) if first <= last => first..=last,
        _ => EPHEMERAL,
    }
}

/// Ports that neither the kernel gives to anybody nor a Service has: the most that lie together.
fn free_ports(ephemeral: &RangeInclusive<u16>) -> RangeInclusive<u16> {
    let mut taken = [ephemeral.clone(), NODE_PORTS];
    taken.sort_by_key(|range| *range.start());
    let (mut next, mut best) = (u32::from(FIRST_PORT), 0..0);
    for (first, last) in taken
        .map(|range| (u32::from(*range.start()), u32::from(*range.end())))
        .into_iter()
        .chain([(1 << 16, 1 << 16)])
    {
        if first.saturating_sub(next) > best.end - best.start {
            best = next..first;
        }
        next = next.max(last + 1);
    }
    match best.is_empty() {
        // The kernel gives away everything: a port that is taken twice for one peer is then the flow's that came first.
        true => FIRST_PORT..=*NODE_PORTS.start() - 1,
        false => best.start as u16..=(best.end - 1) as u16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translated_packets_have_ports_that_are_nobodys() {
        assert_eq!(free_ports(&EPHEMERAL), 10000..=29999);
        assert_eq!(free_ports(&(15000..=30999)), 32768..=65535);
        assert_eq!(free_ports(&(1024..=60999)), 61000..=65535);
        assert_eq!(free_ports(&(1024..=65535)), 10000..=29999);
    }
}
