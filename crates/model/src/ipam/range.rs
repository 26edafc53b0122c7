//! Addresses of pods out of the node's own ranges: pure bookkeeping. What is taken is persisted elsewhere (with
//! the attachments) and reserved again at the start.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::overlap::Overlap;

/// Why no address can be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// The node has no range yet.
    #[error(
        "node {node} has no pod CIDR; a controller assigns spec.podCIDRs (kube-controller-manager: --allocate-node-cidrs), or set it by hand"
    )]
    NoRange {
        /// Name of the node.
        node: String,
    },
    /// Every address of a range is taken.
    #[error(
        "pod CIDR {cidr} is full: {used} of {capacity} addresses are in use; delete pods on this node or give the node a larger pod CIDR"
    )]
    Exhausted {
        /// The range.
        cidr: IpNet,
        /// Addresses taken.
        used: u64,
        /// Addresses that pods can have.
        capacity: u64,
    },
    /// What a range gives may be somebody else's.
    #[error("{0}: correct one of them; until then no pod gets an address of this node's pod CIDRs")]
    Overlap(Overlap),
    /// An address that was asked for and that another has.
    #[error("address {ip} is in use by {owner}; delete that pod, or ask for another address")]
    Taken {
        /// The address.
        ip: IpAddr,
        /// Who has it.
        owner: String,
    },
    /// An address that was asked for and that no pod can have.
    #[error(
        "address {ip} of pod CIDR {cidr} is the network's own, the first, or the broadcast address, which no pod can have; ask for another"
    )]
    Special {
        /// The address.
        ip: IpAddr,
        /// The range.
        cidr: IpNet,
    },
}

/// How full a range is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The range.
    pub cidr: IpNet,
    /// Addresses taken.
    pub used: u64,
    /// Addresses that pods can have.
    pub capacity: u64,
}

/// The addresses of one node: one of each range for every owner.
///
/// The next address is the one after the last that was given, so that one just freed is not used again while
/// anybody may still remember it. The network's own address, the first one (a gateway to users of the range) and
/// IPv4's broadcast address are never given.
#[derive(Clone, Debug, Default)]
pub struct Ipam {
    node: String,
    ranges: Vec<Range>,
    owners: HashMap<IpAddr, String>,
    refused: Option<Overlap>,
}

#[derive(Clone, Debug)]
struct Range {
    cidr: IpNet,
    /// Offset of the address given last.
    last: u64,
    used: u64,
}

/// Offset of the first address that a pod can have: past the network and the gateway.
const FIRST: u64 = 2;

impl Range {
    /// Offset of the last address that a pod can have; smaller than [`FIRST`] where the range is too small.
    fn end(&self) -> u64 {
        let bits = u32::from(self.cidr.max_prefix_len() - self.cidr.prefix_len()).min(63);
        let size = 1u64 << bits;
        let top = size - 1;
        if self.cidr.addr().is_ipv4() {
            top.saturating_sub(1)
        } else {
            top
        }
    }

    fn capacity(&self) -> u64 {
        (self.end() + 1).saturating_sub(FIRST)
    }

    fn address(&self, offset: u64) -> IpAddr {
        match self.cidr.network() {
            // The prefix bounds the offset: it fits the host part.
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from(u32::from(base).wrapping_add(offset as u32))),
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).wrapping_add(u128::from(offset)))),
        }
    }

    fn offset(&self, ip: IpAddr) -> Option<u64> {
        let offset = match (self.cidr.network(), ip) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => u64::from(u32::from(ip).wrapping_sub(u32::from(base))),
            (IpAddr::V6(base), IpAddr::V6(ip)) => u64::try_from(u128::from(ip).wrapping_sub(u128::from(base))).ok()?,
            _ => return None,
        };
        self.cidr.contains(&ip).then_some(offset)
    }
}

impl Ipam {
    /// Bookkeeping for a node that has no range yet.
    pub fn new(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            ..Self::default()
        }
    }

    /// Sets the node's ranges. What is taken stays taken, in the new ranges and outside of them.
    pub fn set_ranges(&mut self, cidrs: &[IpNet]) {
        let old = std::mem::take(&mut self.ranges);
        for cidr in cidrs.iter().map(IpNet::trunc) {
            let last = old
                .iter()
                .find(|range| range.cidr == cidr)
                .map_or(FIRST - 1, |range| range.last);
            let used = self.owners.keys().filter(|ip| cidr.contains(*ip)).count() as u64;
            self.ranges.push(Range { cidr, last, used });
        }
    }

    /// Says that a range shares addresses with something, or no longer does: until then none is given.
    pub fn refuse(&mut self, overlap: Option<Overlap>) {
        self.refused = overlap;
    }

    /// What a range shares addresses with.
    pub fn refused(&self) -> Option<&Overlap> {
        self.refused.as_ref()
    }

    /// True where pods can be given addresses.
    pub fn has_ranges(&self) -> bool {
        !self.ranges.is_empty()
    }

    /// One address of each range, in the order of the ranges; all of them or none.
    pub fn allocate(&mut self, owner: &str) -> Result<Vec<IpAddr>, IpamError> {
        if self.ranges.is_empty() {
            return Err(IpamError::NoRange {
                node: self.node.clone(),
            });
        }
        if let Some(overlap) = &self.refused {
            return Err(IpamError::Overlap(overlap.clone()));
        }
        let picked = (0..self.ranges.len())
            .map(|index| self.pick(index))
            .collect::<Result<Vec<_>, _>>()?;
        for (range, (offset, ip)) in self.ranges.iter_mut().zip(&picked) {
            range.last = *offset;
            range.used += 1;
            self.owners.insert(*ip, owner.to_owned());
        }
        Ok(picked.into_iter().map(|(_, ip)| ip).collect())
    }

    fn pick(&self, index: usize) -> Result<(u64, IpAddr), IpamError> {
        let range = &self.ranges[index];
        let (capacity, used) = (range.capacity(), range.used);
        // At most `used` offsets are taken, so one more than that many tries find a free one if there is any.
        let tries = (used + 1).min(capacity);
        let next = |offset: u64| {
            if offset >= range.end() || offset < FIRST - 1 {
                FIRST
            } else {
                offset + 1
            }
        };
        let mut offset = range.last;
        for _ in 0..tries {
            offset = next(offset);
            let ip = range.address(offset);
            if !self.owners.contains_key(&ip) {
                return Ok((offset, ip));
            }
        }
        Err(IpamError::Exhausted {
            cidr: range.cidr,
            used,
            capacity,
        })
    }

    /// True where one of the ranges holds this address.
    pub fn covers(&self, ip: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.cidr.contains(&ip))
    }

    /// Takes exactly this address out of the range that holds it.
    pub fn allocate_fixed(&mut self, owner: &str, ip: IpAddr) -> Result<(), IpamError> {
        if let Some(overlap) = &self.refused {
            return Err(IpamError::Overlap(overlap.clone()));
        }
        let holds = |range: &Range| Some((range.cidr, (FIRST..=range.end()).contains(&range.offset(ip)?)));
        match self.ranges.iter().find_map(holds) {
            Some((cidr, false)) => Err(IpamError::Special { ip, cidr }),
            _ => self.reserve(ip, owner).map_err(|owner| IpamError::Taken { ip, owner }),
        }
    }

    /// Who has addresses of a range, in no order.
    pub fn users<'a>(&'a self, cidr: &'a IpNet) -> impl Iterator<Item = &'a str> {
        let of = self.owners.iter().filter(|(ip, _)| cidr.contains(*ip));
        of.map(|(_, owner)| owner.as_str())
    }

    /// Takes an address that its owner had before a restart. The owner of an address that is taken already is
    /// returned, and nothing changes.
    pub fn reserve(&mut self, ip: IpAddr, owner: &str) -> Result<(), String> {
        if let Some(other) = self.owners.get(&ip) {
            return if other == owner { Ok(()) } else { Err(other.clone()) };
        }
        self.owners.insert(ip, owner.to_owned());
        for range in &mut self.ranges {
            if let Some(offset) = range.offset(ip) {
                range.used += 1;
                range.last = offset;
            }
        }
        Ok(())
    }

    /// Gives back everything that this owner has. Returns how many addresses that were.
    pub fn release(&mut self, owner: &str) -> usize {
        let freed: Vec<IpAddr> = self
            .owners
            .iter()
            .filter(|(_, o)| *o == owner)
            .map(|(ip, _)| *ip)
            .collect();
        for ip in &freed {
            self.owners.remove(ip);
            for range in &mut self.ranges {
                range.used -= u64::from(range.cidr.contains(ip));
            }
        }
        freed.len()
    }

    /// How full each range is.
    pub fn usage(&self) -> Vec<Usage> {
        let usage = |range: &Range| Usage {
            cidr: range.cidr,
            used: range.used,
            capacity: range.capacity(),
        };
        self.ranges.iter().map(usage).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    fn ipam(cidrs: &[&str]) -> Ipam {
        let mut ipam = Ipam::new("n1");
        ipam.set_ranges(&cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect::<Vec<_>>());
        ipam
    }

    fn text(ips: &[IpAddr]) -> Vec<String> {
        ips.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn one_address_of_each_family_past_network_and_gateway() {
        let mut ipam = ipam(&["10.244.2.0/23", "fd00:10:244:1::/64"]);
        assert_eq!(text(&ipam.allocate("a").unwrap()), ["10.244.2.2", "fd00:10:244:1::2"]);
        assert_eq!(text(&ipam.allocate("b").unwrap()), ["10.244.2.3", "fd00:10:244:1::3"]);
        assert_eq!(
            ipam.usage()[0],
            Usage {
                cidr: "10.244.2.0/23".parse().unwrap(),
                used: 2,
                capacity: 509
            }
        );
    }

    #[test]
    fn a_freed_address_waits_for_its_turn() {
        let mut ipam = ipam(&["10.0.0.0/29"]);
        for owner in ["a", "b", "c"] {
            ipam.allocate(owner).unwrap();
        }
        ipam.release("b");
        assert_eq!(text(&ipam.allocate("d").unwrap()), ["10.0.0.5"]);
        assert_eq!(text(&ipam.allocate("e").unwrap()), ["10.0.0.6"]);
        assert_eq!(text(&ipam.allocate("f").unwrap()), ["10.0.0.3"]);
    }

    #[test]
    fn exhaustion_says_which_range_and_what_to_do_and_takes_nothing() {
        let mut ipam = ipam(&["fd00::/64", "10.0.0.0/30"]);
        assert_eq!(text(&ipam.allocate("a").unwrap()), ["fd00::2", "10.0.0.2"]);
        let error = ipam.allocate("b").unwrap_err();
        assert_eq!(
            error.to_string(),
            "pod CIDR 10.0.0.0/30 is full: 1 of 1 addresses are in use; delete pods on this node or give the node a larger pod CIDR"
        );
        assert_eq!(ipam.usage()[0].used, 1);
    }

    #[test]
    fn ranges_too_small_for_a_pod_are_full_from_the_start() {
        for cidr in ["10.0.0.0/31", "10.0.0.0/32", "fd00::/127", "fd00::/128"] {
            let mut ipam = ipam(&[cidr]);
            assert!(
                matches!(
                    ipam.allocate("a"),
                    Err(IpamError::Exhausted {
                        used: 0,
                        capacity: 0,
                        ..
                    })
                ),
                "{cidr}"
            );
        }
        assert!(ipam(&["::/0"]).allocate("a").is_ok());
    }

    #[test]
    fn no_range_names_the_node() {
        let error = Ipam::new("node-7").allocate("a").unwrap_err();
        assert!(error.to_string().starts_with("node node-7 has no pod CIDR"));
    }

    #[test]
    fn reserved_addresses_are_taken_whenever_the_range_comes() {
        let mut ipam = Ipam::new("n1");
        let ip = "10.0.0.2".parse().unwrap();
        assert_eq!(ipam.reserve(ip, "a"), Ok(()));
        assert_eq!(ipam.reserve(ip, "a"), Ok(()));
        assert_eq!(ipam.reserve(ip, "b"), Err("a".into()));
        ipam.set_ranges(&["10.0.0.0/30".parse().unwrap()]);
        assert_eq!(ipam.usage()[0].used, 1);
        assert!(ipam.allocate("b").is_err());
        assert_eq!(ipam.release("a"), 1);
        assert!(ipam.allocate("b").is_ok());
    }

    #[test]
    fn a_fixed_address_is_one_that_a_pod_can_have_and_nobody_has() {
        let mut ipam = ipam(&["10.0.0.0/29"]);
        let mut take = |owner: &str, ip: &str| ipam.allocate_fixed(owner, ip.parse().unwrap());
        for special in ["10.0.0.0", "10.0.0.1", "10.0.0.7"] {
            assert!(
                matches!(take("a", special), Err(IpamError::Special { .. })),
                "{special}"
            );
        }
        assert_eq!(take("a", "10.0.0.6"), Ok(()));
        let error = take("b", "10.0.0.6").unwrap_err().to_string();
        assert!(error.starts_with("address 10.0.0.6 is in use by a"), "{error}");
        assert!(ipam.covers("10.0.0.6".parse().unwrap()) && !ipam.covers("10.0.1.6".parse().unwrap()));
        assert_eq!(ipam.users(&"10.0.0.0/29".parse().unwrap()).collect::<Vec<_>>(), ["a"]);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Allocate(u8),
        Release(u8),
        Restart,
    }

    proptest! {
        #[test]
        fn addresses_are_never_shared_and_survive_restarts(
            ops in prop::collection::vec(
                prop_oneof![4 => any::<u8>().prop_map(|n| Op::Allocate(n % 40)), 3 => any::<u8>().prop_map(|n| Op::Release(n % 40)), 1 => Just(Op::Restart)],
                0..200,
            ),
        ) {
            let cidrs = ["10.0.0.0/27", "fd00::/64"];
            let mut ipam = ipam(&cidrs);
            let mut held: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Allocate(n) if !held.contains_key(&n.to_string()) => match ipam.allocate(&n.to_string()) {
                        Ok(ips) => {
                            let taken: HashSet<_> = held.values().flatten().collect();
                            prop_assert!(ips.iter().all(|ip| !taken.contains(ip)));
                            prop_assert!(ips.iter().zip(cidrs).all(|(ip, cidr)| cidr.parse::<IpNet>().unwrap().contains(ip)));
                            prop_assert!(!["10.0.0.0", "10.0.0.1", "10.0.0.31"].contains(&ips[0].to_string().as_str()));
                            held.insert(n.to_string(), ips);
                        }
                        Err(_) => prop_assert_eq!(held.len(), 29),
                    },
                    Op::Allocate(_) => {}
                    Op::Release(n) => {
                        let had = held.remove(&n.to_string()).map_or(0, |ips| ips.len());
                        prop_assert_eq!(ipam.release(&n.to_string()), had);
                    }
                    Op::Restart => {
                        ipam = Ipam::new("n1");
                        for (owner, ips) in &held {
                            for ip in ips {
                                prop_assert_eq!(ipam.reserve(*ip, owner), Ok(()));
                            }
                        }
                        ipam.set_ranges(&cidrs.map(|cidr| cidr.parse().unwrap()));
                    }
                }
                prop_assert_eq!(ipam.usage()[0].used as usize, held.len());
            }
        }
    }
}
