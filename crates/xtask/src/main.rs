//! `cargo xtask`: the workshop's tools. `check` holds the code to the house rules.

mod check;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tools for working on Weft.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the house rules: who may depend on whom, where `unsafe` may be, how files look.
    Check,
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Check => check::run(),
    }
}
