//! What a lab is made of: its name, where its files are, its nodes and their addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;

/// The name of a lab that is not named.
pub const DEFAULT_NAME: &str = "lab";
/// So many nodes have addresses of their own on the segment and a pod CIDR each.
pub const MOST_NODES: usize = 100;
/// Where a node finds its lab's directory.
pub const LAB_DIR_IN_NODE: &str = "/run/weft-lab";
/// Where a node's daemons find how to reach the API server.
pub const KUBECONFIG_IN_NODE: &str = "/etc/weft/kubeconfig";
/// The address of the cluster's DNS Service, as users know it.
pub const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// One lab, by name. Holds no resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lab {
    name: String,
}

impl Lab {
    /// Checks the name.
    pub fn new(name: &str) -> Result<Self, Error> {
        let fits = name.len() <= 20
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && !name.ends_with('-')
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if fits {
            Ok(Self { name: name.to_owned() })
        } else {
            Err(Error::Name(name.to_owned()))
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the labs' directories are.
    pub fn root() -> &'static Path {
        Path::new("/run/weft/lab")
    }

    /// The lab's directory: a tmpfs, so that nothing outlives a reboot.
    pub fn dir(&self) -> PathBuf {
        Self::root().join(&self.name)
    }

    /// Held while `up` or `down` is at work. Beside the directory, since that is mounted and unmounted.
    pub fn lock(&self) -> PathBuf {
        Self::root().join(format!("{}.lock", self.name))
    }

    /// The user's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join("kubeconfig")
    }

    /// The API server's unix socket.
    pub fn api_socket(&self) -> PathBuf {
        self.dir().join("api.sock")
    }

    /// The log of a component (`api`, `supervisor`), or of one on a node (`agent`, `dns`, `kubelet`).
    pub fn log(&self, component: &str, node: Option<&str>) -> PathBuf {
        let file = node.map_or_else(|| format!("{component}.log"), |node| format!("{component}-{node}.log"));
        self.dir().join("log").join(file)
    }

    /// A node's directory.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.dir().join("nodes").join(node)
    }

    /// The network namespace of the segment that the nodes are on, and of the control plane's address.
    pub fn segment_netns(&self) -> String {
        format!("weft-{}", self.name)
    }

    /// The network namespace of a node.
    pub fn node_netns(&self, node: &str) -> String {
        format!("weft-{}-{node}", self.name)
    }

    fn spec_path(&self) -> PathBuf {
        self.dir().join("lab.json")
    }

    /// The record that `up` left.
    pub fn load(&self) -> Result<Spec, Error> {
        let path = self.spec_path();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotUp {
                    name: self.name.clone(),
                });
            }
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        serde_json::from_slice(&bytes).map_err(|source| Error::Spec { path, source })
    }

    pub(super) fn save(&self, spec: &Spec) -> Result<(), Error> {
        let path = self.spec_path();
        let text = serde_json::to_vec_pretty(spec).map_err(|source| Error::Spec {
            path: path.clone(),
            source,
        })?;
        std::fs::write(&path, text).map_err(Error::io("write", &path))
    }
}

/// The record of a lab, as `up` decided it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The `weft` binary that the lab runs. A rebuilt one takes effect when a component is restarted.
    pub weft: PathBuf,
    /// TCP port of the API server on 127.0.0.1.
    pub api_port: u16,
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// `node-1` and so on.
    pub name: String,
    /// Address on the segment.
    pub ipv4: Ipv4Addr,
    /// Address on the segment.
    pub ipv6: Ipv6Addr,
}

impl NodeSpec {
    /// The nth node, counted from 1.
    pub(super) fn nth(number: u8) -> Self {
        Self {
            name: format!("node-{number}"),
            ipv4: Ipv4Addr::new(10, 89, 0, 10 + number),
            ipv6: Ipv6Addr::new(0xfd89, 0, 0, 0, 0, 0, 0, 10 + u16::from(number)),
        }
    }

    /// Both addresses with the segment's prefix lengths.
    pub(super) fn addresses(&self) -> [(IpAddr, u8); 2] {
        [(self.ipv4.into(), 16), (self.ipv6.into(), 64)]
    }
}

/// The control plane's (and default gateway's) addresses on the segment.
pub fn gateway() -> [(IpAddr, u8); 2] {
    [
        (Ipv4Addr::new(10, 89, 0, 1).into(), 16),
        (Ipv6Addr::new(0xfd89, 0, 0, 0, 0, 0, 0, 1).into(), 64),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_do() {
        for name in ["lab", "a", "ci-1", "a2345678901234567890"] {
            assert!(Lab::new(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "1a", "A", "a_b", "a/b", "..", "a23456789012345678901"] {
            assert!(Lab::new(name).is_err(), "{name}");
        }
    }

    #[test]
    fn nodes_have_addresses_of_their_own() {
        let last = NodeSpec::nth(MOST_NODES as u8);
        assert_eq!(last.ipv4, Ipv4Addr::new(10, 89, 0, 110));
        assert_ne!(NodeSpec::nth(1).ipv6, last.ipv6);
    }
}
