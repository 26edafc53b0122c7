//! Every name of the cluster, kept current one change at a time. No I/O, no async.
//!
//! Names are not stored: a question is taken apart into namespace, Service and the rest, and answered from
//! the Service it names. So a change costs what it changes, and memory is what the objects need.

mod answer;
mod entry;
mod label;
mod lookup;
mod reverse;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;
use ipnet::IpNet;
use weft_model::ipam::IpPool;
use weft_model::{Change, EndpointSlice, ObjectKey};

pub use answer::{Answer, Lookup};
use entry::{Entry, Moved, Slice, Spec};
use reverse::{Owner, RangeOf, Reverse};

use crate::Error;

/// Seconds that an answer may be kept. Short, because endpoints come and go; CoreDNS's default.
pub const TTL: u32 = 5;

/// What `dns-version.<zone>` says.
pub const SCHEMA_VERSION: &str = "1.1.0";

/// The cluster's names.
#[derive(Debug)]
pub struct Zone {
    /// The cluster domain, absolute, lower case.
    origin: Name,
    /// The Service that clients ask; its addresses are those of the zone's name server.
    server: ObjectKey,
    namespaces: HashMap<Box<str>, HashMap<Box<str>, Entry>>,
    /// The Service that each slice belongs to, to notice when it changes hands.
    owners: HashMap<ObjectKey, Box<str>>,
    reverse: Reverse,
    synced: bool,
    serial: u32,
}

impl Zone {
    /// An empty zone for a cluster domain. `server` is the Service that clients ask; `ranges` are the address
    /// ranges known to be the cluster's own (those of nodes, pools and ServiceCIDRs add to them).
    pub fn new(domain: &str, server: ObjectKey, ranges: Vec<IpNet>) -> Result<Self, Error> {
        let refused = |reason: String| Error::Domain {
            domain: domain.into(),
            reason,
        };
        let mut origin = Name::from_ascii(domain)
            .map_err(|e| refused(e.to_string()))?
            .to_lowercase();
        if origin.num_labels() == 0 {
            return Err(refused("it is the root of all names".into()));
        }
        origin.set_fqdn(true);
        let (namespaces, owners) = Default::default();
        Ok(Self {
            origin,
            server,
            namespaces,
            owners,
            reverse: Reverse::new(ranges),
            synced: false,
            serial: 1,
        })
    }

    /// Applies one change. Costs in proportion to the change, whatever the size of the cluster.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Service(service) => self.set_service(&service.key, Some(Spec::new(service))),
            Change::ServiceGone(key) => self.set_service(key, None),
            Change::EndpointSlice(slice) => self.set_slice(&slice.key, Some(slice)),
            Change::EndpointSliceGone(key) => self.set_slice(key, None),
            Change::Node(node) => self
                .reverse
                .set_ranges(RangeOf::Node, &node.name, node.pod_cidrs.clone()),
            Change::NodeGone(name) => self.reverse.set_ranges(RangeOf::Node, name, vec![]),
            Change::Pool(pool) => self.reverse.set_ranges(RangeOf::Pool, &pool.name, networks(pool)),
            Change::PoolGone(name) => self.reverse.set_ranges(RangeOf::Pool, name, vec![]),
            Change::ServiceCidr(found) => self
                .reverse
                .set_ranges(RangeOf::Services, &found.name, found.cidrs.clone()),
            Change::ServiceCidrGone(name) => self.reverse.set_ranges(RangeOf::Services, name, vec![]),
            Change::Pod(_)
            | Change::PodGone(_)
            | Change::NodeAddresses(_)
            | Change::NodeAddressesGone(_)
            | Change::PodMeta(_)
            | Change::PodMetaGone(_)
            | Change::Namespace(_)
            | Change::NamespaceGone(_) => return,
            Change::Synced => self.synced = true,
        }
        self.serial = self.serial.wrapping_add(1);
    }

    /// Whether what is known is the whole. Before that, a missing name proves nothing.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// The cluster domain.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// The addresses that clients ask: a resolver that forwards to one of them asks itself.
    pub fn server_addresses(&self) -> &[IpAddr] {
        let spec = self
            .entry(&self.server.namespace, &self.server.name)
            .and_then(|e| e.spec.as_ref());
        spec.map_or(&[], Spec::cluster_ips)
    }

    fn entry(&self, namespace: &str, service: &str) -> Option<&Entry> {
        self.namespaces.get(namespace)?.get(service)
    }

    fn set_service(&mut self, key: &ObjectKey, spec: Option<Spec>) {
        let old = self.entry(&key.namespace, &key.name).and_then(|e| e.spec.as_ref());
        let old_ips = old.map(|s| s.cluster_ips().to_vec()).unwrap_or_default();
        let new_ips = spec.as_ref().map(|s| s.cluster_ips().to_vec()).unwrap_or_default();
        let moved = self.edit(key, |entry| entry.set_spec(spec));
        let key = Arc::new(key.clone());
        let owner = |_: &IpAddr| Owner {
            key: Arc::clone(&key),
            label: None,
        };
        old_ips.iter().for_each(|ip| self.reverse.remove(*ip, &owner(ip)));
        new_ips.iter().for_each(|ip| self.reverse.add(*ip, owner(ip)));
        self.settle(&key, moved);
    }

    fn set_slice(&mut self, slice_key: &ObjectKey, slice: Option<&EndpointSlice>) {
        let service = |name: &str| ObjectKey::new(slice_key.namespace.as_str(), name);
        let before = self.owners.get(slice_key).map(|name| service(name));
        let now = slice.map(|s| service(&s.service));
        if let Some(key) = before.filter(|key| now.as_ref() != Some(key)) {
            let moved = self.edit(&key, |entry| entry.set_slice(&slice_key.name, None));
            self.settle(&Arc::new(key), moved);
            self.owners.remove(slice_key);
        }
        if let Some((key, slice)) = now.zip(slice) {
            let moved = self.edit(&key, |entry| entry.set_slice(&slice_key.name, Some(Slice::new(slice))));
            self.owners.insert(slice_key.clone(), key.name.as_str().into());
            self.settle(&Arc::new(key), moved);
        }
    }

    /// Changes the entry of a Service, and forgets it when nothing is left of it.
    fn edit(&mut self, key: &ObjectKey, change: impl FnOnce(&mut Entry) -> Moved) -> Moved {
        let services = self.namespaces.entry(key.namespace.as_str().into()).or_default();
        let entry = services.entry(key.name.as_str().into()).or_default();
        let moved = change(entry);
        if entry.is_unused() {
            services.remove(key.name.as_str());
            if services.is_empty() {
                self.namespaces.remove(key.namespace.as_str());
            }
        }
        moved
    }

    /// Carries what an entry's change means into the reverse names.
    fn settle(&mut self, key: &Arc<ObjectKey>, moved: Moved) {
        let owner = |label| Owner {
            key: Arc::clone(key),
            label: Some(label),
        };
        moved
            .gone
            .into_iter()
            .for_each(|(ip, label)| self.reverse.remove(ip, &owner(label)));
        moved
            .new
            .into_iter()
            .for_each(|(ip, label)| self.reverse.add(ip, owner(label)));
    }

    /// Whether nothing is kept of any object: what must hold once all have gone.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.owners.is_empty() && self.reverse.is_empty()
    }
}

/// The networks of a pool in which every address is a pod's or nobody's. Those of a provider's pool hold other machines
/// too, whose names others know.
fn networks(pool: &IpPool) -> Vec<IpNet> {
    let own = pool.status.in_force.iter().filter(|spec| spec.provider.is_none());
    own.flat_map(|spec| &spec.cidrs)
        .filter_map(|cidr| cidr.parse().ok())
        .collect()
}
