//! The rules of the Kubernetes DNS specification 1.1.0, and CoreDNS's where it is silent.
//!
//! ```text
//! <service>.<ns>.svc.<zone>                      A, AAAA, CNAME, SRV (every port)
//! <label>.<service>.<ns>.svc.<zone>              an endpoint: A, AAAA, SRV
//! _<port>._<protocol>.<service>.<ns>.svc.<zone>  SRV of a named port
//! ```

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::answer::address;
use super::entry::{Entry, Kind, Port, Spec, protocol_label};
use super::label::Label;
use super::reverse::{Asked, Owner};
use super::{Answer, Lookup, SCHEMA_VERSION, TTL, Zone};

/// How many ExternalName Services a question may lead through, one to the next.
const MAX_CHAIN: usize = 8;

/// An SRV record to be: a port of a host with an address.
type Service<'a> = (u16, Option<&'a Label>, IpAddr);

impl Zone {
    /// Answers one question. `name` is absolute, in any case; records carry it as it was written.
    pub fn lookup(&self, name: &Name, kind: RecordType) -> Lookup {
        let mut answer = Answer::default();
        let known = if self.origin.zone_of(name) {
            self.forward_name(name, kind, &mut answer)
        } else {
            match self.reverse.find(name) {
                None => return Lookup::NotOurs,
                Some(Asked::Range) => true,
                Some(Asked::Nobody) => false,
                Some(Asked::Address(owners)) => {
                    self.pointers(name, kind, &owners, &mut answer);
                    true
                }
            }
        };
        if answer.code == ResponseCode::ServFail {
            return Lookup::Ours(answer);
        }
        if !known {
            answer.code = ResponseCode::NXDomain;
        }
        if answer.outside.is_none() && !answer.answers.iter().any(|r| r.record_type() == kind) {
            answer.authorities.push(self.soa(name));
        }
        Lookup::Ours(answer)
    }

    /// Adds what a name of the cluster domain has of a type. False if there is no such name.
    fn forward_name(&self, name: &Name, kind: RecordType, answer: &mut Answer) -> bool {
        let lower = name.to_lowercase();
        let below = usize::from(name.num_labels()) - usize::from(self.origin.num_labels());
        let Ok(labels) = lower
            .iter()
            .take(below.min(6))
            .map(std::str::from_utf8)
            .collect::<Result<Vec<_>, _>>()
        else {
            return false;
        };
        match labels.as_slice() {
            [] => self.apex(name, kind, answer),
            ["dns-version"] if kind == RecordType::TXT => {
                answer.push(name, RData::TXT(TXT::new(vec![SCHEMA_VERSION.into()])));
            }
            ["dns-version" | "dns" | "svc" | "pod"] => {}
            ["ns", "dns"] => answer.push_addresses(name, kind, self.server_addresses().to_vec()),
            [namespace, "svc"] => {
                return self
                    .namespaces
                    .get(*namespace)
                    .is_some_and(|all| all.values().any(|e| e.spec.is_some()));
            }
            [rest @ .., service, namespace, "svc"] => {
                let entry = self.entry(namespace, service);
                let Some((entry, spec)) = entry.and_then(|e| Some((e, e.spec.as_ref()?))) else {
                    return false;
                };
                let at = Place {
                    zone: self,
                    service,
                    namespace,
                    entry,
                    spec,
                };
                return match rest {
                    [] => at.service(name, kind, answer),
                    [protocol] if protocol.starts_with('_') => at.has_protocol(&protocol[1..]),
                    [label] => at.endpoint(name, kind, &Label::parse(label), answer),
                    [port, protocol] => match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                        (Some(port), Some(protocol)) => at.port(name, kind, port, protocol, answer),
                        _ => false,
                    },
                    _ => false,
                };
            }
            _ => return false,
        }
        true
    }

    fn apex(&self, name: &Name, kind: RecordType, answer: &mut Answer) {
        match kind {
            RecordType::SOA => answer.answers.push(self.soa(name)),
            RecordType::NS => {
                if let Some(host) = self.name_below([b"ns".as_slice(), b"dns"]) {
                    for ip in self.server_addresses() {
                        answer
                            .additionals
                            .push(Record::from_rdata(host.clone(), TTL, address(*ip)));
                    }
                    answer.push(name, RData::NS(NS(host)));
                }
            }
            _ => {}
        }
    }

    fn pointers(&self, name: &Name, kind: RecordType, owners: &[&Owner], answer: &mut Answer) {
        if kind != RecordType::PTR {
            return;
        }
        let names = owners
            .iter()
            .filter_map(|o| self.host(&o.key.name, &o.key.namespace, o.label.as_ref()));
        names.for_each(|host| answer.push(name, RData::PTR(PTR(host))));
    }

    /// The SOA that goes with an answer about `name`: the cluster domain's, or that of the reverse tree.
    fn soa(&self, name: &Name) -> Record {
        let owner = if self.origin.zone_of(name) {
            self.origin.clone()
        } else {
            name.trim_to(2)
        };
        let mname = self
            .name_below([b"ns".as_slice(), b"dns"])
            .unwrap_or_else(|| self.origin.clone());
        let rname = self
            .name_below([b"hostmaster".as_slice()])
            .unwrap_or_else(|| self.origin.clone());
        Record::from_rdata(
            owner,
            TTL,
            RData::SOA(SOA::new(mname, rname, self.serial, 7200, 1800, 86400, TTL)),
        )
    }

    /// `[<label>.]<service>.<ns>.svc.<zone>`; `None` if it would be longer than a name may be.
    fn host(&self, service: &str, namespace: &str, label: Option<&Label>) -> Option<Name> {
        let label = label.map(Label::to_string);
        let label = label.iter().map(|l| l.as_bytes());
        self.name_below(label.chain([service.as_bytes(), namespace.as_bytes(), b"svc"]))
    }

    fn name_below<'a>(&'a self, labels: impl IntoIterator<Item = &'a [u8]>) -> Option<Name> {
        Name::from_labels(labels.into_iter().chain(self.origin.iter())).ok()
    }

    /// Follows a CNAME from Service to Service, and says where it leaves the cluster. False if it ends nowhere.
    fn chase(&self, target: &Name, kind: RecordType, answer: &mut Answer) -> bool {
        if !self.origin.zone_of(target) {
            answer.outside = Some(target.clone());
            return true;
        }
        let cnames = answer
            .answers
            .iter()
            .filter(|r| r.record_type() == RecordType::CNAME)
            .count();
        if cnames >= MAX_CHAIN {
            *answer = Answer {
                code: ResponseCode::ServFail,
                ..Answer::default()
            };
            return true;
        }
        self.forward_name(target, kind, answer)
    }
}

/// A Service that a question names.
struct Place<'a> {
    zone: &'a Zone,
    service: &'a str,
    namespace: &'a str,
    entry: &'a Entry,
    spec: &'a Spec,
}

impl Place<'_> {
    /// The Service's own name.
    fn service(&self, name: &Name, kind: RecordType, answer: &mut Answer) -> bool {
        match &self.spec.kind {
            Kind::External(None) => return false,
            Kind::External(Some(target)) => {
                answer.push(name, RData::CNAME(CNAME(target.clone())));
                return kind == RecordType::CNAME || self.zone.chase(target, kind, answer);
            }
            Kind::Headless if !self.entry.has_endpoints() => return false,
            Kind::Headless if kind == RecordType::SRV => self.services(name, self.endpoint_ports(|_| true), answer),
            Kind::Cluster(ips) if kind == RecordType::SRV => {
                let all = self
                    .spec
                    .ports
                    .iter()
                    .flat_map(|p| ips.iter().map(|ip| (p.port, None, *ip)));
                self.services(name, all.collect(), answer);
            }
            Kind::Headless => {
                answer.push_addresses(name, kind, self.entry.published().map(|(a, _)| a.ip).collect());
            }
            Kind::Cluster(ips) => answer.push_addresses(name, kind, ips.clone()),
        }
        true
    }

    /// `_<port>._<protocol>` below the Service.
    fn port(&self, name: &Name, kind: RecordType, port: &str, protocol: &str, answer: &mut Answer) -> bool {
        let found: Vec<Service<'_>> = match &self.spec.kind {
            Kind::External(_) => return false,
            Kind::Headless => self.endpoint_ports(|p| p.is(port, protocol)),
            Kind::Cluster(ips) => {
                let Some(port) = self.spec.ports.iter().find(|p| p.is(port, protocol)) else {
                    return false;
                };
                ips.iter().map(|ip| (port.port, None, *ip)).collect()
            }
        };
        let exists = !found.is_empty() || matches!(self.spec.kind, Kind::Cluster(_));
        if kind == RecordType::SRV {
            self.services(name, found, answer);
        }
        exists
    }

    /// `_<protocol>` below the Service: no record of its own, but a name if there are ports below it.
    fn has_protocol(&self, protocol: &str) -> bool {
        let named = |p: &Port| !p.name.is_empty() && protocol_label(p.protocol) == protocol;
        match &self.spec.kind {
            Kind::External(_) => false,
            Kind::Cluster(_) => self.spec.ports.iter().any(named),
            Kind::Headless => self.entry.published().any(|(_, ports)| ports.iter().any(named)),
        }
    }

    /// One endpoint of the Service, which need not be headless for that.
    fn endpoint(&self, name: &Name, kind: RecordType, label: &Label, answer: &mut Answer) -> bool {
        let targets = self.entry.targets(label);
        if targets.is_empty() || matches!(self.spec.kind, Kind::External(_)) {
            return false;
        }
        if kind == RecordType::SRV {
            let all = targets
                .iter()
                .flat_map(|t| t.ports.iter().map(|p| (p.port, Some(label), t.ip)));
            self.services(name, all.collect(), answer);
        } else {
            answer.push_addresses(name, kind, targets.iter().map(|t| t.ip).collect());
        }
        true
    }

    fn endpoint_ports(&self, wanted: impl Fn(&Port) -> bool) -> Vec<Service<'_>> {
        let mut found = Vec::new();
        for (address, ports) in self.entry.published() {
            found.extend(
                ports
                    .iter()
                    .filter(|p| wanted(p))
                    .map(|p| (p.port, Some(&address.label), address.ip)),
            );
        }
        found
    }

    /// SRV records, each once, with the addresses of their hosts beside them.
    fn services(&self, name: &Name, mut found: Vec<Service<'_>>, answer: &mut Answer) {
        found.sort_unstable();
        found.dedup();
        let mut pairs: Vec<_> = found.iter().map(|(port, label, _)| (*port, *label)).collect();
        pairs.dedup();
        let weight = (100 / pairs.len().max(1)).max(1) as u16;
        for (port, label) in pairs {
            if let Some(target) = self.zone.host(self.service, self.namespace, label) {
                answer.push(name, RData::SRV(SRV::new(0, weight, port, target)));
            }
        }
        let mut hosts: Vec<_> = found.iter().map(|(_, label, ip)| (*label, *ip)).collect();
        hosts.sort_unstable();
        hosts.dedup();
        for (label, ip) in hosts {
            if let Some(host) = self.zone.host(self.service, self.namespace, label) {
                answer.additionals.push(Record::from_rdata(host, TTL, address(ip)));
            }
        }
    }
}
