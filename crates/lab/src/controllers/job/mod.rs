//! Jobs: pods that run until enough of them have succeeded.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::cache::Object;
use super::context::Context;
use super::error::Error;
use super::object::{
    Condition, Key, age_seconds, annotation, condition, deleting, int, list, name, now, set_condition, text,
};
use super::queue::{Queue, Reconcile, work};
use super::{kinds, pods};
use crate::events::Recorder;
use plan::{Count, End, Wanted};

const INDEX: &str = "batch.kubernetes.io/job-completion-index";

pub(crate) struct Jobs {
    ctx: Context,
    events: Recorder,
}

pub(crate) async fn run(ctx: Context) {
    let queue = Arc::new(Queue::default());
    ctx.enqueue(&kinds::JOBS, &queue);
    ctx.enqueue_controller(&kinds::PODS, "Job", &queue);
    ctx.synced(&[&kinds::JOBS, &kinds::PODS]).await;
    let events = ctx.recorder("job-controller");
    work(Arc::new(Jobs { ctx, events }), queue, 4).await;
}

fn is_over(job: &Value) -> bool {
    let over = |kind| condition(job, kind).is_some_and(|c| c["status"] == "True");
    over("Complete") || over("Failed")
}

impl Reconcile for Jobs {
    fn name(&self) -> &'static str {
        "job"
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(job) = self.ctx.cache(&kinds::JOBS).get(key).filter(|job| !deleting(job)) else {
            return Ok(None);
        };
        let mine = pods::claim(&self.ctx, &job).await?;
        if is_over(&job) {
            return self.expire(&job).await;
        }
        let count = plan::count(&job, &mine);
        let wanted = Wanted::of(&job);
        let end = plan::end(&wanted, &count, age_seconds(&job["status"]["startTime"]));
        let mut again = None;
        let done = match (&end, wanted.suspended) {
            (Some(_), _) | (None, true) => self.stop(&job, &mine).await,
            (None, false) => {
                again = plan::backoff(&mine);
                if again.is_none() {
                    self.run(&job, &wanted, &count, &mine).await
                } else {
                    Ok(())
                }
            }
        };
        let mine = pods::claim(&self.ctx, &job).await?;
        let status = self.status(&job, &plan::count(&job, &mine), end.as_ref(), wanted.suspended);
        self.ctx.update_status(&kinds::JOBS, &job, status).await?;
        done?;
        let deadline = wanted.deadline_in(age_seconds(&job["status"]["startTime"]).unwrap_or(0.0));
        Ok(again.into_iter().chain(deadline).min())
    }
}

impl Jobs {
    async fn run(&self, job: &Value, wanted: &Wanted, count: &Count, mine: &[Object]) -> Result<(), Error> {
        let running = wanted.running(count);
        if count.active > running {
            let mut active: Vec<Object> = mine.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
            pods::order_for_deletion(&mut active);
            active.truncate(count.active - running);
            return pods::delete(&self.ctx, &self.events, job, &active).await;
        }
        let missing = running - count.active;
        let new = if wanted.indexed {
            let free = plan::free_indexes(wanted, mine);
            free.into_iter()
                .take(missing)
                .map(|index| new_pod(job, Some(index)))
                .collect()
        } else {
            vec![new_pod(job, None); missing]
        };
        pods::create(&self.ctx, &self.events, job, new).await
    }

    async fn stop(&self, job: &Value, mine: &[Object]) -> Result<(), Error> {
        let active: Vec<Object> = mine.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        pods::delete(&self.ctx, &self.events, job, &active).await
    }

    /// Deletes a job some time after its end, if it asks for that.
    async fn expire(&self, job: &Value) -> Result<Option<Duration>, Error> {
        let Some(ttl) = int(job, "/spec/ttlSecondsAfterFinished") else {
            return Ok(None);
        };
        let mut ends = list(job, "/status/conditions")
            .iter()
            .filter(|c| c["type"] == "Complete" || c["type"] == "Failed");
        let age = ends.find_map(|c| age_seconds(&c["lastTransitionTime"])).unwrap_or(0.0);
        let left = Duration::try_from_secs_f64(ttl as f64 - age).unwrap_or(Duration::ZERO);
        if left.is_zero() {
            self.ctx.delete(&kinds::JOBS, job, None).await?;
            return Ok(None);
        }
        Ok(Some(left))
    }

    fn status(&self, job: &Value, count: &Count, end: Option<&End>, suspended: bool) -> Value {
        let mut conditions = list(job, "/status/conditions").to_vec();
        let mut say = |kind, status, reason, message| {
            let condition = Condition {
                kind,
                status,
                reason,
                message,
                update_time: false,
            };
            set_condition(&mut conditions, condition);
        };
        let started = job["status"]["startTime"].clone();
        let mut status = json!({"startTime": if started.is_null() { now().into() } else { started }});
        match end {
            None if suspended => {
                say("Suspended", "True", "JobSuspended", "Job suspended");
                if condition(job, "Suspended").is_none_or(|c| c["status"] != "True") {
                    self.events.normal(job, "Suspended", "Job suspended");
                }
            }
            None => {
                if condition(job, "Suspended").is_some_and(|c| c["status"] == "True") {
                    say("Suspended", "False", "JobResumed", "Job resumed");
                    self.events.normal(job, "Resumed", "Job resumed");
                }
            }
            Some(End::Complete) => {
                let message = "Reached expected number of succeeded pods";
                say("SuccessCriteriaMet", "True", "CompletionsReached", message);
                say("Complete", "True", "CompletionsReached", message);
                status["completionTime"] = now().into();
                self.events.normal(job, "Completed", "Job completed");
            }
            Some(End::Failed { reason, message }) => {
                say("FailureTarget", "True", reason, message);
                say("Failed", "True", reason, message);
                self.events.warning(job, reason, *message);
            }
        }
        if !conditions.is_empty() {
            status["conditions"] = conditions.into();
        }
        for (field, value) in [
            ("active", count.active),
            ("ready", count.ready),
            ("terminating", count.terminating),
            ("succeeded", count.succeeded),
            ("failed", count.failed),
        ] {
            if value > 0 || matches!(field, "ready" | "terminating") {
                status[field] = value.into();
            }
        }
        if job["spec"]["completionMode"] == "Indexed" && !count.indexes.is_empty() {
            status["completedIndexes"] = plan::ranges(&count.indexes).into();
        }
        // `uncountedTerminatedPods` is what `kubectl` expects of a job that is tracked.
        status["uncountedTerminatedPods"] = json!({});
        status
    }
}

fn index_of(pod: &Value) -> Option<i64> {
    annotation(pod, INDEX).and_then(|index| index.parse().ok())
}

fn new_pod(job: &Value, index: Option<i64>) -> Value {
    let mut pod = pods::from_template(&job["spec"]["template"], job);
    let Some(index) = index else {
        pod["metadata"]["generateName"] = format!("{}-", name(job)).into();
        return pod;
    };
    pod["metadata"]["generateName"] = format!("{}-{index}-", name(job)).into();
    pod["metadata"]["annotations"][INDEX] = index.to_string().into();
    pod["metadata"]["labels"][INDEX] = index.to_string().into();
    if text(&pod, "/spec/hostname").is_empty() {
        pod["spec"]["hostname"] = format!("{}-{index}", name(job)).into();
    }
    for containers in ["initContainers", "containers"] {
        for container in pod["spec"][containers].as_array_mut().into_iter().flatten() {
            let mut env = list(container, "/env").to_vec();
            if !env.iter().any(|var| var["name"] == "JOB_COMPLETION_INDEX") {
                env.push(json!({"name": "JOB_COMPLETION_INDEX", "value": index.to_string()}));
            }
            container["env"] = env.into();
        }
    }
    pod
}
