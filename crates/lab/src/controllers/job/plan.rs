//! When a Job is over and how many pods it runs: pure functions.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::super::cache::Object;
use super::super::object::{age_seconds, deleting, int, list, text};
use super::super::pods;
use super::index_of;

/// What a job asks for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) completions: Option<usize>,
    pub(super) parallelism: usize,
    pub(super) backoff_limit: usize,
    pub(super) deadline: Option<i64>,
    pub(super) suspended: bool,
    pub(super) indexed: bool,
}

impl Wanted {
    pub(super) fn of(job: &Value) -> Self {
        let number = |field: &str| int(job, field).and_then(|n| usize::try_from(n).ok());
        Self {
            completions: number("/spec/completions"),
            parallelism: number("/spec/parallelism").unwrap_or(1),
            backoff_limit: number("/spec/backoffLimit").unwrap_or(6),
            deadline: int(job, "/spec/activeDeadlineSeconds"),
            suspended: job["spec"]["suspend"] == true,
            indexed: job["spec"]["completionMode"] == "Indexed",
        }
    }

    /// How many pods should run now.
    pub(super) fn running(&self, count: &Count) -> usize {
        match self.completions {
            Some(completions) => self.parallelism.min(completions.saturating_sub(count.succeeded)),
            // A queue of work: once one has found it empty, the others only finish.
            None if count.succeeded > 0 => count.active.min(self.parallelism),
            None => self.parallelism,
        }
    }

    /// When the deadline passes.
    pub(super) fn deadline_in(&self, age: f64) -> Option<Duration> {
        Duration::try_from_secs_f64((self.deadline? as f64 - age).max(0.0) + 0.1).ok()
    }
}

/// What the pods have done so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Count {
    pub(super) active: usize,
    pub(super) ready: usize,
    pub(super) terminating: usize,
    pub(super) succeeded: usize,
    pub(super) failed: usize,
    /// Failures of containers that their kubelet starts again.
    pub(super) restarts: usize,
    /// Indexes that have succeeded.
    pub(super) indexes: BTreeSet<i64>,
}

/// Counts the pods; what a job has counted before is never taken back.
pub(super) fn count(job: &Value, pods: &[Object]) -> Count {
    let mut count = Count::default();
    for pod in pods {
        match text(pod, "/status/phase") {
            "Succeeded" => {
                count.succeeded += 1;
                count.indexes.extend(index_of(pod));
            }
            "Failed" => count.failed += 1,
            _ if deleting(pod) => count.terminating += 1,
            _ => {
                count.active += 1;
                count.ready += usize::from(pods::is_ready(pod));
                let restarts = list(pod, "/status/containerStatuses").iter();
                let restarts = restarts.filter_map(|c| int(c, "/restartCount")).sum::<i64>();
                count.restarts += usize::try_from(restarts).unwrap_or(0);
            }
        }
    }
    if job["spec"]["completionMode"] == "Indexed" {
        count.succeeded = count.indexes.len();
    }
    let before = |field: &str| int(job, field).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    count.succeeded = count.succeeded.max(before("/status/succeeded"));
    count.failed = count.failed.max(before("/status/failed"));
    count
}

/// How a job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Complete,
    Failed {
        reason: &'static str,
        message: &'static str,
    },
}

/// Is the job over?
pub(super) fn end(wanted: &Wanted, count: &Count, age: Option<f64>) -> Option<End> {
    let complete = match wanted.completions {
        Some(completions) => count.succeeded >= completions,
        None => count.succeeded > 0 && count.active == 0,
    };
    if complete {
        return Some(End::Complete);
    }
    if count.failed + count.restarts > wanted.backoff_limit {
        return Some(End::Failed {
            reason: "BackoffLimitExceeded",
            message: "Job has reached the specified backoff limit",
        });
    }
    let too_late = |deadline: i64| age.is_some_and(|age| age >= deadline as f64);
    let late = wanted.deadline.is_some_and(too_late) && !wanted.suspended;
    late.then_some(End::Failed {
        reason: "DeadlineExceeded",
        message: "Job was active longer than specified deadline",
    })
}

/// How long to wait before the next pod after failures: ten seconds, doubled with each.
pub(super) fn backoff(pods: &[Object]) -> Option<Duration> {
    let failed: Vec<&Object> = pods
        .iter()
        .filter(|pod| text(pod, "/status/phase") == "Failed")
        .collect();
    let ended = |pod: &Value| {
        let ends = list(pod, "/status/containerStatuses").iter();
        ends.filter_map(|c| age_seconds(&c["state"]["terminated"]["finishedAt"]))
            .reduce(f64::min)
    };
    let last = failed.iter().filter_map(|pod| ended(pod)).reduce(f64::min)?;
    let delay = 10.0 * 2_f64.powi(i32::try_from(failed.len()).unwrap_or(i32::MAX).min(7) - 1);
    Duration::try_from_secs_f64(delay.min(360.0) - last)
        .ok()
        .filter(|left| !left.is_zero())
}

/// The indexes that nobody works on and that have not succeeded.
pub(super) fn free_indexes(wanted: &Wanted, pods: &[Object]) -> Vec<i64> {
    let taken = pods.iter().filter(|pod| text(pod, "/status/phase") != "Failed");
    let taken: BTreeSet<i64> = taken.filter_map(|pod| index_of(pod)).collect();
    let all = 0..i64::try_from(wanted.completions.unwrap_or(0)).unwrap_or(0);
    all.filter(|index| !taken.contains(index)).collect()
}

/// `0-2,5`.
pub(super) fn ranges(indexes: &BTreeSet<i64>) -> String {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for index in indexes {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    let text = |(first, last): &(i64, i64)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pods(phases: &[&str]) -> Vec<Object> {
        phases
            .iter()
            .map(|phase| Object::new(json!({"status": {"phase": phase}})))
            .collect()
    }

    fn wanted(spec: Value) -> Wanted {
        Wanted::of(&json!({ "spec": spec }))
    }

    #[test]
    fn completions_and_parallelism() {
        let wanted = wanted(json!({"completions": 5, "parallelism": 2}));
        let count = |phases: &[&str]| count(&json!({}), &pods(phases));
        assert_eq!(wanted.running(&count(&[])), 2);
        assert_eq!(wanted.running(&count(&["Succeeded"; 4])), 1);
        assert_eq!(end(&wanted, &count(&["Succeeded"; 4]), None), None);
        assert_eq!(end(&wanted, &count(&["Succeeded"; 5]), None), Some(End::Complete));
    }

    #[test]
    fn a_queue_ends_with_its_last_worker() {
        let wanted = wanted(json!({"parallelism": 3}));
        let one = count(&json!({}), &pods(&["Succeeded", "Running", "Running"]));
        assert_eq!((wanted.running(&one), end(&wanted, &one, None)), (2, None));
        let all = count(&json!({}), &pods(&["Succeeded", "Failed"]));
        assert_eq!(end(&wanted, &all, None), Some(End::Complete));
    }

    #[test]
    fn failures() {
        let wanted = wanted(json!({"completions": 1, "backoffLimit": 1, "activeDeadlineSeconds": 5}));
        let failed = |n: usize| count(&json!({}), &pods(&vec!["Failed"; n]));
        let reason = |end: Option<End>| match end {
            Some(End::Failed { reason, .. }) => reason,
            _ => "",
        };
        assert_eq!(reason(end(&wanted, &failed(1), Some(1.0))), "");
        assert_eq!(reason(end(&wanted, &failed(2), Some(1.0))), "BackoffLimitExceeded");
        assert_eq!(reason(end(&wanted, &failed(0), Some(6.0))), "DeadlineExceeded");
        // Pods that were removed still count.
        assert_eq!(count(&json!({"status": {"failed": 3}}), &[]).failed, 3);
    }

    #[test]
    fn indexes() {
        assert_eq!(ranges(&BTreeSet::from([0, 1, 2, 5, 7, 8])), "0-2,5,7-8");
        let pod = |index: &str, phase: &str| {
            Object::new(json!({"metadata": {"annotations": {super::super::INDEX: index}}, "status": {"phase": phase}}))
        };
        let there = [pod("0", "Succeeded"), pod("1", "Failed"), pod("2", "Running")];
        assert_eq!(free_indexes(&wanted(json!({"completions": 4})), &there), [1, 3]);
    }
}
