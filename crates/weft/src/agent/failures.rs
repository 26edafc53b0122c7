//! Telling owners why something has no network: an event about the pod, beside the error that the kubelet gets, or
//! about the Service.

use tokio::sync::mpsc;
use tracing::debug;
use weft_cluster::{AgentEvent, Client, Events, PodEvent, ServiceEvent};
use weft_dataplane::bpf;
use weft_model::ObjectKey;
use weft_model::cni::{CniError, Request, code};

use super::node::Node;
use super::pods::pod_of;

/// Events that wait to be written; more are dropped, since a pod that fails is tried again.
const WAITING: usize = 256;

/// Starts to write events. Whoever sends is never held up.
pub(super) fn start(client: &Client, node: &str) -> mpsc::Sender<AgentEvent> {
    let (sender, mut receiver) = mpsc::channel(WAITING);
    let events = Events::new(client, node);
    tokio::spawn(async move {
        while let Some(event) = receiver.recv().await {
            if let Err(error) = events.warn(event).await {
                debug!("{error}");
            }
        }
    });
    sender
}

impl Node {
    /// Tells the pod of a failed ADD what failed. Of a pod that the API server does not have, nobody can be told.
    pub(super) fn tell_failed_add(&self, request: &Request, error: &CniError) {
        let pod = pod_of(request).and_then(|key| {
            let objects = self.objects();
            objects.pod(&key, request.arg("K8S_POD_UID")).cloned()
        });
        let Some(pod) = pod else { return };
        let event = PodEvent {
            pod,
            reason: reason(error.code),
            action: "AddToNetwork",
            note: format!("{}: {}", error.msg, error.details),
        };
        if self.events.try_send(event.into()).is_err() {
            debug!("an event about a failed ADD is dropped: too many wait to be written");
        }
    }

    /// Tells a Service what of it is not in force on this node.
    pub(super) fn tell_service(&self, service: &ObjectKey, error: &anyhow::Error) {
        let reason = match error.downcast_ref() {
            Some(bpf::Error::MapFull { .. }) => "DoesNotFit",
            _ => "ServiceFailed",
        };
        let event = ServiceEvent {
            service: service.clone(),
            reason,
            action: "ForwardTraffic",
            note: format!("node {}: {error}; there it keeps what it had", self.name),
        };
        if self.events.try_send(event.into()).is_err() {
            debug!("an event about a Service is dropped: too many wait to be written");
        }
    }
}

fn reason(of: u32) -> &'static str {
    match of {
        code::CONFIG => "NetworkRequestInvalid",
        code::TRY_AGAIN => "NetworkNotYet",
        _ => "NetworkFailed",
    }
}
