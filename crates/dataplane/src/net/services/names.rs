//! What the table and its parts are called, and what differs between the families and between the sides.

use std::ffi::{CStr, CString};
use std::time::Duration;

use crate::net::nft;

/// The table.
pub(super) const TABLE: &CStr = c"weft-services";
/// The bit of a packet's mark by which it is masqueraded when it leaves; the same as kube-proxy's, with the same meaning.
pub(super) const MASQUERADE: u32 = 0x4000;

/// Number of a set -> the chain that picks one of its backends. Empty sets are not in it.
pub(super) const SIZES: &CStr = c"sizes";

/// What holds the frontends of one family as they are seen from one side: by processes and pods of the cluster, or from
/// elsewhere.
#[derive(Debug)]
pub(super) struct View {
    /// The chain that looks for a packet's frontend.
    pub(super) chain: &'static CStr,
    /// Frontend -> number of its set.
    pub(super) frontends: &'static CStr,
    /// Those whose clients get the node's address; `None`: all.
    pub(super) masquerade: Option<&'static CStr>,
    /// Those that say nothing while their set is empty.
    pub(super) silent: &'static CStr,
}

/// What is there once for each family.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) v4: bool,
    pub(super) nfproto: u8,
    /// In words of four bytes.
    pub(super) words: u32,
    /// Offsets in the network header (RFC 791, RFC 8200).
    pub(super) source: u32,
    pub(super) destination: u32,
    /// From inside, and from outside.
    pub(super) views: [View; 2],
    /// From pods of other nodes: as from inside, but the answer of a backend elsewhere would not come by this node if the
    /// client kept its address.
    pub(super) of_remote_pods: View,
    /// (set, slot) -> (address, port).
    pub(super) backends: &'static CStr,
    /// (set, address, port): the backends of sets with affinity.
    pub(super) members: &'static CStr,
    /// (client, set) -> (address, port), for as long as the client is to keep it.
    pub(super) affinity: &'static CStr,
    /// Frontends that not everybody may connect to, and with them who may.
    pub(super) restricted: &'static CStr,
    pub(super) allowed: &'static CStr,
    /// Cluster addresses of which a port is in use.
    pub(super) live: &'static CStr,
    /// Where cluster addresses come from.
    pub(super) ranges: &'static CStr,
    /// Where the cluster's pods are.
    pub(super) pods: &'static CStr,
}

pub(super) const V4: Family = Family {
    v4: true,
    nfproto: nft::IPV4,
    words: 1,
    source: 12,
    destination: 16,
    views: [
        View {
            chain: c"inside4",
            frontends: c"frontends-inside4",
            masquerade: Some(c"masquerade-inside4"),
            silent: c"silent-inside4",
        },
        View {
            chain: c"outside4",
            frontends: c"frontends-outside4",
            masquerade: Some(c"masquerade-outside4"),
            silent: c"silent-outside4",
        },
    ],
    of_remote_pods: View {
        chain: c"remote-pods4",
        frontends: c"frontends-inside4",
        masquerade: None,
        silent: c"silent-inside4",
    },
    backends: c"backends4",
    members: c"members4",
    affinity: c"affinity4",
    restricted: c"restricted4",
    allowed: c"allowed4",
    live: c"live4",
    ranges: c"ranges4",
    pods: c"pods4",
};

pub(super) const V6: Family = Family {
    v4: false,
    nfproto: nft::IPV6,
    words: 4,
    source: 8,
    destination: 24,
    views: [
        View {
            chain: c"inside6",
            frontends: c"frontends-inside6",
            masquerade: Some(c"masquerade-inside6"),
            silent: c"silent-inside6",
        },
        View {
            chain: c"outside6",
            frontends: c"frontends-outside6",
            masquerade: Some(c"masquerade-outside6"),
            silent: c"silent-outside6",
        },
    ],
    of_remote_pods: View {
        chain: c"remote-pods6",
        frontends: c"frontends-inside6",
        masquerade: None,
        silent: c"silent-inside6",
    },
    backends: c"backends6",
    members: c"members6",
    affinity: c"affinity6",
    restricted: c"restricted6",
    allowed: c"allowed6",
    live: c"live6",
    ranges: c"ranges6",
    pods: c"pods6",
};

pub(super) const FAMILIES: [&Family; 2] = [&V4, &V6];

/// The family of an address.
pub(super) fn family(v4: bool) -> &'static Family {
    if v4 { &V4 } else { &V6 }
}

/// A chain that picks one of so many backends: constant, and shared by all sets that have as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pick {
    pub(super) v4: bool,
    /// How many there are to pick from; not 0.
    pub(super) backends: u32,
    /// How long a silent client keeps its backend.
    pub(super) affinity: Option<Duration>,
}

impl Pick {
    /// Its name: `pick4-3`, of three backends; `pick6-3-10800s`, with affinity.
    pub(super) fn chain(&self) -> CString {
        let family = if self.v4 { 4 } else { 6 };
        let affinity = self.affinity.map(|timeout| format!("-{}s", timeout.as_secs()));
        let name = format!("pick{family}-{}{}", self.backends, affinity.unwrap_or_default());
        CString::new(name).unwrap_or_default()
    }
}
