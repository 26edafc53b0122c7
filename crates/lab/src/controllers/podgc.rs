//! Pods on nodes that are gone: nobody is there to end them, so they are removed here.

use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::error::Error;
use super::object::{Key, name, text};
use super::queue::{Queue, Reconcile, work};
use super::{index, kinds};

/// A node may be re-created; its pods are given this long.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct PodCollector {
    ctx: Context,
}

pub(crate) async fn run(ctx: Context) {
    ctx.synced(&[&kinds::NODES, &kinds::PODS]).await;
    let queue = Arc::new(Queue::default());
    let nodes = queue.clone();
    ctx.cache(&kinds::NODES).subscribe(move |change| {
        if let (Some(node), None) = (change.old, change.new) {
            nodes.add_after(Key::new("", name(node)), PATIENCE);
        }
    });
    let (pods, nodes) = (queue.clone(), ctx.cache(&kinds::NODES));
    ctx.cache(&kinds::PODS).subscribe(move |change| {
        let Some(pod) = change.new else { return };
        let node = Key::new("", text(pod, "/spec/nodeName"));
        if !node.name.is_empty() && nodes.get(&node).is_none() {
            pods.add_after(node, PATIENCE);
        }
    });
    work(Arc::new(PodCollector { ctx }), queue, 1).await;
}

impl Reconcile for PodCollector {
    fn name(&self) -> &'static str {
        "podgc"
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let stray = self.ctx.cache(&kinds::PODS).indexed(&index::by_node(&key.name));
        if stray.is_empty() || self.ctx.cache(&kinds::NODES).get(key).is_some() {
            return Ok(None);
        }
        match self.ctx.client.get(&kinds::NODES, "", &key.name).await {
            Err(error) if error.is_not_found() => {}
            result => return Ok(result.map(|_| None)?),
        }
        for pod in stray {
            tracing::info!(pod = %Key::of(&pod), node = key.name, "the pod's node is gone; removing the pod");
            self.ctx.delete(&kinds::PODS, &pod, Some(0)).await?;
        }
        Ok(None)
    }
}
