//! How the table is tried: all calls of all rows that are due, from all places at once, again until each has ended as it
//! must. What must be refused or dropped is looked at when all that must answer does: before, nothing would prove much.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::cast::Cast;
use super::place::{Outcome, Place, Question};
use super::table::{Call, Expect, ROWS, Row};
use super::{Dataplane, Tick, record, stories};

const PATIENCE: Duration = Duration::from_secs(60);

/// One call from one place over one family.
struct Try {
    row: usize,
    from: Place,
    question: Question,
    expect: Expect,
    /// How it was put, for people.
    what: String,
}

/// Tries every row on a lab with this dataplane; panics where one fails that should pass, or the other way round.
pub(super) fn table(dataplane: Dataplane) {
    let cast = Cast::new("svc", dataplane, ROWS);
    let mut due = BTreeMap::from([(false, Vec::new()), (true, Vec::new())]);
    let mut gaps = Vec::new();
    for (at, row) in ROWS.iter().enumerate() {
        for call in row.calls {
            let answers = matches!(call.expect, Expect::Answer(..));
            let tries = tries(&cast, at, row, call);
            match row.gaps.contains(&dataplane) {
                true => gaps.extend(tries),
                false => due.entry(!answers).or_default().extend(tries),
            }
        }
    }
    let mut complaints: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for tries in due.into_values() {
        collect(&mut complaints, until_all_hold(&cast, tries));
    }
    let mut failing: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    collect(&mut failing, round(&cast, gaps));

    let mut problems = Vec::new();
    let mut ticks = Vec::new();
    for (at, row) in ROWS.iter().enumerate() {
        let gap = row.gaps.contains(&dataplane);
        let tick = match (gap, complaints.get(&at), failing.get(&at)) {
            (true, _, Some(_)) => Tick::Gap,
            (true, _, None) => {
                problems.push(format!(
                    "{}: passes; take it off the gaps of {dataplane:?} in services/table.rs",
                    row.id
                ));
                Tick::Passes
            }
            (false, Some(why), _) => {
                problems.push(format!("{} ({}):\n    {}", row.id, row.name, why.join("\n    ")));
                Tick::Fails
            }
            (false, None, _) => Tick::Passes,
        };
        ticks.push((row.name, tick));
    }
    for story in stories::STORIES {
        let gap = story.gaps.contains(&dataplane);
        let told = (story.tell)(&cast);
        let tick = match (gap, told) {
            (true, Err(_)) => Tick::Gap,
            (false, Ok(())) => Tick::Passes,
            (true, Ok(())) => {
                problems.push(format!(
                    "{}: passes; take it off the gaps of {dataplane:?} in services/stories.rs",
                    story.name
                ));
                Tick::Passes
            }
            (false, Err(why)) => {
                problems.push(format!("{}: {why}", story.name));
                Tick::Fails
            }
        };
        ticks.push((story.name, tick));
    }
    record(dataplane, ticks);
    assert!(problems.is_empty(), "on {dataplane:?}:\n{}", problems.join("\n"));
}

fn tries(cast: &Cast, at: usize, row: &Row, call: &Call) -> Vec<Try> {
    let mut tries = Vec::new();
    for from in call.from {
        for family in 0..2 {
            let to = call.to.address(cast, row, call.by, family);
            tries.push(Try {
                row: at,
                from: *from,
                question: Question {
                    by: call.by,
                    to,
                    from_port: 0,
                },
                expect: call.expect,
                what: format!("{from:?} -> {:?} {to} by {:?}: {:?}", call.to, call.by, call.expect),
            });
        }
    }
    tries
}

fn collect(complaints: &mut BTreeMap<usize, Vec<String>>, failed: Vec<(Try, Outcome)>) {
    for (tried, outcome) in failed {
        let complaint = format!("{}, but was {outcome:?}", tried.what);
        complaints.entry(tried.row).or_default().push(complaint);
    }
}

/// What still does not hold when the patience is at its end.
fn until_all_hold(cast: &Cast, mut tries: Vec<Try>) -> Vec<(Try, Outcome)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let failed = round(cast, tries);
        if failed.is_empty() || Instant::now() >= deadline {
            return failed;
        }
        tries = failed.into_iter().map(|(tried, _)| tried).collect();
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Each place makes its calls, all places at the same time; those that did not end as they must.
fn round(cast: &Cast, tries: Vec<Try>) -> Vec<(Try, Outcome)> {
    let places: BTreeSet<Place> = tries.iter().map(|tried| tried.from).collect();
    let mut by_place: BTreeMap<Place, Vec<Try>> = places.into_iter().map(|place| (place, Vec::new())).collect();
    for tried in tries {
        by_place.entry(tried.from).or_default().push(tried);
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = by_place
            .into_iter()
            .map(|(place, tries)| {
                scope.spawn(move || {
                    let questions: Vec<Question> = tries.iter().map(|tried| tried.question.clone()).collect();
                    let outcomes = place.ask(cast, &questions);
                    let failed = tries.into_iter().zip(outcomes);
                    failed
                        .filter(|(tried, outcome)| !tried.expect.holds(outcome, place, cast))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}
