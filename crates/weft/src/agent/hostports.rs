//! The node's ports that lead to its pods: who has which, and that the kernel's rules say the same.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};
use weft_dataplane::aside;
use weft_dataplane::net::{NetError, PodLink, conntrack, hostport};
use weft_model::cni::{AttachmentId, CniError, PortMapping, code};
use weft_model::hostport::{HostPorts, Ports, Taken, resolve};

use super::node::Node;

/// How often it is asked whether somebody has changed the kernel's rules.
const LOOK: Duration = Duration::from_secs(5);

/// What is published on this node.
#[derive(Default)]
pub(super) struct Published {
    ports: Ports<AttachmentId>,
    /// Of the kernel's rules when they were last known to be right; `None`: they have to be written.
    generation: Option<u32>,
}

/// A change that is in [`Published`] already, and has to go into the kernel.
enum Step {
    Add(HostPorts),
    Remove(HostPorts),
    All,
}

impl Published {
    /// Into the kernel, as little as will do.
    async fn write(&mut self, step: Step) -> anyhow::Result<()> {
        self.generation = None;
        let all = self.ports.all();
        self.generation = aside::blocking(move || {
            let before = hostport::generation()?;
            let little = match &step {
                Step::Add(ports) => hostport::add(ports).is_ok(),
                Step::Remove(ports) if !all.is_empty() => hostport::remove(ports).is_ok(),
                Step::Remove(_) | Step::All => false,
            };
            if !little {
                hostport::set(&all)?;
            }
            if let Step::Add(ports) | Step::Remove(ports) = &step
                && let Err(error) = conntrack::forget(ports)
            {
                warn!("{error}; clients that keep their port may go on sending to where it led before");
            }
            // Whoever else was at it meanwhile may have removed what has just been written.
            let after = hostport::generation()?;
            Ok::<_, NetError>((after == before.wrapping_add(1)).then_some(after))
        })
        .await??;
        Ok(())
    }
}

impl Node {
    /// Makes the node's ports lead to the pod, whose link is there; refuses what another pod has.
    pub(super) async fn publish(
        &self,
        id: &AttachmentId,
        mappings: &[PortMapping],
        link: &PodLink,
    ) -> Result<(), CniError> {
        if mappings.is_empty() {
            return Ok(());
        }
        let ports = resolve(mappings, &link.ips)
            .map_err(|error| CniError::new(code::CONFIG, "the pod's host ports cannot be", error.to_string()))?;
        let failed = |details: String| CniError::new(code::SETUP, "cannot publish the pod's host ports", details);
        let mut published = self.published.lock().await;
        published
            .ports
            .claim(id, &ports)
            .map_err(|taken| failed(self.explain(&taken)))?;
        if ports.keys().any(|port| port.on_loopback()) {
            hostport::return_to_loopback(&link.host_ifname).map_err(|error| failed(error.to_string()))?;
        }
        published
            .write(Step::Add(ports))
            .await
            .map_err(|error| failed(format!("{error:#}")))
    }

    fn explain(&self, taken: &Taken<AttachmentId>) -> String {
        let Taken { wanted, held, by } = taken;
        let pod = self.attachments().get(by).and_then(|attachment| attachment.pod.clone());
        let holder = pod.map_or_else(|| format!("container {}", by.container_id), |pod| format!("pod {pod}"));
        let name = &self.name;
        format!("{wanted} on node {name} is taken: {holder} has {held}; delete that pod, or use another port or hostIP")
    }

    /// Takes back the ports of a pod that goes. What the kernel refuses is tried again later.
    pub(super) async fn unpublish(&self, id: &AttachmentId) {
        let mut published = self.published.lock().await;
        let ports = published.ports.release(id);
        if ports.is_empty() {
            return;
        }
        if let Err(error) = published.write(Step::Remove(ports)).await {
            warn!(container = id.container_id, "{error:#}; trying again");
        }
    }

    /// Publishes what the pods of an earlier agent have.
    pub(super) async fn take_over_ports(&self) {
        let attachments: Vec<_> = self.attachments().values().cloned().collect();
        let mut published = self.published.lock().await;
        for attachment in attachments {
            let claimed = resolve(&attachment.host_ports, &attachment.link.ips)
                .map_err(|error| error.to_string())
                .and_then(|ports| {
                    let claimed = published.ports.claim(&attachment.id, &ports);
                    claimed.map_err(|taken| self.explain(&taken))
                });
            if let Err(why) = claimed {
                warn!(
                    container = attachment.id.container_id,
                    "its host ports lead nowhere: {why}"
                );
            }
        }
        if let Err(error) = published.write(Step::All).await {
            warn!("{error:#}; trying again");
        }
    }

    /// What is wrong with the pod's ports in the kernel, if anything is.
    pub(super) async fn check_ports(&self, mappings: &[PortMapping], link: &PodLink) -> Result<(), String> {
        let ports = resolve(mappings, &link.ips).map_err(|error| error.to_string())?;
        let lacking = aside::blocking(move || hostport::first_missing(&ports)).await;
        match lacking {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(port))) => Err(format!("the node's port {port} does not lead to the pod any more")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn look_after_ports(&self) -> anyhow::Result<()> {
        let mut published = self.published.lock().await;
        if published.generation.is_none() && published.ports.is_empty() {
            return published.write(Step::All).await;
        }
        if published.ports.is_empty() || published.generation == Some(hostport::generation()?) {
            return Ok(());
        }
        debug!("nftables rules have changed: writing those of host ports again");
        published.write(Step::All).await
    }
}

/// Writes the rules again where somebody has changed any, for ever.
pub(super) async fn watch(node: Arc<Node>) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if let Err(error) = node.look_after_ports().await {
            warn!("{error:#}; trying again");
        }
    }
}
