//! The table of pods, with the one-word status that people know them by.

use jiff::Timestamp;
use serde_json::Value;

use super::duration::{age, human_duration, seconds_between, time};
use super::{AGE, Column, NAME, Table, name, or_none};
use crate::api::fields::{at, flag, has, int, list, text};

/// The table of pods.
pub(super) const POD: Table = Table {
    columns: &[
        NAME,
        Column(
            "Ready",
            "string",
            0,
            "The aggregate readiness state of this pod for accepting traffic.",
        ),
        Column(
            "Status",
            "string",
            0,
            "The aggregate status of the containers in this pod.",
        ),
        Column(
            "Restarts",
            "string",
            0,
            "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
        ),
        AGE,
        Column("IP", "string", 1, "IP address allocated to the pod."),
        Column("Node", "string", 1, "Name of the node that the pod is bound to."),
        Column(
            "Nominated Node",
            "string",
            1,
            "Node that the pod is to run on once others have made room for it.",
        ),
        Column(
            "Readiness Gates",
            "string",
            1,
            "Conditions that must be true, besides the containers', for the pod to be ready.",
        ),
    ],
    cells,
};

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = Summary::of(pod);
    let restarts = match summary.last_restart {
        Some(at) if summary.restarts != 0 => {
            format!(
                "{} ({} ago)",
                summary.restarts,
                human_duration(seconds_between(at, now))
            )
        }
        _ => summary.restarts.to_string(),
    };
    let ip = list(pod, "status.podIPs")
        .first()
        .map(|ip| text(ip, "ip"))
        .unwrap_or_else(|| text(pod, "status.podIP"));
    let gates = list(pod, "spec.readinessGates");
    let open = gates
        .iter()
        .filter(|gate| condition(pod, text(gate, "conditionType")).0 == "True")
        .count();
    let gates = if gates.is_empty() {
        String::new()
    } else {
        format!("{open}/{}", gates.len())
    };
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.status.into(),
        restarts.into(),
        age(pod, now).into(),
        or_none(ip),
        or_none(text(pod, "spec.nodeName")),
        or_none(text(pod, "status.nominatedNodeName")),
        or_none(gates),
    ]
}

/// What the containers of a pod amount to.
struct Summary {
    status: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let own = text(pod, "status.reason");
        let phase = text(pod, "status.phase");
        let gated = condition(pod, "PodScheduled").1 == "SchedulingGated";
        let status = if gated {
            "SchedulingGated"
        } else if own.is_empty() {
            phase
        } else {
            own
        };
        let sidecars = list(pod, "spec.initContainers")
            .iter()
            .filter(|c| text(c, "restartPolicy") == "Always");
        let mut summary = Self {
            status: status.to_owned(),
            ready: 0,
            total: list(pod, "spec.containers").len() + sidecars.count(),
            restarts: 0,
            last_restart: None,
        };
        let initializing = summary.init_containers(pod);
        if !initializing || condition(pod, "Initialized").0 == "True" {
            summary.containers(pod);
        }
        if has(pod, "metadata.deletionTimestamp") {
            if own == "NodeLost" {
                summary.status = "Unknown".to_owned();
            } else if !matches!(phase, "Succeeded" | "Failed") {
                summary.status = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Counts the init containers in; true while the first unfinished one keeps the pod from starting.
    fn init_containers(&mut self, pod: &Value) -> bool {
        let specs = list(pod, "spec.initContainers");
        let sidecar = |name: &str| {
            specs
                .iter()
                .any(|c| text(c, "name") == name && text(c, "restartPolicy") == "Always")
        };
        for (index, container) in list(pod, "status.initContainerStatuses").iter().enumerate() {
            self.restarted(container);
            let is_sidecar = sidecar(text(container, "name"));
            let ended = has(container, "state.terminated");
            if ended && int(container, "state.terminated.exitCode") == 0 {
                continue;
            }
            if is_sidecar && flag(container, "started") {
                self.ready += usize::from(flag(container, "ready"));
                continue;
            }
            let waiting = text(container, "state.waiting.reason");
            self.status = if ended {
                format!("Init:{}", ending(container))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", specs.len())
            };
            return true;
        }
        false
    }

    fn containers(&mut self, pod: &Value) {
        let specs = list(pod, "spec.initContainers");
        (self.restarts, self.last_restart) = (0, None);
        for status in list(pod, "status.initContainerStatuses") {
            let own = text(status, "name");
            if specs
                .iter()
                .any(|c| text(c, "name") == own && text(c, "restartPolicy") == "Always")
            {
                self.restarted(status);
            }
        }
        let mut running = false;
        for container in list(pod, "status.containerStatuses").iter().rev() {
            self.restarted(container);
            let waiting = text(container, "state.waiting.reason");
            if !waiting.is_empty() {
                self.status = waiting.to_owned();
            } else if has(container, "state.terminated") {
                self.status = ending(container);
            } else if flag(container, "ready") && has(container, "state.running") {
                running = true;
                self.ready += 1;
            }
        }
        if self.status == "Completed" && running {
            let ready = condition(pod, "Ready").0 == "True";
            self.status = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn restarted(&mut self, container: &Value) {
        self.restarts = self.restarts.saturating_add(int(container, "restartCount"));
        self.last_restart = self
            .last_restart
            .max(time(container, "lastState.terminated.finishedAt"));
    }
}

/// Why a container ended: its reason, else its signal or exit code.
fn ending(container: &Value) -> String {
    let ended = at(container, "state.terminated");
    match (text(ended, "reason"), int(ended, "signal")) {
        ("", 0) => format!("ExitCode:{}", int(ended, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// Status and reason of a condition of a pod.
fn condition<'a>(pod: &'a Value, kind: &str) -> (&'a str, &'a str) {
    list(pod, "status.conditions")
        .iter()
        .find(|c| text(c, "type") == kind)
        .map(|c| (text(c, "status"), text(c, "reason")))
        .unwrap_or_default()
}
