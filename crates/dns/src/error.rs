//! What can go wrong in the DNS process, in words that say what to do next.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the DNS process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster domain is not a domain name.
    #[error(
        "cluster domain {domain:?} is not a domain name ({reason}); give the kubelet's clusterDomain, usually cluster.local"
    )]
    Domain {
        /// What was given.
        domain: String,
        /// Why it cannot be one.
        reason: String,
    },
    /// No address to listen on was given.
    #[error("no address to listen on: give at least one --listen IP:53")]
    NoListener,
    /// A privileged port without the privilege.
    #[error("cannot listen on {address} ({transport}): permission denied; ports below 1024 need CAP_NET_BIND_SERVICE")]
    Denied {
        /// The address.
        address: SocketAddr,
        /// UDP, TCP or HTTP.
        transport: &'static str,
    },
    /// The kernel refused the address for a reason that waiting does not cure.
    #[error("cannot listen on {address} ({transport}): {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// UDP, TCP or HTTP.
        transport: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The file that names the upstream resolvers cannot be read.
    #[error("cannot read {}: {source}; give --upstream ADDRESS instead", path.display())]
    ResolvConf {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}
