//! Attaching pods and letting them go: what the CNI plugin asks for.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use tracing::{info, warn};
use weft_dataplane::net::{self, BadMac, Mac, NetError, PodLink, gateway_for, name, pod};
use weft_model::ObjectKey;
use weft_model::cni::{
    AddResult, AttachmentId, CniError, Command, Dns, Interface, IpConfig, Request, Response, Route, code,
};

use super::attachments::Attachment;
use super::node::{Node, Readiness};

impl Node {
    /// Does what the runtime asks for.
    pub(super) async fn handle(&self, request: Request) -> Response {
        let outcome = match request.command {
            Command::Add => self
                .add(&request)
                .await
                .map(Some)
                .inspect_err(|error| self.tell_failed_add(&request, error)),
            Command::Del => self.del(&id_of(&request)).await.map(|()| None),
            Command::Check => self.check(&request).await.map(|()| None),
            Command::Gc => self.gc(&request.valid_attachments).await.map(|()| None),
            Command::Status => self.status().await.map(|()| None),
        };
        match outcome {
            Ok(result) => Response { result, error: None },
            Err(error) => {
                warn!(command = ?request.command, container = request.container_id, code = error.code, "{}: {}", error.msg, error.details);
                Response {
                    result: None,
                    error: Some(error),
                }
            }
        }
    }

    async fn add(&self, request: &Request) -> Result<AddResult, CniError> {
        let id = id_of(request);
        let netns = request.netns.clone().unwrap_or_default();
        self.wait_until_ready().await?;
        let _turn = self.turn(&id).await;
        let here = self
            .here()
            .await
            .map_err(|error| failed("cannot find the uplink", &error))?;
        let (mac, host_mac) = name::macs(&id.container_id, &id.ifname);
        let mac = wanted_mac(request)?.unwrap_or(mac);
        let mut link = PodLink {
            netns: PathBuf::from(&netns),
            ifname: id.ifname.clone(),
            host_ifname: name::host_side(&id.container_id, &id.ifname),
            mac,
            host_mac,
            ips: vec![],
            mtu: request.mtu.unwrap_or(here.mtu),
            node_ips: here.local_ips,
            limits: request.runtime.bandwidth.unwrap_or_default(),
        };
        self.refuse_twice(&id, &link).await?;
        let known = self.identify(request).await?;
        link.ips = self.allocate(request, known.as_ref()).await?;
        let uid = known.map(|known| known.pod.uid);
        match self.attach(&id, request, uid, &link).await {
            Ok(()) => {
                info!(container = id.container_id, pod = ?pod_of(request).map(|pod| pod.to_string()), ips = ?link.ips, "attached");
                Ok(result(&link))
            }
            Err(error) => {
                self.undo(&id, &link).await;
                Err(error)
            }
        }
    }

    /// The pod's addresses, routes and services have to be known before it may start.
    async fn wait_until_ready(&self) -> Result<(), CniError> {
        let mut ready = self.ready.subscribe();
        let complete = |ready: &Readiness| ready.synced && ready.has_addresses;
        if tokio::time::timeout(self.patience, ready.wait_for(complete))
            .await
            .is_ok()
        {
            return Ok(());
        }
        let ready = self.ready.borrow().clone();
        let name = &self.name;
        let (msg, details) = match ready {
            Readiness { synced: false, .. } => (
                format!("node {name} has not heard from the API server yet"),
                "the agent keeps trying; `weft status` on a machine that reaches the API server says more".to_owned(),
            ),
            Readiness { known: false, .. } => (
                format!("there is no Node object called {name}"),
                "register the node, or correct the agent's --node-name".to_owned(),
            ),
            _ => (
                format!("node {name} has no pod CIDR, and there is no IPPool for it"),
                "a controller has to assign spec.podCIDRs (kube-controller-manager: --allocate-node-cidrs=true), or create an IPPool called default"
                    .to_owned(),
            ),
        };
        Err(CniError::new(code::TRY_AGAIN, msg, details))
    }

    /// ADD of what is attached already is an error, and leaves the first attachment as it is.
    async fn refuse_twice(&self, id: &AttachmentId, link: &PodLink) -> Result<(), CniError> {
        let Some(known) = self.attachments().get(id).cloned() else {
            return Ok(());
        };
        let there = self
            .rtnl
            .link(&known.link.host_ifname)
            .await
            .map_err(|error| failed("cannot look at links", &error))?;
        if there.is_some() {
            let error = NetError::InterfaceExists {
                ifname: link.ifname.clone(),
                netns: link.netns.clone(),
            };
            return Err(failed("cannot connect the pod", &error));
        }
        self.release(id).await
    }

    /// On success everything about the pod is in the kernel and on disk.
    async fn attach(
        &self,
        id: &AttachmentId,
        request: &Request,
        uid: Option<String>,
        link: &PodLink,
    ) -> Result<(), CniError> {
        let connected = pod::connect(link).await.map_err(not_connected)?;
        let attachment = Attachment {
            id: id.clone(),
            pod: pod_of(request),
            uid,
            link: link.clone(),
            fixed_mtu: request.mtu.is_some(),
            host_ports: request.runtime.port_mappings.clone(),
            created: now(),
        };
        self.hook(link, connected.index).await.map_err(|error| {
            CniError::new(
                code::SETUP,
                "cannot put the pod into the datapath",
                format!("{error:#}"),
            )
        })?;
        self.publish(id, &attachment.host_ports, link).await?;
        connected.ready().await.map_err(not_connected)?;
        self.store
            .save(&attachment)
            .map_err(|error| CniError::new(code::IO, "cannot record the pod's attachment", format!("{error:#}")))?;
        self.attachments().insert(id.clone(), attachment);
        Ok(())
    }

    /// The addresses first: once the hooks are there, the pod can send from those only.
    async fn hook(&self, link: &PodLink, index: u32) -> anyhow::Result<()> {
        let entry = self.entry(link, index);
        for ip in &link.ips {
            self.datapath().set_pod(*ip, entry)?;
        }
        self.attach_hooks(index, entry.sends.is_some()).await
    }

    /// Takes back a failed ADD.
    async fn undo(&self, id: &AttachmentId, link: &PodLink) {
        self.unpublish(id).await;
        // An interface that was there before is not ours to remove: set_up has cleaned up after itself.
        if let Err(error) = self.detach(link).await {
            warn!(
                container = id.container_id,
                "cannot undo a failed ADD: {error:#}; the next start of the agent does"
            );
        }
        self.free(id);
    }

    /// DEL, of what was never added too.
    pub(super) async fn del(&self, id: &AttachmentId) -> Result<(), CniError> {
        let _turn = self.turn(id).await;
        self.release(id).await
    }

    async fn release(&self, id: &AttachmentId) -> Result<(), CniError> {
        let known = self.attachments().get(id).cloned();
        let problem = |error: anyhow::Error| {
            CniError::new(
                code::SETUP,
                "cannot disconnect the pod",
                format!("{error:#}; the runtime may try again"),
            )
        };
        self.unpublish(id).await;
        match &known {
            Some(attachment) => self.detach(&attachment.link).await.map_err(problem)?,
            None => {
                let host_ifname = name::host_side(&id.container_id, &id.ifname);
                pod::tear_down(&host_ifname)
                    .await
                    .map_err(|error| problem(error.into()))?;
            }
        }
        self.store.remove(id).map_err(problem)?;
        self.attachments().remove(id);
        self.free(id);
        if known.is_some() {
            info!(container = id.container_id, "detached");
        }
        Ok(())
    }

    /// Takes a pod out of the datapath, and its link away: its hooks go with it, and only their pins are left.
    async fn detach(&self, link: &PodLink) -> anyhow::Result<()> {
        // Where the link has gone already, the datapath knows which one it was.
        let mut index = pod::tear_down(&link.host_ifname).await?;
        {
            let mut datapath = self.datapath();
            for ip in &link.ips {
                let entry = datapath.pod(*ip);
                if entry.is_some_and(|entry| *index.get_or_insert(entry.ifindex) == entry.ifindex) {
                    datapath.remove_pod(*ip)?;
                }
            }
        }
        match index {
            Some(index) => self.detach_hooks(index).await,
            None => Ok(()),
        }
    }

    /// Lets the links of pods follow the uplink's MTU, where their configuration says nothing else. One that fails is
    /// tried again with the next look; until then the kernel tells its pod by "fragmentation needed".
    pub(super) async fn follow_mtu(&self, mtu: u32) {
        let others = |attachment: &&Attachment| !attachment.fixed_mtu && attachment.link.mtu != mtu;
        let behind: Vec<Attachment> = self.attachments().values().filter(others).cloned().collect();
        for Attachment { id, created, .. } in behind {
            let _turn = self.turn(&id).await;
            let now = self.attachments().get(&id).cloned();
            let Some(mut attachment) = now.filter(|now| now.created == created) else {
                continue;
            };
            let followed = match pod::set_mtu(&attachment.link, mtu).await {
                Ok(()) => {
                    attachment.link.mtu = mtu;
                    self.store.save(&attachment)
                }
                Err(error) => Err(error.into()),
            };
            match followed {
                Ok(()) => drop(self.attachments().insert(id, attachment)),
                Err(error) => warn!(
                    container = id.container_id,
                    "its MTU does not follow the uplink's: {error:#}"
                ),
            }
        }
    }

    async fn check(&self, request: &Request) -> Result<(), CniError> {
        let id = id_of(request);
        let differs = |details: String| CniError::new(code::CHECK, "the pod's network is not as ADD left it", details);
        let Some(attachment) = self.attachments().get(&id).cloned() else {
            let details = "delete the pod, so that it is started anew";
            return Err(CniError::new(
                code::UNKNOWN_CONTAINER,
                format!("container {} is not attached", id.container_id),
                details,
            ));
        };
        let link = &attachment.link;
        let expected = request.prev_result.clone().unwrap_or_default();
        // A later plugin of the chain may have added addresses, but ours must be there.
        let mut lacking = link
            .ips
            .iter()
            .filter(|ip| !expected.ips.iter().any(|config| config.address.addr() == **ip));
        if let Some(ip) = lacking.next() {
            return Err(differs(format!("prevResult lacks the pod's address {ip}")));
        }
        let mut now = link.clone();
        if let Some(netns) = &request.netns {
            now.netns = netns.into();
        }
        let index = pod::check(&now).await.map_err(|error| differs(error.to_string()))?;
        self.check_ports(&attachment.host_ports, link).await.map_err(differs)?;
        let datapath = self.datapath();
        let mut lost = link
            .ips
            .iter()
            .filter(|ip| datapath.pod(**ip) != Some(self.entry(link, index)));
        if let Some(ip) = lost.next() {
            return Err(differs(format!("the datapath has lost the pod's address {ip}")));
        }
        match datapath.first_missing(index) {
            Ok(None) => Ok(()),
            Ok(Some(hook)) => Err(differs(format!("the hook {hook} of {} is gone", link.host_ifname))),
            Err(error) => Err(differs(error.to_string())),
        }
    }

    /// Frees everything that is not in the list; goes on where one fails. What is added meanwhile stays.
    async fn gc(&self, valid: &[AttachmentId]) -> Result<(), CniError> {
        let valid: HashSet<_> = valid.iter().collect();
        let stale: Vec<_> = self
            .attachments()
            .iter()
            .filter(|(id, _)| !valid.contains(id))
            .map(|(id, attachment)| (id.clone(), attachment.created))
            .collect();
        let mut first = Ok(());
        for (id, created) in stale {
            let _turn = self.turn(&id).await;
            let still = self.attachments().get(&id).map(|attachment| attachment.created);
            if still != Some(created) {
                continue;
            }
            info!(container = id.container_id, "not in use any more, says the runtime");
            if let Err(error) = self.release(&id).await {
                first = first.and(Err(error));
            }
        }
        first
    }
}

/// A container that has gone, or that is none, needs no DEL and no second attempt: the code says so.
fn not_connected(error: NetError) -> CniError {
    let (code, remedy) = match &error {
        NetError::Namespace { source, .. } if source.kind() == ErrorKind::NotFound => (
            code::UNKNOWN_CONTAINER,
            "; the container has ended meanwhile and the runtime starts another, or it passes a wrong path (CNI_NETNS)",
        ),
        NetError::NotANamespace { .. } => (code::UNKNOWN_CONTAINER, ""),
        NetError::OwnNamespace { .. } => (code::ENVIRONMENT, ""),
        _ => (code::SETUP, ""),
    };
    CniError::new(code, "cannot connect the pod", format!("{error}{remedy}"))
}

/// The Ethernet address that the runtime wants for the pod: by the capability `mac`, else by `MAC=` in `CNI_ARGS`.
fn wanted_mac(request: &Request) -> Result<Option<Mac>, CniError> {
    let (code, name, text) = match (&request.runtime.mac, request.arg("MAC")) {
        (Some(text), _) => (code::CONFIG, "runtimeConfig.mac", text.as_str()),
        (None, Some(text)) => (code::ENVIRONMENT, "MAC in CNI_ARGS", text),
        (None, None) => return Ok(None),
    };
    let invalid = |problem: String| CniError::new(code, format!("invalid {name}: {text:?}"), problem);
    let mac: Mac = text.parse().map_err(|error: BadMac| invalid(error.to_string()))?;
    match mac.0 == [0; 6] || mac.0[0] & 1 == 1 {
        true => Err(invalid(
            "an interface needs an Ethernet address that is neither zero nor of a group".into(),
        )),
        false => Ok(Some(mac)),
    }
}

fn failed(msg: &str, error: &dyn std::error::Error) -> CniError {
    CniError::new(code::SETUP, msg, error.to_string())
}

/// The interface that a request is about.
pub(super) fn id_of(request: &Request) -> AttachmentId {
    AttachmentId {
        container_id: request.container_id.clone(),
        ifname: request.ifname.clone(),
    }
}

/// The pod that a request is for, as the runtime names it.
pub(super) fn pod_of(request: &Request) -> Option<ObjectKey> {
    Some(ObjectKey::new(
        request.arg("K8S_POD_NAMESPACE")?,
        request.arg("K8S_POD_NAME")?,
    ))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

fn result(link: &PodLink) -> AddResult {
    let host = Interface {
        name: link.host_ifname.clone(),
        mac: link.host_mac.to_string(),
        mtu: Some(link.mtu),
        ..Interface::default()
    };
    let inside = Interface {
        name: link.ifname.clone(),
        mac: link.mac.to_string(),
        mtu: Some(link.mtu),
        sandbox: link.netns.display().to_string(),
        ..Interface::default()
    };
    let ip = |ip: &IpAddr| IpConfig {
        version: None,
        interface: Some(1),
        address: IpNet::from(*ip),
        gateway: Some(gateway_for(*ip)),
    };
    let route = |ip: &IpAddr| Route::via(net::default_of(*ip), gateway_for(*ip));
    AddResult {
        interfaces: vec![host, inside],
        ips: link.ips.iter().map(ip).collect(),
        routes: link.ips.iter().map(route).collect(),
        dns: Dns::default(),
    }
}
