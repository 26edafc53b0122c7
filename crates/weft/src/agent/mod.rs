//! The node agent: wires watch, compilation, dataplane and the CNI socket. Decides nothing itself.
//!
//! ```text
//! API server -> cluster::watch -> State -> compile -> datapath, routes      (cluster.rs, services.rs, routes.rs)
//! runtime -> weft-cni -> socket (server.rs) -> pods.rs -> addresses, link, datapath   -> attachments.rs
//! everything -> report.rs -> NodeNetwork
//! ```
//!
//! Killed at any moment it loses nothing: links, maps and routes stay in the kernel, attachments on disk, and the
//! next one compares all of it with what is wanted.

mod addresses;
mod attachments;
mod balancers;
mod cluster;
mod conflist;
mod dataplane;
mod failures;
mod flags;
mod health;
mod hostports;
mod isolation;
mod known;
mod leaks;
mod node;
mod outside;
mod pods;
mod released;
mod report;
mod routes;
mod server;
mod services;
mod spool;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use tracing::{info, warn};
use weft_cluster::Kind;
use weft_dataplane::bpf;

use crate::stop::Stop;
use dataplane::Dataplane;
use node::Node;

/// What the agent watches of the whole cluster.
const KINDS: [Kind; 6] = [
    Kind::Services,
    Kind::EndpointSlices,
    Kind::Nodes,
    Kind::ServiceCidrs,
    Kind::Pools,
    Kind::NodeAddresses,
];

/// Command line.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of this node, as its Node object has it.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Where the API server is and who asks; without it, the service account of the pod that this runs in.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Directory of the CNI socket, of what is known about attached pods, and of requests made while away.
    #[arg(long, default_value = "/run/weft")]
    state_dir: PathBuf,
    /// Where the configuration for the container runtime is put once this node can take pods.
    #[arg(long, default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// A mounted BPF file system; maps and links are pinned below `weft/` in it.
    #[arg(long, default_value = "/sys/fs/bpf")]
    bpf_dir: PathBuf,
    /// The cgroup (version 2) of every process that is to see services; found if not given.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// What translates Services: eBPF at sockets and links, or rules of nftables.
    #[arg(long, value_enum, default_value = "auto")]
    dataplane: dataplane::Choice,
    #[command(flatten)]
    routes: flags::Routes,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    crate::log_to_stderr();
    crate::run_daemon(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::listen()?;
    let client = weft_cluster::connect(args.kubeconfig.as_deref()).await?;
    let datapath = bpf::Datapath::open(bpf::Config {
        cgroup: args.cgroup.clone().unwrap_or_else(find_cgroup),
        pin_dir: args.bpf_dir.join("weft"),
        map_memory: bpf::Config::MAP_MEMORY,
    })?;
    weft_dataplane::net::sysctl::enable_forwarding()?;
    let mut node = Node::open(&args.node_name, &args.state_dir, datapath)?;
    node.dataplane = Dataplane::open(args.dataplane)?;
    node.settings = args.routes.settings();
    node.api = Box::new(client.clone());
    node.events = failures::start(&client, &args.node_name);
    let node = Arc::new(node);
    node.take_over().await?;
    node.finish_spooled().await;
    let listener = server::listen(&args.state_dir)?;
    info!(node = args.node_name, server = client.server(), socket = %listener.path.display(), "agent started");

    let changes = weft_cluster::watch(&client, &KINDS);
    tokio::spawn(cluster::follow(node.clone(), changes));
    let pods = weft_cluster::watch(&client, &[Kind::PodMetaOf(args.node_name), Kind::Namespaces]);
    tokio::spawn(known::follow(node.clone(), pods));
    tokio::spawn(reconnect_when_moved(node.clone(), client.clone()));
    tokio::spawn(leaks::watch(node.clone()));
    tokio::spawn(addresses::demand::run(node.clone(), client.clone()));
    tokio::spawn(isolation::watch(node.clone()));
    tokio::spawn(released::watch(node.clone()));
    tokio::spawn(server::run(node.clone(), listener.socket));
    tokio::spawn(conflist::install_when_ready(
        node.clone(),
        args.cni_conf_dir.clone(),
        args.state_dir.clone(),
    ));
    tokio::spawn(report::run(node.clone(), client, args.cni_conf_dir));
    tokio::spawn(hostports::watch(node.clone()));
    tokio::spawn(spool::watch(node));
    stop.asked().await;
    info!("agent stops; pods keep their network, services stay as they are");
    Ok(ExitCode::SUCCESS)
}

/// An address that has gone took the connections that were made from it along, without a word to anybody.
async fn reconnect_when_moved(node: Arc<Node>, client: weft_cluster::Client) {
    loop {
        node.moved.notified().await;
        match client.reconnect() {
            Ok(()) => info!("an address of this node is gone; the API server is watched over new connections"),
            Err(error) => warn!("{error}; changes in the cluster are noticed only when the old connections time out"),
        }
    }
}

/// The unified hierarchy: alone at the usual place, or beside version 1.
fn find_cgroup() -> PathBuf {
    let usual = Path::new("/sys/fs/cgroup");
    let hybrid = usual.join("unified");
    // Only version 2 has this file in every directory.
    if !usual.join("cgroup.controllers").exists() && hybrid.exists() {
        hybrid
    } else {
        usual.to_owned()
    }
}
