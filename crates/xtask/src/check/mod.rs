//! The house rules that neither the compiler nor clippy knows. ARCHITECTURE.md says why they are what they are.

mod depend;
mod files;
mod house;
mod load;
mod manifest;
#[cfg(test)]
mod tests;

use std::fmt;
use std::process::ExitCode;

/// The workspace as the rules see it. Tests make small ones by hand.
#[derive(Debug, Default)]
struct Workspace {
    /// The text of the root Cargo.toml.
    manifest: String,
    crates: Vec<Crate>,
}

/// One crate of the workspace.
#[derive(Debug, Default)]
struct Crate {
    /// Package name.
    package: String,
    /// Folder name below `crates`.
    folder: String,
    /// Names of the packages it depends on directly: for its code, its build and its tests.
    dependencies: Vec<String>,
    /// The text of its Cargo.toml.
    manifest: String,
    files: Vec<File>,
}

/// One Rust source file.
#[derive(Debug, Default)]
struct File {
    /// Path from the workspace's root.
    path: String,
    text: String,
}

/// A rule that is broken, and where.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    place: String,
    message: String,
}

impl Finding {
    fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Runs every rule over the workspace and prints what it finds.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let workspace = load::load()?;
    let findings = rules(&workspace);
    for finding in &findings {
        eprintln!("{finding}");
    }
    println!("{}", files::summary(&workspace));
    if findings.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "house rules broken: {}; see ARCHITECTURE.md for their reasons",
        findings.len()
    );
    Ok(ExitCode::FAILURE)
}

fn rules(workspace: &Workspace) -> Vec<Finding> {
    let mut findings: Vec<Finding> = manifest::workspace(workspace).into_iter().collect();
    for member in &workspace.crates {
        findings.extend(manifest::member(member));
        findings.extend(depend::check(member));
        findings.extend(member.files.iter().flat_map(|file| files::check(member, file)));
    }
    findings
}
