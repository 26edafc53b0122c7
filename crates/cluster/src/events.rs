//! Events about pods: what `kubectl describe pod` shows. The same one told again raises a count.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use weft_model::PodMeta;

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
    pub async fn warn(&self, event: PodEvent) -> Result<(), Error> {
        let key = event.pod.key;
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            uid: Some(event.pod.object_uid),
            ..ObjectReference::default()
        };
        let what = Event {
            type_: EventType::Warning,
            reason: event.reason.into(),
            note: Some(cut(event.note)),
            action: event.action.into(),
            secondary: None,
        };
        let written = self.recorder.publish(&what, &about).await;
        written.map_err(|source| self.client.failed(format!("write an event about pod {key}"), source))
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
