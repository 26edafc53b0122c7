//! `weft controller`: shares out the cluster's address pools among its nodes. Wires watches, the books of
//! `model::ipam` and writes; decides nothing itself.
//!
//! ```text
//! API server -> cluster::watch -> Ledger -> what to write -> desk.rs -> API server
//!                                   ^--- what providers assign --- providers.rs
//! ```
//!
//! Any number of them may run: one leads (`cluster::lease`), the others wait. All state is in the objects, so that a
//! restart or a change of leader loses nothing.

mod desk;
mod identity;
mod providers;

use std::path::PathBuf;
use std::process::ExitCode;

use ipnet::IpNet;
use tokio::task::JoinSet;
use tracing::{error, info, warn};
use weft_cluster::lease::Election;

use crate::stop::Stop;

/// Command line.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the API server is and who asks; without it, the service account of the pod that this runs in.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the Lease that says which controller acts.
    #[arg(long, env = "POD_NAMESPACE", default_value = "kube-system")]
    namespace: String,
    /// Name of that Lease.
    #[arg(long, default_value = "weft-controller")]
    lease: String,
    /// Who this is, in the Lease; no two that run may have the same [default: the host's name and what tells the process
    /// from every other]
    #[arg(long)]
    identity: Option<String>,
    /// Address range of Services, where the API server has no ServiceCIDRs to tell it; pools must not overlap it.
    #[arg(long, value_name = "CIDR")]
    service_cidr: Vec<IpNet>,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    crate::log_to_stderr();
    crate::run_daemon(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::listen()?;
    let client = weft_cluster::connect(args.kubeconfig.as_deref()).await?;
    let process = identity::Process::current()?;
    let identity = args.identity.unwrap_or_else(|| process.to_string());
    info!(server = client.server(), identity, "controller started");
    let has_ended = move |holder: &str| process.has_ended(holder);
    let mut election = Election::new(&client, &args.namespace, &args.lease, &identity, has_ended);
    tokio::select! {
        () = election.acquire(|error| warn!("cannot find out who leads: {error}; trying again")) => {}
        () = stop.asked() => return Ok(ExitCode::SUCCESS),
    }
    let (finish, stopped) = tokio::sync::watch::channel(false);
    // A task of its own: however much there is to decide, the Lease is renewed in time. Whoever loses the lead drops its
    // work, and with it what it has under way.
    let mut work = JoinSet::new();
    work.spawn(desk::run(client.clone(), args.service_cidr, stopped));
    tokio::select! {
        why = election.renew() => return lost(&why),
        _ = work.join_next() => anyhow::bail!("the watches have ended"),
        () = stop.asked() => {}
    }
    finish.send_replace(true);
    tokio::select! {
        why = election.renew() => return lost(&why),
        _ = work.join_next() => {}
    }
    if let Err(error) = election.release().await {
        warn!("{error}; another controller begins when the Lease has run out");
    }
    info!("controller stops; nodes keep the addresses that they have");
    Ok(ExitCode::SUCCESS)
}

/// Who led and leads no more ends, and is started again by whoever runs it.
fn lost(why: &str) -> anyhow::Result<ExitCode> {
    error!("no longer leading: {why}");
    Ok(ExitCode::FAILURE)
}
