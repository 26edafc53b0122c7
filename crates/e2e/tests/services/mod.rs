//! Services by traffic: one table of behaviours (`table`), tried on each dataplane from everywhere, many rows at once.

mod cast;
mod load;
mod place;
mod run;
mod stories;
mod table;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use libtest_mimic::Trial;

use crate::support::{Lab, test, weft};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("services::explained", explained),
        test("services::behaviour_on_ebpf", || run::table(Dataplane::Ebpf)),
        test("services::behaviour_on_nftables", || run::table(Dataplane::Nftables)),
        test("services::kills_under_load_on_ebpf", || {
            load::kills_under_load(Dataplane::Ebpf)
        }),
        test("services::kills_under_load_on_nftables", || {
            load::kills_under_load(Dataplane::Nftables)
        }),
    ]
}

/// What carries Services on the nodes of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Dataplane {
    Ebpf,
    Nftables,
}

impl Dataplane {
    /// What a lab's agents are told so that it is this one.
    fn lab_args(self) -> &'static [&'static str] {
        match self {
            Dataplane::Ebpf => &[],
            Dataplane::Nftables => &["--agent-arg=--dataplane=nftables"],
        }
    }
}

/// How a row went on a dataplane.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tick {
    Passes,
    /// It is listed as a gap, and fails.
    Gap,
    Fails,
}

type Ticks = Vec<(&'static str, Tick)>;

static TICKS: Mutex<BTreeMap<Dataplane, Ticks>> = Mutex::new(BTreeMap::new());

fn record(dataplane: Dataplane, ticks: Ticks) {
    let mut all = TICKS.lock().unwrap_or_else(PoisonError::into_inner);
    all.insert(dataplane, ticks);
}

/// Prints what was found on each dataplane, if anything was.
pub(crate) fn print_table() {
    let all = TICKS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(first) = all.values().next() else { return };
    let heads: Vec<String> = all.keys().map(|dataplane| format!("{dataplane:?}")).collect();
    println!(
        "\n| behaviour of Services | {} |\n| --- |{}",
        heads.join(" | "),
        " --- |".repeat(all.len())
    );
    for (at, (name, _)) in first.iter().enumerate() {
        let ticks = all.values().map(|ticks| match ticks.get(at).map(|(_, tick)| tick) {
            Some(Tick::Passes) => "✓",
            Some(Tick::Gap) => "gap",
            Some(Tick::Fails) | None => "FAILS",
        });
        println!("| {name} | {} |", ticks.collect::<Vec<_>>().join(" | "));
    }
}

/// What a Service does is told from a live cluster, with kube-proxy's rules for the same.
fn explained() {
    let lab = Lab::shared().name();
    let said = weft(&["explain", "service", "demo/web", "--lab", lab, "--node", "node-2"]).good();
    for part in [
        "Service demo/web on node-2",
        "3 endpoints, with the client's source",
        "in: ready",
    ] {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
    for part in [
        "--probability 0.3333333333 -j KUBE-SEP-",
        "numgen random mod 3 vmap",
        " -s rr\n",
    ] {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
    let said = weft(&["explain", "service", "demo/web", "--lab", lab, "--brief"]).good();
    assert!(!said.contains("kube-proxy"), "{said}");
    let said = weft(&["explain", "service", "demo/nobody", "--lab", lab]).bad();
    assert!(said.contains("there is no Service demo/nobody"), "{said}");
}
