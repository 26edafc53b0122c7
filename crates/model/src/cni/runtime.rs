//! What the runtime adds to the configuration for one container: `runtimeConfig`, as the conventions of CNI have it.
//!
//! containerd writes the names of fields with a capital; a reference plugin, as any Go program, reads them all the same.
//! A runtime passes only what the configuration declares in `capabilities`. Fields that are null are as absent.

use std::fmt;
use std::net::{AddrParseError, IpAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};

use super::Dns;
use crate::Protocol;

/// `runtimeConfig`: one field for each capability.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeConfig {
    /// Ports of the node that lead to the container. One with host port 0 asks for nothing, and is left out.
    #[serde(default, deserialize_with = "mappings", skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// Limits of what the container sends and receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// Addresses that the container is to have.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<WantedIp>,
    /// Ethernet address that the container's interface is to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Name servers that the container is to use.
    #[serde(default, deserialize_with = "runtime_dns", skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// Ranges that the container's addresses are to come from: one address from one range of each set.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<Vec<IpRange>>,
    /// Device that is to be moved into the container. Weft makes its own link, and refuses this.
    #[serde(rename = "deviceID", default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// The container's cgroup, below the root of the hierarchy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<String>,
    /// Other names of the container on this network.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// A port of the node that leads to the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// On the node.
    #[serde(alias = "HostPort")]
    pub host_port: u16,
    /// In the container.
    #[serde(alias = "ContainerPort")]
    pub container_port: u16,
    /// TCP where absent.
    #[serde(default = "tcp", alias = "Protocol", deserialize_with = "protocol")]
    pub protocol: Protocol,
    /// The node's address that it is reached at; all of them where absent.
    #[serde(
        rename = "hostIP",
        alias = "HostIP",
        default,
        deserialize_with = "address",
        skip_serializing_if = "Option::is_none"
    )]
    pub host_ip: Option<IpAddr>,
}

/// Limits in bits per second, and bursts in bits. 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    /// Into the container.
    #[serde(alias = "IngressRate")]
    pub ingress_rate: u64,
    /// Into the container.
    #[serde(alias = "IngressBurst")]
    pub ingress_burst: u64,
    /// Out of the container.
    #[serde(alias = "EgressRate")]
    pub egress_rate: u64,
    /// Out of the container.
    #[serde(alias = "EgressBurst")]
    pub egress_burst: u64,
}

/// An address that the runtime asks for, with or without a prefix length. Weft's links are routed, so that the length
/// means nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WantedIp(pub IpAddr);

impl FromStr for WantedIp {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text.parse::<IpNet>() {
            Ok(net) => Ok(Self(net.addr())),
            Err(_) => text.parse().map(Self),
        }
    }
}

impl TryFrom<String> for WantedIp {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is not an address such as 10.1.0.9 or 10.1.0.9/24"))
    }
}

impl From<WantedIp> for String {
    fn from(ip: WantedIp) -> Self {
        ip.to_string()
    }
}

impl fmt::Display for WantedIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A range of addresses to choose from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpRange {
    /// The whole of it.
    #[serde(alias = "Subnet")]
    pub subnet: IpNet,
    /// First address to give; the subnet's first usable one where absent.
    #[serde(
        alias = "RangeStart",
        default,
        deserialize_with = "address",
        skip_serializing_if = "Option::is_none"
    )]
    pub range_start: Option<IpAddr>,
    /// Last address to give; the subnet's last usable one where absent.
    #[serde(
        alias = "RangeEnd",
        default,
        deserialize_with = "address",
        skip_serializing_if = "Option::is_none"
    )]
    pub range_end: Option<IpAddr>,
    /// The gateway of the subnet, which is not given.
    #[serde(
        alias = "Gateway",
        default,
        deserialize_with = "address",
        skip_serializing_if = "Option::is_none"
    )]
    pub gateway: Option<IpAddr>,
}

fn tcp() -> Protocol {
    Protocol::Tcp
}

/// `tcp`, in any case.
fn protocol<'de, D: Deserializer<'de>>(from: D) -> Result<Protocol, D::Error> {
    let text = Option::<String>::deserialize(from)?.unwrap_or_default();
    match text.to_ascii_lowercase().as_str() {
        "" | "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(serde::de::Error::custom(format!(
            "protocol {text:?} is none of tcp, udp, sctp"
        ))),
    }
}

/// Runtimes pass an empty text for "any".
fn address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(from)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|error| serde::de::Error::custom(format!("address {text:?}: {error}"))),
    }
}

fn mappings<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PortMapping>, D::Error> {
    let mut all: Vec<PortMapping> = or_default(from)?;
    all.retain(|mapping| mapping.host_port != 0);
    Ok(all)
}

/// Runtimes write what a Go program writes for an empty list, too: null.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// The capability calls its fields by other names than a result does.
fn runtime_dns<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Dns>, D::Error> {
    #[derive(Deserialize)]
    struct RuntimeDns {
        #[serde(default, alias = "Servers", alias = "nameservers", deserialize_with = "or_default")]
        servers: Vec<String>,
        #[serde(default, alias = "Searches", alias = "search", deserialize_with = "or_default")]
        searches: Vec<String>,
        #[serde(default, alias = "Options", deserialize_with = "or_default")]
        options: Vec<String>,
    }
    let given = Option::<RuntimeDns>::deserialize(from)?;
    Ok(given.map(|given| Dns {
        nameservers: given.servers,
        domain: String::new(),
        search: given.searches,
        options: given.options,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> RuntimeConfig {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn capabilities_are_read_as_runtimes_write_them() {
        let config = read(
            r#"{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"TCP","hostIP":""},
                {"hostPort":53,"containerPort":5353,"protocol":"udp","hostIP":"::1"},{"hostPort":0,"containerPort":9}],
              "bandwidth":{"ingressRate":1000000,"ingressBurst":8000},
              "ips":["10.1.0.9/24","fd00::9"],"mac":"02:00:00:00:00:09",
              "dns":{"servers":["10.96.0.10"],"searches":["a.local"],"options":["ndots:5"]},
              "ipRanges":[[{"subnet":"10.1.0.0/24","rangeStart":"10.1.0.9"}]],
              "deviceID":"0000:04:00.5","cgroupPath":"/kubelet.slice/x","aliases":["db"],"unknown":1}"#,
        );
        assert_eq!(config.port_mappings.len(), 2);
        assert_eq!(config.port_mappings[0].host_ip, None);
        assert_eq!(config.port_mappings[1].protocol, Protocol::Udp);
        assert_eq!(config.bandwidth.unwrap().egress_rate, 0);
        assert_eq!(config.ips[0].to_string(), "10.1.0.9");
        assert_eq!(config.dns.as_ref().unwrap().search, ["a.local"]);
        assert_eq!(config.ip_ranges[0][0].range_end, None);
        assert_eq!(config.device_id.as_deref(), Some("0000:04:00.5"));
        let again = serde_json::to_string(&config).unwrap();
        assert_eq!(read(&again), config);
    }

    #[test]
    fn capabilities_are_read_as_containerd_writes_them() {
        let config = read(
            r#"{"portMappings":[{"HostPort":8080,"ContainerPort":80,"Protocol":"udp","HostIP":"10.9.0.1"}],
              "bandwidth":{"IngressRate":1000000,"IngressBurst":1,"EgressRate":2,"EgressBurst":3},
              "dns":{"Servers":["10.96.0.10"],"Searches":["a.local"],"Options":["ndots:5"]},
              "ipRanges":[[{"Subnet":"10.1.0.0/24","RangeStart":"10.1.0.9","RangeEnd":"","Gateway":""}]]}"#,
        );
        let same = read(
            r#"{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"udp","hostIP":"10.9.0.1"}],
              "bandwidth":{"ingressRate":1000000,"ingressBurst":1,"egressRate":2,"egressBurst":3},
              "dns":{"servers":["10.96.0.10"],"searches":["a.local"],"options":["ndots:5"]},
              "ipRanges":[[{"subnet":"10.1.0.0/24","rangeStart":"10.1.0.9"}]]}"#,
        );
        assert_eq!(config, same);
    }

    #[test]
    fn null_is_absent_and_nonsense_is_named() {
        assert_eq!(
            read(r#"{"portMappings":null,"bandwidth":null,"ips":null,"dns":null,"ipRanges":null,"aliases":null}"#),
            RuntimeConfig::default()
        );
        let error = |text: &str| serde_json::from_str::<RuntimeConfig>(text).unwrap_err().to_string();
        assert!(error(r#"{"portMappings":[{"hostPort":70000,"containerPort":1}]}"#).contains("70000"));
        assert!(
            error(r#"{"portMappings":[{"hostPort":1,"containerPort":1,"protocol":"icmp"}]}"#).contains("none of tcp")
        );
        assert!(error(r#"{"ips":["10.1"]}"#).contains("10.1"));
    }
}
