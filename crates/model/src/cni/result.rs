//! The result of ADD, with every field of the specification 1.1.0: what other plugins of a chain said passes through whole.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::runtime::or_default;

/// The result of ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddResult {
    /// The host's side, then the pod's.
    #[serde(default, deserialize_with = "or_default")]
    pub interfaces: Vec<Interface>,
    /// The pod's addresses.
    #[serde(default, deserialize_with = "or_default")]
    pub ips: Vec<IpConfig>,
    /// The pod's routes.
    #[serde(default, deserialize_with = "or_default")]
    pub routes: Vec<Route>,
    /// Name servers for the pod.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
}

/// An interface that ADD made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its MTU (since 1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of its namespace; absent on the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Path of the socket that stands for it (since 1.1.0).
    #[serde(rename = "socketPath", default, skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// The PCI device that it is (since 1.1.0).
    #[serde(rename = "pciID", default, skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// An address of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Family (before 1.0.0 only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Index of its interface in [`AddResult::interfaces`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// The address with its prefix length.
    pub address: IpNet,
    /// Where its traffic goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route of the pod. What follows the gateway is new in 1.1.0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: IpNet,
    /// By way of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// Largest packet on the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Largest TCP segment to announce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Lower ones win.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table; the main one where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// As `ip route` numbers scopes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

impl Route {
    /// A route about which nothing else is said.
    pub fn via(dst: IpNet, gw: IpAddr) -> Self {
        Self {
            dst,
            gw: Some(gw),
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }
}

/// Name servers for the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Their addresses, in the order in which they are asked.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The domain of short names.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Where short names are looked for.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Passed to the resolver.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// True where nothing is said.
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

/// What the plugin prints: a result with the version that it is written in.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Versioned<'a, T> {
    /// The configuration's version.
    pub cni_version: &'a str,
    /// The rest.
    #[serde(flatten)]
    pub body: T,
}

impl AddResult {
    /// The same in the words of this version: 0.x marks addresses with their family, much is new in 1.1.0.
    pub fn in_version(mut self, version: &str) -> Self {
        for ip in &mut self.ips {
            let family = if ip.address.addr().is_ipv4() { "4" } else { "6" };
            ip.version = version.starts_with("0.").then(|| family.to_owned());
        }
        if !version.starts_with("1.1.") {
            for interface in &mut self.interfaces {
                *interface = Interface {
                    name: std::mem::take(&mut interface.name),
                    mac: std::mem::take(&mut interface.mac),
                    sandbox: std::mem::take(&mut interface.sandbox),
                    ..Interface::default()
                };
            }
            for route in &mut self.routes {
                (route.mtu, route.advmss, route.priority, route.table, route.scope) = (None, None, None, None, None);
            }
        }
        self
    }

    /// This result after that of the plugins before in the chain: theirs stays as it is, ours follows. Name servers
    /// are ours where we have any.
    pub fn after(self, mut previous: AddResult) -> Self {
        let offset = previous.interfaces.len();
        let shifted = |mut ip: IpConfig| {
            ip.interface = ip.interface.map(|index| index.saturating_add(offset));
            ip
        };
        previous.interfaces.extend(self.interfaces);
        previous.ips.extend(self.ips.into_iter().map(shifted));
        previous.routes.extend(self.routes);
        if !self.dns.is_empty() {
            previous.dns = self.dns;
        }
        previous
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> AddResult {
        AddResult {
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: "02:00:00:00:00:01".into(),
                mtu: Some(1500),
                sandbox: "/run/netns/a".into(),
                ..Interface::default()
            }],
            ips: vec![IpConfig {
                version: None,
                interface: Some(0),
                address: "10.244.0.2/32".parse().unwrap(),
                gateway: Some("169.254.1.1".parse().unwrap()),
            }],
            routes: vec![Route::via("0.0.0.0/0".parse().unwrap(), "169.254.1.1".parse().unwrap())],
            dns: Dns::default(),
        }
    }

    /// Every field that the specification has.
    const FULL: &str = r#"{"interfaces":[{"name":"net0","mac":"02:00:00:00:00:02","mtu":9000,"sandbox":"/run/netns/a","socketPath":"/s","pciID":"0000:04:00.5"}],"ips":[{"interface":0,"address":"10.0.0.2/24","gateway":"10.0.0.1"}],"routes":[{"dst":"10.1.0.0/16","gw":"10.0.0.1","mtu":1400,"advmss":1360,"priority":10,"table":100,"scope":0}],"dns":{"nameservers":["10.96.0.10"],"domain":"a.local","search":["b.local"],"options":["ndots:5"]}}"#;

    fn json(result: AddResult, version: &str) -> String {
        let body = result.in_version(version);
        serde_json::to_string(&Versioned {
            cni_version: version,
            body,
        })
        .unwrap()
    }

    #[test]
    fn results_take_the_shape_of_their_version() {
        assert!(json(result(), "0.4.0").contains(r#""version":"4""#));
        assert!(!json(result(), "0.4.0").contains("mtu"));
        assert!(!json(result(), "1.0.0").contains(r#""version":"#));
        assert!(json(result(), "1.1.0").contains(r#""mtu":1500"#));
        assert!(json(result(), "1.1.0").starts_with(r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0""#));
        let full: AddResult = serde_json::from_str(FULL).unwrap();
        assert_eq!(
            json(full.clone(), "1.1.0"),
            FULL.replacen('{', r#"{"cniVersion":"1.1.0","#, 1)
        );
        for new in ["mtu", "advmss", "priority", "table", "scope", "socketPath", "pciID"] {
            assert!(!json(full.clone(), "1.0.0").contains(new), "{new}");
        }
        assert!(json(full, "0.3.1").contains("ndots:5"));
    }

    #[test]
    fn what_is_written_can_be_read() {
        let text = serde_json::to_string(&result()).unwrap();
        assert_eq!(serde_json::from_str::<AddResult>(&text).unwrap(), result());
        let sparse =
            r#"{"cniVersion":"0.4.0","interfaces":null,"ips":[{"version":"4","address":"10.0.0.2/24"}],"dns":{}}"#;
        assert_eq!(serde_json::from_str::<AddResult>(sparse).unwrap().ips.len(), 1);
    }

    #[test]
    fn ours_follows_what_was_there() {
        let previous: AddResult = serde_json::from_str(FULL).unwrap();
        let merged = result().after(previous.clone());
        assert_eq!(
            (merged.interfaces.len(), merged.ips.len(), merged.routes.len()),
            (2, 2, 2)
        );
        assert_eq!(merged.ips[0], previous.ips[0]);
        assert_eq!(merged.ips[1].interface, Some(1));
        assert_eq!(merged.dns, previous.dns);
        let dns = Dns {
            nameservers: vec!["10.0.0.1".into()],
            ..Dns::default()
        };
        let ours = AddResult {
            dns: dns.clone(),
            ..result()
        };
        assert_eq!(ours.after(previous).dns, dns);
    }
}
