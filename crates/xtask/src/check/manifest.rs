//! What each Cargo.toml must say: names, and lints that nobody escapes by forgetting a line.

use super::house::UNSAFE;
use super::{Crate, Finding, Workspace};

/// Lints that a crate with `unsafe` must have, since it does not inherit the workspace's.
const UNSAFE_LINTS: [&str; 2] = [
    "undocumented_unsafe_blocks = \"deny\"",
    "unsafe_op_in_unsafe_fn = \"deny\"",
];

/// Checks the root manifest.
pub(super) fn workspace(workspace: &Workspace) -> Option<Finding> {
    let forbids = section(&workspace.manifest, "[workspace.lints.rust]").any(|line| line == "unsafe_code = \"forbid\"");
    let message = "[workspace.lints.rust] must have unsafe_code = \"forbid\"";
    (!forbids).then(|| Finding::new("Cargo.toml", message))
}

/// Checks the manifest of one crate.
pub(super) fn member(member: &Crate) -> Vec<Finding> {
    let place = format!("crates/{}/Cargo.toml", member.folder);
    let mut findings = Vec::new();
    let expected = if member.folder == "weft" {
        "weft".into()
    } else {
        format!("weft-{}", member.folder)
    };
    if member.package != expected {
        findings.push(Finding::new(
            &place,
            format!("the package is called {}, not {expected}", member.package),
        ));
    }
    if section(&member.manifest, "[lints]").any(|line| line == "workspace = true") {
        return findings;
    }
    if !UNSAFE.contains(&member.folder.as_str()) {
        findings.push(Finding::new(
            &place,
            "the workspace's lints are not inherited; add [lints] workspace = true",
        ));
        return findings;
    }
    for lint in UNSAFE_LINTS {
        if !member.manifest.lines().any(|line| line.trim() == lint) {
            findings.push(Finding::new(
                &place,
                format!("a crate with unsafe code needs the lint {lint}"),
            ));
        }
    }
    findings
}

/// The lines of one section of a manifest.
fn section<'a>(manifest: &'a str, header: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = manifest
        .lines()
        .map(str::trim)
        .skip_while(move |line| *line != header)
        .skip(1);
    lines.take_while(|line| !line.starts_with('['))
}
