//! Events about pods and Services: what `kubectl describe` shows. The same one told again raises a count.

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::Api;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use weft_model::{ObjectKey, PodMeta};

use crate::client::Client;
use crate::error::Error;

/// What the API server takes of a note, in bytes.
const LONGEST_NOTE: usize = 1024;

/// Writes the events of one node's agent.
#[derive(Clone)]
pub struct Events {
    client: Client,
    recorder: Recorder,
}

/// Something about a pod that its owner should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvent {
    /// The pod.
    pub pod: PodMeta,
    /// One word for machines, such as `AddressesExhausted`.
    pub reason: &'static str,
    /// What was being done, one word for machines.
    pub action: &'static str,
    /// What happened and what to do; cut where it is longer than an event may be.
    pub note: String,
}

/// Something about a Service that its owner should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEvent {
    /// The Service.
    pub service: ObjectKey,
    /// One word for machines, such as `DoesNotFit`.
    pub reason: &'static str,
    /// What was being done, one word for machines.
    pub action: &'static str,
    /// What happened and what to do; cut where it is longer than an event may be.
    pub note: String,
}

/// Anything that an agent tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEvent {
    /// About a pod.
    Pod(PodEvent),
    /// About a Service.
    Service(ServiceEvent),
}

impl From<PodEvent> for AgentEvent {
    fn from(event: PodEvent) -> Self {
        AgentEvent::Pod(event)
    }
}

impl From<ServiceEvent> for AgentEvent {
    fn from(event: ServiceEvent) -> Self {
        AgentEvent::Service(event)
    }
}

impl Events {
    /// Events of the agent on this node.
    pub fn new(client: &Client, node: &str) -> Self {
        let reporter = Reporter {
            controller: "weft-agent".into(),
            instance: Some(node.into()),
        };
        Self {
            client: client.clone(),
            recorder: Recorder::new(client.kube.clone(), reporter),
        }
    }

    /// Writes a warning.
    pub async fn warn(&self, event: AgentEvent) -> Result<(), Error> {
        match event {
            AgentEvent::Pod(event) => {
                let uid = Some(event.pod.object_uid);
                let about = reference("Pod", &event.pod.key, uid);
                self.publish(about, event.reason, event.action, event.note).await
            }
            AgentEvent::Service(event) => {
                let about = reference("Service", &event.service, self.uid_of(&event.service).await?);
                self.publish(about, event.reason, event.action, event.note).await
            }
        }
    }

    /// Whoever looks at a Service looks for the events of this very object. `None` where it has gone.
    async fn uid_of(&self, service: &ObjectKey) -> Result<Option<String>, Error> {
        let api = Api::<Service>::namespaced(self.client.kube.clone(), &service.namespace);
        let found = api.get_metadata_opt(&service.name).await;
        let found = found.map_err(|source| self.client.failed(format!("read Service {service}"), source))?;
        Ok(found.and_then(|found| found.metadata.uid))
    }

    async fn publish(&self, about: ObjectReference, reason: &str, action: &str, note: String) -> Result<(), Error> {
        let what = Event {
            type_: EventType::Warning,
            reason: reason.into(),
            note: Some(cut(note)),
            action: action.into(),
            secondary: None,
        };
        let written = self.recorder.publish(&what, &about).await;
        written.map_err(|source| {
            let (kind, name) = (about.kind.unwrap_or_default(), about.name.unwrap_or_default());
            let namespace = about.namespace.unwrap_or_default();
            self.client
                .failed(format!("write an event about {kind} {namespace}/{name}"), source)
        })
    }
}

fn reference(kind: &str, key: &ObjectKey, uid: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some(kind.into()),
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()),
        uid,
        ..ObjectReference::default()
    }
}

/// At most so many bytes, and no half character.
fn cut(mut note: String) -> String {
    const END: &str = " …";
    if note.len() > LONGEST_NOTE {
        let mut at = LONGEST_NOTE - END.len();
        while !note.is_char_boundary(at) {
            at -= 1;
        }
        note.truncate(at);
        note.push_str(END);
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(cut("short".into()), "short");
        let long = cut("ö".repeat(1000));
        assert!(long.len() <= LONGEST_NOTE && long.ends_with("ö …"));
    }
}
