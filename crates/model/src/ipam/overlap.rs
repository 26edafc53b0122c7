//! Whether the local node's own ranges share addresses with anybody else's: pods in such a range would be given
//! what somebody has. Judged for one object at a time, so that a change costs what has changed.
//!
//! Of two nodes with the same range the first by name gives its addresses, as it is the one that every node has a
//! route to (`compile::routes`).

use std::fmt;

use ipnet::IpNet;

use super::pool::overlap;
use crate::{Dirty, Node, State};

/// A range of the local node that shares addresses with something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The range.
    pub cidr: IpNet,
    /// What it shares addresses with, and whose that is.
    pub with: String,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod CIDR {} of this node overlaps {}", self.cidr, self.with)
    }
}

/// What the local node's ranges share with the object of this key, if anything.
pub fn with(state: &State, key: &Dirty) -> Option<Overlap> {
    let own = state.local()?;
    match key {
        Dirty::Node(name) if *name == own.name => among_own(own).or_else(|| with_addresses(own, own)),
        Dirty::Node(name) => {
            let other = state.node(name)?;
            let stronger = other.pod_cidrs.iter().filter(|_| *name < own.name).copied();
            let found = first(own, stronger, |cidr| {
                format!("pod CIDR {cidr} of node {name}, which comes first by name and keeps it")
            });
            found.or_else(|| with_addresses(own, other))
        }
        Dirty::NodeAddresses(name) if *name < own.name => first(own, state.node_addresses(name)?.blocks(), |cidr| {
            format!("block {cidr} of node {name}, which comes first by name and keeps it")
        }),
        Dirty::Service(key) => {
            let ips = state.service(key)?.cluster_ips.iter().map(|ip| IpNet::from(*ip));
            first(own, ips, |ip| format!("address {} of Service {key}", ip.addr()))
        }
        Dirty::ServiceCidr(name) => {
            let cidrs = state.service_cidr(name)?.cidrs.iter().copied();
            first(own, cidrs, |cidr| format!("{cidr} of ServiceCIDR {name}"))
        }
        Dirty::Pod(_) | Dirty::Pool(_) | Dirty::NodeAddresses(_) | Dirty::Synced => None,
    }
}

/// Every object with which the local node's ranges could share addresses.
pub fn candidates(state: &State) -> Vec<Dirty> {
    let nodes = state
        .nodes()
        .flat_map(|node| [Dirty::Node(node.name.clone()), Dirty::NodeAddresses(node.name.clone())]);
    let services = state.services().map(|service| Dirty::Service(service.key.clone()));
    let cidrs = state.service_cidrs().map(|cidr| Dirty::ServiceCidr(cidr.name.clone()));
    nodes.chain(services).chain(cidrs).collect()
}

/// The first of these networks that one of the node's ranges shares addresses with, in the words for it.
fn first(own: &Node, others: impl Iterator<Item = IpNet>, said: impl Fn(IpNet) -> String) -> Option<Overlap> {
    let mut pairs = others.flat_map(|other| own.pod_cidrs.iter().map(move |cidr| (*cidr, other)));
    let (cidr, other) = pairs.find(|(cidr, other)| overlap(cidr, other))?;
    Some(Overlap {
        cidr,
        with: said(other),
    })
}

fn with_addresses(own: &Node, other: &Node) -> Option<Overlap> {
    let ips = other.internal_ips.iter().map(|ip| IpNet::from(*ip));
    first(own, ips, |ip| format!("address {} of node {}", ip.addr(), other.name))
}

fn among_own(own: &Node) -> Option<Overlap> {
    let pairs = own.pod_cidrs.iter().enumerate();
    let mut pairs = pairs.flat_map(|(index, cidr)| own.pod_cidrs[index + 1..].iter().map(move |other| (cidr, other)));
    let found = pairs.find(|(cidr, other)| overlap(cidr, other));
    found.map(|(cidr, other)| Overlap {
        cidr: *cidr,
        with: format!("its pod CIDR {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::spec::{NodeAddresses, NodeAddressesSpec, PoolBlocks};
    use super::*;
    use crate::service::ServiceCidr;
    use crate::testing::service;
    use crate::{Change, ObjectKey};

    fn node(name: &str, ip: &str, cidrs: &[&str]) -> Node {
        Node {
            internal_ips: vec![ip.parse().unwrap()],
            pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            ..crate::testing::node(name)
        }
    }

    fn said(own: &[&str], other: Change, key: &Dirty) -> String {
        let mut state = State::new("n2");
        state.apply(Change::Node(node("n2", "10.89.0.1", own)));
        state.apply(other);
        with(&state, key).map_or_else(String::new, |overlap| overlap.to_string())
    }

    fn blocks(node: &str) -> Change {
        let spec = NodeAddressesSpec {
            allocated: vec![PoolBlocks {
                pool: "blue".into(),
                cidrs: vec!["10.0.1.16/28".parse().unwrap()],
            }],
            ..NodeAddressesSpec::default()
        };
        Change::NodeAddresses(NodeAddresses {
            node: node.into(),
            version: 1,
            spec,
            ..NodeAddresses::default()
        })
    }

    #[test]
    fn both_sides_are_named() {
        let n1 = |cidr: &str| Change::Node(node("n1", "10.89.0.2", &[cidr]));
        let key = Dirty::Node("n1".into());
        let n3 = Change::Node(node("n3", "10.89.0.3", &["10.0.1.0/24"]));
        for (own, other, key, expected) in [
            ("10.0.0.0/24", n1("10.0.1.0/24"), &key, ""),
            (
                "10.0.0.0/23",
                n1("10.0.1.0/24"),
                &key,
                "pod CIDR 10.0.0.0/23 of this node overlaps pod CIDR 10.0.1.0/24 of node n1, which comes first by name and keeps it",
            ),
            ("10.0.0.0/23", n3, &Dirty::Node("n3".into()), ""),
            (
                "10.89.0.0/24",
                n1("10.0.1.0/24"),
                &key,
                "pod CIDR 10.89.0.0/24 of this node overlaps address 10.89.0.2 of node n1",
            ),
            (
                "10.89.0.0/24",
                Change::Synced,
                &Dirty::Node("n2".into()),
                "pod CIDR 10.89.0.0/24 of this node overlaps address 10.89.0.1 of node n2",
            ),
            (
                "10.0.0.0/23",
                blocks("n1"),
                &Dirty::NodeAddresses("n1".into()),
                "pod CIDR 10.0.0.0/23 of this node overlaps block 10.0.1.16/28 of node n1, which comes first by name and keeps it",
            ),
            ("10.0.0.0/23", blocks("n3"), &Dirty::NodeAddresses("n3".into()), ""),
            (
                "10.96.0.0/16",
                Change::Service(service("web", "10.96.0.7")),
                &Dirty::Service(ObjectKey::new("default", "web")),
                "pod CIDR 10.96.0.0/16 of this node overlaps address 10.96.0.7 of Service default/web",
            ),
            (
                "10.96.3.0/24",
                Change::ServiceCidr(ServiceCidr {
                    name: "kubernetes".into(),
                    cidrs: vec!["10.96.0.0/16".parse().unwrap()],
                }),
                &Dirty::ServiceCidr("kubernetes".into()),
                "pod CIDR 10.96.3.0/24 of this node overlaps 10.96.0.0/16 of ServiceCIDR kubernetes",
            ),
        ] {
            assert_eq!(said(&[own], other, key), expected);
        }
        let twice = said(
            &["10.0.0.0/23", "10.0.1.0/24"],
            Change::Synced,
            &Dirty::Node("n2".into()),
        );
        assert_eq!(
            twice,
            "pod CIDR 10.0.0.0/23 of this node overlaps its pod CIDR 10.0.1.0/24"
        );
    }
}
