//! Finishes the DELs that the plugin kept while no agent answered.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};
use weft_model::cni::{AttachmentId, Command, Request};

use super::attachments::files;
use super::node::Node;

const PERIOD: Duration = Duration::from_secs(2);

/// Looks again and again: a plugin may have found no agent just before this one began to listen.
pub(super) async fn watch(node: Arc<Node>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        node.finish_spooled().await;
    }
}

impl Node {
    pub(super) async fn finish_spooled(&self) {
        let found = match files(&self.state_dir.join("cni-spool")) {
            Ok(found) => found,
            Err(error) => return warn!("{error:#}; pods deleted while the agent was away keep their addresses"),
        };
        for path in found {
            let request = std::fs::read(&path).map_err(|error| error.to_string());
            let request = request.and_then(|text| serde_json::from_slice::<Request>(&text).map_err(|e| e.to_string()));
            match request {
                Ok(Request {
                    command: Command::Del,
                    container_id,
                    ifname,
                    ..
                }) => {
                    info!(
                        container = container_id,
                        "finishing a DEL that was asked for while no agent answered"
                    );
                    if let Err(error) = self.del(&AttachmentId { container_id, ifname }).await {
                        warn!("{}: {}; trying again", error.msg, error.details);
                        continue;
                    }
                }
                Ok(other) => warn!("{}: {:?} does not belong here; removed", path.display(), other.command),
                Err(error) => warn!("{}: {error}; removed", path.display()),
            }
            if let Err(error) = std::fs::remove_file(&path) {
                warn!("cannot remove {}: {error}", path.display());
            }
        }
    }
}
