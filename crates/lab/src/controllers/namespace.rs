//! Namespaces on their way out: everything in them is deleted, of every kind, and then they are let go.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use super::context::Context;
use super::error::Error;
use super::object::{Condition, Key, deleting, list, name, namespace, set_condition};
use super::queue::{Queue, Reconcile, work};
use super::{discovery, kinds};
use crate::client::ListOptions;

/// How soon a namespace is looked at again while something in it takes its time.
const AGAIN: Duration = Duration::from_millis(500);
const FINALIZER: &str = "kubernetes";

pub(crate) struct Namespaces {
    ctx: Context,
}

pub(crate) async fn run(ctx: Context) {
    let queue = Arc::new(Queue::default());
    ctx.enqueue(&kinds::NAMESPACES, &queue);
    let (pods, namespaces) = (queue.clone(), ctx.cache(&kinds::NAMESPACES));
    ctx.cache(&kinds::PODS).subscribe(move |change| {
        let gone = change.old.filter(|_| change.new.is_none());
        let key = gone.map(|pod| Key::new("", namespace(pod)));
        if let Some(key) = key.filter(|key| namespaces.get(key).is_some_and(|ns| deleting(&ns))) {
            pods.add(key);
        }
    });
    ctx.synced(&[&kinds::NAMESPACES]).await;
    work(Arc::new(Namespaces { ctx }), queue, 4).await;
}

/// What is left in a namespace after a round of deletions.
#[derive(Default)]
struct Left {
    objects: usize,
    /// `pods. has 2 resource instances`, as Kubernetes says it.
    kinds: Vec<String>,
    finalizers: Vec<String>,
    failures: Vec<String>,
}

impl Reconcile for Namespaces {
    fn name(&self) -> &'static str {
        "namespace"
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let there = self.ctx.cache(&kinds::NAMESPACES).get(key);
        let Some(namespace) = there.filter(|namespace| deleting(namespace)) else {
            return Ok(None);
        };
        let finalizers = list(&namespace, "/spec/finalizers");
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(None);
        }
        let left = self.empty(&key.name).await?;
        if left.objects > 0 || !left.failures.is_empty() {
            let status = status(&namespace, &left);
            self.ctx.update_status(&kinds::NAMESPACES, &namespace, status).await?;
            return Ok(Some(AGAIN));
        }
        let mut finalized = Value::clone(&namespace);
        finalized["spec"]["finalizers"] = finalizers.iter().filter(|f| *f != FINALIZER).cloned().collect();
        // Without the version: a status written meanwhile must not hold up the end.
        if let Some(metadata) = finalized["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
        }
        match self
            .ctx
            .client
            .update(&kinds::NAMESPACES, &finalized, Some("finalize"))
            .await
        {
            Err(error) if error.is_not_found() => Ok(None),
            result => Ok(result.map(|_| None)?),
        }
    }
}

impl Namespaces {
    /// Deletes whatever is in the namespace.
    async fn empty(&self, namespace: &str) -> Result<Left, Error> {
        let mut left = Left::default();
        let found = discovery::found(&self.ctx.client).await?;
        left.failures = found.failed.iter().map(|(_, error)| error.to_string()).collect();
        for served in found.served.into_iter().filter(|served| served.namespaced) {
            let items = match self
                .ctx
                .client
                .list(&served.res, namespace, &ListOptions::default())
                .await
            {
                Ok(list) => list.items,
                // Its definition has just gone, and everything with it.
                Err(error) if error.is_not_found() => continue,
                Err(error) => {
                    left.failures.push(error.to_string());
                    continue;
                }
            };
            let going = items.iter().filter(|item| !deleting(item));
            let deletions = going.map(|item| self.ctx.client.delete(&served.res, namespace, name(item), None, None));
            for error in join_all(deletions).await.into_iter().filter_map(Result::err) {
                if !error.is_not_found() {
                    left.failures.push(error.to_string());
                }
            }
            let rest = match self
                .ctx
                .client
                .list(&served.res, namespace, &ListOptions::default())
                .await
            {
                Ok(list) => list.items,
                Err(_) => items,
            };
            if !rest.is_empty() {
                left.objects += rest.len();
                let what = format!("{}.{}", served.res.plural(), served.group);
                left.kinds.push(format!("{what} has {} resource instances", rest.len()));
            }
            for finalizer in rest
                .iter()
                .flat_map(|item| list(item, "/metadata/finalizers"))
                .filter_map(Value::as_str)
            {
                left.finalizers.push(finalizer.to_owned());
            }
        }
        left.finalizers.sort();
        left.finalizers.dedup();
        Ok(left)
    }
}

fn status(namespace: &Value, left: &Left) -> Value {
    let mut conditions = list(namespace, "/status/conditions").to_vec();
    let mut say = |kind, reasons: [&str; 2], messages: [String; 2], wrong: bool| {
        let at = usize::from(wrong);
        let condition = Condition {
            kind,
            status: if wrong { "True" } else { "False" },
            reason: reasons[at],
            message: &messages[at],
            update_time: false,
        };
        set_condition(&mut conditions, condition);
    };
    let failures = left.failures.join("; ");
    let fine = "All content successfully deleted, may be waiting on finalization";
    say(
        "NamespaceDeletionContentFailure",
        ["ContentDeleted", "ContentDeletionFailed"],
        [
            fine.to_owned(),
            format!("Failed to delete all resource types: {failures}"),
        ],
        !left.failures.is_empty(),
    );
    say(
        "NamespaceContentRemaining",
        ["ContentRemoved", "SomeResourcesRemain"],
        [
            "All content successfully removed".to_owned(),
            format!("Some resources are remaining: {}", left.kinds.join(", ")),
        ],
        left.objects > 0,
    );
    say(
        "NamespaceFinalizersRemaining",
        ["ContentHasNoFinalizers", "SomeFinalizersRemain"],
        [
            "All content-preserving finalizers finished".to_owned(),
            format!(
                "Some content in the namespace has finalizers remaining: {}",
                left.finalizers.join(", ")
            ),
        ],
        !left.finalizers.is_empty(),
    );
    json!({"phase": "Terminating", "conditions": conditions})
}
