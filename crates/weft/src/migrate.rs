//! `weft migrate kube-proxy`: takes away what kube-proxy left in the kernel of a node where Weft has taken over.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use weft_dataplane::net::{Rtnl, kube_proxy, services};

/// Command line.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    from: From,
}

#[derive(clap::Subcommand)]
enum From {
    /// Remove kube-proxy's rules from this node: of its modes iptables, ipvs and nftables. Stop kube-proxy before, and
    /// let Weft's agent run; connections that are established stay.
    KubeProxy(KubeProxy),
}

#[derive(clap::Args)]
struct KubeProxy {
    /// Only say what is there.
    #[arg(long)]
    dry_run: bool,
    /// Where the agent pins its maps; the same as the agent's.
    #[arg(long, default_value = "/sys/fs/bpf")]
    bpf_dir: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let From::KubeProxy(args) = args.from;
    crate::block_on(kube_proxy(args))?
}

async fn kube_proxy(args: KubeProxy) -> anyhow::Result<ExitCode> {
    let rtnl = Rtnl::connect()?;
    let found = kube_proxy::find(&rtnl).await?;
    if found.is_empty() {
        say!("nothing of kube-proxy's is on this node");
        return Ok(ExitCode::SUCCESS);
    }
    let taken_over = args.bpf_dir.join("weft/maps").exists() || services::is_there()?;
    if !taken_over && !args.dry_run {
        bail!(
            "Weft translates no Services on this node yet: without kube-proxy's rules they would end; start its agent \
             (`weft status` says when it is well), then try again"
        );
    }
    for part in &found {
        match args.dry_run {
            true => say!("would remove {}", part.what),
            false => {
                kube_proxy::remove(&rtnl, part).await?;
                say!("removed {}", part.what);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
