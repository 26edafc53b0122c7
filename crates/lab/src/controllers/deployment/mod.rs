//! Deployments: one ReplicaSet per template, and an orderly way from the old ones to the new.

mod plan;
mod revision;
mod status;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::cache::Object;
use super::context::Context;
use super::error::Error;
use super::object::{Key, controller_of, deleting, int, list, name, namespace, owner_reference, text, uid};
use super::queue::{Queue, Reconcile, work};
use super::{hash, index, kinds, pods, selector};
use crate::events::Recorder;
use plan::{Size, Step, Wanted};

pub(super) const HASH: &str = "pod-template-hash";

pub(crate) struct Deployments {
    ctx: Context,
    events: Recorder,
}

pub(crate) async fn run(ctx: Context) {
    let queue = Arc::new(Queue::default());
    ctx.enqueue(&kinds::DEPLOYMENTS, &queue);
    ctx.enqueue_controller(&kinds::REPLICA_SETS, "Deployment", &queue);
    enqueue_by_pods(&ctx, &queue);
    ctx.synced(&[&kinds::DEPLOYMENTS, &kinds::REPLICA_SETS, &kinds::PODS])
        .await;
    let events = ctx.recorder("deployment-controller");
    work(Arc::new(Deployments { ctx, events }), queue, 8).await;
}

/// A pod that has gone may be what a `Recreate` Deployment waits for.
fn enqueue_by_pods(ctx: &Context, queue: &Arc<Queue>) {
    let (queue, sets) = (queue.clone(), ctx.cache(&kinds::REPLICA_SETS));
    ctx.cache(&kinds::PODS).subscribe(move |change| {
        let Some(pod) = change
            .object()
            .filter(|pod| change.new.is_none() || pods::is_finished(pod))
        else {
            return;
        };
        let Some(set) = controller_of(pod).filter(|owner| owner["kind"] == "ReplicaSet") else {
            return;
        };
        let set = sets.get(&Key::new(namespace(pod), set["name"].as_str().unwrap_or_default()));
        let deployment = set.as_ref().and_then(|set| controller_of(set)?["name"].as_str());
        if let Some(deployment) = deployment {
            queue.add(Key::new(namespace(pod), deployment));
        }
    });
}

/// The ReplicaSets of a Deployment: the one with its present template, and the others, oldest first.
struct Sets {
    new: Option<Object>,
    old: Vec<Object>,
}

impl Sets {
    fn all(&self) -> impl Iterator<Item = &Object> {
        self.old.iter().chain(&self.new)
    }
}

impl Reconcile for Deployments {
    fn name(&self) -> &'static str {
        "deployment"
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(deployment) = self.ctx.cache(&kinds::DEPLOYMENTS).get(key) else {
            return Ok(None);
        };
        let deployment = &deployment;
        let mut sets = self.sets(deployment).await?;
        if deleting(deployment) {
            return self.write_status(deployment, &sets).await;
        }
        let paused = deployment["spec"]["paused"] == true;
        if paused {
            self.keep_size(deployment, &mut sets).await?;
        } else if text(deployment, "/spec/strategy/type") == "Recreate" {
            self.recreate(deployment, &mut sets).await?;
        } else {
            self.roll(deployment, &mut sets).await?;
        }
        let deployment = self.write_revision(deployment, &sets).await?;
        if !paused && status::is_complete(&deployment, sets.new.as_deref(), &sets.old) {
            self.forget_old(&deployment, &sets).await?;
        }
        self.write_status(&deployment, &sets).await
    }
}

impl Deployments {
    async fn sets(&self, deployment: &Value) -> Result<Sets, Error> {
        let cache = self.ctx.cache(&kinds::REPLICA_SETS);
        let mut all = cache.indexed(&index::by_controller(uid(deployment)));
        if !deleting(deployment) {
            let wanted = &deployment["spec"]["selector"];
            for set in cache.in_namespace(namespace(deployment)) {
                let fits = selector::fits(wanted, &set["metadata"]["labels"]);
                if controller_of(&set).is_none() && fits && !deleting(&set) {
                    let mut owners = list(&set, "/metadata/ownerReferences").to_vec();
                    owners.push(owner_reference(deployment));
                    let patch = json!({"metadata": {"uid": uid(&set), "ownerReferences": owners}});
                    all.push(Object::new(self.ctx.patch(&kinds::REPLICA_SETS, &set, patch).await?));
                }
            }
        }
        all.sort_by_key(|set| (text(set, "/metadata/creationTimestamp").to_owned(), revision::of(set)));
        let template = &deployment["spec"]["template"];
        let new = all
            .iter()
            .position(|set| hash::same_template(&set["spec"]["template"], template, HASH));
        let new = new.map(|at| all.remove(at));
        Ok(Sets { new, old: all })
    }

    /// The ReplicaSet of the present template, made if it is not there, with the newest revision.
    async fn new_set(&self, deployment: &Value, sets: &mut Sets, replicas: i64) -> Result<Object, Error> {
        let newest = sets.old.iter().map(|set| revision::of(set)).max().unwrap_or(0) + 1;
        if let Some(set) = &sets.new {
            let set = revision::raise(&self.ctx, deployment, set, newest).await?;
            sets.new = Some(set.clone());
            return Ok(set);
        }
        let template = &deployment["spec"]["template"];
        let collisions = int(deployment, "/status/collisionCount").unwrap_or(0);
        let hash = hash::of(template, collisions);
        let set = revision::new_set(deployment, &hash, replicas, newest);
        let created = match self.ctx.create(&kinds::REPLICA_SETS, &set).await {
            Ok(created) => Object::new(created),
            Err(error) if error.code() == Some(409) => return Err(self.collided(deployment, &set, error).await?),
            Err(error) => return Err(error.into()),
        };
        if replicas > 0 {
            let message = format!("Scaled up replica set {} from 0 to {replicas}", name(&created));
            self.events.normal(deployment, "ScalingReplicaSet", message);
        }
        sets.new = Some(created.clone());
        Ok(created)
    }

    /// The name is taken. If by another template, the next attempt uses another hash.
    async fn collided(&self, deployment: &Value, set: &Value, error: crate::client::Error) -> Result<Error, Error> {
        let client = &self.ctx.client;
        let there = client.get(&kinds::REPLICA_SETS, namespace(set), name(set)).await?;
        let ours = super::object::controlled_by(&there, deployment);
        let same = hash::same_template(&there["spec"]["template"], &set["spec"]["template"], HASH);
        if !(ours && same) {
            let mut status = deployment["status"].clone();
            status["collisionCount"] = (int(deployment, "/status/collisionCount").unwrap_or(0) + 1).into();
            self.ctx.update_status(&kinds::DEPLOYMENTS, deployment, status).await?;
        }
        Ok(error.into())
    }

    async fn roll(&self, deployment: &Value, sets: &mut Sets) -> Result<(), Error> {
        let replicas = int(deployment, "/spec/replicas").unwrap_or(1);
        let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
        let (max_surge, max_unavailable) = plan::limits(replicas, &rolling["maxSurge"], &rolling["maxUnavailable"]);
        let wanted = Wanted {
            replicas,
            max_surge,
            max_unavailable,
        };
        let old: Vec<Size> = sets.old.iter().map(|set| size(set)).collect();
        let nothing = Size {
            replicas: 0,
            available: 0,
        };
        let first = plan::rolling(wanted, sets.new.as_deref().map_or(nothing, size), &old).new;
        let new = self.new_set(deployment, sets, first).await?;
        let Step { new: wish, old } = plan::rolling(wanted, size(&new), &old);
        sets.new = Some(self.resize(deployment, &new, wish).await?);
        for (set, wish) in sets.old.iter_mut().zip(old) {
            *set = self.resize(deployment, set, wish).await?;
        }
        Ok(())
    }

    async fn recreate(&self, deployment: &Value, sets: &mut Sets) -> Result<(), Error> {
        for set in &mut sets.old {
            *set = self.resize(deployment, set, 0).await?;
        }
        let pods = self.ctx.cache(&kinds::PODS);
        let running = |set: &Object| {
            let pods = pods.indexed(&index::by_controller(uid(set)));
            pods.iter().any(|pod| !pods::is_finished(pod))
        };
        if sets.old.iter().any(running) {
            return Ok(());
        }
        let replicas = int(deployment, "/spec/replicas").unwrap_or(1);
        let new = self.new_set(deployment, sets, replicas).await?;
        sets.new = Some(self.resize(deployment, &new, replicas).await?);
        Ok(())
    }

    /// A paused Deployment still follows its number of replicas: the newest set with pods takes the difference.
    async fn keep_size(&self, deployment: &Value, sets: &mut Sets) -> Result<(), Error> {
        let replicas = int(deployment, "/spec/replicas").unwrap_or(1);
        let difference = replicas - sets.all().map(|set| size(set).replicas).sum::<i64>();
        let newest = sets.new.iter_mut().chain(sets.old.iter_mut().rev());
        let active = newest.into_iter().find(|set| size(set).replicas > 0);
        if let Some(set) = active {
            let wish = (size(set).replicas + difference).max(0);
            *set = self.resize(deployment, set, wish).await?;
        }
        Ok(())
    }

    async fn resize(&self, deployment: &Value, set: &Object, wish: i64) -> Result<Object, Error> {
        let present = size(set).replicas;
        if present == wish {
            return Ok(set.clone());
        }
        let mut changed = Value::clone(set);
        changed["spec"]["replicas"] = wish.into();
        let changed = self.ctx.update(&kinds::REPLICA_SETS, &changed).await?;
        let direction = if wish > present { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {} from {present} to {wish}", name(set));
        self.events.normal(deployment, "ScalingReplicaSet", message);
        Ok(Object::new(changed))
    }

    /// The Deployment's own revision is that of its newest set.
    async fn write_revision(&self, deployment: &Object, sets: &Sets) -> Result<Object, Error> {
        let Some(revision) = sets.new.as_deref().map(revision::of).filter(|revision| *revision > 0) else {
            return Ok(deployment.clone());
        };
        if revision::of(deployment) == revision {
            return Ok(deployment.clone());
        }
        let patch = json!({"metadata": {"annotations": {revision::REVISION: revision.to_string()}}});
        Ok(Object::new(
            self.ctx.patch(&kinds::DEPLOYMENTS, deployment, patch).await?,
        ))
    }

    async fn forget_old(&self, deployment: &Value, sets: &Sets) -> Result<(), Error> {
        let keep = usize::try_from(int(deployment, "/spec/revisionHistoryLimit").unwrap_or(10)).unwrap_or(10);
        let mut idle: Vec<&Object> = sets.old.iter().filter(|set| is_idle(set)).collect();
        idle.sort_by_key(|set| revision::of(set));
        let surplus = sets.old.len().saturating_sub(keep);
        for set in idle.into_iter().take(surplus) {
            self.ctx.delete(&kinds::REPLICA_SETS, set, None).await?;
        }
        Ok(())
    }

    async fn write_status(&self, deployment: &Value, sets: &Sets) -> Result<Option<Duration>, Error> {
        let status = status::of(deployment, sets.new.as_deref(), &sets.old);
        let again = status::deadline(deployment, &status);
        self.ctx.update_status(&kinds::DEPLOYMENTS, deployment, status).await?;
        Ok(again)
    }
}

fn is_idle(set: &Value) -> bool {
    let none = |pointer| int(set, pointer).unwrap_or(0) == 0;
    none("/spec/replicas") && none("/status/replicas") && !deleting(set)
}

fn size(set: &Value) -> Size {
    Size {
        replicas: int(set, "/spec/replicas").unwrap_or(1),
        available: int(set, "/status/availableReplicas").unwrap_or(0),
    }
}
