//! `weft dns`: answers the cluster's names on this node. Wires the watch of `cluster` into the room `dns`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use ipnet::IpNet;
use weft_cluster::Kind;
use weft_dns::Config;
use weft_model::ObjectKey;

use crate::stop::Stop;

/// Command line.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of this node; only for messages.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Kubeconfig of the cluster; without it, that of the pod or of the environment.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Address to answer on, UDP and TCP; give it more than once for several.
    #[arg(long, value_name = "IP:PORT", required = true)]
    listen: Vec<SocketAddr>,
    /// The cluster domain: what the kubelet has as clusterDomain.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Where the resolvers for names outside the cluster are named.
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// Resolver for names outside the cluster, instead of those in resolv.conf.
    #[arg(long, value_name = "IP[:PORT]", value_parser = upstream)]
    upstream: Vec<SocketAddr>,
    /// Address range of Services, in which an unknown address has no name; where the API server has no ServiceCIDRs.
    #[arg(long, value_name = "CIDR")]
    service_cidr: Vec<IpNet>,
    /// The Service that clients ask.
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "kube-system/kube-dns", value_parser = object)]
    dns_service: ObjectKey,
    /// Address for /health and /ready [default: port 8181 of the first --listen]
    #[arg(long, value_name = "IP:PORT")]
    health: Option<SocketAddr>,
}

/// What names are made from, and what tells which addresses are the cluster's.
const KINDS: [Kind; 5] = [
    Kind::Services,
    Kind::EndpointSlices,
    Kind::Nodes,
    Kind::ServiceCidrs,
    Kind::Pools,
];

/// The port of /health and /ready.
const HEALTH_PORT: u16 = 8181;

/// Runs the command.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    crate::log_to_stderr();
    // One thread: a question is a few microseconds, and a process on every node should be small.
    crate::block_on(serve(args))?
}

async fn serve(args: Args) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::listen()?;
    let upstreams = match args.upstream.is_empty() {
        true => weft_dns::read_resolv_conf(&args.resolv_conf)?,
        false => args.upstream,
    };
    let health = args.health.or_else(|| {
        args.listen
            .first()
            .map(|first| SocketAddr::new(first.ip(), HEALTH_PORT))
    });
    let config = Config {
        domain: args.cluster_domain,
        listen: args.listen,
        health,
        upstreams,
        server: args.dns_service,
        ranges: args.service_cidr,
    };
    tracing::info!(node = args.node_name, domain = config.domain, upstreams = ?config.upstreams, "starting");
    let client = weft_cluster::connect(args.kubeconfig.as_deref()).await?;
    let changes = weft_cluster::watch(&client, &KINDS);
    tokio::select! {
        ended = weft_dns::run(config, changes) => ended?,
        () = stop.asked() => {}
    }
    tracing::info!("ending");
    Ok(ExitCode::SUCCESS)
}

/// An upstream resolver; the port may be left out.
fn upstream(text: &str) -> Result<SocketAddr, String> {
    let with_port = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    text.parse()
        .or_else(|_| with_port())
        .map_err(|_| format!("{text:?} is neither an address nor address:port"))
}

/// A namespaced object.
fn object(text: &str) -> Result<ObjectKey, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(ObjectKey::new(namespace, name)),
        _ => Err(format!("{text:?} is not NAMESPACE/NAME")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_may_leave_out_the_port() {
        assert_eq!(upstream("10.0.0.1").unwrap().to_string(), "10.0.0.1:53");
        assert_eq!(upstream("fd00::1").unwrap().to_string(), "[fd00::1]:53");
        assert_eq!(upstream("[fd00::1]:5353").unwrap().port(), 5353);
        assert!(upstream("dns.example.com").is_err());
    }

    #[test]
    fn a_service_is_given_with_its_namespace() {
        assert_eq!(
            object("kube-system/kube-dns").unwrap(),
            ObjectKey::new("kube-system", "kube-dns")
        );
        assert!(object("kube-dns").is_err() && object("/x").is_err());
    }
}
