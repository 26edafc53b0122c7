//! `weft bench path`: how long a packet's way is, over Weft and over what it replaces, beside a bare veth pair.

use anyhow::Result;

use super::Output;
use super::across::{self, Way};
use super::cgroup::Home;
use super::load::Work;
use super::report::{Report, Row};
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
        Work::RoundTrip => 1.10,
        Work::Connection => 1.12,
    }
}

/// What is measured, under its name; ours have goals.
struct Entry {
    name: String,
    ours: bool,
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
        rows.extend(entries.iter().zip(&values).map(|(entry, value)| Row {
            work: work.name(),
            subject: entry.name.clone(),
            value: *value,
            unit: "us",
            ratio: value / values[0],
            goal: entry.ours.then(|| goal(work)),
            met: None,
        }));
    }
    Ok(Report::new(rows))
}

fn set_up(home: &Home, only: &str) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut add = |name: String, ours: bool, alike: usize, make: &dyn Fn() -> Result<Subject>| -> Result<()> {
        if !entries.is_empty() && !name.contains(only) {
            return Ok(());
        }
        eprintln!("setting up: {name}");
        entries.push(Entry {
            alike: (0..alike).map(|_| make()).collect::<Result<_>>()?,
            name,
            ours,
        });
        Ok(())
    };
    add("bare veth pair".into(), false, ALIKE, &subject::bare)?;
    add("Linux bridge".into(), false, ALIKE, &subject::bridge)?;
    add("Weft, pod to pod".into(), true, ALIKE, &|| {
        weft::subject(home, Target::Pod)
    })?;
    for count in SERVICES {
        let make = || weft::subject(home, Target::Service(count));
        add(format!("Weft, pod to Service, {count} services"), true, ALIKE, &make)?;
    }
    for (rules, name) in [(Rules::Iptables, "iptables"), (Rules::Nftables, "nftables")] {
        for count in SERVICES {
            let make = || subject::kube_proxy(rules, count);
            add(format!("kube-proxy's {name} rules, {count} services"), false, 1, &make)?;
        }
    }
    for (way, name) in [(Way::Direct, "directly"), (Way::Tunnel, "by VXLAN")] {
        add(format!("Weft, across nodes {name}"), false, 1, &|| {
            across::weft(home, way)
        })?;
        add(format!("the same by hand, across nodes {name}"), false, 1, &|| {
            across::plain(way)
        })?;
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
                for (samples, work) in all.iter_mut().zip(Work::ALL) {
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

/// The value that this share of them undercuts.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share) as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::{SHARE, quantile};

    #[test]
    fn disturbances_do_not_count_and_neither_does_luck() {
        let mut samples: Vec<f64> = (0..20).map(|number| 10.0 + f64::from(number % 3)).collect();
        samples[7] = 1.0;
        samples[8] = 500.0;
        assert_eq!(quantile(samples, SHARE), 10.0);
        assert_eq!(quantile(vec![3.0, 1.0, 2.0], 0.5), 2.0);
        assert!(quantile(Vec::new(), SHARE).is_nan());
    }
}
