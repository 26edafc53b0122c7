//! What is kept of EndpointSlices: what decides where this node's traffic goes, in as little memory as that takes.
//!
//! A cluster has a hundred thousand endpoints and more, and every node knows all of them. So an endpoint that nothing
//! can be sent to is not kept, names of nodes become a "here or elsewhere", and endpoints of a slice share their zones.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::{Endpoint, EndpointPort, EndpointSlice, ObjectKey};

/// One slice, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its name, in the namespace of the Service.
    pub name: Box<str>,
    /// Ports that every endpoint serves.
    pub ports: Box<[EndpointPort]>,
    /// The endpoints that can be sent to.
    pub members: Box<[Member]>,
}

/// An endpoint, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its address: the first of the endpoint's.
    pub ip: IpAddr,
    /// How usable it is.
    pub condition: Condition,
    /// True where it runs on this node.
    pub local: bool,
    /// For which nodes it is meant (KEP-3015).
    pub nodes: Hint,
    /// For which zones it is meant (KEP-2433); `None` where it does not say.
    pub zones: Option<Arc<[Box<str>]>>,
}

/// How usable an endpoint is; the higher, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Going away, but still answers: the last resort (KEP-1669).
    Draining,
    /// Ready, as the slice says: also one that goes away, where the Service publishes such.
    Ready,
}

/// Whether an endpoint is meant for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// It does not say.
    None,
    /// It is.
    Here,
    /// It is meant for others.
    Elsewhere,
}

impl Slice {
    fn new(slice: EndpointSlice, local_node: &str) -> Self {
        let mut zones = BTreeSet::new();
        let members = slice
            .endpoints
            .iter()
            .filter_map(|e| Member::new(e, local_node, &mut zones));
        Self {
            name: slice.key.name.into(),
            members: members.collect(),
            ports: slice.ports.into(),
        }
    }

    /// True where an endpoint is meant for certain zones.
    pub fn has_zones(&self) -> bool {
        self.members.iter().any(|member| member.zones.is_some())
    }
}

impl Member {
    /// `None` where nothing can be sent to the endpoint.
    fn new(endpoint: &Endpoint, local_node: &str, known: &mut BTreeSet<Arc<[Box<str>]>>) -> Option<Self> {
        let condition = match (endpoint.ready, endpoint.serving && endpoint.terminating) {
            (true, _) => Condition::Ready,
            (false, true) => Condition::Draining,
            (false, false) => return None,
        };
        let nodes = match endpoint.for_nodes.as_slice() {
            [] => Hint::None,
            names if names.iter().any(|name| name == local_node) => Hint::Here,
            _ => Hint::Elsewhere,
        };
        let mut shared = |names: &[String]| {
            let names: Arc<[Box<str>]> = names.iter().map(|name| name.as_str().into()).collect();
            if let Some(same) = known.get(&names) {
                return same.clone();
            }
            known.insert(names.clone());
            names
        };
        Some(Self {
            ip: *endpoint.addresses.first()?,
            condition,
            local: endpoint.node_name.as_deref() == Some(local_node),
            nodes,
            zones: (!endpoint.for_zones.is_empty()).then(|| shared(&endpoint.for_zones)),
        })
    }
}

/// All slices, by the Service that they belong to.
#[derive(Clone, Debug, Default)]
pub(super) struct Slices {
    /// In the order of their names, so that what is compiled does not depend on who came first.
    by_service: HashMap<ObjectKey, Vec<Slice>>,
    /// Name of the Service of each slice.
    services: HashMap<ObjectKey, Box<str>>,
}

impl Slices {
    /// Takes a slice in and returns the Services that it changes: the one it belongs to, and the one it belonged to.
    pub(super) fn put(&mut self, slice: EndpointSlice, local_node: &str) -> Vec<ObjectKey> {
        let key = slice.key.clone();
        let owner = ObjectKey::new(key.namespace.clone(), slice.service.clone());
        let slice = Slice::new(slice, local_node);
        let mut changed = vec![];
        if self.services.get(&key).is_some_and(|service| **service != *owner.name) {
            changed.extend(self.remove(&key));
        }
        let slices = self.by_service.entry(owner.clone()).or_default();
        match slices.binary_search_by(|other| other.name.cmp(&slice.name)) {
            Ok(at) if slices[at] == slice => return changed,
            Ok(at) => slices[at] = slice,
            Err(at) => {
                // Most Services have one slice for good.
                slices.reserve_exact(1);
                slices.insert(at, slice);
                self.services.insert(key, owner.name.as_str().into());
            }
        }
        changed.insert(0, owner);
        changed
    }

    /// Forgets a slice and returns the Service that it belonged to.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> Option<ObjectKey> {
        let service = self.services.remove(key)?;
        let owner = ObjectKey::new(key.namespace.clone(), service);
        if let Some(slices) = self.by_service.get_mut(&owner) {
            slices.retain(|slice| *slice.name != *key.name);
            if slices.is_empty() {
                self.by_service.remove(&owner);
            }
        }
        Some(owner)
    }

    /// Those of one Service, in the order of their names.
    pub(super) fn of(&self, service: &ObjectKey) -> &[Slice] {
        self.by_service.get(service).map_or(&[], Vec::as_slice)
    }

    /// The Services with a slice like that, in order.
    pub(super) fn services_with(&self, like: impl Fn(&Slice) -> bool) -> BTreeSet<ObjectKey> {
        let found = self.by_service.iter().filter(|(_, slices)| slices.iter().any(&like));
        found.map(|(service, _)| service.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{endpoint, slice};

    #[test]
    fn what_cannot_be_sent_to_is_not_kept_and_zones_are_shared() {
        let zones = |address, zones: &[&str]| Endpoint {
            for_zones: zones.iter().map(|zone| zone.to_string()).collect(),
            ..endpoint(address)
        };
        let unready = Endpoint {
            ready: false,
            serving: false,
            terminating: true,
            ..endpoint("10.0.0.9")
        };
        let homeless = Endpoint {
            addresses: vec![],
            ..endpoint("10.0.0.9")
        };
        let endpoints = vec![
            zones("10.0.0.1", &["a", "b"]),
            unready,
            homeless,
            zones("10.0.0.2", &["a", "b"]),
            zones("10.0.0.3", &["b"]),
        ];
        let kept = Slice::new(slice("s", "web", endpoints), "n1");
        let zones: Vec<_> = kept
            .members
            .iter()
            .map(|member| member.zones.clone().unwrap())
            .collect();
        assert_eq!(zones.len(), 3);
        assert!(Arc::ptr_eq(&zones[0], &zones[1]) && !Arc::ptr_eq(&zones[0], &zones[2]));
    }

    /// The number that the agent's memory follows: 100,000 of these are 4 MB.
    #[test]
    fn an_endpoint_is_forty_bytes() {
        assert_eq!(size_of::<Member>(), 40);
    }
}
