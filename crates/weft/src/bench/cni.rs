//! `weft bench cni`: how long ADD and DEL take, through the plugin binary and the agent of a real node, beside Debian's
//! reference plugins.

pub(super) mod plugin;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use weft_lab::up::{self, Lab};

use super::Output;
use super::netns::Netns;
use super::report::{Report, Row};
use plugin::{Plugin, Verb};

/// The lab whose node is measured.
const LAB: &str = "bench-cni";
const NODE: &str = "node-1";
/// Works that are part of every other.
const START: &str = "of it: start of the plugin (VERSION)";
const ASK: &str = "of it: start, and the way to the agent and back (STATUS)";
/// How many containers come and go at the same time.
const AT_ONCE: usize = 8;
/// What an ADD, and a DEL, is to take at most (median, alone).
const GOAL: Duration = Duration::from_millis(2);

/// Command line.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Output,
    /// How many containers come and go for each number.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(8..=10_000))]
    times: u32,
    /// How many pods are on the full node.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u32).range(10..=400))]
    pods: u32,
    /// Measures in the namespaces that this process is in, and prints every sample.
    #[arg(long, hide = true)]
    pub(super) here: bool,
}

/// One lab of one node, gone at the end.
struct Node(Lab);

impl Node {
    fn start(weft: &Path) -> Result<Self> {
        let up = ["lab", "up", "--name", LAB, "--nodes", "1", "--no-demo"];
        let output = Command::new(weft).args(up).output().context("cannot start a lab")?;
        let node = Self(Lab::new(LAB)?);
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cannot start a lab: {}", said.trim());
        Ok(node)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = up::down(&self.0) {
            eprintln!("weft: the lab {LAB} is left: {error}; remove it with `weft lab down --name {LAB}`");
        }
    }
}

/// What was measured of one plugin on a node with so many pods, in milliseconds.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    subject: String,
    ours: bool,
    works: Vec<(String, Vec<f64>)>,
}

/// Measures everything, and takes it all away again.
pub(super) fn run(args: &Args) -> Result<Report> {
    let weft = std::env::current_exe().context("cannot find this program's own path")?;
    let node = Node::start(&weft)?;
    // A process of its own: it becomes one of the node's, and goes with it.
    let mut inside = Command::new(&weft);
    inside
        .args(["lab", "enter", "--name", node.0.name(), NODE])
        .arg(&weft)
        .args(["bench", "cni", "--here"])
        .args(["--times", &args.times.to_string(), "--pods", &args.pods.to_string()]);
    let output = inside
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start the measurement")?;
    ensure!(output.status.success(), "the measurement failed ({})", output.status);
    let all: Vec<Measured> = serde_json::from_slice(&output.stdout).context("cannot decode the samples")?;
    Ok(Report::new(rows(&all)))
}

/// Measures on the node that this process is on, and prints every sample.
pub(super) fn measure_here(args: &Args) -> Result<()> {
    let weft = Plugin::weft()?;
    let peers = [Plugin::ptp()?, Plugin::bridge()?];
    let full = format!("{} pods", args.pods);
    let mut all = vec![];
    for (pods, node) in [(0, "empty node"), (10, "10 pods"), (args.pods, &full)] {
        all.push(measure(&weft, pods, node, args.times)?);
    }
    for peer in peers {
        // Their links are in the namespace that they run in; ours is not to have them.
        let apart = Netns::new()?;
        for (pods, node) in [(0, "empty node"), (args.pods, &full)] {
            all.push(apart.run(|| measure(&peer, pods, node, args.times))?);
        }
    }
    say!("{}", serde_json::to_string(&all)?);
    Ok(())
}

/// Puts the pods on the node, measures, and takes them away.
fn measure(plugin: &Plugin, pods: u32, node: &str, times: u32) -> Result<Measured> {
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
    let [add, del] = come_and_go(plugin, "alone", times)?;
    let together = all_at_once(plugin, times)?;
    for number in 0..resident.len() {
        plugin.call(Verb::Del, &format!("resident-{number}"), None)?;
    }
    let [add_together, del_together] = together;
    Ok(Measured {
        subject,
        ours: plugin.ours,
        works: vec![
            ("ADD".into(), add),
            ("DEL".into(), del),
            ("ADD, 8 at once".into(), add_together),
            ("DEL, 8 at once".into(), del_together),
            (START.into(), start),
            (ASK.into(), ask),
        ],
    })
}

/// A container comes and goes, again and again. Gives what each ADD and each DEL took.
fn come_and_go(plugin: &Plugin, id: &str, times: u32) -> Result<[Vec<f64>; 2]> {
    let netns = Netns::new()?;
    let (mut add, mut del) = (vec![], vec![]);
    for number in 0..times {
        let id = format!("{id}-{number}");
        add.push(plugin.call(Verb::Add, &id, Some(&netns))?);
        del.push(plugin.call(Verb::Del, &id, Some(&netns))?);
    }
    Ok([add, del])
}

fn all_at_once(plugin: &Plugin, times: u32) -> Result<[Vec<f64>; 2]> {
    let ready = Barrier::new(AT_ONCE);
    let each = times / AT_ONCE as u32;
    let work = |number: usize| {
        ready.wait();
        come_and_go(plugin, &format!("together-{number}"), each)
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
    for work in ["ADD", "DEL", "ADD, 8 at once", "DEL, 8 at once", START, ASK] {
        for share in [0.5, 0.99] {
            let value = |measured: &Measured| quantile(measured, work, share);
            // The peers have no agent; what they take to start is what this is compared with.
            let limit = peer.map_or(f64::NAN, |peer| {
                quantile(peer, if work == ASK { START } else { work }, share)
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

/// The value that this share of them undercuts; not a number where nothing was measured.
fn quantile(measured: &Measured, work: &str, share: f64) -> f64 {
    let samples = measured.works.iter().find(|(name, _)| *name == work);
    let mut samples = samples.map_or_else(Vec::new, |(_, samples)| samples.clone());
    samples.sort_by(f64::total_cmp);
    let at = (samples.len() as f64 * share) as usize;
    samples.get(at).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_in_milliseconds_is_a_ratio_to_the_peer() {
        let measured = |subject: &str, ours, value: f64| Measured {
            subject: subject.into(),
            ours,
            works: vec![("ADD".into(), vec![value; 100])],
        };
        let rows = rows(&[measured("Weft", true, 1.5), measured("ptp", false, 8.0)]);
        assert_eq!(rows.len(), 4);
        assert_eq!((rows[0].value, rows[0].ratio, rows[0].goal), (1.5, 0.1875, Some(0.25)));
        assert_eq!((rows[1].ratio, rows[1].goal), (1.0, None));
        assert_eq!(rows[2].subject, "Weft, 99th percentile");
        assert_eq!(rows[2].goal, None);
    }
}
