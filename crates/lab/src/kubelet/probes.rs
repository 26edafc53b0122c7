//! Startup, liveness and readiness probes of one run of a container.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::http;
use super::node::Node;

/// What the probes have found out.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// The startup probe has succeeded, or there is none.
    Started,
    /// The container is ready, or no longer.
    Ready(bool),
    /// The liveness or startup probe has failed too often.
    Dead {
        /// How long the container may take to end, where the probe says so.
        grace: Option<Duration>,
        /// It was the startup probe.
        startup: bool,
    },
}

/// A run of a container that is to be probed.
pub(super) struct Subject {
    pub(super) node: Node,
    /// The pod, for events.
    pub(super) about: Value,
    pub(super) field_path: String,
    pub(super) id: String,
    pub(super) container: Container,
    pub(super) host: Option<IpAddr>,
    pub(super) started_at: Timestamp,
    /// Hears each verdict.
    pub(super) say: Arc<dyn Fn(Verdict) + Send + Sync>,
}

/// Delays between extra attempts at first: a server that listens 50 ms after its start is not kept waiting for a
/// whole period. They are not counted and cause no events.
const EAGER: [u64; 6] = [20, 40, 80, 160, 320, 640];

/// Starts the probes, if there are any.
pub(super) fn start(subject: Subject) -> Option<AbortHandle> {
    let container = &subject.container;
    if container.startup_probe.is_none() && container.liveness_probe.is_none() && container.readiness_probe.is_none() {
        return None;
    }
    let task = tokio::spawn(async move {
        if let Some(probe) = &subject.container.startup_probe {
            if !subject.startup(probe).await {
                return;
            }
            (subject.say)(Verdict::Started);
            if subject.container.readiness_probe.is_none() {
                (subject.say)(Verdict::Ready(true));
            }
        }
        tokio::join!(subject.liveness(), subject.readiness());
    });
    Some(task.abort_handle())
}

/// The numbers of a probe, with the defaults filled in.
struct Pace {
    delay: Duration,
    period: Duration,
    timeout: Duration,
    failures: u32,
    successes: u32,
}

impl Pace {
    fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(
                value
                    .and_then(|value| u64::try_from(value).ok())
                    .filter(|v| *v > 0)
                    .unwrap_or(default),
            )
        };
        let count = |value: Option<i32>, default: u32| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(default)
        };
        Self {
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            failures: count(probe.failure_threshold, 3),
            successes: count(probe.success_threshold, 1),
        }
    }
}

impl Subject {
    async fn startup(&self, probe: &Probe) -> bool {
        let pace = Pace::of(probe);
        self.delay(&pace).await;
        if self.eager(probe, &pace).await {
            return true;
        }
        let mut failed = 0;
        let mut ticks = tokio::time::interval(pace.period);
        loop {
            ticks.tick().await;
            match self.attempt(probe, pace.timeout).await {
                Ok(()) => return true,
                Err(message) => {
                    failed += 1;
                    self.unhealthy("Startup", &message);
                    if failed >= pace.failures {
                        (self.say)(Verdict::Dead {
                            grace: grace(probe),
                            startup: true,
                        });
                        return false;
                    }
                }
            }
        }
    }

    async fn liveness(&self) {
        let Some(probe) = &self.container.liveness_probe else {
            return;
        };
        let pace = Pace::of(probe);
        self.delay(&pace).await;
        let mut failed = 0;
        let mut ticks = tokio::time::interval(pace.period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.attempt(probe, pace.timeout).await {
                Ok(()) => failed = 0,
                Err(message) => {
                    failed += 1;
                    self.unhealthy("Liveness", &message);
                    if failed == pace.failures {
                        (self.say)(Verdict::Dead {
                            grace: grace(probe),
                            startup: false,
                        });
                    }
                }
            }
        }
    }

    async fn readiness(&self) {
        let Some(probe) = &self.container.readiness_probe else {
            return;
        };
        let pace = Pace::of(probe);
        self.delay(&pace).await;
        let mut ready = false;
        if pace.successes == 1 && self.eager(probe, &pace).await {
            ready = true;
            (self.say)(Verdict::Ready(true));
        }
        let (mut failed, mut succeeded) = (0, 0);
        let mut ticks = tokio::time::interval(pace.period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.attempt(probe, pace.timeout).await {
                Ok(()) => (failed, succeeded) = (0, succeeded + 1),
                Err(message) => {
                    (failed, succeeded) = (failed + 1, 0);
                    self.unhealthy("Readiness", &message);
                }
            }
            let now = if ready {
                failed < pace.failures
            } else {
                succeeded >= pace.successes
            };
            if now != ready {
                ready = now;
                (self.say)(Verdict::Ready(ready));
            }
        }
    }

    /// Tries a few times in quick succession; whether it succeeded.
    async fn eager(&self, probe: &Probe, pace: &Pace) -> bool {
        let young = Timestamp::now().duration_since(self.started_at).unsigned_abs() < Duration::from_secs(5);
        if pace.delay > Duration::ZERO || !young {
            return false;
        }
        for delay in EAGER {
            if self.attempt(probe, pace.timeout).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        false
    }

    /// The initial delay counts from the container's start, which may be long ago for one that was adopted.
    async fn delay(&self, pace: &Pace) {
        let age = Timestamp::now().duration_since(self.started_at).unsigned_abs();
        tokio::time::sleep(pace.delay.saturating_sub(age)).await;
    }

    fn unhealthy(&self, kind: &str, message: &str) {
        let message = format!("{kind} probe failed: {message}");
        self.node
            .recorder
            .part(&self.about, &self.field_path, true, "Unhealthy", message);
    }

    async fn attempt(&self, probe: &Probe, timeout: Duration) -> Result<(), String> {
        if let Some(exec) = &probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            let outcome = self.node.runtime.exec(&self.id, &command, timeout).await?;
            return if outcome.code == 0 { Ok(()) } else { Err(outcome.output) };
        }
        match tokio::time::timeout(timeout, self.reach(probe)).await {
            Ok(outcome) => outcome,
            Err(_) => Err("context deadline exceeded (timeout while awaiting an answer)".to_owned()),
        }
    }

    async fn reach(&self, probe: &Probe) -> Result<(), String> {
        let host = self.host.map(|host| host.to_string()).unwrap_or_default();
        if let Some(action) = &probe.http_get {
            return match http::get(action, &self.container, &host).await? {
                (200..400, _) => Ok(()),
                (code, _) => Err(format!("HTTP probe failed with statuscode: {code}")),
            };
        }
        if let Some(action) = &probe.tcp_socket {
            let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&host);
            let place = http::authority(host, http::port(&self.container, &action.port)?);
            let connected = TcpStream::connect(&place).await;
            return connected
                .map(drop)
                .map_err(|error| format!("dial tcp {place}: {}", http::reason(&error)));
        }
        if let Some(action) = &probe.grpc {
            let port = u16::try_from(action.port).map_err(|_| format!("invalid port {}", action.port))?;
            return super::grpc::check(
                &http::authority(&host, port),
                action.service.as_deref().unwrap_or_default(),
            )
            .await;
        }
        Err("missing probe handler".to_owned())
    }
}

fn grace(probe: &Probe) -> Option<Duration> {
    let seconds = probe.termination_grace_period_seconds?;
    Some(Duration::from_secs(u64::try_from(seconds).ok()?))
}
