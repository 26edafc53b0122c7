//! `weft lab node`: nodes that join, leave, reboot or get other addresses.

use std::time::Duration;

use clap::Subcommand;
use weft_lab::up::{self, Lab, NodeSpec};

/// Command line.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Add a node.
    Add(Common),
    /// Carry a node away, and delete it from the cluster; its pods are made anew elsewhere by what owns them.
    Remove(OfNode),
    /// End a node as a power cut does, and start it with what was on its disk (/run is not).
    Reboot(OfNode),
    /// Give a running node other addresses.
    Readdress(OfNode),
}

#[derive(clap::Args)]
struct Common {
    #[command(flatten)]
    name: super::Name,
    /// Seconds to wait until the change has been made.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

impl Common {
    fn get(&self) -> anyhow::Result<(Lab, Duration)> {
        Ok((self.name.lab()?, Duration::from_secs(self.timeout)))
    }
}

#[derive(clap::Args)]
struct OfNode {
    #[command(flatten)]
    common: Common,
    /// The node, such as node-2.
    node: String,
}

/// Runs the command.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    crate::block_on(async {
        match args.command {
            Command::Add(common) => {
                let (lab, patience) = common.get()?;
                let node = up::add_node(&lab, patience).await?;
                say!("{} is ready, with {}", node.name, addresses(&node));
            }
            Command::Remove(OfNode { common, node }) => {
                let (lab, patience) = common.get()?;
                up::remove_node(&lab, &node, patience).await?;
                say!("{node} is gone");
            }
            Command::Reboot(OfNode { common, node }) => {
                let (lab, patience) = common.get()?;
                up::reboot_node(&lab, &node, patience).await?;
                say!("{node} is ready again");
            }
            Command::Readdress(OfNode { common, node }) => {
                let (lab, patience) = common.get()?;
                let node = up::readdress_node(&lab, &node, patience).await?;
                say!("{} has {} now", node.name, addresses(&node));
            }
        }
        Ok(())
    })?
}

fn addresses(node: &NodeSpec) -> String {
    let ips: Vec<String> = node.ips().iter().map(ToString::to_string).collect();
    ips.join(" and ")
}
