//! Weft between two pods of one node: the datapath and the links that the agent makes, in namespaces and a cgroup of
//! the benchmark's own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use weft_dataplane::bpf::{self, Config, Datapath};
use weft_dataplane::net::{Namespace, PodLink, name, pod};
use weft_model::compile;
use weft_model::compile::{Backend, Choice, Frontend, FrontendKind, Rule, SetKey, Source, Step, WhenEmpty};
use weft_model::{ObjectKey, Protocol};

use super::cgroup::{Home, Threads};
use super::load::Pair;
use super::netns::Netns;
use super::rules;
use super::subject::{CLIENT, SERVER, Subject, many_ports};

/// The node's address.
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const BPFFS: &str = "/sys/fs/bpf";

/// Gives this process a bpffs that ends with it, so that nothing stays pinned. Before any thread is started.
pub(super) fn private_bpffs() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace; are you root?")?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .context("cannot make the mounts private")?;
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), nothing)
        .with_context(|| format!("cannot mount a bpffs on {BPFFS}"))
}

/// Where the client connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The other pod's own address.
    Pod,
    /// The last of this many services.
    Service(u32),
}

/// A node with two pods and Weft's programs on it.
pub(super) fn subject(home: &Home, target: Target) -> Result<Subject> {
    let node = Arc::new(Netns::new()?);
    node.sysctl("ipv4/ip_forward", "1")?;
    node.ip(&format!("addr add {NODE}/32 dev lo"))?;
    let (mut datapath, cgroup) = datapath(home)?;
    let (client, server) = (Arc::new(Netns::new()?), Arc::new(Netns::new()?));
    many_ports(&client)?;
    connect(&node, &client, CLIENT, "client", NODE, &mut datapath)?;
    connect(&node, &server, *SERVER.ip(), "server", NODE, &mut datapath)?;
    let to = match target {
        Target::Pod => SocketAddr::V4(SERVER),
        Target::Service(count) => {
            for number in 0..count {
                let endpoint = rules::endpoint(number, count, SERVER);
                let backend = Backend {
                    ip: IpAddr::V4(*endpoint.ip()),
                    port: endpoint.port(),
                };
                datapath.apply_service(&service(number, backend))?;
            }
            SocketAddr::new(rules::service_ip(count - 1).into(), rules::PORT)
        }
    };
    let (inside, outside) = (cgroup.clone(), cgroup.clone());
    let (at_client, at_server) = (client.clone(), server.clone());
    let pair = Pair::start(
        move || at_server.enter().and_then(|()| outside.join()),
        move || at_client.enter().and_then(|()| inside.join()),
        SocketAddr::V4(SERVER),
        to,
    )?;
    Ok(Subject {
        pair,
        _kept: vec![
            Box::new(datapath),
            Box::new(node),
            Box::new(client),
            Box::new(server),
            Box::new(cgroup),
        ],
    })
}

/// The steps for a service with one endpoint.
fn service(number: u32, backend: Backend) -> [Step; 2] {
    let set = SetKey {
        service: Arc::new(ObjectKey::new("bench", number.to_string())),
        port: rules::PORT,
        protocol: Protocol::Tcp,
        ipv6: false,
        choice: Choice::Cluster,
    };
    let frontend = Frontend {
        ip: rules::service_ip(number).into(),
        port: rules::PORT,
        protocol: Protocol::Tcp,
    };
    let target = |source| compile::Target {
        set: set.clone(),
        when_empty: WhenEmpty::Refuse,
        source,
    };
    let rule = Rule {
        inside: target(Source::Keep),
        outside: target(Source::Masquerade),
        affinity: None,
        source_ranges: None,
        kind: FrontendKind::ClusterIp,
    };
    [Step::Set(set, vec![backend]), Step::Put(frontend, rule)]
}

/// Weft's programs for one node, and the cgroup whose sockets they see.
pub(super) fn datapath(home: &Home) -> Result<(Datapath, Arc<Threads>)> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let label = format!("node-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let cgroup = Arc::new(home.threads(&label)?);
    let datapath = Datapath::open(Config {
        cgroup: cgroup.path().to_owned(),
        pin_dir: Path::new(BPFFS).join(&label),
        map_memory: Config::MAP_MEMORY,
    })?;
    Ok((datapath, cgroup))
}

/// What the agent does for a pod: its link, its entry, its hooks.
pub(super) fn connect(
    node: &Netns,
    netns: &Netns,
    ip: Ipv4Addr,
    id: &str,
    node_ip: Ipv4Addr,
    datapath: &mut Datapath,
) -> Result<()> {
    let ifindex = link(node, netns, ip, id, node_ip)?;
    let (mac, host_mac) = name::macs(id, "eth0");
    let entry = bpf::PodLink {
        ifindex,
        mac: mac.0,
        host_mac: host_mac.0,
        limited: false,
        sends: None,
    };
    datapath.set_pod(ip.into(), entry)?;
    node.run(|| Ok(datapath.attach_pod(ifindex)?))
}

/// A pod's link alone. Gives the index of the host side.
pub(super) fn link(node: &Netns, netns: &Netns, ip: Ipv4Addr, id: &str, node_ip: Ipv4Addr) -> Result<u32> {
    let (mac, host_mac) = name::macs(id, "eth0");
    let link = PodLink {
        netns: netns.path(),
        ifname: "eth0".into(),
        host_ifname: name::host_side(id, "eth0"),
        mac,
        host_mac,
        ips: vec![ip.into()],
        mtu: 1500,
        node_ips: vec![node_ip.into()],
        limits: Default::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let inside = Namespace::open(&node.path())?;
    Ok(runtime.block_on(inside.run(move |_| async move { pod::set_up(&link).await }))?)
}
