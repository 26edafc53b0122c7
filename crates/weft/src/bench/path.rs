//! `weft bench path`: how long a packet's way is, over Weft and over what it replaces, beside a bare veth pair.

use anyhow::Result;

use super::Output;
use super::across::{self, Way};
use super::cgroup::Home;
use super::load::Work;
use super::report::{Report, Row};
use super::sample::quantile;
use super::subject::{self, Rules, Subject};
use super::weft::{self, Target};

/// Numbers of services in the rules and maps.
const SERVICES: [u32; 3] = [10, 1_000, 10_000];
/// Measured and thrown away: neighbours are found, tables grow.
const WARM_UP: usize = 3;
/// What counts is the sample that this share of them undercuts. What else the machine does only ever adds time, so
/// the fast samples are those of the path itself; the very fastest is left out as luck.
const SHARE: f64 = 0.1;

/// Where the memory of namespaces, programs and maps comes to lie in the processor's caches is luck, and stays for as
/// long as they live: two alike can differ by a twentieth. So there are several of each that is compared with a goal,
/// and the one in the middle counts.
const ALIKE: usize = 5;

/// As much as possible is sent in one of this many rounds only: it takes longer, and says less about a path.
const BULK_EVERY: usize = 5;
/// Gbit/s of one MiB in each microsecond.
const GBIT: f64 = (8 << 20) as f64 / 1e3;

/// Command line.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Output,
    /// How often every subject has its turn.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(3..=500))]
    rounds: u32,
    /// Measures only what has this in its name, and the bare pair.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// The ratio to the bare pair that Weft is to stay within.
fn goal(work: Work) -> f64 {
    match work {
        Work::RoundTrip | Work::Stream | Work::Streams => 1.10,
        Work::Connection => 1.12,
    }
}

/// What is measured, under its name; ours have goals.
struct Entry {
    name: String,
    ours: bool,
    /// Whether as much as possible is sent over it, too.
    bulk: bool,
    alike: Vec<Subject>,
}

/// Measures everything, and takes it all away again.
pub(super) fn run(args: &Args) -> Result<Report> {
    weft::private_bpffs()?;
    let home = Home::enter()?;
    let entries = set_up(&home, args.only.as_deref().unwrap_or_default())?;
    eprintln!("measuring {} subjects in {} rounds", entries.len(), args.rounds);
    let mut rows = Vec::new();
    let samples = measure(&entries, args.rounds as usize)?;
    for (work, samples) in Work::ALL.into_iter().zip(samples) {
        let values: Vec<f64> = samples
            .into_iter()
            .map(|alike| quantile(alike.into_iter().map(|rounds| quantile(rounds, SHARE)).collect(), 0.5))
            .collect();
        let measured = entries.iter().zip(&values).filter(|(_, value)| value.is_finite());
        rows.extend(measured.map(|(entry, value)| Row {
            work: work.name(),
            subject: entry.name.clone(),
            value: if work.is_bulk() { GBIT / value } else { *value },
            unit: if work.is_bulk() { "Gbit/s" } else { "us" },
            ratio: value / values[0],
            goal: entry.ours.then(|| goal(work)),
            met: None,
        }));
    }
    Ok(Report::new(rows))
}

fn set_up(home: &Home, only: &str) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut add =
        |name: String, ours: bool, bulk: bool, alike: usize, make: &dyn Fn() -> Result<Subject>| -> Result<()> {
            if !entries.is_empty() && !name.contains(only) {
                return Ok(());
            }
            eprintln!("setting up: {name}");
            entries.push(Entry {
                alike: (0..alike).map(|_| make()).collect::<Result<_>>()?,
                name,
                ours,
                bulk,
            });
            Ok(())
        };
    add("bare veth pair".into(), false, true, ALIKE, &subject::bare)?;
    add("Linux bridge".into(), false, true, ALIKE, &subject::bridge)?;
    add("routed by the node".into(), false, true, ALIKE, &subject::routed)?;
    add("Weft, pod to pod".into(), true, true, ALIKE, &|| {
        weft::subject(home, Target::Pod)
    })?;
    for count in SERVICES {
        let make = || weft::subject(home, Target::Service(count));
        add(
            format!("Weft, pod to Service, {count} services"),
            true,
            false,
            ALIKE,
            &make,
        )?;
    }
    for (rules, name) in [(Rules::Iptables, "iptables"), (Rules::Nftables, "nftables")] {
        for count in SERVICES {
            let make = || subject::kube_proxy(rules, count);
            add(
                format!("kube-proxy's {name} rules, {count} services"),
                false,
                false,
                1,
                &make,
            )?;
        }
    }
    for (way, name) in [(Way::Direct, "directly"), (Way::Tunnel, "by VXLAN")] {
        add(format!("Weft, across nodes {name}"), false, true, 1, &|| {
            across::weft(home, way)
        })?;
        add(
            format!("the same by hand, across nodes {name}"),
            false,
            true,
            1,
            &|| across::plain(way),
        )?;
    }
    Ok(entries)
}

/// For each work, entry and subject alike, the microseconds of each round. Every round begins with another entry, so
/// that none always comes after the same.
fn measure(entries: &[Entry], rounds: usize) -> Result<Vec<Vec<Vec<Vec<f64>>>>> {
    let empty = |entry: &Entry| vec![Vec::with_capacity(rounds); entry.alike.len()];
    let mut all: Vec<Vec<_>> = Work::ALL.iter().map(|_| entries.iter().map(empty).collect()).collect();
    for round in 0..WARM_UP + rounds {
        for turn in 0..entries.len() {
            let at = (round + turn) % entries.len();
            for (which, subject) in entries[at].alike.iter().enumerate() {
                let due = |work: &Work| !work.is_bulk() || (entries[at].bulk && round % BULK_EVERY == 0);
                for (samples, work) in all.iter_mut().zip(Work::ALL).filter(|(_, work)| due(work)) {
                    let spent = subject.pair.measure(work)?;
                    if round >= WARM_UP {
                        samples[at][which].push(spent);
                    }
                }
            }
        }
    }
    Ok(all)
}
