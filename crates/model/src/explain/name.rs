//! How kube-proxy names chains: by hashes, since a Service's name is longer than a chain's may be.

use data_encoding::BASE32;
use sha2::{Digest as _, Sha256};

/// The first characters of what kube-proxy's hash of this text looks like.
fn hash(text: &str, length: usize) -> String {
    let mut encoded = BASE32.encode(&Sha256::digest(text.as_bytes()));
    encoded.truncate(length);
    encoded
}

/// An iptables chain of a service port: `KUBE-SVC-` and 16 characters.
pub(super) fn chain(prefix: &str, port: &str, protocol: &str) -> String {
    format!("KUBE-{prefix}-{}", hash(&format!("{port}{protocol}"), 16))
}

/// The iptables chain of an endpoint of a service port.
pub(super) fn endpoint_chain(port: &str, protocol: &str, endpoint: &str) -> String {
    format!("KUBE-SEP-{}", hash(&format!("{port}{protocol}{endpoint}"), 16))
}

/// An nftables chain, map or set: the name itself follows its hash.
pub(super) fn readable(prefix: &str, name: &str) -> String {
    format!("{prefix}-{}-{name}", hash(name, 8))
}
