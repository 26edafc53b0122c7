//! The lab's commands: each parses its flags, calls the lab room, and prints.

mod api;
mod change;
mod node;
mod pools;
mod print;

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command as Process, ExitCode};
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use weft_lab::families::Families;
use weft_lab::up::{self, Lab};

/// Command line of `weft lab`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Args)]
struct Name {
    /// Which lab; several can be up at once.
    #[arg(long, default_value = up::spec::DEFAULT_NAME)]
    name: String,
}

impl Name {
    fn lab(&self) -> anyhow::Result<Lab> {
        Ok(Lab::new(&self.name)?)
    }
}

#[derive(Subcommand)]
enum Command {
    /// Bring up a cluster on this machine, with a demo in it.
    Up {
        #[command(flatten)]
        name: Name,
        /// How many nodes (3 where nothing is said).
        #[arg(long)]
        nodes: Option<usize>,
        /// The address families of nodes, pods and Services: dual, ipv4 or ipv6.
        #[arg(long, default_value_t)]
        ip_family: Families,
        /// Where pods' addresses come from.
        #[arg(long, value_enum, default_value_t)]
        ipam: pools::Ipam,
        /// Spread the nodes over so many segments, each a subnet of its own; the router between them knows no pods.
        #[arg(long, default_value_t = 1)]
        segments: usize,
        /// Spread the nodes over so many zones (label topology.kubernetes.io/zone).
        #[arg(long, default_value_t = 0)]
        zones: u8,
        /// MTU of the nodes' uplinks [default: 1500]
        #[arg(long, value_name = "BYTES")]
        uplink_mtu: Option<u32>,
        /// MTU between the lab's router and the internet [default: 1500]
        #[arg(long, value_name = "BYTES")]
        internet_mtu: Option<u32>,
        /// An argument for every agent, such as --agent-arg=--routing=vxlan; give it more than once for several.
        #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
        agent_arg: Vec<String>,
        /// Leave the demo out.
        #[arg(long)]
        no_demo: bool,
        /// Seconds to wait until everything is ready.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
    },
    /// Take a lab down whole, whatever state it is in.
    Down {
        #[command(flatten)]
        name: Name,
        /// Every lab of this machine.
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// List the labs of this machine.
    List,
    /// Prove by traffic that the network works.
    Check {
        #[command(flatten)]
        name: Name,
        /// `json` for machines.
        #[arg(short, long, value_enum, default_value_t)]
        output: crate::Output,
    },
    /// Print the path of the kubeconfig.
    Kubeconfig(Name),
    /// Print what a shell needs to use kubectl: eval "$(weft lab env)".
    Env(Name),
    /// Run a command (or a shell) on a node, in its namespaces; or on the network of the `router`, or of the `internet` beyond.
    Enter {
        #[command(flatten)]
        name: Name,
        /// The node, such as node-1.
        node: String,
        /// The command; a shell where there is none.
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Show the log of a component: api, controller, supervisor, or agent, dns, kubelet of a node.
    Logs {
        #[command(flatten)]
        name: Name,
        /// The component.
        component: String,
        /// The node, for a component that every node has.
        #[arg(default_value = "node-1")]
        node: String,
        /// Keep printing what is added.
        #[arg(short, long)]
        follow: bool,
    },
    /// End a component (api, controller, or agent, dns, kubelet of a node); it comes back at once, from the newest build.
    Restart {
        #[command(flatten)]
        name: Name,
        /// The component.
        component: String,
        /// The node; every node where none is said.
        node: Option<String>,
    },
    /// Add, remove, reboot or readdress a node.
    Node(change::Args),
    /// Make the images of an archive available to the pods of a lab.
    Load(node::Load),
    /// Run the built-in image's test server, over HTTP, TCP and UDP.
    Serve(node::Serve),
    /// Ask a server once, from inside a pod.
    Ask(node::Ask),
    #[command(hide = true, about = "Run a node's pods (started by the lab's supervisor)")]
    Kubelet(node::Kubelet),
    #[command(hide = true, about = "Keep a node's containers (started by its kubelet)")]
    Keeper(node::Keeper),
    #[command(hide = true, about = "Hold a lab together (started by up)")]
    Supervisor(Name),
    #[command(hide = true, about = "Serve the Kubernetes API of a lab (started by its supervisor)")]
    Api(Name),
}

/// Runs a lab command.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Up {
            name,
            nodes,
            ip_family,
            ipam,
            segments,
            zones,
            uplink_mtu,
            internet_mtu,
            agent_arg,
            no_demo,
            timeout,
        } => {
            let options = up::Options {
                nodes,
                families: ip_family,
                segments,
                zones,
                mtu: up::spec::Mtu {
                    uplink: uplink_mtu,
                    internet: internet_mtu,
                },
                node_ranges: ipam == pools::Ipam::Ranges,
                agent_args: agent_arg,
                demo: !no_demo,
                definitions: pools::objects(ipam, ip_family),
                weft: std::env::current_exe().context("cannot find this program's own path")?,
                patience: Duration::from_secs(timeout),
            };
            let lab = name.lab()?;
            print::up(&lab, &crate::block_on(up::up(&lab, &options))??);
        }
        Command::Down { name, all } => {
            let labs = if all { up::list() } else { vec![name.lab()?] };
            for lab in &labs {
                print::down(lab, up::down(lab)?);
            }
        }
        Command::List => print::list(&up::list()),
        Command::Check { name, output } => {
            let lab = name.lab()?;
            let checks = crate::block_on(up::check(&lab))??;
            return print::checks(&lab, &checks, output);
        }
        Command::Kubeconfig(name) => {
            let lab = name.lab()?;
            up::ready(&lab)?;
            say!("{}", lab.kubeconfig().display());
        }
        Command::Env(name) => {
            let lab = name.lab()?;
            up::ready(&lab)?;
            print::env(&lab)?;
        }
        Command::Enter { name, node, command } => return enter(&name.lab()?, &node, &command),
        Command::Logs {
            name,
            component,
            node,
            follow,
        } => return logs(&name.lab()?, &component, &node, follow),
        Command::Restart { name, component, node } => {
            let ended = up::restart(&name.lab()?, &component, node.as_deref())?;
            say!("{component}: {ended} ended, coming back");
        }
        Command::Node(args) => change::run(args)?,
        Command::Load(args) => node::load(&args)?,
        Command::Serve(args) => node::serve(args)?,
        Command::Ask(args) => node::ask(args)?,
        Command::Kubelet(args) => node::kubelet(args)?,
        Command::Keeper(args) => node::keeper(&args)?,
        Command::Api(name) => {
            crate::log_to_stderr();
            api::run(&name.lab()?)?;
        }
        Command::Supervisor(name) => {
            crate::log_to_stderr();
            up::supervise(&name.lab()?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn enter(lab: &Lab, node: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    let shell = [std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned())];
    let command = if command.is_empty() { &shell[..] } else { command };
    let (program, args) = command.split_first().context("no command")?;
    let status = up::enter(lab, node, || Process::new(program).args(args).current_dir("/").status())?;
    let status = status.with_context(|| format!("cannot run {program} on {node}"))?;
    Ok(ExitCode::from(
        status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
    ))
}

fn logs(lab: &Lab, component: &str, node: &str, follow: bool) -> anyhow::Result<ExitCode> {
    up::ready(lab)?;
    let of_node = !matches!(component, "api" | "controller" | "supervisor");
    let path: PathBuf = lab.log(component, of_node.then_some(node));
    anyhow::ensure!(
        path.exists(),
        "there is no log {}; components are api, controller, supervisor, agent, dns, kubelet",
        path.display()
    );
    let mut tail = Process::new("tail");
    tail.args(["-n", "+1"]).args(follow.then_some("-f")).arg(&path);
    Err(tail.exec()).with_context(|| format!("cannot run tail on {}", path.display()))
}
