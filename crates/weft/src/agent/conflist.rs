//! The configuration by which the container runtime finds the plugin. It is put in place only when this node can
//! take pods: until then the kubelet sees "network not ready", which is true.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::attachments::write_whole;
use super::node::Node;
use super::server::socket_path;

/// Name of the file.
pub(super) const NAME: &str = "10-weft.conflist";

/// How often to look whether it is still as it was installed.
const PERIOD: Duration = Duration::from_secs(2);

/// Waits until the node has addresses for pods, then installs, and puts back what somebody deletes or changes.
pub(super) async fn install_when_ready(node: Arc<Node>, dir: PathBuf, state_dir: PathBuf) {
    let mut ready = node.ready.subscribe();
    if ready
        .wait_for(|ready| ready.synced && ready.has_addresses)
        .await
        .is_err()
    {
        return;
    }
    let file = dir.join(NAME);
    let mut installed = false;
    loop {
        match install(&dir, &state_dir) {
            Ok(true) if installed => warn!(file = %file.display(), "was deleted or changed, and is back"),
            Ok(true) => info!(file = %file.display(), "the runtime can use the network now"),
            Ok(false) => {}
            Err(error) => warn!("{error:#}; pods wait until it can be written"),
        }
        installed |= file.exists();
        tokio::time::sleep(PERIOD).await;
    }
}

/// False where it was there already.
fn install(dir: &Path, state_dir: &Path) -> anyhow::Result<bool> {
    let path = dir.join(NAME);
    let text = serde_json::to_vec_pretty(&content(state_dir))?;
    if std::fs::read(&path).is_ok_and(|found| found == text) {
        return Ok(false);
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    write_whole(&path, &text)?;
    Ok(true)
}

/// `cniVersion` is what every runtime in use understands; newer ones choose from `cniVersions`.
fn content(state_dir: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": "weft",
        "plugins": [{
            "type": "weft-cni",
            "capabilities": {"bandwidth": true, "portMappings": true, "ips": true, "mac": true, "dns": true},
            "agentSocket": socket_path(state_dir),
            "spoolDir": state_dir.join("cni-spool")
        }]
    })
}

/// The file that the runtime uses: the first by name. `None` where there is none.
pub(super) fn in_use(dir: &Path) -> Option<String> {
    let names = std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| [".conflist", ".conf", ".json"].iter().any(|end| name.ends_with(end)) && !name.starts_with('.'))
        .min()
}
