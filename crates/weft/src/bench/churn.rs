//! `weft bench churn`: thousands of pods come and go through the plugin, several at once; then is counted what they have
//! left in the kernel, on disk and in the agent.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::Output;
use super::cni::plugin::{Plugin, Verb};
use super::netns::Netns;
use super::node::{Node, Process};
use super::report::{Report, Row};

const LAB: &str = "bench-churn";
/// How many come, and go, at the same time.
const AT_ONCE: usize = 8;
/// How many are on the node before they go again.
const BATCH: u32 = 200;

/// What is counted on the node: a name, and the shell's way to the number.
const LEFT: [(&str, &str); 11] = [
    ("links", "ls -A /sys/class/net | wc -l"),
    ("IPv4 routes", "ip -4 route show table all | wc -l"),
    ("IPv6 routes", "ip -6 route show table all | wc -l"),
    ("neighbours", "ip neigh show nud permanent | wc -l"),
    ("queueing disciplines", "tc qdisc | wc -l"),
    ("firewall rules", "nft list ruleset | wc -l"),
    ("pinned maps", "ls -A /sys/fs/bpf/weft/maps | wc -l"),
    ("pinned links", "ls -A /sys/fs/bpf/weft/links | wc -l"),
    ("BPF objects held by the agent", "ls -l /proc/$0/fd | grep -c bpf"),
    ("records of attachments", "ls -A /run/weft/attachments | wc -l"),
    ("spooled requests", "ls -A /run/weft/cni-spool 2> /dev/null | wc -l"),
];
/// What the agent may have grown by, in MiB: pages that its allocator keeps.
const GROWTH: f64 = 4.0;

/// For how long something may still be there after the last pod went.
const PATIENCE: Duration = Duration::from_secs(30);

/// Command line.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Output,
    /// How many pods come and go.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(200..=1_000_000))]
    times: u32,
}

/// Runs it; an error where anything is left.
pub(super) fn run(args: &Args) -> Result<Report> {
    let node = Node::start(LAB)?;
    let agent = node.agent()?;
    let (before, after) = node.enter(|| {
        let plugin = Plugin::weft()?;
        let sandboxes = (0..BATCH).map(|_| Netns::new()).collect::<Result<Vec<_>>>()?;
        let come_and_go = |mut pods: u32| {
            while pods > 0 {
                let now = pods.min(BATCH);
                batch(&plugin, &sandboxes, now)?;
                pods -= now;
            }
            Ok::<_, anyhow::Error>(())
        };
        // The first fill caches, pools of threads and what the allocator keeps for them, which stays: 8 MiB after two
        // thousand, and no more after twenty thousand.
        come_and_go((args.times / 5).max(BATCH))?;
        let before = count(agent)?;
        come_and_go(args.times)?;
        // What the agent does at that moment (a probe, an answer that is under way) is no leak: it ends.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let after = count(agent)?;
            let left = rows(&before, &after).iter().any(|row| row.met_by_count == Some(false));
            if !left || Instant::now() > deadline {
                return Ok((before, after));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    })?;
    ensure!(
        node.agent()? == agent,
        "the agent was started anew meanwhile; see its log"
    );
    let rows = rows(&before, &after);
    let leaks: Vec<String> = rows
        .iter()
        .filter(|row| row.met_by_count == Some(false))
        .map(|row| format!("{}: {}", row.row.work, row.row.value))
        .collect();
    ensure!(
        leaks.is_empty(),
        "{} pods came and went, and left: {}",
        args.times,
        leaks.join(", ")
    );
    Ok(Report::new(rows.into_iter().map(|row| row.row).collect()))
}

/// So many pods come, and all of them go again.
fn batch(plugin: &Plugin, sandboxes: &[Netns], pods: u32) -> Result<()> {
    for verb in [Verb::Add, Verb::Del] {
        let next = AtomicU32::new(0);
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(sandbox) = sandboxes.get(number as usize).filter(|_| number < pods) else {
                    return Ok(());
                };
                plugin.call(verb, &format!("churn-{number}"), Some(sandbox))?;
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
            let results = threads.into_iter().map(|thread| {
                thread
                    .join()
                    .map_err(|_| anyhow!("a thread of the benchmark panicked"))?
            });
            results.collect::<Result<()>>()
        })?;
    }
    Ok(())
}

/// What there is, by name: counts, then the agent's own.
fn count(agent: Process) -> Result<Vec<(&'static str, f64, &'static str)>> {
    let mut found = vec![];
    for (name, script) in LEFT {
        let output = Command::new("sh")
            .args(["-c", script, &agent.id().to_string()])
            .output();
        let output = output.context("cannot start sh")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let number: f64 = text
            .trim()
            .parse()
            .with_context(|| format!("cannot count {name}: {script} says {text:?}"))?;
        found.push((name, number, "count"));
    }
    found.push(("descriptors of the agent", agent.descriptors()? as f64, "count"));
    found.push(("memory of the agent", agent.memory("VmRSS")?, "MiB"));
    Ok(found)
}

struct Counted {
    row: Row,
    met_by_count: Option<bool>,
}

/// Of each thing how many were there before, and how many more or fewer there are now.
fn rows(before: &[(&'static str, f64, &'static str)], after: &[(&'static str, f64, &'static str)]) -> Vec<Counted> {
    let mut rows = vec![];
    for ((work, before, unit), (_, after, _)) in before.iter().zip(after) {
        let row = |subject: &str, value: f64| Row {
            work,
            subject: subject.into(),
            value,
            unit,
            ratio: value / before,
            goal: None,
            met: None,
        };
        rows.push(Counted {
            row: row("at the start", *before),
            met_by_count: None,
        });
        let room = if *unit == "MiB" { GROWTH } else { 0.0 };
        rows.push(Counted {
            row: row("at the end", *after),
            met_by_count: Some(*after <= before + room),
        });
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_is_a_leak_and_a_page_is_not() {
        let before = [("links", 3.0, "count"), ("memory", 10.0, "MiB")];
        let judge = |links, memory| {
            let after = [("links", links, "count"), ("memory", memory, "MiB")];
            let rows = rows(&before, &after);
            rows.iter().filter(|row| row.met_by_count == Some(false)).count()
        };
        assert_eq!(judge(3.0, 11.0), 0);
        assert_eq!(judge(4.0, 11.0), 1);
        assert_eq!(judge(3.0, 20.0), 1);
    }
}
