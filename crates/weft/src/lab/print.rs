//! What the lab's commands print.

use std::process::ExitCode;

use anyhow::Context as _;
use weft_lab::up::{Check, Down, Lab, Up, ready, spec};

use crate::Output;

/// ` --name x`, where it has to be said.
fn flag(lab: &Lab) -> String {
    if lab.name() == spec::DEFAULT_NAME {
        String::new()
    } else {
        format!(" --name {}", lab.name())
    }
}

pub(super) fn up(lab: &Lab, up: &Up) {
    let (name, nodes, took, flag) = (lab.name(), up.spec.nodes.len(), up.took.as_secs_f64(), flag(lab));
    let verb = if up.already { "was up already" } else { "is up" };
    say!("lab {name:?} {verb}: {nodes} nodes ready after {took:.2} s");
    let weft = own_path();
    say!("  use it    eval \"$({weft} lab env{flag})\" && kubectl get pods -A -o wide");
    say!("  prove it  {weft} lab check{flag}");
    say!("  end it    {weft} lab down{flag}");
}

pub(super) fn down(lab: &Lab, found: Down) {
    match found {
        Down::Gone => say!("lab {:?} is gone", lab.name()),
        Down::Nothing => say!("lab {:?} was not up; nothing to do", lab.name()),
    }
}

pub(super) fn list(labs: &[Lab]) {
    if labs.is_empty() {
        say!("no lab is up; start one with: weft lab up");
    }
    for lab in labs {
        match ready(lab) {
            Ok(spec) => say!(
                "{:<20} {} nodes, API at https://127.0.0.1:{}",
                lab.name(),
                spec.nodes.len(),
                spec.api_port
            ),
            Err(_) => say!(
                "{:<20} damaged; weft lab up{} makes it anew, weft lab down{} removes it",
                lab.name(),
                flag(lab),
                flag(lab)
            ),
        }
    }
}

/// Shell assignments. `PATH` is extended by the folder of this program, so that `weft` is found too.
pub(super) fn env(lab: &Lab) -> anyhow::Result<()> {
    let exe = std::env::current_exe().context("cannot find this program's own path")?;
    say!("export KUBECONFIG={}", lab.kubeconfig().display());
    if let Some(dir) = exe.parent() {
        say!(
            "case \":$PATH:\" in *\":{0}:\"*) ;; *) export PATH=\"{0}:$PATH\" ;; esac",
            dir.display()
        );
    }
    Ok(())
}

pub(super) fn checks(lab: &Lab, checks: &[Check], output: Output) -> anyhow::Result<ExitCode> {
    let failed = checks.iter().filter(|check| !check.ok).count();
    match output {
        Output::Json => say!("{}", serde_json::to_string_pretty(checks)?),
        Output::Text => {
            let width = checks.iter().map(|check| check.what.len()).max().unwrap_or(0);
            for check in checks {
                let (mark, ms) = (if check.ok { "ok  " } else { "FAIL" }, check.took.as_secs_f64() * 1e3);
                say!(
                    "{mark}  {:width$}  {ms:7.1} ms  {}",
                    check.what,
                    first_line(&check.detail)
                );
            }
            say!();
            if failed == 0 {
                next_steps(lab);
            } else {
                let flag = flag(lab);
                say!(
                    "{failed} of {} checks failed; what is wrong where: weft status{flag}",
                    checks.len()
                );
            }
        }
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// This program, as the user can call it from here.
fn own_path() -> String {
    let (exe, here) = (std::env::current_exe(), std::env::current_dir());
    let exe = exe.unwrap_or_else(|_| "weft".into());
    let short = here
        .ok()
        .and_then(|here| exe.strip_prefix(here).ok().map(ToOwned::to_owned));
    short.unwrap_or(exe).display().to_string()
}

fn next_steps(lab: &Lab) {
    let flag = flag(lab);
    let steps = [
        (
            format!("eval \"$({} lab env{flag})\"", own_path()),
            "kubectl and weft, in this shell",
        ),
        ("kubectl get pods,services -A -o wide".to_owned(), "what runs where"),
        (
            "kubectl exec -n demo client -c client -- weft lab ask http http://web/".to_owned(),
            "who answered, and whom it saw",
        ),
        (
            "kubectl scale -n demo deployment/web --replicas=10".to_owned(),
            "more of them",
        ),
        (
            format!("weft status{}", flag.replace("--name", "--lab")),
            "every layer on every node",
        ),
        (format!("weft lab enter{flag} node-1"), "a shell on a node"),
        (format!("weft lab down{flag}"), "gone, without a trace"),
    ];
    say!("Everything works. Try next:");
    let width = steps.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
    for (command, why) in steps {
        say!("  {command:width$}  # {why}");
    }
}
