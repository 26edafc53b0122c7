//! Which pods are attached: one small file each, so that a restarted agent knows them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tracing::warn;
use weft_dataplane::net::PodLink;
use weft_model::ObjectKey;
use weft_model::cni::{AttachmentId, PortMapping};

/// An interface of a container that is on the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attachment {
    pub(super) id: AttachmentId,
    /// The pod, as far as the runtime said.
    pub(super) pod: Option<ObjectKey>,
    /// The pod's UID, where the API server had the pod.
    #[serde(default)]
    pub(super) uid: Option<String>,
    pub(super) link: PodLink,
    /// The configuration says how large its packets may be; otherwise the uplink does.
    #[serde(default)]
    pub(super) fixed_mtu: bool,
    /// Ports of the node that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) host_ports: Vec<PortMapping>,
    /// When it was attached, in milliseconds since 1970: the order in which addresses were given.
    pub(super) created: u64,
}

/// The directory of the files.
pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    pub(super) fn open(dir: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir })
    }

    fn path(&self, id: &AttachmentId) -> PathBuf {
        self.dir.join(format!("{}@{}.json", id.container_id, id.ifname))
    }

    /// Whole or not at all: a reader never sees half of it, whenever the agent is killed.
    pub(super) fn save(&self, attachment: &Attachment) -> anyhow::Result<()> {
        write_whole(&self.path(&attachment.id), &serde_json::to_vec(attachment)?)
    }

    pub(super) fn remove(&self, id: &AttachmentId) -> anyhow::Result<()> {
        let path = self.path(id);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Everything that was attached, in the order of attaching. What cannot be read is said and left out.
    pub(super) fn load(&self) -> anyhow::Result<Vec<Attachment>> {
        let mut found = vec![];
        for path in files(&self.dir)? {
            let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            match serde_json::from_slice::<Attachment>(&text) {
                Ok(attachment) => found.push(attachment),
                Err(error) => {
                    warn!(
                        "{}: {error}; the pod's network is taken down, delete the pod to start it anew",
                        path.display()
                    );
                    std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                }
            }
        }
        found.sort_by_key(|attachment| attachment.created);
        Ok(found)
    }
}

/// Replaces a file in one step.
pub(super) fn write_whole(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = std::fs::write(&draft, contents).and_then(|()| std::fs::rename(&draft, path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// The JSON files of a directory; drafts, which begin with a dot, are not among them.
pub(super) fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.with_context(|| format!("cannot list {}", dir.display()))?,
    };
    let wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !name.starts_with('.') && name.ends_with(".json")
    };
    Ok(entries.flatten().map(|entry| entry.path()).filter(wanted).collect())
}
