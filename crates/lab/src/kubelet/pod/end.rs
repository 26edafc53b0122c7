//! Takes a pod down: hooks, signals, then everything that was made for it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::container::{AbortOnDrop, Role};
use super::status::Final;
use super::{Stop, Worker};
use crate::client::Res;
use crate::kubelet::error::Error;
use crate::kubelet::hooks;
use crate::kubelet::node::reference;
use crate::kubelet::runtime::Process;
use crate::kubelet::volumes;

/// What a container gets after a hook that took all its time.
const AFTER_HOOK: Duration = Duration::from_secs(2);

/// Grace where the pod says nothing.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

impl Worker {
    /// The pod was told to go: ends its containers and leaves nothing of it.
    pub(super) async fn terminate(mut self) {
        tracing::info!(pod = self.name(), namespace = self.namespace(), "pod is going");
        self.stop_all(|role| role != Role::Sidecar);
        while self.members.iter().any(|member| member.record.running().is_some()) {
            if self
                .members
                .iter()
                .all(|member| member.role == Role::Sidecar || member.record.running().is_none())
            {
                // The pod's own containers have ended: now those that served them, the last one first.
                let last = self
                    .members
                    .iter()
                    .rposition(|member| member.record.running().is_some());
                if let Some(at) = last.filter(|at| self.members[*at].stopper.is_none()) {
                    self.stop_member(at, "Killing", None);
                }
            }
            self.publish().await;
            let retry = self.unpublished.waiting();
            let again = async {
                match retry {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(event) = self.events.recv() => self.take(event).await,
                () = again => {}
            }
        }
        if self.verdict.is_none() {
            self.verdict = Some(Final::of_stopped(&self.members));
        }
        self.unpublished.reset();
        self.publish().await;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        while let Err(error) = self.clear_away().await {
            let delay = backoff.fail();
            if delay >= Duration::from_secs(1) {
                self.tell(true, "FailedKillPod", format!("error killing pod: {error}"));
            }
            tracing::warn!(pod = self.name(), %error, "pod not cleared away yet");
            tokio::time::sleep(delay).await;
        }
        self.node.lookup.remove(self.namespace(), self.name(), self.uid());
        self.forget().await;
    }

    /// Tells the API server that the pod has gone.
    async fn forget(&mut self) {
        let pods = Res::new("", "v1", "pods");
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            if self.stop.borrow().as_ref().is_some_and(|stop| stop.gone) {
                return;
            }
            let deleted = self
                .node
                .client
                .delete(&pods, self.namespace(), self.name(), Some(0), Some(self.uid()));
            match deleted.await {
                Ok(()) => return,
                Err(error) if error.is_not_found() || error.is_conflict() => return,
                Err(error) => tracing::debug!(pod = self.name(), %error, "pod not deleted yet"),
            }
            let delay = backoff.fail();
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                changed = self.stop.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Gives back everything but the logs of a pod that has ended; when to try again.
    pub(super) async fn release(&mut self) -> Option<Instant> {
        self.stop_all(|_| true);
        if self.members.iter().any(|member| member.record.running().is_some()) {
            return None;
        }
        let released = match self.drop_sandbox().await {
            Ok(()) => volumes::tear_down(&self.node, &self.pod),
            failed => failed,
        };
        self.volumes_ready = false;
        match released {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(pod = self.name(), %error, "pod not cleared away yet");
                self.retry.fail();
                self.retry.until
            }
        }
    }

    /// Takes away the sandbox and all files.
    async fn clear_away(&mut self) -> Result<(), Error> {
        for member in &self.members {
            crate::kubelet::rootfs::unmount(&member.dir);
        }
        self.drop_sandbox().await?;
        volumes::tear_down(&self.node, &self.pod)?;
        let config = &self.node.config;
        std::fs::remove_dir(format!("/sys/fs/cgroup/{}/pod{}", config.cgroup_parent, self.uid())).ok();
        let logs = config.pod_log_dir(self.namespace(), self.name(), self.uid());
        for dir in [self.dir(), logs] {
            match std::fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", dir)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the sandbox off the network and lets its namespaces go.
    pub(super) async fn drop_sandbox(&mut self) -> Result<(), Error> {
        let Some(sandbox) = self.sandbox.clone() else {
            return Ok(());
        };
        if let Some(network) = &sandbox.network {
            self.node.cni.del(network).await?;
        }
        sandbox.unbind();
        self.sandbox = None;
        self.remember_sandbox();
        Ok(())
    }

    /// Starts to stop all running containers of some roles.
    fn stop_all(&mut self, roles: impl Fn(Role) -> bool) {
        for at in 0..self.members.len() {
            let member = &self.members[at];
            if roles(member.role) && member.record.running().is_some() && member.stopper.is_none() {
                self.stop_member(at, "Killing", None);
            }
        }
    }

    /// Starts to stop one container: hook, signal, and after the grace period the signal that cannot be refused.
    pub(super) fn stop_member(&mut self, at: usize, why: &'static str, grace: Option<Duration>) {
        let member = &self.members[at];
        let Some(running) = member.record.running().cloned() else {
            return;
        };
        let name = &member.spec.name;
        let message = match why {
            "Unhealthy" => format!("Container {name} failed liveness probe, will be restarted"),
            "Unstarted" => format!("Container {name} failed startup probe, will be restarted"),
            "FailedPostStartHook" => "FailedPostStartHook".to_owned(),
            _ => format!("Stopping container {name}"),
        };
        self.tell_of(member, false, "Killing", message);
        let spec = self.pod.spec.as_ref();
        let own = spec
            .and_then(|spec| spec.termination_grace_period_seconds)
            .and_then(|s| u64::try_from(s).ok());
        let grace = grace.or(own.map(Duration::from_secs)).unwrap_or(DEFAULT_GRACE);
        let stopper = Stopper {
            latest: Instant::now() + grace,
            stop: self.stop.clone(),
            process: Process::open(running.pid, running.ticks),
            signal: self.stop_signal(at, &running.stop_signal),
        };
        let (node, spec, about, field_path) = (
            self.node.clone(),
            member.spec.clone(),
            reference(&self.pod),
            member.field_path(),
        );
        let pod_ip = self.sandbox.as_ref().and_then(|sandbox| sandbox.ips.first().copied());
        let task = tokio::spawn(async move {
            let hook = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone());
            let hook = async {
                let Some(hook) = hook else { return };
                if let Err(message) = hooks::run(&node, &hook, &running.id, &spec, pod_ip).await {
                    let message = format!("PreStopHook failed: {message}");
                    node.recorder
                        .part(&about, &field_path, true, "FailedPreStopHook", message);
                }
            };
            stopper.run(hook).await;
        });
        self.members[at].stopper = Some(AbortOnDrop(task.abort_handle()));
    }

    fn stop_signal(&self, at: usize, of_image: &str) -> i32 {
        let own = self.members[at]
            .spec
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.stop_signal.clone());
        signal_number(own.as_deref().unwrap_or(of_image))
    }

    /// A probe has an opinion.
    pub(super) fn probed(&mut self, id: &str, verdict: crate::kubelet::probes::Verdict) {
        use crate::kubelet::probes::Verdict;
        let newest = |member: &super::Member| member.record.running().is_some_and(|running| running.id == id);
        let Some(at) = self.members.iter().position(newest) else {
            return;
        };
        let member = &mut self.members[at];
        match verdict {
            Verdict::Started => member.started = true,
            Verdict::Ready(ready) => member.ready = ready,
            Verdict::Dead { grace, startup } => {
                // A pod that is going is stopped already.
                if member.stopper.is_none() && self.stop.borrow().is_none() {
                    self.stop_member(at, if startup { "Unstarted" } else { "Unhealthy" }, grace);
                }
            }
        }
    }
}

/// One attempt to stop a process.
struct Stopper {
    /// When it is killed.
    latest: Instant,
    /// The pod's own end may be nearer.
    stop: watch::Receiver<Option<Stop>>,
    process: Option<Process>,
    signal: i32,
}

impl Stopper {
    async fn run(mut self, hook: impl Future<Output = ()>) {
        let late = tokio::select! {
            () = hook => false,
            () = Self::deadline(self.latest, self.stop.clone()) => true,
        };
        let Some(process) = &self.process else { return };
        process.signal(self.signal);
        if late {
            self.latest = Instant::now() + AFTER_HOOK;
            tokio::time::sleep_until(self.latest).await;
        } else {
            Self::deadline(self.latest, self.stop.clone()).await;
        }
        process.signal(nix::sys::signal::Signal::SIGKILL as i32);
    }

    /// Waits until time is up, which may come sooner while waiting.
    async fn deadline(latest: Instant, mut stop: watch::Receiver<Option<Stop>>) {
        loop {
            let of_pod = stop.borrow_and_update().as_ref().map(Stop::deadline);
            let until = of_pod.unwrap_or(latest);
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                changed = stop.changed() => if changed.is_err() {
                    tokio::time::sleep_until(until).await;
                    return;
                },
            }
        }
    }
}

/// The number of a signal by name or number; SIGTERM where there is none.
fn signal_number(text: &str) -> i32 {
    use nix::sys::signal::Signal;
    let text = text.trim();
    let named = |name: &str| name.parse::<Signal>().ok().map(|signal| signal as i32);
    let found = text.parse().ok().filter(|number| (1..=64).contains(number));
    found
        .or_else(|| named(text))
        .or_else(|| named(&format!("SIG{text}")))
        .unwrap_or(Signal::SIGTERM as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        let numbers = ["", "SIGQUIT", "INT", "9", "SIGNONE"].map(signal_number);
        assert_eq!(numbers, [15, 3, 2, 9, 15]);
    }
}
