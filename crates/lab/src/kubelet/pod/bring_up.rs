//! Takes a pod towards running, one step after another. Every step looks at what is there already, so it can be
//! taken again after a failure or by a new kubelet.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Worker;
use super::container::Role;
use super::status::Final;
use crate::kubelet::bandwidth;
use crate::kubelet::cni::{self, Attachment, Target};
use crate::kubelet::config::write_atomically;
use crate::kubelet::error::Error;
use crate::kubelet::files;
use crate::kubelet::node::Node;
use crate::kubelet::sandbox::{self, Sandbox, Shape};
use crate::kubelet::volumes;

/// The earlier of two times to look again.
pub(super) fn sooner(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Less than this, from the beginning of an attempt to the next, is not worth an event: the network is just starting.
const WORTH_TELLING: Duration = Duration::from_secs(2);

impl Worker {
    /// Does what can be done now; when to look again if nothing happens.
    pub(super) async fn bring_up(&mut self) -> Option<Instant> {
        if self.verdict.is_some() {
            self.release().await;
            return None;
        }
        let mut wake = self.renew_volumes;
        if wake.is_some_and(|at| at <= Instant::now()) {
            self.renew_volumes = None;
            self.refresh_volumes().await;
            wake = self.renew_volumes;
        }
        match self.deadline() {
            Some(left) if left.is_zero() => {
                let message = "Pod was active on the node longer than the specified deadline".to_owned();
                self.conclude(Final::failed("DeadlineExceeded", message)).await;
                return None;
            }
            Some(left) => wake = sooner(wake, Some(Instant::now() + left)),
            None => {}
        }
        if let Some(until) = self.retry.waiting() {
            return sooner(wake, Some(until));
        }
        let begin = Instant::now();
        if let Err(error) = self.prepare().await {
            return sooner(wake, self.put_off(&error, begin.elapsed()));
        }
        self.retry.reset();
        wake = sooner(wake, self.run_members().await);
        if let Some(verdict) = Final::of(&self.pod, &self.members) {
            self.conclude(verdict).await;
            return None;
        }
        wake
    }

    /// How long the pod may still be active.
    fn deadline(&self) -> Option<Duration> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        let end = self.started_at.as_second().checked_add(seconds)?;
        let left = end - jiff::Timestamp::now().as_second();
        Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
    }

    /// A sandbox on the network, and volumes.
    async fn prepare(&mut self) -> Result<(), Error> {
        if self.sandbox.is_some() && self.volumes_ready {
            return Ok(());
        }
        self.remember_pod();
        if self
            .sandbox
            .as_ref()
            .is_some_and(|sandbox| sandbox.network.as_ref().is_some_and(|n| !n.is_complete()))
        {
            // An earlier kubelet ended in the middle of it.
            self.drop_sandbox().await?;
        }
        // Volumes first: a pod that waits for a ConfigMap holds no address.
        self.renew_volumes = volumes::set_up(&self.node, &self.pod).await?;
        self.volumes_ready = true;
        if self.sandbox.is_none() {
            let sandbox = make_sandbox(&self.node, &self.pod, &self.dir()).await?;
            self.ips.clone_from(&sandbox.ips);
            self.sandbox = Some(sandbox);
            self.remember_sandbox();
            self.write_files()?;
        }
        Ok(())
    }

    /// Says why there is no progress, after an attempt of this length; when to try again.
    fn put_off(&mut self, error: &Error, took: Duration) -> Option<Instant> {
        let lost = took + self.retry.fail();
        match error {
            Error::Network(cni::Error::NotInitialized) => self.tell(
                true,
                "NetworkNotReady",
                "network is not ready: container runtime network not ready: NetworkReady=false \
                 reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized",
            ),
            Error::Network(error) if error.is_temporary() && lost < WORTH_TELLING => {}
            Error::Network(error) => {
                let message = format!("Failed to create pod sandbox: failed to setup network for sandbox: {error}");
                self.tell(true, "FailedCreatePodSandBox", message);
            }
            Error::Volume { .. } => self.tell(true, "FailedMount", error.to_string()),
            error => self.tell(
                true,
                "FailedCreatePodSandBox",
                format!("Failed to create pod sandbox: {error}"),
            ),
        }
        tracing::info!(pod = self.name(), namespace = self.namespace(), %error, "pod put off");
        self.retry.until
    }

    fn write_files(&self) -> Result<(), Error> {
        let Some(sandbox) = &self.sandbox else { return Ok(()) };
        let dir = self.dir();
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (config, pod) = (&self.node.config, &self.pod);
        for (name, text) in [
            ("hosts", files::hosts(pod, config, &sandbox.ips, &read("/etc/hosts"))),
            (
                "resolv.conf",
                files::resolv_conf(pod, config, &read("/etc/resolv.conf")),
            ),
            ("hostname", format!("{}\n", files::hostname(pod))),
        ] {
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(Error::io("write", path))?;
        }
        Ok(())
    }

    /// Init containers one after another, then all others.
    async fn run_members(&mut self) -> Option<Instant> {
        let mut wake = None;
        for at in 0..self.members.len() {
            if self.is_stopping() {
                break;
            }
            let member = &self.members[at];
            if member.role == Role::Init && member.record.ended().is_some_and(|end| end.code == 0) {
                continue;
            }
            wake = sooner(wake, self.ensure(at).await);
            let member = &self.members[at];
            let hold = match member.role {
                Role::Init => member.record.ended().is_none_or(|end| end.code != 0),
                Role::Sidecar => member.record.running().is_none() || !member.started,
                Role::Main | Role::Ephemeral => false,
            };
            if hold {
                break;
            }
        }
        wake
    }

    /// The pod has reached its end: ends what still runs and gives everything back but the logs.
    pub(super) async fn conclude(&mut self, verdict: Final) {
        self.verdict = Some(verdict);
        self.release().await;
    }
}

/// A random name for a sandbox or a container, as runtimes make them.
pub(super) fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

async fn make_sandbox(node: &Node, pod: &Pod, dir: &Path) -> Result<Sandbox, Error> {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let mut sysctls = std::collections::BTreeMap::new();
    if !host_network {
        // What a container runtime allows by default: low ports and ping without privileges.
        sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        sysctls.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
        let wanted = spec.and_then(|spec| spec.security_context.as_ref()?.sysctls.as_ref());
        sysctls.extend(
            wanted
                .into_iter()
                .flatten()
                .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())),
        );
    }
    let network = if host_network { None } else { Some(node.cni.network()?) };
    let shape = Shape {
        network: !host_network,
        ipc: spec.and_then(|spec| spec.host_ipc) != Some(true),
        hostname: files::hostname(pod),
        sysctls,
    };
    let capabilities = capabilities(pod, node)?;
    let mut sandbox = Sandbox::create(random_id(), dir, &node.config.netns_dir, shape).await?;
    let Some(network) = network else {
        sandbox.ips = primary(&node.config.addresses);
        return Ok(sandbox);
    };
    let target = Target {
        id: sandbox.id.clone(),
        netns: sandbox.netns.clone().unwrap_or_default(),
        args: args(pod, &sandbox.id),
        capabilities,
    };
    let mut attachment = Attachment::new(network, target);
    sandbox.network = Some(attachment.clone());
    // Before the plugin runs: should this kubelet end now, the next one knows what to clear away.
    write_atomically(
        &dir.join(sandbox::FILE),
        &serde_json::to_vec(&sandbox).unwrap_or_default(),
    )
    .map_err(Error::io("write", dir.join(sandbox::FILE)))?;
    if let Err(error) = node.cni.add(&mut attachment).await {
        sandbox.unbind();
        std::fs::remove_file(dir.join(sandbox::FILE)).ok();
        return Err(error.into());
    }
    sandbox.ips = attachment.addresses();
    sandbox.network = Some(attachment);
    Ok(sandbox)
}

/// The first address of each family.
fn primary(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in addresses {
        if found.iter().all(|other| other.is_ipv4() != address.is_ipv4()) {
            found.push(*address);
        }
    }
    found
}

fn args(pod: &Pod, sandbox: &str) -> String {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let metadata = &pod.metadata;
    cni::pod_args(
        &text(&metadata.namespace),
        &text(&metadata.name),
        &text(&metadata.uid),
        sandbox,
    )
}

fn capabilities(pod: &Pod, node: &Node) -> Result<Value, cni::Error> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let host_port = port.host_port.filter(|port| *port != 0)?;
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let host_ip = port.host_ip.as_deref().unwrap_or_default();
            Some(cni::port_mapping(host_ip, host_port, port.container_port, protocol))
        });
    let servers: Vec<_> = node.config.cluster_dns.iter().map(IpAddr::to_string).collect();
    let mut asked = json!({"portMappings": ports.collect::<Vec<_>>(), "dns": {"servers": servers}});
    if let Some(limits) = bandwidth::of(pod.metadata.annotations.as_ref())? {
        asked["bandwidth"] = limits;
    }
    Ok(asked)
}
