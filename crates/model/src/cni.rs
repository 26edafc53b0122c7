//! What the CNI plugin and the agent say to each other over the agent's socket: one JSON line each way.
//! And what both know of the CNI specification (1.1.0): versions, error codes, the shape of a result.

mod result;
mod runtime;

pub use result::{AddResult, Dns, Interface, IpConfig, Route, Versioned};
pub use runtime::{Bandwidth, IpRange, PortMapping, RuntimeConfig, WantedIp};

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Versions of the specification that the plugin speaks, oldest first.
pub const SUPPORTED_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Error codes of the specification.
pub mod code {
    /// The configuration's cniVersion is not supported.
    pub const VERSION: u32 = 1;
    /// The configuration has a field that is not supported.
    pub const FIELD: u32 = 2;
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
    /// As [`NOT_AVAILABLE`], and pods that are there may have lost their network, too (STATUS).
    pub const LIMITED: u32 = 51;
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
    /// What the runtime adds to the configuration for this container.
    #[serde(default)]
    pub runtime: RuntimeConfig,
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

    /// The addresses that the runtime wants for this interface: by the capability `ips`, else by `IP=` in `CNI_ARGS`
    /// (several with commas). Empty where it leaves the choice to us.
    ///
    /// # Errors
    /// [`code::ENVIRONMENT`] where `IP=` is not a list of addresses.
    pub fn wanted_ips(&self) -> Result<Vec<IpAddr>, CniError> {
        if !self.runtime.ips.is_empty() {
            return Ok(self.runtime.ips.iter().map(|ip| ip.0).collect());
        }
        let address = |text: &str| {
            let parsed = text.trim().parse::<WantedIp>().map(|ip| ip.0);
            let details = "expected an address such as 10.1.0.9, or several with commas between them";
            parsed.map_err(|_| CniError::new(code::ENVIRONMENT, format!("invalid IP in CNI_ARGS: {text:?}"), details))
        };
        self.arg("IP")
            .map_or(Ok(vec![]), |list| list.split(',').map(address).collect())
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
