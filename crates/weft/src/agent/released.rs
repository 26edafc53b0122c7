//! UDP sockets that are still connected to an endpoint which has gone: closed from the outside, so that their owners
//! connect again instead of sending into nothing.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};
use weft_dataplane::net::{Namespace, NetError, sockets};

use super::node::Node;

/// One that was connecting while its endpoint went is found by looking again.
const AGAIN: Duration = Duration::from_secs(5);

/// Looks whenever endpoints have gone.
pub(super) async fn watch(node: Arc<Node>) {
    loop {
        node.released.notified().await;
        look(&node).await;
        tokio::time::sleep(AGAIN).await;
        look(&node).await;
    }
}

/// Looks once at the sockets of the node and of each pod. The kernel knows no others by a Service.
async fn look(node: &Node) {
    let stale = match node.datapath().stale_sockets() {
        Ok(stale) if stale.is_empty() => return,
        Ok(stale) => stale,
        Err(error) => return warn!("{error}; UDP sockets may go on sending to endpoints that have gone"),
    };
    let pods: BTreeSet<PathBuf> = node.attachments().values().map(|pod| pod.link.netns.clone()).collect();
    match tokio::task::spawn_blocking(move || close(&pods, &stale)).await {
        Ok(0) => {}
        Ok(closed) => info!(closed, "UDP sockets whose endpoint has gone were closed"),
        Err(error) => warn!("looking for UDP sockets whose endpoint has gone: {error}"),
    }
}

fn close(pods: &BTreeSet<PathBuf>, stale: &HashSet<u64>) -> usize {
    let of_pods = pods.iter().map(|path| match Namespace::open_if_there(path)? {
        Some(namespace) => sockets::close_in(&namespace, stale),
        None => Ok(0),
    });
    let all = std::iter::once_with(|| sockets::close(stale)).chain(of_pods);
    let count = |closed: Result<usize, NetError>| match closed {
        Ok(count) => count,
        Err(error) => {
            debug!("{error}");
            0
        }
    };
    all.map(count).sum()
}
