//! Benchmarks: tables and JSON of this network beside its peers.

mod across;
mod agent;
mod cgroup;
mod churn;
mod cni;
mod load;
mod netns;
mod node;
mod path;
mod report;
mod rules;
mod sample;
mod subject;
mod weft;

use std::process::ExitCode;

/// Command line.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The way of a packet: round trips and connections over Weft, bare links and kube-proxy's rules.
    Path(path::Args),
    /// Connecting and disconnecting pods: ADD and DEL of Weft's plugin and of the reference plugins.
    Cni(cni::Args),
    /// What is left after thousands of pods have come and gone: fails where it is anything.
    Churn(churn::Args),
    /// What the agent of a full node in a large cluster needs of memory and of a core.
    Agent(agent::Args),
}

/// How the result is printed.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (report, output) = match args.what {
        What::Path(args) => (path::run(&args)?, args.output),
        What::Cni(args) => (cni::run(&args)?, args.output),
        What::Churn(args) => (churn::run(&args)?, args.output),
        What::Agent(args) => (agent::run(&args)?, args.output),
    };
    match output {
        Output::Table => say!("{}", report.to_string().trim_end()),
        Output::Json => say!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(ExitCode::SUCCESS)
}
