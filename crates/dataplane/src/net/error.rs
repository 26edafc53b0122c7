//! What can go wrong with links, routes and namespaces.

use std::io;
use std::path::PathBuf;

use super::tunnel::Encapsulation;

/// A failure to change or to read the kernel's network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The kernel refused a request.
    #[error("cannot {what}: {source}")]
    Kernel {
        /// What was asked for.
        what: String,
        /// What it said.
        source: io::Error,
    },
    /// The connection to the kernel broke or could not be made.
    #[error("netlink is not usable: {0}; the agent needs CAP_NET_ADMIN")]
    Netlink(String),
    /// A namespace cannot be entered.
    #[error("network namespace {}: {source}", path.display())]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The path leads to something else.
    #[error("{} is not a network namespace; the runtime has removed it, or passes a wrong path", path.display())]
    NotANamespace {
        /// The path.
        path: PathBuf,
    },
    /// A pod's link would begin and end in the node.
    #[error("{} is the node's own network namespace; the runtime passes a wrong path, or the pod uses the host's network and needs no link", path.display())]
    OwnNamespace {
        /// The path.
        path: PathBuf,
    },
    /// ADD must not touch an interface that is there already.
    #[error("interface {ifname} exists already in network namespace {}; the container is connected already: DEL comes before another ADD; or another plugin has made it: one of the two has to use another name", netns.display())]
    InterfaceExists {
        /// Its name.
        ifname: String,
        /// The namespace.
        netns: PathBuf,
    },
    /// A kernel switch cannot be set.
    #[error("cannot set {path}: {source}; /proc/sys must be writable for the agent")]
    Sysctl {
        /// Path of the switch.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The kernel cannot do what the operator chose.
    #[error(
        "this kernel has no {encapsulation}; load its module, or choose another encapsulation for all nodes (--tunnel vxlan)"
    )]
    NoEncapsulation {
        /// What it lacks.
        encapsulation: Encapsulation,
    },
    /// Someone else has a tunnel there.
    #[error(
        "cannot set up the {encapsulation} tunnel on UDP port {port}: another link or process of this node has it; remove that one (`ip -d link`, `ss -lnup`), or choose another port for all nodes (--tunnel-port)"
    )]
    PortTaken {
        /// What was to be set up.
        encapsulation: Encapsulation,
        /// The port.
        port: u16,
    },
    /// What is there differs from what was set up.
    #[error("{0}")]
    Differs(String),
}

impl NetError {
    pub(crate) fn kernel(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetError {
        let what = what.into();
        move |error| match error {
            rtnetlink::Error::NetlinkError(message) => NetError::Kernel {
                what,
                source: message.to_io(),
            },
            other => NetError::Netlink(format!("{what}: {other}")),
        }
    }

    /// The kernel's error number, where it is what the kernel said.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetError::Kernel { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// True where what was to be read or removed is not there.
    pub fn is_missing(&self) -> bool {
        matches!(
            self.errno(),
            Some(nix::libc::ENODEV | nix::libc::ENOENT | nix::libc::ESRCH | nix::libc::EADDRNOTAVAIL)
        )
    }
}
