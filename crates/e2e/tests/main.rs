//! The whole of Weft, driven as its users drive it: the real `weft` and `kubectl` against real labs.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]

mod api;
mod bad_input;
mod containerd;
mod controllers;
mod cri;
mod drivers;
mod families;
mod hostports;
mod kills;
mod kubectl;
mod lifecycle;
mod limits;
mod network;
mod nodes;
mod paths;
mod podman;
mod pools;
mod provider;
mod scale;
mod services;
mod support;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Every test has a namespace of its own in the shared lab; more at a time than cores only blurs failures.
    arguments.test_threads.get_or_insert(2);
    let trials: Vec<Trial> = [
        lifecycle::tests(),
        api::tests(),
        kubectl::tests(),
        network::tests(),
        pools::tests(),
        provider::tests(),
        controllers::tests(),
        families::tests(),
        hostports::tests(),
        limits::tests(),
        nodes::tests(),
        paths::tests(),
        drivers::tests(),
        podman::tests(),
        containerd::tests(),
        bad_input::tests(),
        kills::tests(),
        scale::tests(),
        services::tests(),
    ]
    .into_iter()
    .flatten()
    .collect();
    // Held until this process ends, however it ends.
    let _turn = (!arguments.list).then(support::wait_for_other_runs);
    if !arguments.list {
        if let Err(problem) = support::require() {
            eprintln!("e2e: {problem}");
            return ExitCode::FAILURE;
        }
        support::take_down_what_earlier_runs_left();
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        support::take_down();
        services::print_table();
    }
    conclusion.exit_code()
}
