//! The socket that the CNI plugin talks to: one line of JSON in, one line out, for each connection.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tracing::{debug, warn};
use weft_dataplane::aside;
use weft_model::cni::{CniError, Request, Response, code};

use super::node::Node;

/// Longest request; a CHECK carries the result of ADD and of later plugins.
const LONGEST: u64 = 1 << 20;
const SLOWEST: Duration = Duration::from_secs(10);

/// The socket, and where it is.
pub(super) struct Listener {
    pub(super) socket: UnixListener,
    pub(super) path: PathBuf,
}

/// Opens the socket, in one step where an earlier agent left one.
pub(super) fn listen(state_dir: &Path) -> anyhow::Result<Listener> {
    let path = socket_path(state_dir);
    let draft = state_dir.join(".cni.sock");
    let _ = std::fs::remove_file(&draft);
    let socket = UnixListener::bind(&draft).with_context(|| format!("cannot listen on {}", draft.display()))?;
    // Who may write here configures the network as root.
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&draft, &path))
        .with_context(|| format!("cannot make {}", path.display()))?;
    Ok(Listener { socket, path })
}

/// Where the socket is.
pub(super) fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("cni.sock")
}

/// Answers for ever.
pub(super) async fn run(node: Arc<Node>, socket: UnixListener) {
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                let node = node.clone();
                aside::on_own_thread(async move {
                    if let Err(error) = answer(&node, stream).await {
                        debug!("a CNI request broke off: {error:#}");
                    }
                });
            }
            Err(error) => {
                warn!("cannot accept CNI requests: {error}; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(node: &Node, stream: UnixStream) -> anyhow::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(LONGEST));
    tokio::time::timeout(SLOWEST, reader.read_line(&mut line)).await??;
    let response = match serde_json::from_str::<Request>(&line) {
        Ok(request) => node.handle(request).await,
        Err(error) => {
            let details = format!("{error}; plugin and agent are of different versions, install both from one release");
            let error = CniError::new(code::DECODE, "the agent does not understand the plugin", details);
            Response {
                result: None,
                error: Some(error),
            }
        }
    };
    let mut text = serde_json::to_vec(&response)?;
    text.push(b'\n');
    writer.write_all(&text).await?;
    Ok(())
}
