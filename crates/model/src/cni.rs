//! What the CNI plugin and the agent say to each other over the agent's socket: one JSON line each way.
//! And what both know of the CNI specification (1.1.0): versions, error codes, the shape of a result.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Versions of the specification that the plugin speaks, oldest first.
pub const SUPPORTED_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Error codes of the specification.
pub mod code {
    /// The configuration's cniVersion is not supported.
    pub const VERSION: u32 = 1;
    /// The container is unknown, as CHECK of what was never added.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or invalid.
    pub const ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// What came on standard input is not JSON.
    pub const DECODE: u32 = 6;
    /// The network configuration is invalid.
    pub const CONFIG: u32 = 7;
    /// Not now; the runtime should try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// ADD cannot be served (STATUS).
    pub const NOT_AVAILABLE: u32 = 50;
    /// Our own: the pod's network could not be set up.
    pub const SETUP: u32 = 100;
    /// Our own: the pod's network is not what it was (CHECK).
    pub const CHECK: u32 = 101;
}

/// What the runtime asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Command {
    /// Connect a container.
    Add,
    /// Disconnect it; of what was never connected, too.
    Del,
    /// Is it still connected as ADD said?
    Check,
    /// Disconnect whatever is not in the list.
    Gc,
    /// Could ADD be served now?
    Status,
}

/// One request of the plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// `CNI_CONTAINERID`; empty for GC and STATUS.
    #[serde(default)]
    pub container_id: String,
    /// `CNI_IFNAME`; empty for GC and STATUS.
    #[serde(default)]
    pub ifname: String,
    /// `CNI_NETNS`, where it was given.
    #[serde(default)]
    pub netns: Option<String>,
    /// `CNI_ARGS`, taken apart.
    #[serde(default)]
    pub args: Vec<(String, String)>,
    /// `mtu` of the configuration; the uplink's where absent.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// CHECK: what ADD returned then.
    #[serde(default)]
    pub prev_result: Option<AddResult>,
    /// GC: what is still in use.
    #[serde(default)]
    pub valid_attachments: Vec<AttachmentId>,
}

impl Request {
    /// Name of the file in which this request waits for the agent. Neither part can have an `@` in it or leave
    /// the directory: the plugin has checked both.
    pub fn spool_name(&self) -> String {
        format!("{}@{}.json", self.container_id, self.ifname)
    }

    /// One of the arguments of `CNI_ARGS`.
    pub fn arg(&self, name: &str) -> Option<&str> {
        self.args
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// An interface of a container, as GC names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachmentId {
    /// The container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Its interface.
    pub ifname: String,
}

/// The agent's answer: a result (ADD), neither (done), or an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// What ADD set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<AddResult>,
    /// Why it could not be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<CniError>,
}

/// An error as the specification has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniError {
    /// One of [`code`].
    pub code: u32,
    /// What failed.
    pub msg: String,
    /// On what, why, and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// An error with its details.
    pub fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: details.into(),
        }
    }
}

/// The result of ADD. Fields that Weft never sets are ignored when a result is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddResult {
    /// The host's side, then the pod's.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// The pod's addresses.
    #[serde(default)]
    pub ips: Vec<IpConfig>,
    /// The pod's routes.
    #[serde(default)]
    pub routes: Vec<Route>,
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

/// A route of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: IpNet,
    /// By way of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
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
    /// The same in the words of this version: 0.x marks addresses with their family, MTUs are new in 1.1.0.
    pub fn in_version(mut self, version: &str) -> Self {
        for ip in &mut self.ips {
            let family = if ip.address.addr().is_ipv4() { "4" } else { "6" };
            ip.version = version.starts_with("0.").then(|| family.to_owned());
        }
        if !version.starts_with("1.1.") {
            self.interfaces.iter_mut().for_each(|interface| interface.mtu = None);
        }
        self
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
            }],
            ips: vec![IpConfig {
                version: None,
                interface: Some(0),
                address: "10.244.0.2/32".parse().unwrap(),
                gateway: Some("169.254.1.1".parse().unwrap()),
            }],
            routes: vec![Route {
                dst: "0.0.0.0/0".parse().unwrap(),
                gw: Some("169.254.1.1".parse().unwrap()),
            }],
        }
    }

    #[test]
    fn results_take_the_shape_of_their_version() {
        let json = |version: &str| {
            serde_json::to_string(&Versioned {
                cni_version: version,
                body: result().in_version(version),
            })
            .unwrap()
        };
        assert!(json("0.4.0").contains(r#""version":"4""#));
        assert!(!json("0.4.0").contains("mtu"));
        assert!(!json("1.0.0").contains(r#""version":"#));
        assert!(!json("1.0.0").contains("mtu"));
        assert!(json("1.1.0").contains(r#""mtu":1500"#));
        assert!(json("1.1.0").starts_with(r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0""#));
    }

    #[test]
    fn what_is_written_can_be_read() {
        let text = serde_json::to_string(&result()).unwrap();
        assert_eq!(serde_json::from_str::<AddResult>(&text).unwrap(), result());
        let foreign =
            r#"{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"}],"dns":{"nameservers":["10.96.0.10"]}}"#;
        assert_eq!(serde_json::from_str::<AddResult>(foreign).unwrap().ips.len(), 1);
    }
}
