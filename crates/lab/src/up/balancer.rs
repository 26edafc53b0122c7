//! The lab's load balancer: its router sends what is for a Service's balanced address to the nodes, as a network does
//! whose routers know the address from every node (ECMP), by flow. A node is in while it is Ready and, where the Service
//! has a health check port, answers 200 there. In mode Proxy the router makes a connection of its own to a node port.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::future::join_all;
use ipnet::IpNet;
use serde_json::Value;
use tokio::sync::mpsc;

use super::lifecycle::is_ready;
use super::segment::{Net, with_netlink};
use super::{Error, Lab, internet, netns};
use crate::client::{Client, Event, ListOptions, Res, meta};

/// How often nodes are asked whether they are healthy, and how long an answer may take.
const PROBE: Duration = Duration::from_millis(250);
/// Nodes that are not to be sent anything (KEP-1143, KEP-3836).
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

/// Follows Services and Nodes on a thread of its own.
pub(super) fn start(lab: &Lab, segment: File) -> Result<(), Error> {
    let client = Client::unix(lab.api_socket());
    let run = move || {
        let ended = netns::inside(&segment, || with_netlink(async |net| follow(&net, &client).await));
        if let Err(error) = ended {
            tracing::error!(%error, "the lab's load balancer ended; balanced addresses are not reached from outside");
        }
    };
    let spawned = std::thread::Builder::new().spawn(run);
    spawned
        .map(drop)
        .map_err(Error::io("start a thread for", "the load balancer"))
}

/// A Service with addresses of the balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Balanced {
    /// Addresses that lead to the nodes as they are.
    vips: Vec<IpAddr>,
    /// Addresses that the balancer itself answers, with what is behind each port.
    proxied: Vec<IpAddr>,
    ports: Vec<Port>,
    /// Where nodes say whether they have endpoints.
    health: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    /// As nft writes it: tcp, udp or sctp.
    protocol: String,
    port: u64,
    node_port: u64,
}

#[derive(Default)]
struct Balancer {
    services: BTreeMap<(String, String), Balanced>,
    /// The addresses of the nodes that may be sent something.
    nodes: BTreeMap<String, Vec<IpAddr>>,
    /// What the kernel has.
    routes: BTreeMap<IpAddr, BTreeSet<IpAddr>>,
    rules: String,
    /// What could not be done at the last turn.
    trouble: Option<String>,
}

async fn follow(net: &Net, client: &Client) -> Result<(), Error> {
    let informer = |res| client.informer(res, "", ListOptions::default());
    let mut nodes = informer(Res::new("", "v1", "nodes"));
    let mut services = informer(Res::new("", "v1", "services"));
    let mut balancer = Balancer::default();
    let mut turn = tokio::time::interval(PROBE);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(event) = nodes.recv() => balancer.node(event),
            Some(event) = services.recv() => balancer.service(event),
            _ = turn.tick() => {}
        }
        // What else has been said already, so that a burst is one change.
        drain(&mut nodes, |event| balancer.node(event));
        drain(&mut services, |event| balancer.service(event));
        balancer.apply(net).await;
    }
}

fn drain(events: &mut mpsc::Receiver<Event>, mut take: impl FnMut(Event)) {
    while let Ok(event) = events.try_recv() {
        take(event);
    }
}

impl Balancer {
    fn node(&mut self, event: Event) {
        let (node, here) = match event {
            Event::Applied(node) => {
                let here = takes_traffic(&node);
                (node, here)
            }
            Event::Deleted(node) => (node, false),
            Event::Synced => return,
        };
        let name = meta(&node, "name").to_owned();
        match here {
            true => self.nodes.insert(name, internal_ips(&node)),
            false => self.nodes.remove(&name),
        };
    }

    fn service(&mut self, event: Event) {
        let (service, there) = match event {
            Event::Applied(service) => (service, true),
            Event::Deleted(service) => (service, false),
            Event::Synced => return,
        };
        let key = (
            meta(&service, "namespace").to_owned(),
            meta(&service, "name").to_owned(),
        );
        let balanced = balanced(&service).filter(|_| there);
        match balanced {
            Some(balanced) => self.services.insert(key, balanced),
            None => self.services.remove(&key),
        };
    }

    /// Brings routes and rules to what is wanted now. What fails is tried again at the next turn.
    async fn apply(&mut self, net: &Net) {
        let mut wanted: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
        let mut rules = String::new();
        for service in self.services.values() {
            let mut nodes = Vec::new();
            for healthy in join_all(self.nodes.values().map(|node| healthy(node, service.health))).await {
                nodes.extend(healthy);
            }
            let of = |vip: IpAddr| -> BTreeSet<IpAddr> {
                let fit = nodes.iter().filter(|ip| ip.is_ipv4() == vip.is_ipv4());
                fit.copied().collect()
            };
            wanted.extend(service.vips.iter().map(|vip| (*vip, of(*vip))));
            for vip in &service.proxied {
                rules.push_str(&proxy(*vip, &service.ports, &of(*vip)));
            }
        }
        wanted.retain(|_, nodes| !nodes.is_empty());
        let gone: Vec<IpAddr> = self
            .routes
            .keys()
            .filter(|vip| !wanted.contains_key(vip))
            .copied()
            .collect();
        let mut trouble = None;
        for vip in gone {
            trouble = net.remove_shared_route(IpNet::from(vip)).await.err().or(trouble);
            self.routes.remove(&vip);
        }
        for (vip, nodes) in wanted {
            if self.routes.get(&vip) == Some(&nodes) {
                continue;
            }
            match net.shared_route(IpNet::from(vip), &nodes).await {
                Ok(()) => drop(self.routes.insert(vip, nodes)),
                Err(error) => trouble = Some(error),
            }
        }
        if rules != self.rules {
            match internet::load(&table(&rules)) {
                Ok(()) => self.rules = rules,
                Err(error) => trouble = Some(error),
            }
        }
        let trouble = trouble.map(|error| error.to_string());
        if let Some(error) = trouble.as_ref().filter(|_| trouble != self.trouble) {
            tracing::warn!(error, "a balanced address does not lead where it should; trying again");
        }
        self.trouble = trouble;
    }
}

/// The node's addresses while it is to be sent something.
async fn healthy(node: &[IpAddr], health: Option<u16>) -> Vec<IpAddr> {
    let well = match (health, node.first()) {
        (Some(port), Some(ip)) => {
            let url = format!("http://{}/healthz", SocketAddr::new(*ip, port));
            crate::ask::http(&url, PROBE).await.is_ok()
        }
        _ => true,
    };
    if well { node.to_vec() } else { Vec::new() }
}

fn takes_traffic(node: &Value) -> bool {
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    let leaving = taints.into_iter().any(|taint| taint["key"] == LEAVING);
    is_ready(node) && !leaving && node["metadata"]["labels"][EXCLUDED].is_null()
}

fn internal_ips(node: &Value) -> Vec<IpAddr> {
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    let internal = addresses.filter(|address| address["type"] == "InternalIP");
    internal
        .filter_map(|address| address["address"].as_str()?.parse().ok())
        .collect()
}

fn balanced(service: &Value) -> Option<Balanced> {
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array()?;
    let of = |proxied: bool| {
        let those = ingress.iter().filter(|entry| (entry["ipMode"] == "Proxy") == proxied);
        those.filter_map(|entry| entry["ip"].as_str()?.parse().ok()).collect()
    };
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let port = |port: &Value| {
        Some(Port {
            protocol: port["protocol"].as_str().unwrap_or("TCP").to_ascii_lowercase(),
            port: port["port"].as_u64()?,
            node_port: port["nodePort"].as_u64()?,
        })
    };
    let health = service["spec"]["healthCheckNodePort"].as_u64();
    Some(Balanced {
        vips: of(false),
        proxied: of(true),
        ports: ports.filter_map(port).collect(),
        health: health.and_then(|port| port.try_into().ok()),
    })
}

/// The rules for one address that the balancer answers itself.
fn proxy(vip: IpAddr, ports: &[Port], nodes: &BTreeSet<IpAddr>) -> String {
    let family = if vip.is_ipv4() { "ip" } else { "ip6" };
    let mut rules = String::new();
    for Port {
        protocol,
        port,
        node_port,
    } in ports.iter().filter(|_| !nodes.is_empty())
    {
        let to: Vec<String> = (0..)
            .zip(nodes)
            .map(|(n, ip)| format!("{n} : {ip} . {node_port}"))
            .collect();
        // Writing to a String does not fail.
        let _ = writeln!(
            rules,
            "        {family} daddr {vip} {protocol} dport {port} dnat {family} to numgen inc mod {} map {{ {} }}",
            nodes.len(),
            to.join(", ")
        );
    }
    rules
}

/// All of the balancer's rules, in place of those before.
fn table(rules: &str) -> String {
    format!(
        "add table inet weft-lab-balancer
delete table inet weft-lab-balancer
table inet weft-lab-balancer {{
    chain proxied {{
{rules}    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        jump proxied
    }}
    chain output {{
        type nat hook output priority -100;
        jump proxied
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        ct status dnat masquerade
    }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_is_sent_something() {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let node = |extra: Value| {
            let mut node = json!({"metadata": {}, "spec": {}, "status": {"conditions": ready}});
            json_patch::merge(&mut node, &extra);
            takes_traffic(&node)
        };
        assert!(node(json!({})));
        assert!(!node(json!({"status": {"conditions": []}})));
        assert!(!node(json!({"metadata": {"labels": {EXCLUDED: ""}}})));
        assert!(!node(
            json!({"spec": {"taints": [{"key": LEAVING, "effect": "NoSchedule"}]}})
        ));
    }

    #[test]
    fn an_address_is_routed_or_answered() {
        let service = json!({
            "spec": {"healthCheckNodePort": 32000, "ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]},
            "status": {"loadBalancer": {"ingress": [
                {"ip": "203.0.113.1", "ipMode": "VIP"}, {"ip": "2001:db8:0:1::1", "ipMode": "Proxy"},
            ]}},
        });
        let balanced = balanced(&service).unwrap();
        assert_eq!(balanced.vips, ["203.0.113.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(balanced.health, Some(32000));
        let nodes = BTreeSet::from(["fd89::b".parse().unwrap(), "fd89::c".parse().unwrap()]);
        assert_eq!(
            proxy(balanced.proxied[0], &balanced.ports, &nodes),
            "        ip6 daddr 2001:db8:0:1::1 tcp dport 80 dnat ip6 to numgen inc mod 2 map { 0 : fd89::b . 30080, 1 : fd89::c . 30080 }\n"
        );
    }
}
