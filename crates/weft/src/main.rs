//! `weft`: every command but the CNI plugin. This file only parses the command line and dispatches.

/// Prints a line for the user. Nobody may be reading any more (`weft status | head`); that is no failure.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

mod agent;
mod bench;
mod controller;
mod dns;
mod explain;
mod lab;
mod migrate;
mod status;
mod stop;
mod which_cluster;

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// How a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// The whole network of a Kubernetes cluster.
#[derive(Parser)]
#[command(name = "weft", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the node agent: pods' addresses and routes, services, policy.
    Agent(agent::Args),
    /// Share out the cluster's address pools among its nodes.
    Controller(controller::Args),
    /// Answer the cluster's names on this node.
    Dns(dns::Args),
    /// A real multi-node cluster on this machine.
    Lab(lab::Args),
    /// Is every layer healthy on every node, and if not, what to do.
    Status(status::Args),
    /// Take away what another network left on this node.
    Migrate(migrate::Args),
    /// Why something is as it is: a Service, its endpoints, and what kube-proxy would have made of it.
    Explain(explain::Args),
    /// Measure this network beside its peers and the physical limit.
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Agent(args) => agent::run(args),
        Command::Controller(args) => controller::run(args),
        Command::Dns(args) => dns::run(args),
        Command::Lab(args) => lab::run(args),
        Command::Status(args) => status::run(args),
        Command::Migrate(args) => migrate::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Bench(args) => bench::run(args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a short command's future on this thread.
fn block_on<F: Future>(work: F) -> anyhow::Result<F::Output> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().context("cannot start the runtime")?;
    Ok(runtime.block_on(work))
}

/// The runtime of a daemon. Two threads: so that decoding a large list never keeps a pod waiting.
fn daemon_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build();
    runtime.context("cannot start the runtime")
}

/// How long a daemon that stops leaves its threads for what they have under way, such as a request to the kernel.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Runs a daemon until it stops.
fn run_daemon(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = daemon_runtime()?;
    let ended = runtime.block_on(work);
    runtime.shutdown_timeout(LAST_MOMENT);
    ended
}

/// Logs what a long-running process does; `RUST_LOG` chooses how much. What kube_client calls an error is a retry
/// that `cluster` reports itself, once and in our words.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,kube_client=off"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .init();
}
