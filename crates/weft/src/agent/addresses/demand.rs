//! What this node wants of the pools, written to its NodeAddresses; and what the controller answers, taken in.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};
use weft_cluster::{Client, node_addresses};
use weft_model::ipam::{NodeAddresses, NodeAddressesStatus};

use crate::agent::node::Node;

/// How often is looked whether there is more than is needed.
const LOOK: Duration = Duration::from_secs(5);
/// A burst of pods is one write.
const GATHER: Duration = Duration::from_millis(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Writes for ever. Without any pool in the cluster there is nothing to write.
pub(in crate::agent) async fn run(node: Arc<Node>, client: Client) {
    let mut writer = Writer {
        session: uuid::Uuid::new_v4().to_string(),
        pause: FIRST_PAUSE,
        node,
        client,
    };
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = writer.node.demand.notified() => tokio::time::sleep(GATHER).await,
            _ = look.tick() => writer.node.pools().release_excess(),
        }
        writer.write().await;
    }
}

struct Writer {
    /// Which run of the agent this is.
    session: String,
    /// How long to wait after the next failure.
    pause: Duration,
    node: Arc<Node>,
    client: Client,
}

impl Writer {
    /// Writes until the API server has what this node wants.
    async fn write(&mut self) {
        while self.node.pools().concern_us() {
            match self.step().await {
                Ok(true) => return self.pause = FIRST_PAUSE,
                Ok(false) => self.pause = FIRST_PAUSE,
                Err(error) => {
                    // Said once, not at every attempt.
                    if self.pause == FIRST_PAUSE {
                        warn!("{error}; pods get what this node has of the pools, and no more, until that works");
                    }
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// One request, or none where nothing is left to say: then true.
    async fn step(&self) -> Result<bool, weft_cluster::Error> {
        let Some((at, status)) = self.next() else {
            let opened = node_addresses::open(&self.client, &self.node.name, &self.session).await?;
            info!(blocks = opened.blocks().count(), "this node can take part in pools");
            self.node.pools().open(opened);
            self.node.granted.send_modify(|()| {});
            return Ok(false);
        };
        if status == at.status {
            return Ok(true);
        }
        match node_addresses::write_status(&self.client, &at, &status).await? {
            Some(written) => self.node.take_in_addresses(Some(&written)),
            None => {
                let found = node_addresses::get(&self.client, &self.node.name).await?;
                self.node.take_in_addresses(found.as_ref());
            }
        }
        Ok(false)
    }

    /// The object as it was last seen, and what should be in its status.
    fn next(&self) -> Option<(NodeAddresses, NodeAddressesStatus)> {
        let pools = self.node.pools();
        let at = pools.at()?.clone();
        let mut status = pools.book().status();
        status.session.clone_from(&self.session);
        Some((at, status))
    }
}

impl Node {
    /// Takes in what the controller has given or taken. Where there is no object any more, what was this node's may
    /// be another's.
    pub(in crate::agent) fn take_in_addresses(&self, object: Option<&NodeAddresses>) {
        if self.pools().advance(object) {
            self.granted.send_modify(|()| {});
            self.demand_changed();
        }
    }
}
