//! What can go wrong between the agent and the kernel, and what to do about it.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aya::maps::MapError;
use aya::programs::ProgramError;

/// A failure to set up or change the datapath.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel lacks tcx links.
    #[error("Linux {found} is too old for the eBPF dataplane, which needs 6.6 or newer: upgrade the node's kernel")]
    OldKernel {
        /// The running kernel.
        found: String,
    },
    /// The kernel does not tell its version.
    #[error("cannot find out which kernel this is: {0}")]
    UnknownKernel(#[source] io::Error),
    /// Pins need a bpffs.
    #[error("{} is not on a BPF file system: mount one with `mount -t bpf bpf {}`", path.display(), path.parent().unwrap_or(path).display())]
    NoBpffs {
        /// Where the pins were to go.
        path: PathBuf,
    },
    /// Socket hooks attach to the unified hierarchy only.
    #[error("{} is not a cgroup of version 2: pass the directory where cgroup2 is mounted (see `findmnt -t cgroup2`)", path.display())]
    NoCgroup2 {
        /// The directory given.
        path: PathBuf,
    },
    /// A directory or file could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The object as a whole was refused.
    #[error("the kernel refused the eBPF maps: the agent needs root, or CAP_BPF with CAP_NET_ADMIN: {0}")]
    Load(#[source] Box<aya::EbpfError>),
    /// The verifier refused a program.
    #[error("the kernel refused the eBPF program {program}; please report this with the kernel's version: {source}")]
    Program {
        /// The program.
        program: &'static str,
        /// Why.
        source: Box<ProgramError>,
    },
    /// A program could not be attached.
    #[error("cannot {action} the eBPF program {program} (link {}): {source}", pin.display())]
    Hook {
        /// What was tried.
        action: &'static str,
        /// The program.
        program: &'static str,
        /// Where its link is pinned.
        pin: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The object lacks something: it was not built from these sources.
    #[error(
        "the embedded eBPF object has no {name}: the build is broken, run `cargo clean -p weft-dataplane` and build again"
    )]
    Incomplete {
        /// The map or program.
        name: &'static str,
    },
    /// A map could not be read or written.
    #[error("cannot {action} the eBPF map {map}: {source}")]
    Map {
        /// The map.
        map: &'static str,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: Box<MapError>,
    },
    /// A map is at its limit. What was there before is unchanged.
    #[error(
        "the eBPF map {map} is full ({capacity} entries), and as large as it may become: the cluster has more Services or endpoints than a node holds"
    )]
    MapFull {
        /// The map.
        map: &'static str,
        /// How many entries it has room for.
        capacity: u32,
    },
    /// Service and backend are of different families.
    #[error("endpoint {backend} cannot serve Service {service} here: one is IPv4, the other IPv6")]
    MixedFamilies {
        /// The Service.
        service: String,
        /// The backend's address.
        backend: IpAddr,
    },
    /// There is no such interface in the agent's network namespace.
    #[error("no interface has index {ifindex}: it went away, or is in another network namespace")]
    NoInterface {
        /// The index given.
        ifindex: u32,
    },
}

impl Error {
    /// Makes an I/O error on a file one of ours.
    pub(super) fn file(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Error::File {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Makes an error on a map one of ours.
    pub(super) fn map(map: &'static str, action: &'static str) -> impl Fn(MapError) -> Self + Copy {
        move |source| Error::Map {
            map,
            action,
            source: Box::new(source),
        }
    }
}
