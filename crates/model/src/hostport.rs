//! Ports of the node that lead to its pods: which entries a pod's `portMappings` mean, and which pods get in each
//! other's way.
//!
//! A mapping without a host address, or with the unspecified one of a family, is for every address of the node.
//! So `0.0.0.0:80/TCP` overlaps with `10.89.0.11:80/TCP`, but not with `[::]:80/TCP` nor with `0.0.0.0:80/UDP`
//! (as the scheduler counts a node's ports).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::Protocol;
use crate::cni::PortMapping;

/// Where on the node a pod is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// The node's address; unspecified: every address of that family.
    pub ip: IpAddr,
    /// The node's port.
    pub port: u16,
    /// Its transport protocol.
    pub protocol: Protocol,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.ip, self.port), self.protocol)
    }
}

impl HostPort {
    /// Whether there are packets that both would get.
    pub fn overlaps(&self, other: &HostPort) -> bool {
        (self.port, self.protocol, self.ip.is_ipv4()) == (other.port, other.protocol, other.ip.is_ipv4())
            && (self.ip == other.ip || self.ip.is_unspecified() || other.ip.is_unspecified())
    }

    /// Whether 127.0.0.0/8 is among the addresses it is for.
    pub fn on_loopback(&self) -> bool {
        self.ip.is_ipv4() && (self.ip.is_unspecified() || self.ip.is_loopback())
    }
}

/// A pod's host ports, and where in the pod each leads.
pub type HostPorts = BTreeMap<HostPort, SocketAddr>;

/// A mapping that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The pod has no address of the family.
    #[error("host port {port} needs a pod address of the family of {ip}, which the pod does not have")]
    Family {
        /// The host address.
        ip: IpAddr,
        /// The host port.
        port: u16,
    },
    /// One pod asks for the same twice.
    #[error("host ports {0} and {1} of the pod overlap; remove one of them")]
    Twice(HostPort, HostPort),
    /// Port 0 is none.
    #[error("a port mapping to container port 0 from host port {port}; correct the pod's ports")]
    ContainerPort {
        /// The host port.
        port: u16,
    },
}

/// What these mappings mean for a pod with these addresses.
pub fn resolve(mappings: &[PortMapping], pod: &[IpAddr]) -> Result<HostPorts, Invalid> {
    let mut found = HostPorts::new();
    for mapping in mappings {
        let (port, protocol) = (mapping.host_port, mapping.protocol);
        if mapping.container_port == 0 {
            return Err(Invalid::ContainerPort { port });
        }
        for ip in host_ips(mapping, pod) {
            let wanted = HostPort { ip, port, protocol };
            let own = pod.iter().find(|own| own.is_ipv4() == ip.is_ipv4());
            let to = SocketAddr::new(*own.ok_or(Invalid::Family { ip, port })?, mapping.container_port);
            if let Some(other) = found.keys().find(|other| other.overlaps(&wanted)) {
                return Err(Invalid::Twice(*other, wanted));
            }
            found.insert(wanted, to);
        }
    }
    Ok(found)
}

/// The host addresses that a mapping is for: without one, every address of the families that the pod has.
fn host_ips(mapping: &PortMapping, pod: &[IpAddr]) -> Vec<IpAddr> {
    if let Some(ip) = mapping.host_ip {
        return vec![ip.to_canonical()];
    }
    let any = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
    let has = |family: &IpAddr| pod.iter().any(|ip| ip.is_ipv4() == family.is_ipv4());
    any.into_iter().filter(has).collect()
}

/// The host ports of all pods of a node, by who has them.
#[derive(Debug)]
pub struct Ports<Owner> {
    taken: BTreeMap<HostPort, (SocketAddr, Owner)>,
}

impl<Owner> Default for Ports<Owner> {
    fn default() -> Self {
        Self { taken: BTreeMap::new() }
    }
}

/// Another pod has the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken<Owner> {
    /// What was wanted.
    pub wanted: HostPort,
    /// What is there.
    pub held: HostPort,
    /// Who has it.
    pub by: Owner,
}

impl<Owner: Clone + PartialEq> Ports<Owner> {
    /// Gives all of these ports to `owner`, or none.
    pub fn claim(&mut self, owner: &Owner, ports: &HostPorts) -> Result<(), Taken<Owner>> {
        for wanted in ports.keys() {
            let mut others = self.taken.iter().filter(|(_, (_, by))| by != owner);
            if let Some((held, (_, by))) = others.find(|(held, _)| held.overlaps(wanted)) {
                return Err(Taken {
                    wanted: *wanted,
                    held: *held,
                    by: by.clone(),
                });
            }
        }
        let mine = ports.iter().map(|(port, to)| (*port, (*to, owner.clone())));
        self.taken.extend(mine);
        Ok(())
    }

    /// Takes `owner`'s ports back and says which they were.
    pub fn release(&mut self, owner: &Owner) -> HostPorts {
        let mine = self.taken.extract_if(.., |_, (_, by)| by == owner);
        mine.map(|(port, (to, _))| (port, to)).collect()
    }

    /// Everything that leads somewhere.
    pub fn all(&self) -> HostPorts {
        self.taken.iter().map(|(port, (to, _))| (*port, *to)).collect()
    }

    /// Whether no pod has a host port.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Protocol::{Tcp, Udp};

    fn mapping(ip: &str, host: u16, container: u16, protocol: Protocol) -> PortMapping {
        PortMapping {
            host_port: host,
            container_port: container,
            protocol,
            host_ip: ip.parse().ok(),
        }
    }

    fn resolved(mappings: &[PortMapping], pod: &[&str]) -> Result<Vec<String>, Invalid> {
        let pod: Vec<IpAddr> = pod.iter().map(|ip| ip.parse().unwrap()).collect();
        let ports = resolve(mappings, &pod)?;
        Ok(ports.iter().map(|(port, to)| format!("{port} -> {to}")).collect())
    }

    #[test]
    fn a_mapping_is_for_the_families_of_the_pod_or_the_one_of_its_address() {
        let both = ["10.0.0.2", "fd00::2"];
        assert_eq!(
            resolved(&[mapping("", 80, 8080, Tcp)], &both).unwrap(),
            ["0.0.0.0:80/TCP -> 10.0.0.2:8080", "[::]:80/TCP -> [fd00::2]:8080"]
        );
        assert_eq!(
            resolved(&[mapping("", 80, 8080, Tcp)], &both[..1]).unwrap(),
            ["0.0.0.0:80/TCP -> 10.0.0.2:8080"]
        );
        assert_eq!(
            resolved(&[mapping("::", 53, 53, Udp), mapping("10.9.0.1", 53, 53, Udp)], &both).unwrap(),
            ["10.9.0.1:53/UDP -> 10.0.0.2:53", "[::]:53/UDP -> [fd00::2]:53"]
        );
    }

    #[test]
    fn what_cannot_be_says_which_and_why() {
        let error = |mappings: &[PortMapping], pod: &[&str]| resolved(mappings, pod).unwrap_err().to_string();
        let pod = ["10.0.0.2"];
        assert!(error(&[mapping("fd00::1", 80, 80, Tcp)], &pod).contains("family of fd00::1"));
        assert!(error(&[mapping("", 80, 0, Tcp)], &pod).contains("container port 0"));
        let twice = [mapping("", 80, 80, Tcp), mapping("10.9.0.1", 80, 81, Tcp)];
        assert!(error(&twice, &pod).contains("0.0.0.0:80/TCP and 10.9.0.1:80/TCP"));
    }

    #[test]
    fn ports_are_taken_whole_and_by_one_pod_at_a_time() {
        let pod: Vec<IpAddr> = vec!["10.0.0.2".parse().unwrap()];
        let ports = |mappings: &[PortMapping]| resolve(mappings, &pod).unwrap();
        let mut all = Ports::default();
        all.claim(&"a", &ports(&[mapping("10.9.0.1", 80, 80, Tcp)])).unwrap();
        all.claim(
            &"b",
            &ports(&[mapping("10.9.0.2", 80, 80, Tcp), mapping("", 80, 80, Udp)]),
        )
        .unwrap();
        // The first would be free, the second is not: neither is taken.
        let taken = all
            .claim(&"c", &ports(&[mapping("", 79, 79, Tcp), mapping("", 80, 80, Tcp)]))
            .unwrap_err();
        assert_eq!((taken.wanted.to_string(), taken.by), ("0.0.0.0:80/TCP".to_owned(), "a"));
        assert_eq!(all.all().len(), 3);
        assert_eq!(all.release(&"b").len(), 2);
        assert_eq!(all.release(&"a").len(), 1);
        assert!(all.is_empty());
        all.claim(&"c", &ports(&[mapping("", 80, 80, Tcp)])).unwrap();
        // The same again is no conflict with itself: the record of a restarted agent.
        all.claim(&"c", &ports(&[mapping("", 80, 80, Tcp)])).unwrap();
    }
}
