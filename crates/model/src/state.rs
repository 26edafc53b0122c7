//! What the cluster wants, as far as this node knows it: a plain index fed by changes, without I/O or clocks.

mod slices;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use crate::ipam::{IpPool, NodeAddresses};
use crate::service::ServiceCidr;
use crate::{Change, Node, ObjectKey, Pod, Service};

use slices::Slices;
pub use slices::{Condition, Hint, Member, Slice};

/// What has to be compiled again because of a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dirty {
    /// The frontends and backends of this Service.
    Service(ObjectKey),
    /// The addresses, pod CIDRs and routes of this Node.
    Node(String),
    /// The addresses of this Pod.
    Pod(ObjectKey),
    /// What this IPPool gives, and to whom.
    Pool(String),
    /// The blocks of the node of this name.
    NodeAddresses(String),
    /// This range of Services' addresses.
    ServiceCidr(String),
    /// What is known is now the whole: what is only in the kernel may be removed.
    Synced,
}

/// Everything known about the cluster, indexed by who refers to whom.
///
/// A change names the few keys that it touches, so that work is proportional to the change and never to
/// the cluster. Applying the same object twice dirties nothing.
#[derive(Clone, Debug, Default)]
pub struct State {
    local_node: String,
    services: HashMap<ObjectKey, Service>,
    slices: Slices,
    nodes: BTreeMap<String, Node>,
    pods: HashMap<ObjectKey, Pod>,
    pools: BTreeMap<String, IpPool>,
    addresses: HashMap<String, NodeAddresses>,
    service_cidrs: BTreeMap<String, ServiceCidr>,
    synced: bool,
}

impl State {
    /// An empty state, seen from the node of this name.
    pub fn new(local_node: impl Into<String>) -> Self {
        Self {
            local_node: local_node.into(),
            ..Self::default()
        }
    }

    /// Takes in one change and returns what it touched, without repetition.
    pub fn apply(&mut self, change: Change) -> Vec<Dirty> {
        match change {
            Change::Service(service) => self.put_service(service),
            Change::ServiceGone(key) => match self.services.remove(&key) {
                Some(_) => vec![Dirty::Service(key)],
                None => vec![],
            },
            Change::EndpointSlice(slice) => {
                let services = self.slices.put(slice, &self.local_node);
                services.into_iter().map(Dirty::Service).collect()
            }
            Change::EndpointSliceGone(key) => self.slices.remove(&key).map(Dirty::Service).into_iter().collect(),
            Change::Node(node) => self.put_node(node),
            Change::NodeGone(name) => match self.nodes.remove(&name) {
                Some(old) => self.node_dirt(&old, None),
                None => vec![],
            },
            Change::Pod(pod) => {
                let key = pod.key.clone();
                let changed = self.pods.get(&key) != Some(&pod);
                self.pods.insert(key.clone(), pod);
                if changed { vec![Dirty::Pod(key)] } else { vec![] }
            }
            Change::PodGone(key) => match self.pods.remove(&key) {
                Some(_) => vec![Dirty::Pod(key)],
                None => vec![],
            },
            Change::Pool(pool) => self.put_pool(*pool),
            Change::PoolGone(name) => match self.pools.remove(&name) {
                Some(_) => vec![Dirty::Pool(name)],
                None => vec![],
            },
            Change::NodeAddresses(addresses) => self.put_addresses(addresses),
            Change::NodeAddressesGone(node) => match self.addresses.remove(&node) {
                Some(_) => vec![Dirty::NodeAddresses(node)],
                None => vec![],
            },
            Change::ServiceCidr(cidr) => {
                if self.service_cidrs.get(&cidr.name) == Some(&cidr) {
                    return vec![];
                }
                let old = self.service_cidrs.insert(cidr.name.clone(), cidr.clone());
                self.cidr_dirt(&cidr, old.as_ref())
            }
            Change::ServiceCidrGone(name) => match self.service_cidrs.remove(&name) {
                Some(old) => self.cidr_dirt(&old, None),
                None => vec![],
            },
            // Only the node's own addresses depend on those.
            Change::PodMeta(_) | Change::PodMetaGone(_) | Change::Namespace(_) | Change::NamespaceGone(_) => vec![],
            Change::Synced if self.synced => vec![],
            Change::Synced => {
                self.synced = true;
                vec![Dirty::Synced]
            }
        }
    }

    fn put_service(&mut self, service: Service) -> Vec<Dirty> {
        if self.services.get(&service.key) == Some(&service) {
            return vec![];
        }
        let key = service.key.clone();
        self.services.insert(key.clone(), service);
        vec![Dirty::Service(key)]
    }

    /// Labels of other nodes concern nobody here, and are not kept; nor does it matter whether they stay.
    fn put_node(&mut self, mut node: Node) -> Vec<Dirty> {
        if node.name != self.local_node {
            node.labels.clear();
            node.leaving = false;
        }
        if self.nodes.get(&node.name) == Some(&node) {
            return vec![];
        }
        match self.nodes.insert(node.name.clone(), node.clone()) {
            Some(old) => self.node_dirt(&old, Some(&node)),
            None => self.node_dirt(
                &Node {
                    zone: None,
                    internal_ips: vec![],
                    ..node.clone()
                },
                Some(&node),
            ),
        }
    }

    /// What a pool counts changes all the time, and concerns no node.
    fn put_pool(&mut self, mut pool: IpPool) -> Vec<Dirty> {
        (pool.version, pool.status.nodes) = (0, 0);
        (pool.status.allocated, pool.status.capacity) = Default::default();
        if self.pools.get(&pool.name) == Some(&pool) {
            return vec![];
        }
        let name = pool.name.clone();
        self.pools.insert(name.clone(), pool);
        vec![Dirty::Pool(name)]
    }

    /// Of other nodes only their blocks matter, and only those are kept.
    fn put_addresses(&mut self, mut addresses: NodeAddresses) -> Vec<Dirty> {
        if addresses.node != self.local_node {
            addresses.version = 0;
            addresses.status = Default::default();
            addresses.spec.refused = vec![];
        }
        if self.addresses.get(&addresses.node) == Some(&addresses) {
            return vec![];
        }
        let node = addresses.node.clone();
        self.addresses.insert(node.clone(), addresses);
        vec![Dirty::NodeAddresses(node)]
    }

    /// A node dirties itself. The local node's zone decides the backends of every Service with zone hints, and its
    /// addresses who may reach load balancers with source ranges.
    fn node_dirt(&self, old: &Node, new: Option<&Node>) -> Vec<Dirty> {
        let mut dirty = vec![Dirty::Node(old.name.clone())];
        if old.name != self.local_node {
            return dirty;
        }
        let mut services = BTreeSet::new();
        if old.zone.as_deref() != new.and_then(|node| node.zone.as_deref()) {
            services = self.slices.services_with(Slice::has_zones);
        }
        if new.is_none_or(|new| new.internal_ips != old.internal_ips) {
            let restricted = self
                .services
                .values()
                .filter(|s| !s.load_balancer_source_ranges.is_empty());
            services.extend(restricted.map(|service| service.key.clone()));
        }
        dirty.extend(services.into_iter().map(Dirty::Service));
        dirty
    }

    /// A range of Services dirties itself, and the Services with addresses in it that have no business there.
    fn cidr_dirt(&self, one: &ServiceCidr, other: Option<&ServiceCidr>) -> Vec<Dirty> {
        let other = other.map_or(&[][..], |cidr| &cidr.cidrs);
        let touched = |ip: IpAddr| one.cidrs.iter().chain(other).any(|cidr| cidr.contains(&ip));
        let mut services = self
            .slices
            .services_with(|slice| slice.members.iter().any(|member| touched(member.ip)));
        let reachable = self.services.values().filter(|s| s.outside_ips().any(&touched));
        services.extend(reachable.map(|service| service.key.clone()));
        let own = Dirty::ServiceCidr(one.name.clone());
        std::iter::once(own)
            .chain(services.into_iter().map(Dirty::Service))
            .collect()
    }

    /// Name of the node whose view this is.
    pub fn local_node(&self) -> &str {
        &self.local_node
    }

    /// True once every kind has been listed.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// One Service.
    pub fn service(&self, key: &ObjectKey) -> Option<&Service> {
        self.services.get(key)
    }

    /// Every Service, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// What is kept of the EndpointSlices of a Service, in the order of their names.
    pub fn slices_of(&self, service: &ObjectKey) -> &[Slice] {
        self.slices.of(service)
    }

    /// One ServiceCIDR.
    pub fn service_cidr(&self, name: &str) -> Option<&ServiceCidr> {
        self.service_cidrs.get(name)
    }

    /// Every ServiceCIDR, in the order of their names.
    pub fn service_cidrs(&self) -> impl Iterator<Item = &ServiceCidr> {
        self.service_cidrs.values()
    }

    /// The local Node.
    pub fn local(&self) -> Option<&Node> {
        self.nodes.get(&self.local_node)
    }

    /// One Node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// Every Node, in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// One IPPool; without its version and what it counts.
    pub fn pool(&self, name: &str) -> Option<&IpPool> {
        self.pools.get(name)
    }

    /// Every IPPool, in the order of their names.
    pub fn pools(&self) -> impl Iterator<Item = &IpPool> {
        self.pools.values()
    }

    /// The blocks of a node; of the local one also what it asked for.
    pub fn node_addresses(&self, node: &str) -> Option<&NodeAddresses> {
        self.addresses.get(node)
    }

    /// One Pod.
    pub fn pod(&self, key: &ObjectKey) -> Option<&Pod> {
        self.pods.get(key)
    }

    /// Every Pod, in no order.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{endpoint, node, service, slice};

    #[test]
    fn a_slice_that_moves_to_another_service_dirties_both() {
        let mut state = State::new("n1");
        state.apply(Change::EndpointSlice(slice("s", "a", vec![endpoint("10.0.0.1")])));
        let dirty = state.apply(Change::EndpointSlice(slice("s", "b", vec![endpoint("10.0.0.1")])));
        let key = |name| Dirty::Service(ObjectKey::new("default", name));
        assert_eq!(dirty, vec![key("b"), key("a")]);
        assert_eq!(state.slices_of(&ObjectKey::new("default", "a")), []);
    }

    #[test]
    fn the_same_object_again_dirties_nothing() {
        let mut state = State::new("n1");
        let change = Change::Service(service("a", "10.96.0.5"));
        assert_eq!(state.apply(change.clone()).len(), 1);
        assert_eq!(state.apply(change), vec![]);
        assert_eq!(state.apply(Change::Synced), vec![Dirty::Synced]);
        assert_eq!(state.apply(Change::Synced), vec![]);
    }

    #[test]
    fn a_change_of_the_local_zone_dirties_the_services_with_zone_hints() {
        let mut state = State::new("n1");
        let mut hinted = endpoint("10.0.0.1");
        hinted.for_zones = vec!["z".into()];
        state.apply(Change::EndpointSlice(slice("s", "a", vec![hinted])));
        state.apply(Change::EndpointSlice(slice("t", "b", vec![endpoint("10.0.0.2")])));
        let mut local = node("n1");
        local.zone = Some("z".into());
        let dirty = state.apply(Change::Node(local));
        assert_eq!(
            dirty,
            vec![Dirty::Node("n1".into()), Dirty::Service(ObjectKey::new("default", "a"))]
        );
        assert_eq!(state.apply(Change::Node(node("n2"))), vec![Dirty::Node("n2".into())]);
        assert_eq!(state.apply(Change::NodeGone("n1".into())).len(), 2);
    }

    #[test]
    fn what_only_counts_or_concerns_another_node_dirties_nothing() {
        let mut state = State::new("n1");
        let mut pool = IpPool {
            name: "apps".into(),
            ..IpPool::default()
        };
        assert_eq!(
            state.apply(Change::Pool(Box::new(pool.clone()))),
            vec![Dirty::Pool("apps".into())]
        );
        (pool.version, pool.status.allocated.ipv4, pool.status.nodes) = (2, 16, 1);
        assert_eq!(state.apply(Change::Pool(Box::new(pool.clone()))), vec![]);
        pool.deleting = true;
        assert_eq!(
            state.apply(Change::Pool(Box::new(pool))),
            vec![Dirty::Pool("apps".into())]
        );
        let addresses = |node: &str, session: &str| {
            let mut addresses = NodeAddresses {
                node: node.into(),
                ..NodeAddresses::default()
            };
            addresses.status.session = session.into();
            Change::NodeAddresses(addresses)
        };
        for (node, again) in [("n1", 1), ("n2", 0)] {
            assert_eq!(state.apply(addresses(node, "a")).len(), 1);
            assert_eq!(state.apply(addresses(node, "b")).len(), again, "{node}");
            assert_eq!(state.apply(Change::NodeAddressesGone(node.into())).len(), 1);
        }
    }
}
