//! StatefulSets: pods with names that stay, one after the other.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::cache::Object;
use super::context::Context;
use super::error::Error;
use super::object::{Key, deleting, int, label, list, name, text};
use super::queue::{Queue, Reconcile, work};
use super::revision::{self, Revisions};
use super::{kinds, pods};
use crate::events::Recorder;
use plan::{Act, Member, Shape};

pub(crate) struct StatefulSets {
    ctx: Context,
    events: Recorder,
}

pub(crate) async fn run(ctx: Context) {
    let queue = Arc::new(Queue::default());
    ctx.enqueue(&kinds::STATEFUL_SETS, &queue);
    ctx.enqueue_controller(&kinds::PODS, "StatefulSet", &queue);
    ctx.synced(&[&kinds::STATEFUL_SETS, &kinds::PODS, &kinds::CONTROLLER_REVISIONS])
        .await;
    let events = ctx.recorder("statefulset-controller");
    work(Arc::new(StatefulSets { ctx, events }), queue, 4).await;
}

impl Reconcile for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset"
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(set) = self
            .ctx
            .cache(&kinds::STATEFUL_SETS)
            .get(key)
            .filter(|set| !deleting(set))
        else {
            return Ok(None);
        };
        let mine = self.members(&set).await?;
        let mut used: Vec<&str> = mine.iter().filter_map(|(_, pod)| label(pod, revision::HASH)).collect();
        let before = text(&set, "/status/currentRevision");
        used.push(before);
        let revisions = revision::sync(&self.ctx, &set, &used).await?;
        let update = name(&revisions.newest).to_owned();
        let current = if before.is_empty() {
            update.clone()
        } else {
            before.to_owned()
        };
        let done = self.act(&set, &mine, &revisions, &current).await;
        let mine = self.members(&set).await?;
        let status = status(&set, &mine, &revisions, &current, &update);
        let again = status["currentRevision"] != *current;
        self.ctx.update_status(&kinds::STATEFUL_SETS, &set, status).await?;
        done?;
        let wait = pods::next_available(mine.iter().map(|(_, pod)| pod), min_ready(&set));
        Ok(if again { Some(Duration::from_millis(1)) } else { wait })
    }
}

fn min_ready(set: &Value) -> i64 {
    int(set, "/spec/minReadySeconds").unwrap_or(0)
}

/// The number at the end of a member's name.
fn ordinal(set: &Value, pod: &Value) -> Option<i64> {
    name(pod).strip_prefix(name(set))?.strip_prefix('-')?.parse().ok()
}

impl StatefulSets {
    /// The pods that are members, by their number.
    async fn members(&self, set: &Value) -> Result<Vec<(i64, Object)>, Error> {
        let mine = pods::claim(&self.ctx, set).await?;
        let mut members: Vec<_> = mine
            .into_iter()
            .filter_map(|pod| Some((ordinal(set, &pod)?, pod)))
            .collect();
        members.sort_by_key(|(ordinal, _)| *ordinal);
        Ok(members)
    }

    async fn act(
        &self,
        set: &Value,
        mine: &[(i64, Object)],
        revisions: &Revisions,
        current: &str,
    ) -> Result<(), Error> {
        let members: Vec<Member> = mine
            .iter()
            .map(|(ordinal, pod)| member(set, *ordinal, pod, revisions))
            .collect();
        let shape = shape(set, name(&revisions.newest) != current);
        for act in plan::next(&shape, &members) {
            match act {
                Act::Create { ordinal, updated } => {
                    let named = if updated { name(&revisions.newest) } else { current };
                    let pod = new_pod(set, ordinal, &revisions.template(named), revisions.hash_of(named));
                    self.create(set, &pod).await?;
                }
                Act::Delete(ordinal) => {
                    if let Some((_, pod)) = mine.iter().find(|(number, _)| *number == ordinal) {
                        self.delete(set, pod).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn create(&self, set: &Value, pod: &Value) -> Result<(), Error> {
        let claims = list(set, "/spec/volumeClaimTemplates");
        if !claims.is_empty() {
            let message = "PersistentVolumeClaims are not part of this cluster: their volumes are emptyDirs, which end with the pod";
            self.events.warning(set, "NoPersistentVolumes", message);
        }
        match self.ctx.create(&kinds::PODS, pod).await {
            Ok(_) => {
                let message = format!("create Pod {} in StatefulSet {} successful", name(pod), name(set));
                self.events.normal(set, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) => {
                let message = format!(
                    "create Pod {} in StatefulSet {} failed error: {error}",
                    name(pod),
                    name(set)
                );
                self.events.warning(set, "FailedCreate", message);
                Err(error.into())
            }
        }
    }

    async fn delete(&self, set: &Value, pod: &Object) -> Result<(), Error> {
        self.ctx.delete(&kinds::PODS, pod, None).await?;
        let message = format!("delete Pod {} in StatefulSet {} successful", name(pod), name(set));
        self.events.normal(set, "SuccessfulDelete", message);
        Ok(())
    }
}

fn shape(set: &Value, updating: bool) -> Shape {
    let strategy = &set["spec"]["updateStrategy"];
    Shape {
        start: int(set, "/spec/ordinals/start").unwrap_or(0),
        replicas: int(set, "/spec/replicas").unwrap_or(1),
        parallel: set["spec"]["podManagementPolicy"] == "Parallel",
        on_delete: strategy["type"] == "OnDelete",
        partition: int(strategy, "/rollingUpdate/partition"),
        updating,
    }
}

fn member(set: &Value, ordinal: i64, pod: &Value, revisions: &Revisions) -> Member {
    Member {
        ordinal,
        finished: pods::is_finished(pod),
        terminating: deleting(pod),
        available: pods::is_available(pod, min_ready(set)),
        updated: label(pod, revision::HASH) == Some(revisions.hash_of(name(&revisions.newest))),
    }
}

/// The member with this number.
fn new_pod(set: &Value, ordinal: i64, template: &Value, hash: &str) -> Value {
    let mut template = template.clone();
    if let Some(fields) = template.as_object_mut() {
        fields.remove("$patch");
    }
    let mut pod = pods::from_template(&template, set);
    let own = format!("{}-{ordinal}", name(set));
    pod["metadata"]["name"] = own.as_str().into();
    let labels = &mut pod["metadata"]["labels"];
    labels[revision::HASH] = hash.into();
    labels["statefulset.kubernetes.io/pod-name"] = own.as_str().into();
    labels["apps.kubernetes.io/pod-index"] = ordinal.to_string().into();
    pod["spec"]["hostname"] = own.into();
    if let Some(service) = set["spec"]["serviceName"]
        .as_str()
        .filter(|service| !service.is_empty())
    {
        pod["spec"]["subdomain"] = service.into();
    }
    let claims = list(set, "/spec/volumeClaimTemplates");
    if !claims.is_empty() {
        let mut volumes = list(&pod, "/spec/volumes").to_vec();
        volumes.retain(|volume| !claims.iter().any(|claim| name(claim) == volume["name"]));
        volumes.extend(claims.iter().map(|claim| json!({"name": name(claim), "emptyDir": {}})));
        pod["spec"]["volumes"] = volumes.into();
    }
    pod
}

fn status(set: &Value, mine: &[(i64, Object)], revisions: &Revisions, current: &str, update: &str) -> Value {
    let all = || mine.iter().map(|(_, pod)| pod).filter(|pod| !pods::is_finished(pod));
    let of = |named: &str| {
        let hash = revisions.hash_of(named);
        all()
            .filter(|pod| label(pod, revision::HASH) == Some(hash) && !deleting(pod))
            .count()
    };
    let replicas = int(set, "/spec/replicas").unwrap_or(1);
    let ready = all().filter(|pod| pods::is_ready(pod)).count();
    let whole = i64::try_from(ready).is_ok_and(|ready| ready == replicas) && all().count() == ready;
    let updated = of(update);
    let on_delete = set["spec"]["updateStrategy"]["type"] == "OnDelete";
    let finished = whole && updated == ready && !on_delete;
    let current = if finished { update } else { current };
    let mut status = json!({
        "observedGeneration": set["metadata"]["generation"],
        "replicas": all().count(),
        "availableReplicas": all().filter(|pod| pods::is_available(pod, min_ready(set))).count(),
        "currentRevision": current,
        "updateRevision": update,
        "collisionCount": 0,
    });
    for (field, value) in [
        ("readyReplicas", ready),
        ("currentReplicas", of(current)),
        ("updatedReplicas", updated),
    ] {
        if value != 0 {
            status[field] = value.into();
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_knows_its_name() {
        let set = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "a", "uid": "1"},
            "spec": {"serviceName": "db", "volumeClaimTemplates": [{"metadata": {"name": "data"}}]},
        });
        let template = json!({"$patch": "replace", "metadata": {"labels": {"app": "db"}}, "spec": {"containers": []}});
        let pod = new_pod(&set, 2, &template, "h");
        assert_eq!(
            (name(&pod), &pod["spec"]["hostname"], &pod["spec"]["subdomain"]),
            ("db-2", &json!("db-2"), &json!("db"))
        );
        assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "2");
        assert_eq!(pod["spec"]["volumes"][0], json!({"name": "data", "emptyDir": {}}));
        assert_eq!(ordinal(&set, &pod), Some(2));
    }
}
