//! A pod's status, as the kubelet tells it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use serde_json::{Map, Value, json};

use super::Worker;
use super::container::{Member, Role};
use super::record::Instance;
use crate::kubelet::quantity;

/// How a pod has ended for good.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Final {
    /// `Succeeded` or `Failed`.
    pub(super) phase: &'static str,
    pub(super) reason: Option<String>,
    pub(super) message: Option<String>,
}

impl Final {
    /// The kubelet ended the pod.
    pub(super) fn failed(reason: &str, message: String) -> Self {
        Self {
            phase: "Failed",
            reason: Some(reason.to_owned()),
            message: Some(message),
        }
    }

    fn plain(phase: &'static str) -> Self {
        Self {
            phase,
            reason: None,
            message: None,
        }
    }

    /// What the API server already says of a pod that has ended.
    pub(super) fn earlier(pod: &Pod) -> Option<Self> {
        let status = pod.status.as_ref()?;
        let phase = match status.phase.as_deref() {
            Some("Succeeded") => "Succeeded",
            Some("Failed") => "Failed",
            _ => return None,
        };
        Some(Self {
            phase,
            reason: status.reason.clone(),
            message: status.message.clone(),
        })
    }

    /// The end of a pod whose containers have ended and are not to be started again.
    pub(super) fn of(pod: &Pod, members: &[Member]) -> Option<Self> {
        let policy = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.as_deref())
            .unwrap_or("Always");
        let code = |member: &Member| member.record.ended().map(|end| end.code);
        let failed_init = |member: &Member| member.role == Role::Init && code(member).is_some_and(|code| code != 0);
        if policy == "Never" && members.iter().any(failed_init) {
            return Some(Self::plain("Failed"));
        }
        let codes: Option<Vec<i32>> = members
            .iter()
            .filter(|member| member.role == Role::Main)
            .map(code)
            .collect();
        let codes = codes?;
        let success = codes.iter().all(|code| *code == 0);
        match policy {
            "Never" => Some(Self::plain(if success { "Succeeded" } else { "Failed" })),
            "OnFailure" if success => Some(Self::plain("Succeeded")),
            _ => None,
        }
    }

    /// The end of a pod that was told to go.
    pub(super) fn of_stopped(members: &[Member]) -> Self {
        let success = |member: &Member| member.record.ended().is_some_and(|end| end.code == 0);
        let mut mains = members.iter().filter(|member| member.role == Role::Main);
        Self::plain(if mains.all(success) { "Succeeded" } else { "Failed" })
    }
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Worker {
    /// The status as it should be.
    pub(super) fn status(&self) -> Value {
        let mut status = json!({
            "phase": self.phase(),
            "conditions": self.conditions(),
            "startTime": time(self.started_at),
            "qosClass": qos(&self.pod),
        });
        if let Some(verdict) = &self.verdict {
            for (key, value) in [("reason", &verdict.reason), ("message", &verdict.message)] {
                if let Some(value) = value {
                    status[key] = value.as_str().into();
                }
            }
        }
        let host_ips: Vec<_> = self.node.config.addresses.iter().map(|ip| json!({"ip": ip})).collect();
        if let Some(first) = self.node.config.addresses.first() {
            status["hostIP"] = json!(first);
            status["hostIPs"] = host_ips.into();
        }
        let ips = &self.ips;
        if let Some(first) = ips.first() {
            status["podIP"] = json!(first);
            status["podIPs"] = ips.iter().map(|ip| json!({"ip": ip})).collect();
        }
        let of = |roles: &[Role]| -> Vec<Value> {
            let members = self.members.iter().filter(|member| roles.contains(&member.role));
            members.map(|member| self.container_status(member)).collect()
        };
        for (key, roles) in [
            ("initContainerStatuses", &[Role::Init, Role::Sidecar][..]),
            ("containerStatuses", &[Role::Main]),
            ("ephemeralContainerStatuses", &[Role::Ephemeral]),
        ] {
            let statuses = of(roles);
            if !statuses.is_empty() {
                status[key] = statuses.into();
            }
        }
        status
    }

    fn is_initialized(&self) -> bool {
        self.members.iter().all(|member| match member.role {
            Role::Init => member.record.ended().is_some_and(|end| end.code == 0),
            Role::Sidecar => member.started || member.record.current.is_some() && self.has_begun(),
            Role::Main | Role::Ephemeral => true,
        })
    }

    /// Whether one of the pod's own containers was ever started.
    fn has_begun(&self) -> bool {
        self.members
            .iter()
            .any(|member| member.role == Role::Main && member.record.current.is_some())
    }

    fn phase(&self) -> &'static str {
        if let Some(verdict) = &self.verdict {
            return verdict.phase;
        }
        let mut mains = self.members.iter().filter(|member| member.role == Role::Main);
        let never_ran = |member: &Member| member.record.current.is_none() && member.record.base == 0;
        if !self.is_initialized() || mains.any(never_ran) {
            "Pending"
        } else {
            "Running"
        }
    }

    fn conditions(&self) -> Vec<Value> {
        let done = self.verdict.as_ref().map(|verdict| verdict.phase);
        let names = |members: Vec<&Member>| -> String {
            members
                .iter()
                .map(|member| member.spec.name.as_str())
                .collect::<Vec<_>>()
                .join(" ")
        };
        let unready: Vec<&Member> = self
            .members
            .iter()
            .filter(|member| matches!(member.role, Role::Main | Role::Sidecar) && !member.ready)
            .collect();
        let lagging: Vec<&Member> = self
            .members
            .iter()
            .filter(|member| match member.role {
                Role::Init => member.record.ended().is_none_or(|end| end.code != 0),
                Role::Sidecar => !member.started,
                Role::Main | Role::Ephemeral => false,
            })
            .collect();
        let initialized = match done {
            Some("Succeeded") => (true, "PodCompleted", String::new()),
            _ if self.is_initialized() => (true, "", String::new()),
            _ => (
                false,
                "ContainersNotInitialized",
                format!("containers with incomplete status: [{}]", names(lagging)),
            ),
        };
        let containers_ready = match done {
            Some("Succeeded") => (false, "PodCompleted", String::new()),
            Some(_) => (false, "PodFailed", String::new()),
            None if unready.is_empty() => (true, "", String::new()),
            None => (
                false,
                "ContainersNotReady",
                format!("containers with unready status: [{}]", names(unready)),
            ),
        };
        let ready = match self.closed_gate() {
            Some(message) if containers_ready.0 => (false, "ReadinessGatesNotReady", message),
            _ => containers_ready.clone(),
        };
        let sandbox = self.sandbox.as_ref().is_some_and(|sandbox| {
            sandbox
                .network
                .as_ref()
                .is_none_or(crate::kubelet::cni::Attachment::is_complete)
        });
        let own = [
            ("PodReadyToStartContainers", (sandbox, "", String::new())),
            ("Initialized", initialized),
            ("Ready", ready),
            ("ContainersReady", containers_ready),
            ("PodScheduled", (true, "", String::new())),
        ];
        let before = self.known_conditions();
        let mut conditions: Vec<Value> = own
            .iter()
            .map(|(kind, facts)| condition(kind, facts, &before))
            .collect();
        // What others have said about the pod stays.
        let theirs = before
            .into_iter()
            .filter(|known| own.iter().all(|(kind, _)| known["type"] != *kind));
        conditions.extend(theirs.filter(|known| {
            let from_api = self
                .pod
                .status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten());
            from_api.into_iter().any(|other| known["type"] == *other.type_)
        }));
        conditions
    }

    /// The conditions as last told, and those the API server has beside them.
    fn known_conditions(&self) -> Vec<Value> {
        let mut known: Vec<Value> = self.published["conditions"].as_array().cloned().unwrap_or_default();
        let own = [
            "PodReadyToStartContainers",
            "Initialized",
            "Ready",
            "ContainersReady",
            "PodScheduled",
        ];
        known.retain(|condition| condition["type"].as_str().is_some_and(|kind| own.contains(&kind)));
        for condition in self
            .pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
        {
            if known.iter().all(|other| other["type"] != *condition.type_) {
                known.extend(serde_json::to_value(condition));
            }
        }
        known
    }

    /// Why a readiness gate keeps the pod from being ready.
    fn closed_gate(&self) -> Option<String> {
        let spec = self.pod.spec.as_ref()?;
        let conditions = self.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let mut gates = spec.readiness_gates.iter().flatten().map(|gate| &gate.condition_type);
        let closed = gates.find(|gate| {
            let mut known = conditions.into_iter().flatten();
            !known.any(|condition| condition.type_ == **gate && condition.status == "True")
        })?;
        Some(format!(
            "corresponding condition of pod readiness gate \"{closed}\" does not exist or is not True."
        ))
    }

    fn container_status(&self, member: &Member) -> Value {
        let current = member.record.current.as_ref();
        let state = match (&member.waiting, current) {
            (Some((reason, message)), _) => json!({"waiting": {"reason": reason, "message": message}}),
            (None, Some(instance)) if instance.end.is_some() => self.terminated(instance),
            (None, Some(instance)) => json!({"running": {"startedAt": time(instance.started_at)}}),
            (None, None) => {
                let first = self
                    .members
                    .iter()
                    .all(|other| !matches!(other.role, Role::Init | Role::Sidecar));
                let reason = if first { "ContainerCreating" } else { "PodInitializing" };
                json!({"waiting": {"reason": reason}})
            }
        };
        let last = match (&member.waiting, current) {
            (Some(_), Some(instance)) if instance.end.is_some() => self.terminated(instance),
            _ => member
                .record
                .last
                .as_ref()
                .map_or(json!({}), |last| self.terminated(last)),
        };
        let finished = member.role == Role::Init && member.record.ended().is_some_and(|end| end.code == 0);
        let running = member.record.running().is_some();
        let mut status = json!({
            "name": member.spec.name,
            "image": member.spec.image.as_deref().unwrap_or_default(),
            "imageID": current.map(|current| current.image_id.as_str()).unwrap_or_default(),
            "restartCount": member.record.restarts(),
            "ready": running && member.ready && matches!(member.role, Role::Main | Role::Sidecar) || finished,
            "started": running && member.started,
            "state": state,
            "lastState": last,
        });
        if let Some(current) = current {
            status["containerID"] = self.container_id(current).into();
        }
        status
    }

    fn container_id(&self, instance: &Instance) -> String {
        format!("{}://{}", self.node.runtime.name(), instance.id)
    }

    fn terminated(&self, instance: &Instance) -> Value {
        let Some(end) = &instance.end else { return json!({}) };
        let mut terminated = json!({
            "exitCode": end.code,
            "reason": end.reason,
            "startedAt": time(instance.started_at),
            "finishedAt": time(end.at),
            "containerID": self.container_id(instance),
        });
        if let Some(message) = &end.message {
            terminated["message"] = message.as_str().into();
        }
        json!({"terminated": terminated})
    }
}

fn condition(kind: &str, (holds, reason, message): &(bool, &str, String), before: &[Value]) -> Value {
    let status = if *holds { "True" } else { "False" };
    let known = before
        .iter()
        .find(|known| known["type"] == kind && known["status"] == status);
    let since = known.and_then(|known| known["lastTransitionTime"].as_str().map(str::to_owned));
    let mut condition = json!({
        "type": kind,
        "status": status,
        "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or_else(|| time(Timestamp::now())),
    });
    for (key, text) in [("reason", *reason), ("message", message)] {
        if !text.is_empty() {
            condition[key] = text.into();
        }
    }
    condition
}

/// The smallest patch from what the API server has to what it should have; `None` where they agree.
pub(super) fn difference(published: &Value, status: &Value, pod: &Pod) -> Option<Value> {
    let known = match published {
        Value::Null => pod
            .status
            .as_ref()
            .and_then(|known| serde_json::to_value(known).ok())
            .unwrap_or_default(),
        known => known.clone(),
    };
    let (Value::Object(wanted), empty) = (status, Map::new()) else {
        return None;
    };
    let known = known.as_object().unwrap_or(&empty);
    let mut patch: Map<String, Value> = wanted
        .iter()
        .filter(|(key, value)| known.get(*key) != Some(value))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    for key in ["reason", "message", "podIP", "podIPs"] {
        if known.contains_key(key) && !wanted.contains_key(key) {
            patch.insert(key.to_owned(), Value::Null);
        }
    }
    if patch.is_empty() {
        return None;
    }
    Some(json!({"metadata": {"uid": pod.metadata.uid}, "status": patch}))
}

/// The pod's class of service.
fn qos(pod: &Pod) -> &'static str {
    let spec = pod.spec.as_ref();
    let containers = spec
        .into_iter()
        .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let (mut any, mut guaranteed) = (false, true);
    let empty = ResourceRequirements::default();
    for container in containers {
        let resources = container.resources.as_ref().unwrap_or(&empty);
        for name in ["cpu", "memory"] {
            let value = |map: &Option<std::collections::BTreeMap<String, _>>| {
                let found: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> = map.as_ref()?.get(name);
                quantity::milli(&found?.0).filter(|value| *value != 0)
            };
            let (limit, request) = (value(&resources.limits), value(&resources.requests));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: &[Value]) -> Pod {
        let containers: Vec<_> = resources.iter().map(|r| json!({"name": "c", "resources": r})).collect();
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn classes_of_service() {
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}});
        let some = json!({"requests": {"cpu": "1"}});
        assert_eq!(qos(&pod(&[json!({})])), "BestEffort");
        assert_eq!(qos(&pod(std::slice::from_ref(&full))), "Guaranteed");
        assert_eq!(qos(&pod(&[full, some.clone()])), "Burstable");
        assert_eq!(qos(&pod(&[some])), "Burstable");
    }

    #[test]
    fn patches_are_minimal() {
        let pod = pod(&[]);
        let before = json!({"phase": "Pending", "podIP": "1.2.3.4", "reason": "x", "foreign": 1});
        let after = json!({"phase": "Running", "podIP": "1.2.3.4"});
        let patch = difference(&before, &after, &pod).unwrap();
        assert_eq!(
            patch,
            json!({"metadata": {"uid": "u"}, "status": {"phase": "Running", "reason": null}})
        );
        assert_eq!(difference(&after, &after, &pod), None);
    }

    #[test]
    fn conditions_keep_their_time() {
        let before = [json!({"type": "Ready", "status": "True", "lastTransitionTime": "then"})];
        let same = condition("Ready", &(true, "", String::new()), &before);
        assert_eq!(same["lastTransitionTime"], "then");
        let other = condition("Ready", &(false, "Why", String::new()), &before);
        assert_ne!(other["lastTransitionTime"], "then");
        assert_eq!(other["reason"], "Why");
    }
}
