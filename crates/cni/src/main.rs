//! The CNI plugin. It holds no state: it hands the runtime's request to the agent of the node and prints the answer.
//!
//! The kubelet's runtime starts it for every pod, so it starts in about a millisecond: no async, no threads.

mod agent;
mod chain;
mod config;
mod env;
mod spool;

use std::io::{Read, Write};
use std::process::ExitCode;

use serde_json::json;
use weft_model::cni::{CniError, Command, Request, SUPPORTED_VERSIONS, Versioned, code};

use config::Config;
use env::{Env, Verb};

fn main() -> ExitCode {
    let mut input = String::new();
    let read = std::io::stdin().read_to_string(&mut input);
    let env = Env::of_process();
    let answer = match read {
        Ok(_) => run(&env, &input),
        Err(error) => Err(CniError::new(
            code::IO,
            "cannot read the network configuration",
            error.to_string(),
        )),
    };
    // A runtime that does not read the answer cannot be told so.
    match answer {
        Ok(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let version = config::version_of(&input).unwrap_or_else(|| NEWEST.to_owned());
            let text = json_of(&Versioned {
                cni_version: &version,
                body: error,
            });
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// The version that is answered in where the runtime did not say.
const NEWEST: &str = SUPPORTED_VERSIONS[SUPPORTED_VERSIONS.len() - 1];

fn run(env: &Env, input: &str) -> Result<String, CniError> {
    let command = match env.verb()? {
        Verb::Version => return versions(input),
        Verb::Request(command) => command,
    };
    let ids = env.identify(command)?;
    let mut config = Config::parse(input, command)?;
    let previous = match command {
        Command::Add => config.prev_result.take(),
        _ => None,
    };
    if let Some(previous) = &previous {
        chain::accept(previous, &ids)?;
    }
    let request = Request {
        command,
        container_id: ids.container_id,
        ifname: ids.ifname,
        netns: ids.netns,
        args: env.args(command)?,
        mtu: config.mtu,
        prev_result: config.prev_result,
        runtime: config.runtime,
        valid_attachments: config.valid_attachments,
    };
    let response = match command {
        Command::Del => match agent::ask(&config.agent_socket, &request) {
            Ok(response) => response,
            Err(away) => {
                spool::leave(&config.spool_dir, &request, &away)?;
                return Ok(String::new());
            }
        },
        Command::Add => agent::ask_patiently(&config.agent_socket, &request, code::TRY_AGAIN)?,
        // An agent that is being replaced is no reason to call the node unready.
        Command::Status => agent::ask_patiently(&config.agent_socket, &request, code::NOT_AVAILABLE)?,
        Command::Check | Command::Gc => {
            agent::ask(&config.agent_socket, &request).map_err(|away| away.into_error(code::TRY_AGAIN))?
        }
    };
    match (response.error, response.result) {
        (Some(error), _) => Err(error),
        (None, Some(mut result)) => {
            result.dns = config.dns;
            let whole = match previous {
                Some(previous) => result.after(previous),
                None => result,
            };
            let body = whole.in_version(&config.version);
            Ok(json_of(&Versioned {
                cni_version: &config.version,
                body,
            }))
        }
        (None, None) => Ok(String::new()),
    }
}

fn versions(input: &str) -> Result<String, CniError> {
    let version = match input.trim() {
        "" => NEWEST.to_owned(),
        text => config::decode(text)?
            .get("cniVersion")
            .and_then(|v| v.as_str())
            .unwrap_or(NEWEST)
            .to_owned(),
    };
    Ok(json!({"cniVersion": version, "supportedVersions": SUPPORTED_VERSIONS}).to_string())
}

fn json_of(value: &impl serde::Serialize) -> String {
    // Fails only for maps with keys that are no text, and there are none here.
    serde_json::to_string(value).unwrap_or_default()
}
