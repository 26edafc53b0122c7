//! The behaviours that show only over time, or in many calls: each changes objects of its own while it asks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Dataplane;
use super::cast::Cast;
use super::place::{By, Outcome, Place, Question};

/// One behaviour.
pub(super) struct Story {
    pub(super) name: &'static str,
    /// Who does not do it yet.
    pub(super) gaps: &'static [Dataplane],
    pub(super) tell: fn(&Cast) -> Result<(), String>,
}

pub(super) const STORIES: &[Story] = &[
    Story {
        name: "connections are spread evenly (chi-square)",
        gaps: &[],
        tell: even_spread,
    },
    Story {
        name: "ClientIP affinity: a client keeps its endpoint",
        gaps: &[],
        tell: affinity,
    },
    Story {
        name: "a UDP flow leaves a backend that has gone, and finds the next after a time without any",
        gaps: &[],
        tell: datagrams_follow,
    },
    Story {
        name: "a Service deleted and made again with the same address works",
        gaps: &[],
        tell: made_again,
    },
];

const C1: Place = Place::Pod("c1");

/// A Service of one line port, over TCP and UDP, at an address of its own; its IPv4 address.
fn service(cast: &Cast, name: &str, last: u8, more: &str) -> SocketAddr {
    let ip = format!("10.96.250.{last}");
    cast.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: {ip}, {more}, ports: [{{name: t, port: 80, targetPort: line}}, \
         {{name: u, port: 80, protocol: UDP, targetPort: datagram}}]}}\n"
    ));
    SocketAddr::new(ip.parse().unwrap(), 80)
}

fn question(by: By, to: SocketAddr, from_port: u16) -> Question {
    Question { by, to, from_port }
}

/// Who answers one call from c1.
fn answerer(cast: &Cast, asked: &Question) -> Result<String, Outcome> {
    match C1.ask(cast, std::slice::from_ref(asked)).remove(0) {
        Outcome::Answer { pod, .. } => Ok(pod),
        other => Err(other),
    }
}

/// Tries for half a minute; the last outcome where it never held.
fn soon(cast: &Cast, asked: &Question, holds: impl Fn(&Result<String, Outcome>) -> bool) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let outcome = answerer(cast, asked);
        if holds(&outcome) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("{asked:?} from c1 was {outcome:?} after 30 s"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// With two endpoints and 400 connections, an even choice is off by this much once in a million runs.
fn even_spread(cast: &Cast) -> Result<(), String> {
    let to = service(cast, "even", 1, "selector: {app: echo}");
    let asked = question(By::Tcp, to, 0);
    soon(cast, &asked, Result::is_ok)?;
    let mut counts: BTreeMap<String, f64> = BTreeMap::from([("s1".into(), 0.0), ("s2".into(), 0.0)]);
    for outcome in C1.ask(cast, &vec![asked; 400]) {
        match outcome {
            Outcome::Answer { pod, .. } => *counts.entry(pod).or_default() += 1.0,
            other => return Err(format!("a call was {other:?}")),
        }
    }
    let expected = 400.0 / 2.0;
    let chi_square: f64 = counts.values().map(|count| (count - expected).powi(2) / expected).sum();
    match counts.len() == 2 && chi_square < 23.9 {
        true => Ok(()),
        false => Err(format!("{counts:?}, chi-square {chi_square:.1}")),
    }
}

fn affinity(cast: &Cast) -> Result<(), String> {
    let to = service(cast, "affine", 2, "sessionAffinity: ClientIP, selector: {app: echo}");
    for by in [By::Tcp, By::Udp] {
        let asked = question(by, to, 0);
        soon(cast, &asked, Result::is_ok)?;
        let first = answerer(cast, &asked).map_err(|outcome| format!("{outcome:?}"))?;
        // Of 30 free choices between two, all are alike once in 500 million runs.
        for outcome in C1.ask(cast, &vec![asked; 30]) {
            if !matches!(&outcome, Outcome::Answer { pod, .. } if *pod == first) {
                return Err(format!("{by:?}: first {first}, then {outcome:?}"));
            }
        }
    }
    Ok(())
}

/// One port all the time, as a resolver or a phone has it.
fn datagrams_follow(cast: &Cast) -> Result<(), String> {
    let to = service(cast, "datagrams", 3, "selector: {pod: s1}");
    let asked = question(By::Udp, to, 40_053);
    let select = |pod: &str| {
        let patch = format!("{{\"spec\": {{\"selector\": {{\"pod\": \"{pod}\"}}}}}}");
        cast.kubectl(&["patch", "service", "datagrams", "-p", &patch]).good();
    };
    soon(cast, &asked, |outcome| outcome.as_deref() == Ok("s1"))?;
    select("s2");
    soon(cast, &asked, |outcome| outcome.as_deref() == Ok("s2"))?;
    select("nobody");
    soon(cast, &asked, |outcome| *outcome == Err(Outcome::Refused))?;
    select("s1");
    soon(cast, &asked, |outcome| outcome.as_deref() == Ok("s1"))
}

fn made_again(cast: &Cast) -> Result<(), String> {
    for pod in ["s1", "s2", "s1"] {
        let to = service(cast, "again", 4, &format!("selector: {{pod: {pod}}}"));
        for by in [By::Tcp, By::Udp] {
            soon(cast, &question(by, to, 0), |outcome| outcome.as_deref() == Ok(pod))?;
        }
        cast.kubectl(&["delete", "service", "again"]).good();
    }
    Ok(())
}
