//! Kubernetes events: what a component did or could not do, told about an object. Repetitions raise a count instead
//! of making new objects, and telling never holds up the teller.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::client::{Client, Patch, Res, meta};

const EVENTS: Res = Res::new("", "v1", "events");
/// Events that wait to be written; more are dropped, since nothing may depend on them.
const WAITING: usize = 1024;
/// Distinct events whose counts are remembered.
const REMEMBERED: usize = 4096;

/// Writes events of one component. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    sender: mpsc::Sender<Told>,
}

#[derive(Debug)]
struct Told {
    about: Value,
    namespace: String,
    warning: bool,
    reason: &'static str,
    message: String,
}

impl Recorder {
    /// A recorder for `component` (such as `deployment-controller`), on `host` if it belongs to a node. Its writer
    /// task ends when the last clone is dropped.
    pub fn new(client: Client, component: &str, host: Option<&str>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let writer = Writer {
            client,
            component: component.to_owned(),
            host: host.unwrap_or_default().to_owned(),
            counts: HashMap::new(),
            order: VecDeque::new(),
        };
        tokio::spawn(writer.run(receiver));
        Self { sender }
    }

    /// Tells that something went as it should.
    pub fn normal(&self, object: &Value, reason: &'static str, message: impl Into<String>) {
        self.tell(object, "", false, reason, message.into());
    }

    /// Tells that something is wrong.
    pub fn warning(&self, object: &Value, reason: &'static str, message: impl Into<String>) {
        self.tell(object, "", true, reason, message.into());
    }

    /// Tells something about a part of the object, such as `spec.containers{web}`.
    pub fn part(
        &self,
        object: &Value,
        field_path: &str,
        warning: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.tell(object, field_path, warning, reason, message.into());
    }

    fn tell(&self, object: &Value, field_path: &str, warning: bool, reason: &'static str, message: String) {
        let mut about = json!({
            "apiVersion": object["apiVersion"], "kind": object["kind"], "name": meta(object, "name"),
            "uid": meta(object, "uid"), "resourceVersion": meta(object, "resourceVersion"),
        });
        let namespace = meta(object, "namespace");
        if !namespace.is_empty() {
            about["namespace"] = namespace.into();
        }
        if !field_path.is_empty() {
            about["fieldPath"] = field_path.into();
        }
        let told = Told {
            about,
            namespace: if namespace.is_empty() { "default" } else { namespace }.to_owned(),
            warning,
            reason,
            message,
        };
        if self.sender.try_send(told).is_err() {
            tracing::debug!(reason, "event dropped: too many are waiting to be written");
        }
    }
}

struct Writer {
    client: Client,
    component: String,
    host: String,
    /// Name and count of what has been written.
    counts: HashMap<String, (String, u64)>,
    order: VecDeque<String>,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Told>) {
        while let Some(told) = receiver.recv().await {
            if let Err(error) = self.write(&told).await {
                tracing::debug!(reason = told.reason, %error, "event not written");
            }
        }
    }

    async fn write(&mut self, told: &Told) -> Result<(), crate::client::Error> {
        let same = format!(
            "{} {} {} {} {}",
            told.about["uid"], told.about["name"], told.about["fieldPath"], told.reason, told.message
        );
        let now = Timestamp::now();
        if let Some((name, count)) = self.counts.get_mut(&same) {
            *count += 1;
            let patch = Patch::Merge(json!({"count": *count, "lastTimestamp": seconds(now)}));
            match self.client.patch(&EVENTS, &told.namespace, name, None, &patch).await {
                Err(error) if error.is_not_found() => drop(self.counts.remove(&same)),
                result => return result.map(drop),
            }
        }
        let name = format!(
            "{}.{:x}",
            told.about["name"].as_str().unwrap_or_default(),
            now.as_nanosecond()
        );
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": told.namespace},
            "involvedObject": told.about,
            "reason": told.reason, "message": told.message,
            "type": if told.warning { "Warning" } else { "Normal" },
            "source": if self.host.is_empty() {
                json!({"component": self.component})
            } else {
                json!({"component": self.component, "host": self.host})
            },
            "firstTimestamp": seconds(now), "lastTimestamp": seconds(now), "count": 1, "eventTime": null,
            "reportingComponent": self.component, "reportingInstance": self.host,
        });
        self.client.create(&EVENTS, &told.namespace, &event).await?;
        self.remember(same, name);
        Ok(())
    }

    fn remember(&mut self, same: String, name: String) {
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.counts.remove(&oldest);
        }
        self.order.push_back(same.clone());
        self.counts.insert(same, (name, 1));
    }
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures::FutureExt as _;
    use http::Response;
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::client::{Handler, full};

    #[tokio::test]
    async fn a_repetition_raises_the_count() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let handler: Handler = Arc::new(move |request| {
            let log = log.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
                log.lock().unwrap().push((parts.method.to_string(), body.clone()));
                Response::new(full(body.to_string()))
            }
            .boxed()
        });
        let recorder = Recorder::new(Client::local(handler), "scheduler", None);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "a", "uid": "1"}});
        recorder.normal(&pod, "Scheduled", "one");
        recorder.normal(&pod, "Scheduled", "one");
        recorder.warning(&pod, "FailedScheduling", "two");
        while seen.lock().unwrap().len() < 3 {
            tokio::task::yield_now().await;
        }
        let seen = seen.lock().unwrap();
        let methods: Vec<&str> = seen.iter().map(|(method, _)| method.as_str()).collect();
        assert_eq!(methods, ["POST", "PATCH", "POST"]);
        assert_eq!(seen[0].1["involvedObject"]["kind"], "Pod");
        assert_eq!(seen[1].1["count"], 2);
        assert_eq!(seen[2].1["type"], "Warning");
    }
}
