//! What kube-proxy installs in mode iptables: a chain for each service port and for each endpoint, and the choice among
//! endpoints as a row of rules, each with the probability that none before it was chosen.

use ipnet::IpNet;

use super::{Here, Port, name, ports, socket};
use crate::Service;
use crate::compile::{Backend, Choice, Forwarding, Frontend, FrontendKind, Rule, Source, WhenEmpty};

/// Input of `iptables-restore --noflush`, or of `ip6tables-restore`; `None` where the Service has no address in the family.
pub fn iptables(service: &Service, forwarding: &Forwarding, ipv6: bool, here: &Here) -> Option<String> {
    let ports = ports(service, forwarding, ipv6);
    let mut rules = Rules::default();
    for port in &ports {
        rules.port(port, here.pods(ipv6));
    }
    (!ports.is_empty()).then(|| rules.text())
}

#[derive(Default)]
struct Rules {
    filter: Vec<String>,
    nat: Vec<String>,
    /// Of the table nat, beside those that there are always.
    chains: Vec<String>,
}

impl Rules {
    fn text(&self) -> String {
        let declared = |chains: &[&str]| {
            chains
                .iter()
                .map(|chain| format!(":{chain} - [0:0]\n"))
                .collect::<String>()
        };
        let always = ["KUBE-MARK-MASQ", "KUBE-NODEPORTS", "KUBE-SERVICES"];
        let own: Vec<&str> = self.chains.iter().map(String::as_str).collect();
        let mut text = String::new();
        if !self.filter.is_empty() {
            text += "*filter\n";
            text += &declared(&["KUBE-EXTERNAL-SERVICES", "KUBE-PROXY-FIREWALL", "KUBE-SERVICES"]);
            text += &self.filter.join("\n");
            text += "\nCOMMIT\n";
        }
        text += "*nat\n";
        text += &declared(&always);
        text += &declared(&own);
        text += "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n";
        text += &self.nat.join("\n");
        text += "\nCOMMIT\n";
        text
    }

    fn port(&mut self, port: &Port<'_>, pods: Option<&IpNet>) {
        let (name, protocol) = (port.name(), port.protocol());
        let chain = |prefix| name::chain(prefix, &name, protocol);
        let of = |choice| chain(if choice == Choice::Local { "SVL" } else { "SVC" });
        for (frontend, rule) in &port.frontends {
            let internal = rule.kind == FrontendKind::ClusterIp;
            let target = if internal { &rule.inside } else { &rule.outside };
            if port.backends(target).is_empty() {
                self.nobody(&name, protocol, frontend, target.when_empty);
                // Pods go to any endpoint nevertheless, where there is one.
                if internal || port.cluster.is_none_or(<[Backend]>::is_empty) {
                    continue;
                }
            }
            let to = match rule.kind {
                FrontendKind::ClusterIp => of(target.set.choice),
                FrontendKind::LoadBalancer if rule.source_ranges.is_some() => chain("FW"),
                _ => chain("EXT"),
            };
            self.nat.push(entrance(&name, protocol, frontend, rule.kind, &to));
            if let (FrontendKind::LoadBalancer, Some(ranges)) = (rule.kind, &rule.source_ranges) {
                self.firewall(&name, protocol, frontend, ranges);
            }
        }
        if let Some((_, rule)) = port.external().next() {
            self.external(
                &name,
                &chain("EXT"),
                (&of(Choice::Cluster), &of(rule.outside.set.choice)),
                rule,
                pods,
            );
        }
        for (choice, backends) in [(Choice::Cluster, port.cluster), (Choice::Local, port.local)] {
            if let Some(backends) = backends.filter(|backends| !backends.is_empty()) {
                self.choice(port, &of(choice), backends, pods);
            }
        }
        for backend in port.endpoints() {
            self.endpoint(port, &backend);
        }
    }

    /// No endpoint: said in the table filter, since nat is no place to refuse.
    fn nobody(&mut self, name: &str, protocol: &str, frontend: &Frontend, when_empty: WhenEmpty) {
        let (what, verdict) = match when_empty {
            WhenEmpty::Refuse => ("has no endpoints", "REJECT"),
            WhenEmpty::Drop => ("has no local endpoints", "DROP"),
        };
        let (chain, to) = match frontend.ip.is_unspecified() {
            true => ("KUBE-EXTERNAL-SERVICES", "-m addrtype --dst-type LOCAL".to_owned()),
            false => ("KUBE-SERVICES", format!("-d {}", frontend.ip)),
        };
        self.filter.push(format!(
            "-A {chain} -m comment --comment \"{name} {what}\" -m {protocol} -p {protocol} {to} --dport {} -j {verdict}",
            frontend.port
        ));
    }

    fn firewall(&mut self, name: &str, protocol: &str, frontend: &Frontend, ranges: &[IpNet]) {
        let (firewall, external) = (name::chain("FW", name, protocol), name::chain("EXT", name, protocol));
        if !self.chains.contains(&firewall) {
            self.chains.push(firewall.clone());
            for range in ranges
                .iter()
                .filter(|range| range.addr().is_ipv6() == frontend.ip.is_ipv6())
            {
                self.nat.push(format!(
                    "-A {firewall} -m comment --comment \"{name} loadbalancer IP\" -s {range} -j {external}"
                ));
            }
        }
        self.filter.push(format!(
            "-A KUBE-PROXY-FIREWALL -m comment --comment \"{name} traffic not accepted by {firewall}\" -m {protocol} -p {protocol} \
             -d {} --dport {} -j DROP",
            frontend.ip, frontend.port
        ));
    }

    fn external(&mut self, name: &str, chain: &str, (any, chosen): (&str, &str), rule: &Rule, pods: Option<&IpNet>) {
        self.chains.push(chain.to_owned());
        let mut add = |comment: &str, rest: &str| {
            self.nat.push(format!(
                "-A {chain} -m comment --comment \"{comment} {name} external destinations\" {rest}"
            ));
        };
        if rule.outside.source == Source::Masquerade {
            add("masquerade traffic for", "-j KUBE-MARK-MASQ");
        } else {
            if let Some(pods) = pods {
                add("pod traffic for", &format!("-s {pods} -j {any}"));
            }
            add(
                "masquerade LOCAL traffic for",
                "-m addrtype --src-type LOCAL -j KUBE-MARK-MASQ",
            );
            add(
                "route LOCAL traffic for",
                &format!("-m addrtype --src-type LOCAL -j {any}"),
            );
        }
        self.nat.push(format!("-A {chain} -j {chosen}"));
    }

    fn choice(&mut self, port: &Port<'_>, chain: &str, backends: &[Backend], pods: Option<&IpNet>) {
        let (name, protocol) = (port.name(), port.protocol());
        self.chains.push(chain.to_owned());
        let cluster_ips = port
            .frontends
            .iter()
            .filter(|(_, rule)| rule.kind == FrontendKind::ClusterIp);
        for (frontend, _) in cluster_ips.filter(|_| pods.is_some()) {
            self.nat.push(format!(
                "-A {chain} -m comment --comment \"{name} cluster IP\" -m {protocol} -p {protocol} -d {} --dport {} ! -s {} \
                 -j KUBE-MARK-MASQ",
                frontend.ip,
                frontend.port,
                pods.map(IpNet::to_string).unwrap_or_default()
            ));
        }
        let to = |backend: &Backend| name::endpoint_chain(&name, protocol, &socket(backend));
        let affinity = port.frontends.first().and_then(|(_, rule)| rule.affinity);
        for backend in backends.iter().filter(|_| affinity.is_some()) {
            self.nat.push(format!(
                "-A {chain} -m comment --comment \"{name} -> {}\" -m recent --name {endpoint} --rcheck --seconds {} --reap -j {endpoint}",
                socket(backend),
                affinity.unwrap_or_default().as_secs(),
                endpoint = to(backend),
            ));
        }
        for (at, backend) in backends.iter().enumerate() {
            let left = backends.len() - at;
            let chance = match left {
                1 => String::new(),
                _ => format!(" -m statistic --mode random --probability {:.10}", 1.0 / left as f64),
            };
            self.nat.push(format!(
                "-A {chain} -m comment --comment \"{name} -> {}\"{chance} -j {}",
                socket(backend),
                to(backend)
            ));
        }
    }

    fn endpoint(&mut self, port: &Port<'_>, backend: &Backend) {
        let (name, protocol) = (port.name(), port.protocol());
        let chain = name::endpoint_chain(&name, protocol, &socket(backend));
        let affine = port.frontends.first().is_some_and(|(_, rule)| rule.affinity.is_some());
        let note = if affine {
            format!(" -m recent --name {chain} --set")
        } else {
            String::new()
        };
        self.nat.push(format!(
            "-A {chain} -m comment --comment \"{name}\" -s {} -j KUBE-MARK-MASQ",
            backend.ip
        ));
        self.nat.push(format!(
            "-A {chain} -m comment --comment \"{name}\"{note} -m {protocol} -p {protocol} -j DNAT --to-destination {}",
            socket(backend)
        ));
        self.chains.push(chain);
    }
}

/// The rule that sends what is for one address to the Service's chain.
fn entrance(name: &str, protocol: &str, frontend: &Frontend, kind: FrontendKind, to: &str) -> String {
    let (ip, port) = (frontend.ip, frontend.port);
    let what = match kind {
        FrontendKind::NodePort => {
            return format!(
                "-A KUBE-NODEPORTS -m comment --comment \"{name}\" -m {protocol} -p {protocol} --dport {port} -j {to}"
            );
        }
        FrontendKind::ClusterIp => "cluster IP",
        FrontendKind::LoadBalancer => "loadbalancer IP",
        FrontendKind::ExternalIp => "external IP",
    };
    format!(
        "-A KUBE-SERVICES -m comment --comment \"{name} {what}\" -m {protocol} -p {protocol} -d {ip} --dport {port} -j {to}"
    )
}
