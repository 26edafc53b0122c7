//! What a lab is made of: its name, where its files are, its segments and nodes and their addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::families::Families;

/// The name of a lab that is not named.
pub const DEFAULT_NAME: &str = "lab";
/// So many nodes have addresses of their own on the segment and a pod CIDR each.
pub const MOST_NODES: usize = 100;
/// So many segments have subnets of their own.
pub const MOST_SEGMENTS: usize = 8;
/// The API server's port on the nodes' segment, as every cluster has it.
pub const API_PORT: u16 = 6443;
/// Where a node finds its lab's directory.
pub const LAB_DIR_IN_NODE: &str = "/run/weft-lab";
/// Where a node's daemons find how to reach the API server.
pub const KUBECONFIG_IN_NODE: &str = "/etc/weft/kubeconfig";
/// One lab, by name. Holds no resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lab {
    name: String,
}

impl Lab {
    /// Checks the name.
    pub fn new(name: &str) -> Result<Self, Error> {
        let fits = name.len() <= 20
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && !name.ends_with('-')
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if fits {
            Ok(Self { name: name.to_owned() })
        } else {
            Err(Error::Name(name.to_owned()))
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the labs' directories are.
    pub fn root() -> &'static Path {
        Path::new("/run/weft/lab")
    }

    /// The lab's directory: a tmpfs, so that nothing outlives a reboot.
    pub fn dir(&self) -> PathBuf {
        Self::root().join(&self.name)
    }

    /// Where the lab's supervisor is told to start and stop nodes.
    pub(super) fn supervisor_socket(&self) -> PathBuf {
        self.dir().join("supervisor.sock")
    }

    /// Says which start of a node this is, as the kernel does for a machine.
    pub(super) fn boot_id(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("boot-id")
    }

    /// Held while `up` or `down` is at work. Beside the directory, since that is mounted and unmounted.
    pub fn lock(&self) -> PathBuf {
        Self::root().join(format!("{}.lock", self.name))
    }

    /// The user's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join("kubeconfig")
    }

    /// The API server's unix socket.
    pub fn api_socket(&self) -> PathBuf {
        self.dir().join("api.sock")
    }

    /// The log of a component (`api`, `controller`, `supervisor`), or of one on a node (`agent`, `dns`, `kubelet`).
    pub fn log(&self, component: &str, node: Option<&str>) -> PathBuf {
        let file = node.map_or_else(|| format!("{component}.log"), |node| format!("{component}-{node}.log"));
        self.dir().join("log").join(file)
    }

    /// A node's directory.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.dir().join("nodes").join(node)
    }

    /// The network namespace of the segment that the nodes are on, and of the control plane's address.
    pub fn segment_netns(&self) -> String {
        format!("weft-{}", self.name)
    }

    /// The network namespace beyond the router. A dot is in no lab's name, so it is no other lab's.
    pub fn internet_netns(&self) -> String {
        format!("weft-{}.internet", self.name)
    }

    /// The network namespace of a node.
    pub fn node_netns(&self, node: &str) -> String {
        format!("weft-{}-{node}", self.name)
    }

    fn spec_path(&self) -> PathBuf {
        self.dir().join("lab.json")
    }

    /// The record that `up` left.
    pub fn load(&self) -> Result<Spec, Error> {
        let path = self.spec_path();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotUp {
                    name: self.name.clone(),
                });
            }
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        serde_json::from_slice(&bytes).map_err(|source| Error::Spec { path, source })
    }

    pub(super) fn save(&self, spec: &Spec) -> Result<(), Error> {
        let path = self.spec_path();
        let text = serde_json::to_vec_pretty(spec).map_err(|source| Error::Spec {
            path: path.clone(),
            source,
        })?;
        std::fs::write(&path, text).map_err(Error::io("write", &path))
    }
}

/// The record of a lab, as `up` decided it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The `weft` binary that the lab runs. A rebuilt one takes effect when a component is restarted.
    pub weft: PathBuf,
    /// TCP port of the API server on 127.0.0.1.
    pub api_port: u16,
    /// The families of nodes, pods and Services.
    pub families: Families,
    /// How many segments the nodes are spread over.
    pub segments: u8,
    /// How many zones the nodes are spread over; with none, they are not said to be in any.
    pub zones: u8,
    /// The largest packets.
    pub mtu: Mtu,
    /// Whether nodes get ranges for their pods; without, their addresses come from pools alone.
    pub node_ranges: bool,
    /// What every agent is told besides what it needs.
    pub agent_args: Vec<String>,
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
}

/// The largest packet on a way, in bytes with the IP header; 1500 where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mtu {
    /// Of the nodes' uplinks and what they are plugged into.
    pub uplink: Option<u32>,
    /// Between the router and the internet.
    pub internet: Option<u32>,
}

impl Spec {
    /// The address at which nodes and pods reach the API server: the gateway of the first segment.
    pub fn control_plane(&self) -> IpAddr {
        let [v4, v6] = addresses(0, 0, GATEWAY);
        self.families.primary(v4, v6).addr()
    }

    /// The address of the cluster's DNS Service, as pods know it.
    pub fn cluster_dns(&self) -> IpAddr {
        let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 10);
        self.families.primary(Ipv4Addr::new(10, 96, 0, 10).into(), v6.into())
    }

    /// The addresses of a segment's router, through which its nodes reach everything else.
    pub(super) fn gateways(&self, segment: u8) -> Vec<IpNet> {
        let [v4, v6] = addresses(segment, 0, GATEWAY);
        self.families.pick(v4, v6)
    }

    /// The nth node, counted from 1; neighbours in number are on different segments.
    pub(super) fn nth(&self, number: u8) -> NodeSpec {
        let segment = number.saturating_sub(1) % self.segments.max(1);
        self.moved(number, segment, 0)
    }

    /// The zone of a node, `zone-1` and so on; neighbours in number are in different ones.
    pub(super) fn zone(&self, node: &NodeSpec) -> Option<String> {
        let at = node.number.saturating_sub(1).checked_rem(self.zones)?;
        Some(format!("zone-{}", u16::from(at) + 1))
    }

    /// The first node that there is not yet; none where all there can be are there.
    pub(super) fn another(&self) -> Option<NodeSpec> {
        let most = u8::try_from(MOST_NODES).unwrap_or(u8::MAX);
        let free = |number: &u8| self.nodes.iter().all(|node| node.number != *number);
        (1..=most).find(free).map(|number| self.nth(number))
    }

    /// A node as it is after so many changes of its addresses.
    pub(super) fn moved(&self, number: u8, segment: u8, moves: u8) -> NodeSpec {
        let [v4, v6] = addresses(segment, moves, FIRST_NODE + number);
        NodeSpec {
            name: format!("node-{number}"),
            number,
            segment,
            moves,
            addresses: self.families.pick(v4, v6),
        }
    }

    /// The node of that name.
    pub(super) fn node(&self, lab: &Lab, name: &str) -> Result<&NodeSpec, Error> {
        let found = self.nodes.iter().find(|node| node.name == name);
        found.ok_or_else(|| Error::NoNode {
            lab: lab.name().to_owned(),
            node: name.to_owned(),
            nodes: self.nodes.iter().map(|node| &*node.name).collect::<Vec<_>>().join(", "),
        })
    }
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// `node-1` and so on.
    pub name: String,
    /// The number in its name.
    pub number: u8,
    /// How often its addresses have been changed.
    pub moves: u8,
    /// The segment it is on, counted from 0.
    pub segment: u8,
    /// Its addresses there with the segment's prefix lengths, one of each family, the primary one first.
    pub addresses: Vec<IpNet>,
}

impl NodeSpec {
    /// Its addresses, the primary one first.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.addresses.iter().map(IpNet::addr).collect()
    }

    /// The Ethernet address of its uplink: a machine that is started again has the same network card, and its
    /// neighbours need not find out where it is.
    pub(super) fn mac(&self) -> [u8; 6] {
        [0x02, 0x57, 0x65, 0x66, 0x74, self.number]
    }
}

/// The last part of a gateway's addresses.
const GATEWAY: u8 = 1;
/// Nodes are counted from here.
const FIRST_NODE: u8 = 10;

/// Addresses on a segment, with its prefix lengths: 10.89.0.0/16 and fd89::/64 on the first one.
fn addresses(segment: u8, middle: u8, last: u8) -> [IpNet; 2] {
    let v4 = Ipv4Addr::new(10, 89 + segment, middle, last);
    let v6 = Ipv6Addr::new(0xfd89, 0, 0, segment.into(), 0, 0, middle.into(), last.into());
    [IpNet::new_assert(v4.into(), 16), IpNet::new_assert(v6.into(), 64)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_do() {
        for name in ["lab", "a", "ci-1", "a2345678901234567890"] {
            assert!(Lab::new(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "1a", "A", "a_b", "a/b", "..", "a23456789012345678901"] {
            assert!(Lab::new(name).is_err(), "{name}");
        }
    }

    fn spec(families: Families, segments: u8) -> Spec {
        Spec {
            weft: "weft".into(),
            api_port: 1,
            families,
            segments,
            zones: 2,
            mtu: Mtu::default(),
            node_ranges: true,
            agent_args: vec![],
            nodes: vec![],
        }
    }

    #[test]
    fn nodes_have_addresses_of_their_own() {
        let spec = spec(Families::Dual, 1);
        let last = spec.nth(MOST_NODES as u8);
        let expected: [IpNet; 2] = ["10.89.0.110/16".parse().unwrap(), "fd89::6e/64".parse().unwrap()];
        assert_eq!(last.addresses, expected);
        assert_ne!(spec.nth(1).addresses, last.addresses);
        let moved = spec.moved(last.number, last.segment, 1);
        let expected: [IpNet; 2] = ["10.89.1.110/16".parse().unwrap(), "fd89::1:6e/64".parse().unwrap()];
        assert_eq!(moved.addresses, expected);
    }

    #[test]
    fn zones_are_filled_in_turn() {
        let mut spec = spec(Families::Dual, 1);
        let zone = |spec: &Spec, number| spec.zone(&spec.nth(number));
        assert_eq!(
            [1, 2, 3].map(|n| zone(&spec, n).unwrap()),
            ["zone-1", "zone-2", "zone-1"]
        );
        spec.zones = 0;
        assert_eq!(zone(&spec, 1), None);
    }

    #[test]
    fn another_node_takes_the_first_place_that_is_free() {
        let mut spec = spec(Families::Dual, 2);
        spec.nodes = [1, 2, 3].map(|number| spec.nth(number)).to_vec();
        assert_eq!(spec.another().unwrap().name, "node-4");
        spec.nodes.remove(1);
        assert_eq!(spec.another().unwrap(), spec.nth(2));
        spec.nodes = (1..=MOST_NODES as u8).map(|number| spec.nth(number)).collect();
        assert_eq!(spec.another(), None);
    }

    #[test]
    fn a_node_shares_a_subnet_with_its_gateway_and_with_no_other_segment() {
        for families in [Families::Dual, Families::Ipv4, Families::Ipv6] {
            let spec = spec(families, MOST_SEGMENTS as u8);
            for number in 1..=MOST_SEGMENTS as u8 {
                let node = spec.nth(number);
                for segment in 0..spec.segments {
                    let shared = node.addresses.iter().zip(spec.gateways(segment));
                    let same = segment == node.segment;
                    assert!(
                        shared
                            .into_iter()
                            .all(|(own, gateway)| own.contains(&gateway.addr()) == same)
                    );
                }
            }
        }
    }
}
