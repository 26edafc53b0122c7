//! What can go wrong while a lab is made or unmade, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a lab command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name would not do as a part of namespace names.
    #[error("{0:?} is not a lab name: use up to 20 lower-case letters, digits and dashes, a letter first")]
    Name(String),
    /// There is no such lab.
    #[error("no lab {name:?} is up; start one with: weft lab up{}", name_flag(.name))]
    NotUp {
        /// Its name.
        name: String,
    },
    /// Another `weft lab up` or `down` of this lab is at work.
    #[error("another weft lab command is at work on lab {0:?}; wait for it, or end it")]
    Busy(String),
    /// A number of nodes that the lab has no addresses for.
    #[error("a lab has 1 to {most} nodes, not {asked}")]
    Nodes {
        /// What was asked for.
        asked: usize,
        /// What would work.
        most: usize,
    },
    /// The lab has no such node.
    #[error("lab {lab:?} has no node {node:?}; it has {nodes}")]
    NoNode {
        /// The lab's name.
        lab: String,
        /// What was asked for.
        node: String,
        /// What there is.
        nodes: String,
    },
    /// A cluster needs a node.
    #[error("{0} is the last node of the lab; take the lab down whole: weft lab down")]
    LastNode(String),
    /// The lab's supervisor could not do what it was told.
    #[error("the lab's supervisor: {0}")]
    Supervisor(String),
    /// A number of segments that the lab has no subnets or no nodes for.
    #[error("{nodes} nodes can be spread over 1 to {most} segments, not {asked}")]
    Segments {
        /// What was asked for.
        asked: usize,
        /// How many nodes there are to be.
        nodes: usize,
        /// What would work.
        most: usize,
    },
    /// No cgroup v2 tree is mounted.
    #[error(
        "no cgroup v2 tree is mounted; mount one with: mkdir -p /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup"
    )]
    NoCgroup2,
    /// A step on the machine failed.
    #[error("cannot {what} {}: {source}{}", .path.display(), hint(.source))]
    Io {
        /// The step, as a verb.
        what: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A netlink request failed.
    #[error("cannot {what}: {source}")]
    Netlink {
        /// The step, as a verb and its object.
        what: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// The router's rules were refused.
    #[error("nft refuses the rules of the lab's router, does this kernel have nftables' NAT? {0}")]
    Nft(String),
    /// A request to the lab's API server failed.
    #[error("{what}: {source}")]
    Api {
        /// What was asked.
        what: String,
        /// What the server said.
        source: crate::client::Error,
    },
    /// The lab did not become ready in time.
    #[error("{what} after {seconds} s; look at: {log}\n{last}")]
    NotReady {
        /// What is missing.
        what: String,
        /// How long was waited.
        seconds: u64,
        /// The log file that most likely says why.
        log: PathBuf,
        /// The last lines of that log.
        last: String,
    },
    /// A command in a pod could not be run.
    #[error("cannot run a command in pod {pod}: {reason}")]
    Exec {
        /// Namespace and name.
        pod: String,
        /// What went wrong.
        reason: String,
    },
    /// The certificates could not be made.
    #[error("cannot make the lab's certificates: {0}")]
    Pki(String),
    /// The record of the lab is damaged.
    #[error("{}: {source}; take the lab down and up again: weft lab down && weft lab up", .path.display())]
    Spec {
        /// The record's file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl Error {
    /// An I/O error with what was done to which path.
    pub(super) fn io<E: Into<io::Error>>(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(E) -> Error {
        let path = path.as_ref().to_owned();
        move |source| Error::Io {
            what,
            path,
            source: source.into(),
        }
    }

    /// What was waited for in vain, and for how long, with the end of the log that should say why.
    pub(super) fn not_ready(what: &str, patience: Duration, log: PathBuf) -> Self {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        Self::NotReady {
            what: what.to_owned(),
            seconds: patience.as_secs(),
            log,
            last: lines[lines.len().saturating_sub(10)..].join("\n"),
        }
    }

    pub(super) fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
        let what = what.into();
        move |source| Error::Netlink { what, source }
    }

    pub(super) fn api(what: impl Into<String>) -> impl FnOnce(crate::client::Error) -> Error {
        let what = what.into();
        move |source| Error::Api { what, source }
    }
}

fn name_flag(name: &str) -> String {
    if name == super::spec::DEFAULT_NAME {
        String::new()
    } else {
        format!(" --name {name}")
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; a lab needs root: run it with sudo",
        _ => "",
    }
}
