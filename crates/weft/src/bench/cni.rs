//! `weft bench cni`: how long ADD and DEL take, through the plugin binary and the agent of a real node, beside Debian's
//! reference plugins; how much of a core they need; and where the time goes.

pub(super) mod plugin;
mod steps;

use std::sync::Barrier;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::Output;
use super::netns::Netns;
use super::node::{Node, Process};
use super::report::{Report, Row};
use super::sample::quantile;
use plugin::{Plugin, Verb};

/// The lab whose node is measured.
const LAB: &str = "bench-cni";
/// Works that are part of every other.
const START: &str = "of it: start of the plugin (VERSION)";
const ASK: &str = "of it: start, and the way to the agent and back (STATUS)";
/// What does not depend on who else uses the machine. The kernel's own threads are nobody's.
const CPU: &str = "core time of an ADD and a DEL together, plugin and agent";
/// How many containers come and go at the same time.
const AT_ONCE: usize = 8;
/// The peers take ten times as long, so fewer of theirs are measured, and all of it ends within minutes.
const PEERS_SHARE: u32 = 5;
/// What an ADD, and a DEL, is to take at most (median, alone).
const GOAL: Duration = Duration::from_millis(2);

/// Command line.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Output,
    /// How many containers come and go for each number; a fifth of that with the peers.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(40..=10_000))]
    times: u32,
    /// How many pods are on the full node.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u32).range(10..=400))]
    pods: u32,
}

/// What was measured of one plugin on a node with so many pods, in milliseconds.
#[derive(Debug)]
struct Measured {
    subject: String,
    ours: bool,
    works: Vec<(&'static str, Vec<f64>)>,
}

/// Measures everything, and takes it all away again.
pub(super) fn run(args: &Args) -> Result<Report> {
    let mut rows = rows(&on_a_node(args)?);
    rows.extend(step_rows(&steps::measure(args.times / PEERS_SHARE)?));
    Ok(Report::new(rows))
}

fn on_a_node(args: &Args) -> Result<Vec<Measured>> {
    let node = Node::start(LAB)?;
    let agent = node.agent()?;
    node.enter(|| {
        let weft = Plugin::weft()?;
        let peers = [Plugin::ptp()?, Plugin::bridge()?];
        let full = format!("{} pods", args.pods);
        let mut all = vec![];
        for (pods, node) in [(0, "empty node"), (10, "10 pods"), (args.pods, &full)] {
            all.push(measure(&weft, Some(agent), pods, node, args.times)?);
        }
        for peer in peers {
            // Their links are in the namespace that they run in; ours is not to have them.
            let apart = Netns::new()?;
            for (pods, node) in [(0, "empty node"), (args.pods, &full)] {
                let times = args.times / PEERS_SHARE;
                all.push(apart.run(|| measure(&peer, None, pods, node, times))?);
            }
        }
        Ok(all)
    })
}

/// Puts the pods on the node, measures, and takes them away.
fn measure(plugin: &Plugin, agent: Option<Process>, pods: u32, node: &str, times: u32) -> Result<Measured> {
    let subject = format!("{}, {node}", plugin.name);
    eprintln!("measuring: {subject}");
    let resident = (0..pods).map(|_| Netns::new()).collect::<Result<Vec<_>>>()?;
    for (number, netns) in resident.iter().enumerate() {
        plugin.call(Verb::Add, &format!("resident-{number}"), Some(netns))?;
    }
    let (mut start, mut ask) = (vec![], vec![]);
    for _ in 0..times.div_ceil(10) {
        start.push(plugin.call(Verb::Version, "", None)?);
        if plugin.ours {
            ask.push(plugin.call(Verb::Status, "", None)?);
        }
    }
    let netns = Netns::new()?;
    let before = core_time(agent)?;
    let [add, del] = come_and_go(plugin, "alone", &netns, times)?;
    let core = (core_time(agent)? - before).as_secs_f64() * 1e3 / f64::from(times);
    let [add_together, del_together] = all_at_once(plugin, times)?;
    for number in 0..resident.len() {
        plugin.call(Verb::Del, &format!("resident-{number}"), None)?;
    }
    Ok(Measured {
        subject,
        ours: plugin.ours,
        works: vec![
            ("ADD", add),
            ("DEL", del),
            ("ADD, 8 at once", add_together),
            ("DEL, 8 at once", del_together),
            (CPU, vec![core]),
            (START, start),
            (ASK, ask),
        ],
    })
}

/// What plugins that have ended, and the agent, have used of a core.
fn core_time(agent: Option<Process>) -> Result<Duration> {
    let agent = agent.map_or(Ok(Duration::ZERO), Process::cpu)?;
    Ok(Process::this().cpu_of_children()? + agent)
}

/// A container comes and goes, again and again. Gives what each ADD and each DEL took.
fn come_and_go(plugin: &Plugin, id: &str, netns: &Netns, times: u32) -> Result<[Vec<f64>; 2]> {
    let (mut add, mut del) = (vec![], vec![]);
    for number in 0..times {
        let id = format!("{id}-{number}");
        add.push(plugin.call(Verb::Add, &id, Some(netns))?);
        del.push(plugin.call(Verb::Del, &id, Some(netns))?);
    }
    Ok([add, del])
}

fn all_at_once(plugin: &Plugin, times: u32) -> Result<[Vec<f64>; 2]> {
    let ready = Barrier::new(AT_ONCE);
    let each = times / AT_ONCE as u32;
    let work = |number: usize| {
        let netns = Netns::new()?;
        ready.wait();
        come_and_go(plugin, &format!("together-{number}"), &netns, each)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|number| scope.spawn(move || work(number))).collect();
        let mut all = [vec![], vec![]];
        for thread in threads {
            let [add, del] = thread
                .join()
                .map_err(|_| anyhow!("a thread of the benchmark panicked"))??;
            all[0].extend(add);
            all[1].extend(del);
        }
        Ok(all)
    })
}

/// For every work the median of each subject, and then the value that one in a hundred exceeds. Ratios are to the first
/// of the peers, and so is the goal.
fn rows(all: &[Measured]) -> Vec<Row> {
    let peer = all.iter().find(|measured| !measured.ours);
    let mut rows = vec![];
    for work in ["ADD", "DEL", "ADD, 8 at once", "DEL, 8 at once", CPU, START, ASK] {
        for share in [0.5, 0.99].into_iter().take(if work == CPU { 1 } else { 2 }) {
            let value = |measured: &Measured| value(measured, work, share);
            // The peers have no agent; what they take to start is what this is compared with.
            let limit = peer.map_or(f64::NAN, |peer| {
                self::value(peer, if work == ASK { START } else { work }, share)
            });
            let goal = (share == 0.5 && matches!(work, "ADD" | "DEL")).then(|| GOAL.as_secs_f64() * 1e3 / limit);
            for measured in all.iter().filter(|measured| value(measured).is_finite()) {
                let value = value(measured);
                rows.push(Row {
                    work,
                    subject: match share {
                        0.5 => measured.subject.clone(),
                        _ => format!("{}, 99th percentile", measured.subject),
                    },
                    value,
                    unit: "ms",
                    ratio: value / limit,
                    goal: goal.filter(|_| measured.ours),
                    met: None,
                });
            }
        }
    }
    rows
}

/// The value that this share of a work's samples undercuts; not a number where there are none.
fn value(measured: &Measured, work: &str, share: f64) -> f64 {
    let samples = measured.works.iter().find(|(name, _)| *name == work);
    samples.map_or(f64::NAN, |(_, samples)| quantile(samples.clone(), share))
}

/// The median of each step; ratios are to all of them together.
fn step_rows(steps: &[Vec<f64>]) -> Vec<Row> {
    let medians: Vec<f64> = steps.iter().map(|samples| quantile(samples.clone(), 0.5)).collect();
    let whole: f64 = medians.iter().sum();
    let row = |(work, value): (&'static str, &f64)| Row {
        work,
        subject: "Weft, in the kernel".into(),
        value: *value,
        unit: "ms",
        ratio: value / whole,
        goal: None,
        met: None,
    };
    steps::STEPS.into_iter().zip(&medians).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_in_milliseconds_is_a_ratio_to_the_peer() {
        let measured = |subject: &str, ours, value: f64| Measured {
            subject: subject.into(),
            ours,
            works: vec![("ADD", vec![value; 100])],
        };
        let rows = rows(&[measured("Weft", true, 1.5), measured("ptp", false, 8.0)]);
        assert_eq!(rows.len(), 4);
        assert_eq!((rows[0].value, rows[0].ratio, rows[0].goal), (1.5, 0.1875, Some(0.25)));
        assert_eq!((rows[1].ratio, rows[1].goal), (1.0, None));
        assert_eq!(rows[2].subject, "Weft, 99th percentile");
        assert_eq!(rows[2].goal, None);
    }
}
