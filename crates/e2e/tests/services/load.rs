//! Requests to every type of Service that works, from inside and outside, while agents are killed and started again: none
//! may fail. `WEFT_LOAD_REQUESTS` is how many there are in all; a million by hand, fewer where every change is tested.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::Dataplane;
use super::cast::{Cast, NAMESPACE};
use super::place::{By, Place};
use super::table::{ROWS, Row, To};
use crate::support::{eventually, weft_path};

/// Requests a second, in all.
const RATE: u64 = 1000;
const REQUESTS: u64 = 20_000;

/// Who asks whom: rows of the table. From outside at the nodes' own addresses: the lab's balancer takes a node out as
/// soon as it is not Ready, and a node without an agent is not.
const STREAMS: [(&str, Place, To); 5] = [
    ("cluster-ip", Place::Pod("c1"), To::ClusterIp),
    ("cluster-ip", Place::Node("node-3"), To::ClusterIp),
    ("node-port", Place::Router, To::NodePort("node-1")),
    ("node-port", Place::Internet, To::NodePort("node-3")),
    ("balanced", Place::Pod("c3"), To::Balanced),
];

/// Kills every agent again and again while the requests go on.
pub(super) fn kills_under_load(dataplane: Dataplane) {
    let requests = std::env::var("WEFT_LOAD_REQUESTS")
        .ok()
        .and_then(|text| text.parse().ok());
    let requests: u64 = requests.unwrap_or(REQUESTS);
    let works = |row: &&Row| !row.gaps.contains(&dataplane);
    let rows: Vec<&Row> = ROWS.iter().filter(works).collect();
    let streams = STREAMS.iter().filter_map(|(id, from, to)| {
        let row = rows.iter().find(|row| row.id == *id)?;
        Some((*row, *from, *to))
    });
    let streams: Vec<(&Row, Place, To)> = streams.collect();
    let cast = Cast::new("load", dataplane, ROWS);
    let (rate, seconds) = (RATE / streams.len() as u64, requests.div_ceil(RATE));
    let mut loads = Vec::new();
    for (row, from, to) in &streams {
        let url = format!("http://{}/", to.address(&cast, row, By::Http, 0));
        eventually(&format!("{url} answers {from:?}"), || answers(&cast, *from, &url));
        loads.push((
            format!("{from:?} -> {:?} of {}", to, row.id),
            start(&cast, *from, &url, rate, seconds),
        ));
    }
    let mut kills = 0;
    while loads.iter_mut().any(|(_, load)| load.try_wait().unwrap().is_none()) {
        for node in ["node-1", "node-2", "node-3"] {
            kills += cast.lab.kill("agent", Some(node));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let mut sent = 0;
    for (what, load) in loads {
        let output = load.wait_with_output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["failed"], 0, "{what}: {report}");
        sent += report["sent"].as_u64().unwrap();
    }
    assert!(
        kills >= 3 && sent > 1000,
        "{kills} kills, {sent} of {requests} requests"
    );
    println!(
        "{dataplane:?}: 0 of {sent} requests failed in {} streams while agents were killed {kills} times",
        streams.len()
    );
}

/// A load that prints its report when it ends.
fn start(cast: &Cast, from: Place, url: &str, rate: u64, seconds: u64) -> Child {
    let load = [
        "load".to_owned(),
        url.to_owned(),
        format!("--rate={rate}"),
        format!("--seconds={seconds}"),
    ];
    let mut command = match from {
        Place::Pod(pod) => {
            let mut kubectl = cast.lab.kubectl_command();
            kubectl.args(["-n", NAMESPACE, "exec", pod, "--", "weft", "lab", "ask"]);
            kubectl
        }
        from => {
            let mut weft = Command::new(weft_path());
            weft.args(["lab", "ask", "--lab", cast.lab.name(), "--from", from.name()]);
            weft
        }
    };
    command
        .args(load)
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn answers(cast: &Cast, from: Place, url: &str) -> bool {
    let output = start(cast, from, url, 10, 1).wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    report["failed"] == 0
}
