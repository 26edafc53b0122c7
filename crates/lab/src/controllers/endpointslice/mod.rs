//! EndpointSlices: for each Service with a selector, where its pods are and in which state.

mod desired;
mod endpoints;
mod plan;
mod topology;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;

use super::cache::{Change, Object};
use super::context::Context;
use super::error::Error;
use super::object::{Key, label, name, namespace, text};
use super::queue::{Queue, Reconcile, work};
use super::{index, kinds, selector};

/// What a service's slices follow from.
pub(super) struct Input<'a> {
    pub(super) service: &'a Value,
    pub(super) pods: &'a [Object],
    /// Zone by node.
    pub(super) zones: &'a HashMap<String, String>,
}

pub(crate) struct EndpointSlices {
    ctx: Context,
}

pub(crate) async fn run(ctx: Context) {
    let queue = Arc::new(Queue::default());
    ctx.enqueue(&kinds::SERVICES, &queue);
    enqueue_by_pods(&ctx, &queue);
    enqueue_by_nodes(&ctx, &queue);
    for res in [&kinds::ENDPOINT_SLICES, &kinds::ENDPOINTS] {
        enqueue_by_result(&ctx, res, &queue);
    }
    let all = [
        &kinds::SERVICES,
        &kinds::PODS,
        &kinds::NODES,
        &kinds::ENDPOINT_SLICES,
        &kinds::ENDPOINTS,
    ];
    ctx.synced(&all).await;
    work(Arc::new(EndpointSlices { ctx }), queue, 8).await;
}

/// A pod concerns the services that select it, as it was and as it is.
fn enqueue_by_pods(ctx: &Context, queue: &Arc<Queue>) {
    let (queue, services) = (queue.clone(), ctx.cache(&kinds::SERVICES));
    ctx.cache(&kinds::PODS).subscribe(move |change| {
        if !matters(change) {
            return;
        }
        for pod in change.sides() {
            let labels = pod["metadata"]["labels"].as_object();
            for (key, value) in labels.into_iter().flatten() {
                let entry = index::by_label(namespace(pod), key, value.as_str().unwrap_or_default());
                for service in services.indexed(&entry) {
                    if selects(&service, pod) {
                        queue.add(Key::of(&service));
                    }
                }
            }
        }
    });
}

/// Can this change of a pod change an endpoint?
fn matters(change: Change<'_>) -> bool {
    let (Some(old), Some(new)) = (change.old, change.new) else {
        return true;
    };
    let differs = |pointer: &str| old.pointer(pointer) != new.pointer(pointer);
    [
        "/metadata/labels",
        "/metadata/deletionTimestamp",
        "/spec/nodeName",
        "/status/phase",
        "/status/podIPs",
    ]
    .into_iter()
    .any(differs)
        || super::pods::is_ready(old) != super::pods::is_ready(new)
}

/// A node whose zone changed concerns the services of its pods.
fn enqueue_by_nodes(ctx: &Context, queue: &Arc<Queue>) {
    let (queue, services, pods) = (queue.clone(), ctx.cache(&kinds::SERVICES), ctx.cache(&kinds::PODS));
    ctx.cache(&kinds::NODES).subscribe(move |change| {
        if change.old.map(|node| zone(node)) == change.new.map(|node| zone(node)) {
            return;
        }
        let Some(node) = change.object() else { return };
        for pod in pods.indexed(&index::by_node(name(node))) {
            for service in services.in_namespace(namespace(&pod)) {
                if selects(&service, &pod) {
                    queue.add(Key::of(&service));
                }
            }
        }
    });
}

/// What somebody else did to the results is put right.
fn enqueue_by_result(ctx: &Context, res: &crate::client::Res, queue: &Arc<Queue>) {
    let (queue, is_slice) = (queue.clone(), *res == kinds::ENDPOINT_SLICES);
    ctx.cache(res).subscribe(move |change| {
        for object in change.sides() {
            if !is_slice {
                queue.add(Key::of(object));
            } else if plan::is_ours(object) {
                queue.add(Key::new(
                    namespace(object),
                    label(object, plan::SERVICE).unwrap_or_default(),
                ));
            }
        }
    });
}

fn zone(node: &Value) -> Option<&str> {
    label(node, "topology.kubernetes.io/zone")
}

fn selects(service: &Value, pod: &Value) -> bool {
    let wanted = service["spec"]["selector"].as_object();
    let wanted = wanted.filter(|wanted| !wanted.is_empty() && text(service, "/spec/type") != "ExternalName");
    wanted.is_some_and(|wanted| selector::fits_map(wanted, &pod["metadata"]["labels"]))
}

impl Reconcile for EndpointSlices {
    fn name(&self) -> &'static str {
        "endpointslice"
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let existing = self.existing(key);
        let Some(service) = self.ctx.cache(&kinds::SERVICES).get(key) else {
            // The Endpoints object of a service is deleted with it; one that never had a service is somebody's own.
            self.remove_legacy(key).await?;
            return self.remove(&existing).await;
        };
        if text(&service, "/spec/type") == "ExternalName" {
            self.remove_legacy(key).await?;
            return self.remove(&existing).await;
        }
        let Some(wanted) = service["spec"]["selector"]
            .as_object()
            .filter(|wanted| !wanted.is_empty())
        else {
            return Ok(None);
        };
        let pods = self.pods(key, wanted);
        let zones = self.zones(&pods);
        let input = Input {
            service: &service,
            pods: &pods,
            zones: &zones,
        };
        self.write(&plan::slices(&input, &existing)).await?;
        self.write_legacy(&input, key).await?;
        Ok(None)
    }
}

impl EndpointSlices {
    fn existing(&self, service: &Key) -> Vec<Object> {
        let cache = self.ctx.cache(&kinds::ENDPOINT_SLICES);
        let mut slices = cache.indexed(&index::by_service(&service.namespace, &service.name));
        slices.retain(|slice| plan::is_ours(slice));
        slices
    }

    fn pods(&self, service: &Key, wanted: &serde_json::Map<String, Value>) -> Vec<Object> {
        let Some((key, value)) = wanted.iter().next() else {
            return Vec::new();
        };
        let entry = index::by_label(&service.namespace, key, value.as_str().unwrap_or_default());
        let mut pods = self.ctx.cache(&kinds::PODS).indexed(&entry);
        pods.retain(|pod| selector::fits_map(wanted, &pod["metadata"]["labels"]));
        pods
    }

    fn zones(&self, pods: &[Object]) -> HashMap<String, String> {
        let nodes = self.ctx.cache(&kinds::NODES);
        let names: std::collections::HashSet<&str> = pods.iter().map(|pod| text(pod, "/spec/nodeName")).collect();
        let nodes = names.into_iter().filter_map(|name| nodes.get(&Key::new("", name)));
        nodes
            .filter_map(|node| Some((name(&node).to_owned(), zone(&node)?.to_owned())))
            .collect()
    }

    async fn remove(&self, slices: &[Object]) -> Result<Option<Duration>, Error> {
        let deletions = slices
            .iter()
            .map(|slice| self.ctx.delete(&kinds::ENDPOINT_SLICES, slice, None));
        Error::all(join_all(deletions).await)?;
        Ok(None)
    }

    /// What is new comes before what goes, so that an endpoint that moves between slices is never missing.
    async fn write(&self, writes: &plan::Writes) -> Result<(), Error> {
        let res = &kinds::ENDPOINT_SLICES;
        Error::all(join_all(writes.create.iter().map(|slice| self.ctx.create(res, slice))).await)?;
        Error::all(join_all(writes.update.iter().map(|slice| self.ctx.update(res, slice))).await)?;
        Error::all(join_all(writes.delete.iter().map(|slice| self.ctx.delete(res, slice, None))).await)
    }

    async fn write_legacy(&self, input: &Input<'_>, key: &Key) -> Result<(), Error> {
        let wish = endpoints::of(input);
        match self.ctx.cache(&kinds::ENDPOINTS).get(key) {
            None => drop(self.ctx.create(&kinds::ENDPOINTS, &wish).await?),
            Some(present) => {
                if let Some(changed) = endpoints::changed(&present, &wish) {
                    self.ctx.update(&kinds::ENDPOINTS, &changed).await?;
                }
            }
        }
        Ok(())
    }

    async fn remove_legacy(&self, key: &Key) -> Result<(), Error> {
        let present = self.ctx.cache(&kinds::ENDPOINTS).get(key);
        if let Some(present) = present.filter(|present| endpoints::is_ours(present)) {
            self.ctx.delete(&kinds::ENDPOINTS, &present, None).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
