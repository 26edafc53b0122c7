//! Commands that the lab runs on its nodes and in its pods: the kubelet, and the built-in image's server and client.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Subcommand;
use weft_lab::kubelet;
use weft_lab::serve::Ports;
use weft_lab::up::{self, Lab, Spec, spec};
use weft_lab::{ask, batch, hold, serve};

/// Command line of `weft lab kubelet`.
#[derive(clap::Args)]
pub(super) struct Kubelet {
    /// The lab's directory, as the node sees it.
    #[arg(long)]
    lab_dir: PathBuf,
    /// The node.
    #[arg(long)]
    node: String,
    /// Value of the node's label topology.kubernetes.io/zone.
    #[arg(long)]
    zone: Option<String>,
}

/// Command line of `weft lab keeper`.
#[derive(clap::Args)]
pub(super) struct Keeper {
    /// Where the kubelet calls.
    #[arg(long)]
    socket: PathBuf,
}

/// Command line of `weft lab load`.
#[derive(clap::Args)]
pub(super) struct Load {
    #[command(flatten)]
    name: super::Name,
    /// An archive: OCI layout or docker-save, plain or gzipped.
    file: PathBuf,
}

/// Command line of `weft lab serve`.
#[derive(clap::Args)]
pub(super) struct Serve {
    /// Port of the HTTP server.
    #[arg(long, env = "HTTP_PORT", default_value_t = Ports::default().http)]
    http: u16,
    /// Port that answers lines over TCP and datagrams over UDP.
    #[arg(long, env = "LINE_PORT", default_value_t = Ports::default().line)]
    line: u16,
}

/// Command line of `weft lab ask`.
#[derive(clap::Args)]
pub(super) struct Ask {
    #[command(subcommand)]
    question: Question,
    /// Ask from this place of a lab instead of from here: a node, such as node-1, `router` or `internet`.
    #[arg(long, global = true, value_name = "PLACE")]
    from: Option<String>,
    /// The lab that the place is in.
    #[arg(long, global = true, value_name = "NAME", default_value = spec::DEFAULT_NAME)]
    lab: String,
    /// Seconds to wait for the answer.
    #[arg(long, global = true, default_value_t = 5.0)]
    timeout: f64,
    /// Say on standard error how many microseconds the answer took.
    #[arg(long, global = true)]
    time: bool,
}

#[derive(Subcommand)]
enum Question {
    /// Send a line over TCP to host:port.
    Tcp { address: String },
    /// Send a datagram to host:port.
    Udp {
        address: String,
        /// Port to ask from; any where absent.
        #[arg(long, default_value_t = 0)]
        from_port: u16,
        /// Bytes of the datagram, at least.
        #[arg(long, default_value_t = 0)]
        size: usize,
    },
    /// Get a URL.
    Http { url: String },
    /// Get the version of the API server, as a program in a pod does.
    Api,
    /// Resolve a name.
    Name { name: String },
    /// Ask many questions at once: a JSON list on standard input, and one of their outcomes on standard output.
    Batch,
    /// Keep one connection to host:port and talk on it until it breaks; say each second how often that went well.
    Hold { address: String },
    /// Send requests at a steady rate, each on a connection of its own; a report as JSON.
    Load {
        url: String,
        /// Requests a second.
        #[arg(long, default_value_t = 100)]
        rate: u32,
        /// For how long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
}

/// Runs a node's kubelet.
pub(super) fn kubelet(args: Kubelet) -> anyhow::Result<()> {
    crate::log_to_stderr();
    let path = args.lab_dir.join("lab.json");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let spec: Spec = serde_json::from_slice(&text).with_context(|| format!("cannot understand {}", path.display()))?;
    let node = spec.nodes.iter().find(|node| node.name == args.node);
    let node = node.with_context(|| format!("{} knows no node {}", path.display(), args.node))?;
    let mut config = kubelet::Config::new(args.lab_dir, args.node);
    config.addresses = node.ips();
    config.cluster_dns = vec![spec.cluster_dns()];
    config.zone = args.zone;
    config.keeper = Some(spec.weft.clone());
    config.weft_binary = spec.weft;
    Ok(crate::daemon_runtime()?.block_on(kubelet::run(config))?)
}

/// Keeps a node's containers while its kubelet is restarted.
pub(super) fn keeper(args: &Keeper) -> anyhow::Result<()> {
    Ok(kubelet::keep(&args.socket)?)
}

/// Makes the images of an archive available on all nodes of a lab.
pub(super) fn load(args: &Load) -> anyhow::Result<()> {
    let lab = args.name.lab()?;
    lab.load()?;
    for name in kubelet::load(&lab.dir().join("images"), &args.file)? {
        println!("loaded {name}");
    }
    Ok(())
}

/// Runs the test server.
pub(super) fn serve(args: Serve) -> anyhow::Result<()> {
    let Serve { http, line } = args;
    Ok(crate::block_on(serve::serve(Ports { http, line }))??)
}

/// Asks once and prints the answer.
pub(super) fn ask(args: Ask) -> anyhow::Result<()> {
    let patience = Duration::try_from_secs_f64(args.timeout).context("--timeout is out of range")?;
    let started = Instant::now();
    let answer = match &args.from {
        Some(place) => up::enter(&Lab::new(&args.lab)?, place, || {
            crate::block_on(answer(&args.question, patience))
        })???,
        None => crate::block_on(answer(&args.question, patience))??,
    };
    if args.time {
        eprintln!("{}", started.elapsed().as_micros());
    }
    say!("{}", answer.trim_end());
    Ok(())
}

async fn answer(question: &Question, patience: Duration) -> anyhow::Result<String> {
    Ok(match question {
        Question::Tcp { address } => ask::tcp(address, patience).await?,
        Question::Udp {
            address,
            from_port,
            size,
        } => ask::udp(address, *from_port, *size, patience).await?,
        Question::Http { url } => ask::http(url, patience).await?,
        Question::Api => ask::api(patience).await?,
        Question::Name { name } => ask::name(name, patience).await?,
        Question::Batch => {
            let questions: Vec<batch::Question> = serde_json::from_reader(std::io::stdin())
                .context("cannot understand the questions on standard input")?;
            serde_json::to_string(&batch::batch(&questions).await)?
        }
        Question::Hold { address } => match hold::hold(address, |exchanges| say!("{exchanges} exchanges")).await {
            Err(broken) => return Err(broken.into()),
            Ok(never) => match never {},
        },
        Question::Load { url, rate, seconds } => {
            let report = ask::load(url, *rate, Duration::from_secs(*seconds)).await?;
            serde_json::json!(report).to_string()
        }
    })
}
