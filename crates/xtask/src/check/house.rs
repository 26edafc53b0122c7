//! The plan of the house: which crate is what, and which dependencies live in one place only.

/// What a crate is for, which decides what it may depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Floor {
    /// Types and rules: no I/O, no async, no Kubernetes.
    Words,
    /// One outside world each. Rooms never know one another; they meet in the words.
    Room,
    /// Wires rooms together.
    Door,
    /// Tests and tools.
    Workshop,
}

/// Every crate by its folder.
const PLAN: [(&str, Floor); 14] = [
    ("model", Floor::Words),
    ("packet", Floor::Words),
    ("ebpf", Floor::Words),
    ("cluster", Floor::Room),
    ("dataplane", Floor::Room),
    ("dns", Floor::Room),
    ("lab", Floor::Room),
    ("observe", Floor::Room),
    ("provider", Floor::Room),
    ("proxy", Floor::Room),
    ("cni", Floor::Door),
    ("weft", Floor::Door),
    ("e2e", Floor::Workshop),
    ("xtask", Floor::Workshop),
];

/// The floor of a crate; `None` if the plan does not have it.
pub(super) fn floor(folder: &str) -> Option<Floor> {
    PLAN.iter().find(|(name, _)| *name == folder).map(|(_, floor)| *floor)
}

/// Crates that may say `unsafe`, and so have a lint table of their own.
pub(super) const UNSAFE: [&str; 3] = ["packet", "ebpf", "dataplane"];

/// Dependencies that only some crates may have, and why.
pub(super) const EXCLUSIVE: [(&str, &[&str], &str); 9] = [
    (
        "kube",
        &["cluster"],
        "the Kubernetes client lives in cluster; everyone else sees model::Change",
    ),
    (
        "k8s-openapi",
        &["cluster", "lab", "e2e"],
        "Kubernetes types stop at cluster and at the lab's own API server",
    ),
    (
        "aya",
        &["dataplane"],
        "the kernel's maps and programs are loaded by dataplane alone",
    ),
    (
        "aya-ebpf",
        &["packet", "ebpf"],
        "kernel-side code belongs to packet and ebpf",
    ),
    ("hickory-proto", &["dns", "e2e"], "names belong to dns"),
    ("redb", &["lab"], "only the lab's API server keeps a store"),
    (
        "anyhow",
        &["cni", "weft", "xtask", "e2e"],
        "rooms say exactly what failed (thiserror); anyhow is for doors",
    ),
    ("clap", &["cni", "weft", "xtask"], "command lines belong to doors"),
    (
        "tracing-subscriber",
        &["weft", "e2e"],
        "only a door decides where logs go",
    ),
];

/// What the words must do without.
pub(super) const NOT_IN_WORDS: [&str; 9] = [
    "tokio",
    "futures",
    "hyper",
    "kube",
    "k8s-openapi",
    "rtnetlink",
    "nix",
    "rustix",
    "tracing",
];
