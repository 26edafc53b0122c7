//! What kube-proxy installs in mode ipvs: a virtual server for each address, a real server for each endpoint, and the
//! kernel's scheduler between them.

use std::net::{IpAddr, SocketAddr};

use super::{Here, ports, socket};
use crate::Service;
use crate::compile::{Forwarding, FrontendKind};

/// Input of `ipvsadm --restore`; `None` where the Service has no address in the family. Node ports are virtual servers
/// of the node's own addresses.
pub fn ipvs(service: &Service, forwarding: &Forwarding, ipv6: bool, here: &Here) -> Option<String> {
    let ports = ports(service, forwarding, ipv6);
    let mut text = String::new();
    for port in &ports {
        let kind = match port.protocol() {
            "tcp" => "-t",
            "udp" => "-u",
            _ => "--sctp-service",
        };
        for (frontend, rule) in &port.frontends {
            let target = if rule.kind == FrontendKind::ClusterIp {
                &rule.inside
            } else {
                &rule.outside
            };
            let persistent = rule
                .affinity
                .map(|timeout| format!(" -p {}", timeout.as_secs()))
                .unwrap_or_default();
            let addresses: Vec<IpAddr> = match frontend.ip.is_unspecified() {
                true => here
                    .addresses
                    .iter()
                    .copied()
                    .filter(|ip| ip.is_ipv6() == ipv6)
                    .collect(),
                false => vec![frontend.ip],
            };
            for ip in addresses {
                let server = SocketAddr::new(ip, frontend.port);
                text += &format!("-A {kind} {server} -s rr{persistent}\n");
                for backend in port.backends(target) {
                    text += &format!("-a {kind} {server} -r {} -m -w 1\n", socket(backend));
                }
            }
        }
    }
    (!ports.is_empty()).then_some(text)
}
