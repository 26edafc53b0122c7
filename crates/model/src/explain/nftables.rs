//! What kube-proxy installs in mode nftables: an element of a verdict map for each address, a chain for each service port
//! and endpoint, and a random number that chooses.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{Here, Port, name, ports, socket};
use crate::Service;
use crate::compile::{Backend, Choice, Forwarding, FrontendKind, Source, WhenEmpty};

/// Input of `nft --file`; `None` where the Service has no address in the family. Chains that all Services share and that
/// hook into the packet's way are left out.
pub fn nftables(service: &Service, forwarding: &Forwarding, ipv6: bool, here: &Here) -> Option<String> {
    let ports = ports(service, forwarding, ipv6);
    let mut table = Table {
        family: if ipv6 { "ip6" } else { "ip" },
        address: if ipv6 { "ipv6_addr" } else { "ipv4_addr" },
        pods: here.pods(ipv6),
        chains: vec![],
        sets: vec![],
        elements: BTreeMap::new(),
    };
    for port in &ports {
        table.port(port);
    }
    (!ports.is_empty()).then(|| table.text())
}

struct Table<'a> {
    family: &'static str,
    address: &'static str,
    pods: Option<&'a IpNet>,
    chains: Vec<(String, Vec<String>)>,
    sets: Vec<String>,
    /// By map or set.
    elements: BTreeMap<&'static str, Vec<String>>,
}

impl Table<'_> {
    fn text(&self) -> String {
        let mut text = format!("table {} kube-proxy {{\n", self.family);
        for set in &self.sets {
            text += &format!("  {set}\n");
        }
        text += "  chain mark-for-masquerade {\n    mark set mark or 0x4000\n  }\n  chain reject-chain {\n    reject\n  }\n";
        // A chain is known before somebody goes there.
        for (chain, rules) in &self.chains {
            text += &format!("  chain {chain} {{\n");
            for rule in rules {
                text += &format!("    {rule}\n");
            }
            text += "  }\n";
        }
        for (map, elements) in &self.elements {
            let address = self.address;
            let kind = match *map {
                "cluster-ips" => format!("set {map} {{\n    type {address}"),
                "service-nodeports" | "no-endpoint-nodeports" => {
                    format!("map {map} {{\n    type inet_proto . inet_service : verdict")
                }
                _ => format!("map {map} {{\n    type {address} . inet_proto . inet_service : verdict"),
            };
            text += &format!(
                "  {kind}\n    elements = {{\n      {}\n    }}\n  }}\n",
                elements.join(",\n      ")
            );
        }
        text += "}\n";
        text
    }

    fn element(&mut self, map: &'static str, element: String) {
        let elements = self.elements.entry(map).or_default();
        if !elements.contains(&element) {
            elements.push(element);
        }
    }

    fn port(&mut self, port: &Port<'_>) {
        let key = &port.service.key;
        let (protocol, family) = (port.protocol(), self.family);
        let name = format!("{}/{}/{protocol}/{}", key.namespace, key.name, port.port.name);
        let of = |choice| name::readable(if choice == Choice::Local { "local" } else { "service" }, &name);
        let (external, firewall) = (name::readable("external", &name), name::readable("firewall", &name));
        for backend in port.endpoints() {
            self.endpoint(port, &name, &backend);
        }
        for (choice, backends) in [(Choice::Cluster, port.cluster), (Choice::Local, port.local)] {
            if let Some(backends) = backends.filter(|backends| !backends.is_empty()) {
                self.choice(port, &name, &of(choice), backends);
            }
        }
        if let Some((_, rule)) = port.external().next() {
            let any = port.cluster.is_some_and(|backends| !backends.is_empty());
            let mut rules = vec![];
            if rule.outside.source == Source::Masquerade {
                rules.push("jump mark-for-masquerade".to_owned());
            } else if any {
                let any = of(Choice::Cluster);
                rules.extend(
                    self.pods
                        .map(|pods| format!("{family} saddr {pods} goto {any} comment \"short-circuit pod traffic\"")),
                );
                rules.push("fib saddr type local jump mark-for-masquerade comment \"masquerade local traffic\"".into());
                rules.push(format!(
                    "fib saddr type local goto {any} comment \"short-circuit local traffic\""
                ));
            }
            if !port.backends(&rule.outside).is_empty() {
                rules.push(format!("goto {}", of(rule.outside.set.choice)));
            }
            self.chains.push((external.clone(), rules));
        }
        for (frontend, rule) in &port.frontends {
            let internal = rule.kind == FrontendKind::ClusterIp;
            let target = if internal { &rule.inside } else { &rule.outside };
            let (any, number) = (frontend.ip.is_unspecified(), frontend.port);
            let place = match any {
                true => format!("{protocol} . {number}"),
                false => format!("{} . {protocol} . {number}", frontend.ip),
            };
            if internal {
                self.element("cluster-ips", frontend.ip.to_string());
            }
            if port.backends(target).is_empty() {
                let map = if any {
                    "no-endpoint-nodeports"
                } else {
                    "no-endpoint-services"
                };
                let verdict = match target.when_empty {
                    WhenEmpty::Refuse => "goto reject-chain",
                    WhenEmpty::Drop => "drop",
                };
                self.element(map, format!("{place} comment \"{}\" : {verdict}", port.name()));
                if internal || port.cluster.is_none_or(<[Backend]>::is_empty) {
                    continue;
                }
            }
            let to = if internal {
                of(target.set.choice)
            } else {
                external.clone()
            };
            self.element(
                if any { "service-nodeports" } else { "service-ips" },
                format!("{place} : goto {to}"),
            );
            if let (FrontendKind::LoadBalancer, Some(ranges)) = (rule.kind, &rule.source_ranges) {
                let fit = ranges
                    .iter()
                    .filter(|range| range.addr().is_ipv6() == frontend.ip.is_ipv6());
                let fit: Vec<String> = fit.map(IpNet::to_string).collect();
                if !self.chains.iter().any(|(chain, _)| *chain == firewall) {
                    let rule = match fit.is_empty() {
                        true => "drop".to_owned(),
                        false => format!("{family} saddr != {{ {} }} drop", fit.join(", ")),
                    };
                    self.chains.push((firewall.clone(), vec![rule]));
                }
                self.element(
                    "firewall-ips",
                    format!("{place} comment \"{}\" : goto {firewall}", port.name()),
                );
            }
        }
    }

    fn choice(&mut self, port: &Port<'_>, name: &str, chain: &str, backends: &[Backend]) {
        let (protocol, family) = (port.protocol(), self.family);
        let mut rules = vec![];
        let cluster_ips = port
            .frontends
            .iter()
            .filter(|(_, rule)| rule.kind == FrontendKind::ClusterIp);
        for ((frontend, _), pods) in cluster_ips.zip(self.pods) {
            rules.push(format!(
                "{family} daddr {} {protocol} dport {} {family} saddr != {pods} jump mark-for-masquerade",
                frontend.ip, frontend.port
            ));
        }
        if affinity(port).is_some() {
            let stuck = |backend: &Backend| {
                let (set, endpoint) = (
                    endpoint_name("affinity", name, backend),
                    endpoint_name("endpoint", name, backend),
                );
                format!("{family} saddr @{set} goto {endpoint}")
            };
            rules.extend(backends.iter().map(stuck));
        }
        let verdicts = backends.iter().enumerate();
        let verdicts: Vec<String> = verdicts
            .map(|(at, backend)| format!("{at} : goto {}", endpoint_name("endpoint", name, backend)))
            .collect();
        rules.push(format!(
            "numgen random mod {} vmap {{ {} }}",
            backends.len(),
            verdicts.join(", ")
        ));
        self.chains.push((chain.to_owned(), rules));
    }

    fn endpoint(&mut self, port: &Port<'_>, name: &str, backend: &Backend) {
        let family = self.family;
        let mut rules = vec![format!("{family} saddr {} jump mark-for-masquerade", backend.ip)];
        if let Some(seconds) = affinity(port) {
            let set = endpoint_name("affinity", name, backend);
            self.sets.push(format!(
                "set {set} {{\n    type {}\n    flags dynamic,timeout\n    timeout {seconds}s\n  }}",
                self.address
            ));
            rules.push(format!("update @{set} {{ {family} saddr }}"));
        }
        rules.push(format!("meta l4proto {} dnat to {}", port.protocol(), socket(backend)));
        self.chains.push((endpoint_name("endpoint", name, backend), rules));
    }
}

fn affinity(port: &Port<'_>) -> Option<u64> {
    let timeout = port.frontends.first().and_then(|(_, rule)| rule.affinity);
    timeout.map(|timeout| timeout.as_secs())
}

fn endpoint_name(prefix: &str, name: &str, backend: &Backend) -> String {
    // No colons are in names.
    let ip = backend.ip.to_string().replace(':', ".");
    name::readable(prefix, &format!("{name}__{ip}/{}", backend.port))
}
