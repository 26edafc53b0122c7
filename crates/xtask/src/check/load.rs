//! Reads the workspace from cargo and from disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde::Deserialize;

use super::{Crate, File, Workspace};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
}

/// Reads the workspace that cargo finds from here.
pub(super) fn load() -> anyhow::Result<Workspace> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .context("cargo metadata does not start")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo metadata is not what it was")?;
    let root = metadata.workspace_root;
    let crates = metadata
        .packages
        .into_iter()
        .map(|package| member(&root, package))
        .collect::<anyhow::Result<_>>()?;
    Ok(Workspace {
        manifest: read(&root.join("Cargo.toml"))?,
        crates,
    })
}

fn member(root: &Path, package: Package) -> anyhow::Result<Crate> {
    let folder = package.manifest_path.parent().context("a manifest without a folder")?;
    let mut files = Vec::new();
    collect(root, folder, &mut files)?;
    Ok(Crate {
        package: package.name,
        folder: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        dependencies: package.dependencies.into_iter().map(|d| d.name).collect(),
        manifest: read(&package.manifest_path)?,
        files,
    })
}

/// Collects the Rust files below a folder, but for build output.
fn collect(root: &Path, folder: &Path, files: &mut Vec<File>) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(root, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let shown = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            files.push(File {
                path: shown,
                text: read(&path)?,
            });
        }
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
