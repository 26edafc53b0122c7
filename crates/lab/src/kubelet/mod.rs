//! Starts pods as a kubelet does: sandbox namespaces, CNI through the plugin binary, containers through an OCI
//! runtime, volumes, probes and status.
//!
//! ```text
//!  API server ──watch──► pods ──PodEvent──► pod::Worker (one task a pod)
//!                                             │ prepare: sandbox + cni, volumes
//!                                             │ run_members: spec, rootfs, runtime (crun), stdio ─► log
//!                                             │ probes, hooks
//!                                             └ publish ──patch──► API server
//! ```
//!
//! All state is on a tmpfs (`Config::state_dir`) and in the kernel: containers do not notice when a kubelet ends, and
//! the next one takes them over.

mod bandwidth;
mod cni;
mod config;
mod downward;
mod env;
mod error;
mod files;
mod grpc;
mod hooks;
mod http;
mod images;
mod keeper;
mod log;
mod lookup;
mod node;
mod pod;
mod pods;
mod probes;
mod quantity;
mod registration;
mod rootfs;
mod runtime;
mod sandbox;
mod spec;
mod stdio;
mod volumes;

pub use config::Config;
pub use error::Error;
pub use images::{LoadError, load};
pub use keeper::keep;

use std::path::Path;
use std::sync::Arc;

use tokio::net::UnixListener;

use crate::client::Client;
use crate::streaming;

/// Runs a node's kubelet until the process is told to end. Pods stay.
pub async fn run(config: Config) -> Result<(), Error> {
    let client = Client::unix(config.api_socket());
    for dir in [&config.state_dir, &config.root_dir, &config.log_dir, &config.netns_dir] {
        std::fs::create_dir_all(dir).map_err(Error::io("create folder", dir))?;
    }
    if config.keeper.is_none() {
        // Containers become this process's children when the runtime that started them ends. Where there is a keeper
        // they become its; other orphans are init's, which waits for them: a container cannot end before they have.
        nix::sys::prctl::set_child_subreaper(true).map_err(Error::nix("become the subreaper of", "the containers"))?;
    }
    let keeper = config
        .keeper
        .as_ref()
        .map(|program| keeper::Keeper::new(&config.state_dir, program));
    let runtime = runtime::Runtime::find(config.state_dir.join("runtime"), keeper).await?;
    let node = node::Node::new(config, client, runtime).await;
    node.collect_garbage().await;
    tokio::spawn(registration::run(node.clone()));
    let socket = node.config.streaming_socket();
    tokio::spawn(streaming::serve(listen(&socket)?, Arc::new(node.lookup.clone())));
    let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(Error::io("listen for", "SIGTERM"))?;
    tokio::select! {
        () = pods::run(node) => {}
        _ = end.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}

/// A socket at this path; one that an earlier kubelet left is replaced.
fn listen(socket: &Path) -> Result<UnixListener, Error> {
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir).map_err(Error::io("create folder", dir))?;
    }
    std::fs::remove_file(socket).ok();
    UnixListener::bind(socket).map_err(Error::io("listen at", socket))
}

#[cfg(test)]
mod tests;
