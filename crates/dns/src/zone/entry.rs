//! One Service as the zone keeps it: what it is, and its endpoints by slice and by label.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;
use weft_model::{EndpointSlice, Protocol, Service, ServiceType};

use super::label::Label;

/// What a Service's own name answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// These addresses.
    Cluster(Vec<IpAddr>),
    /// The addresses of its published endpoints.
    Headless,
    /// A CNAME; `None` where `externalName` is not a domain name.
    External(Option<Name>),
}

/// A port with the labels it has in an SRV name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    /// Without the underscore, lower case; empty for an unnamed port.
    pub(super) name: Box<str>,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

impl Port {
    /// Whether `_<name>._<protocol>` means this port.
    pub(super) fn is(&self, name: &str, protocol: &str) -> bool {
        !self.name.is_empty() && *self.name == *name && protocol_label(self.protocol) == protocol
    }
}

/// The label of a protocol, without the underscore.
pub(super) fn protocol_label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// The part of a Service that names need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) kind: Kind,
    pub(super) ports: Vec<Port>,
    pub(super) publish_not_ready: bool,
}

impl Spec {
    pub(super) fn new(service: &Service) -> Self {
        let kind = match service.type_ {
            ServiceType::ExternalName => Kind::External(service.external_name.as_deref().and_then(external)),
            _ if service.headless => Kind::Headless,
            _ => Kind::Cluster(service.cluster_ips.clone()),
        };
        let ports = service.ports.iter().map(|p| Port {
            name: p.name.to_ascii_lowercase().into(),
            protocol: p.protocol,
            port: p.port,
        });
        Self {
            kind,
            ports: ports.collect(),
            publish_not_ready: service.publish_not_ready,
        }
    }

    /// The cluster addresses, which is what reverse names point from.
    pub(super) fn cluster_ips(&self) -> &[IpAddr] {
        match &self.kind {
            Kind::Cluster(ips) => ips,
            _ => &[],
        }
    }
}

/// `externalName` as a name. An address is none, although the API takes it: a CNAME cannot point at one.
fn external(text: &str) -> Option<Name> {
    if text.is_empty() || text.parse::<IpAddr>().is_ok() {
        return None;
    }
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// One address of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) ip: IpAddr,
    pub(super) label: Label,
    ready: bool,
}

/// One EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) ports: Arc<[Port]>,
    pub(super) addresses: Vec<Address>,
}

impl Slice {
    pub(super) fn new(slice: &EndpointSlice) -> Self {
        let ports = slice.ports.iter().filter_map(|p| {
            let port = p.port?;
            Some(Port {
                name: p.name.to_ascii_lowercase().into(),
                protocol: p.protocol,
                port,
            })
        });
        let addresses = slice.endpoints.iter().flat_map(|e| {
            let of = |ip: &IpAddr| Address {
                ip: *ip,
                label: Label::of(e.hostname.as_deref(), *ip),
                ready: e.ready,
            };
            e.addresses.iter().map(of)
        });
        Self {
            ports: ports.collect(),
            addresses: addresses.collect(),
        }
    }
}

/// Where one endpoint label leads: an address and the ports of the slice that brought it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) ip: IpAddr,
    pub(super) ports: Arc<[Port]>,
}

/// A Service with its slices. Either half may arrive first; names exist once the Service does.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) spec: Option<Spec>,
    slices: BTreeMap<Box<str>, Slice>,
    /// Published endpoints by label. One label may have many targets, the same one more than once
    /// (an endpoint that moves between slices is in both for a moment).
    labels: HashMap<Label, Vec<Target>>,
}

/// The reverse names that a change to an entry took away and brought.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) gone: Vec<(IpAddr, Label)>,
    pub(super) new: Vec<(IpAddr, Label)>,
}

impl Entry {
    pub(super) fn is_unused(&self) -> bool {
        self.spec.is_none() && self.slices.is_empty()
    }

    /// Replaces the Service. Endpoints are published only below an existing Service, so they may appear or go.
    pub(super) fn set_spec(&mut self, spec: Option<Spec>) -> Moved {
        let publishes = |spec: &Option<Spec>| spec.as_ref().map(|s| s.publish_not_ready);
        if publishes(&self.spec) == publishes(&spec) {
            self.spec = spec;
            return Moved::default();
        }
        let slices = std::mem::take(&mut self.slices);
        let gone = slices.values().flat_map(|slice| self.withdraw(slice)).collect();
        self.spec = spec;
        let new = slices.values().flat_map(|slice| self.publish(slice)).collect();
        self.slices = slices;
        Moved { gone, new }
    }

    /// Replaces or removes one slice.
    pub(super) fn set_slice(&mut self, name: &str, slice: Option<Slice>) -> Moved {
        let gone = self
            .slices
            .remove(name)
            .map(|old| self.withdraw(&old))
            .unwrap_or_default();
        let Some(slice) = slice else {
            return Moved { gone, new: Vec::new() };
        };
        let new = self.publish(&slice);
        self.slices.insert(name.into(), slice);
        Moved { gone, new }
    }

    /// Targets of one label.
    pub(super) fn targets(&self, label: &Label) -> &[Target] {
        self.labels.get(label).map_or(&[], Vec::as_slice)
    }

    /// Every published endpoint address with its label and ports.
    pub(super) fn published(&self) -> impl Iterator<Item = (&Address, &Arc<[Port]>)> {
        let slices = self.slices.values();
        slices.flat_map(|s| {
            s.addresses
                .iter()
                .filter(|a| self.publishes(a))
                .map(move |a| (a, &s.ports))
        })
    }

    /// Whether any endpoint is published.
    pub(super) fn has_endpoints(&self) -> bool {
        !self.labels.is_empty()
    }

    fn publishes(&self, address: &Address) -> bool {
        self.spec
            .as_ref()
            .is_some_and(|spec| address.ready || spec.publish_not_ready)
    }

    fn publish(&mut self, slice: &Slice) -> Vec<(IpAddr, Label)> {
        let mut new = Vec::new();
        for address in slice.addresses.iter().filter(|a| self.publishes(a)) {
            new.push((address.ip, address.label.clone()));
        }
        for (ip, label) in &new {
            let target = Target {
                ip: *ip,
                ports: Arc::clone(&slice.ports),
            };
            // Room for one: few labels ever lead to a second address.
            let targets = self
                .labels
                .entry(label.clone())
                .or_insert_with(|| Vec::with_capacity(1));
            targets.push(target);
        }
        new
    }

    fn withdraw(&mut self, slice: &Slice) -> Vec<(IpAddr, Label)> {
        let mut gone = Vec::new();
        for address in slice.addresses.iter().filter(|a| self.publishes(a)) {
            gone.push((address.ip, address.label.clone()));
        }
        for (ip, label) in &gone {
            let Some(targets) = self.labels.get_mut(label) else {
                continue;
            };
            if let Some(at) = targets.iter().position(|t| t.ip == *ip && t.ports == slice.ports) {
                targets.swap_remove(at);
            }
            if targets.is_empty() {
                self.labels.remove(label);
            }
        }
        gone
    }
}
