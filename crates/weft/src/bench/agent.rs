//! `weft bench agent`: the memory and the CPU time of a node's agent at rest, in a cluster of many nodes and endpoints
//! and with many pods of its own. The API is the lab's, filled with objects of nodes that do not exist.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use weft_lab::client::{Client, Res};

use super::Output;
use super::cni::plugin::{Plugin, Verb};
use super::netns::Netns;
use super::node::{Node, Process};
use super::report::{Report, Row};

const LAB: &str = "bench-agent";
/// Endpoints of each service.
const ENDPOINTS: u32 = 10;
/// What the agent may need: MiB, and percent of a core at rest.
const MEMORY_GOAL: f64 = 40.0;
const CPU_GOAL: f64 = 0.5;
/// At rest is who has used less than this of a core for a second.
const RESTS: f64 = 0.05;
/// What may come to rest for that long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Command line.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Output,
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=5000))]
    nodes: u32,
    /// Pods of the cluster, ten behind each service.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(10..=50_000))]
    pods: u32,
    /// Pods on the agent's node.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=400))]
    local: u32,
    /// For how many seconds the agent is watched at rest.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
}

/// Measures.
pub(super) fn run(args: &Args) -> Result<Report> {
    let node = Node::start(LAB)?;
    let agent = node.agent()?;
    let empty = measure(agent, args.seconds)?;
    eprintln!("filling the API: {} nodes, {} endpoints", args.nodes, args.pods);
    crate::block_on(fill(&Client::unix(node.lab().api_socket()), args))??;
    let sandboxes = (0..args.local).map(|_| Netns::new()).collect::<Result<Vec<_>>>()?;
    node.enter(|| {
        let plugin = Plugin::weft()?;
        let mut numbered = sandboxes.iter().enumerate();
        numbered.try_for_each(|(number, sandbox)| {
            plugin
                .call(Verb::Add, &format!("resident-{number}"), Some(sandbox))
                .map(drop)
        })
    })?;
    let full = measure(agent, args.seconds)?;
    // One that starts in such a cluster has no history, and needs what it needs at once.
    weft_lab::up::restart(node.lab(), "agent", None)?;
    let started = Instant::now();
    let fresh = loop {
        match node.agent() {
            Ok(next) if next != agent => break next,
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
        anyhow::ensure!(
            started.elapsed() < PATIENCE,
            "the agent is not started again; see its log"
        );
    };
    let again = measure(fresh, args.seconds)?;
    let name = format!(
        "{} nodes, {} endpoints, {} pods here",
        args.nodes, args.pods, args.local
    );
    Ok(Report::new(rows(&[
        ("empty cluster".into(), empty),
        (name.clone(), full),
        (format!("{name}, after a restart"), again),
    ])))
}

/// What an agent needs.
#[derive(Clone, Copy)]
struct Needs {
    /// MiB.
    memory: f64,
    /// MiB, at most until then.
    peak: f64,
    /// Percent of a core, at rest.
    cpu: f64,
}

/// Waits until the agent rests, then watches it.
fn measure(agent: Process, seconds: u32) -> Result<Needs> {
    let share = |over: Duration| -> Result<f64> {
        let (start, before) = (Instant::now(), agent.cpu()?);
        std::thread::sleep(over);
        Ok((agent.cpu()? - before).as_secs_f64() / start.elapsed().as_secs_f64())
    };
    let started = Instant::now();
    while share(Duration::from_secs(1))? > RESTS && started.elapsed() < PATIENCE {}
    let cpu = 100.0 * share(Duration::from_secs(seconds.into()))?;
    Ok(Needs {
        memory: agent.memory("VmRSS")?,
        peak: agent.memory("VmHWM")?,
        cpu,
    })
}

fn rows(all: &[(String, Needs)]) -> Vec<Row> {
    let mut rows = vec![];
    type Of = fn(&Needs) -> f64;
    let works: [(&'static str, &'static str, Of, Option<f64>); 3] = [
        ("memory", "MiB", |needs| needs.memory, Some(MEMORY_GOAL)),
        ("memory at most", "MiB", |needs| needs.peak, None),
        ("core at rest", "%", |needs| needs.cpu, Some(CPU_GOAL)),
    ];
    for (work, unit, of, goal) in works {
        let limit = all.first().map_or(f64::NAN, |(_, needs)| of(needs));
        for (subject, needs) in all {
            rows.push(Row {
                work,
                subject: subject.clone(),
                value: of(needs),
                unit,
                ratio: of(needs) / limit,
                goal: goal.map(|goal| goal / limit),
                met: None,
            });
        }
    }
    rows
}

/// Nodes with ranges and addresses, and services with endpoints on them.
async fn fill(client: &Client, args: &Args) -> Result<()> {
    let ctx = |what: &str, number: u32| format!("cannot create {what} {number}");
    for number in 0..args.nodes {
        let node = client.create(&Res::dynamic("", "v1", "nodes"), "", &node(number)).await;
        node.with_context(|| ctx("node", number))?;
    }
    for number in 0..args.pods / ENDPOINTS {
        let service = client
            .create(&Res::dynamic("", "v1", "services"), "default", &service(number))
            .await;
        service.with_context(|| ctx("service", number))?;
        let slice = slice(number, args.nodes);
        let slice = client
            .create(
                &Res::dynamic("discovery.k8s.io", "v1", "endpointslices"),
                "default",
                &slice,
            )
            .await;
        slice.with_context(|| ctx("endpoints", number))?;
    }
    Ok(())
}

/// A node on the lab's segment; its pods' addresses are no other's.
fn node(number: u32) -> Value {
    let (high, low) = (number / 200, number % 200);
    let ranges = [
        format!("10.{}.{low}.0/24", 128 + high),
        format!("fd00:128:{number:x}::/64"),
    ];
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("simulated-{number}")},
        "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("10.89.{}.{}", 1 + high, 1 + low)}]}
    })
}

fn service(number: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("simulated-{number}")},
        "spec": {"ports": [{"port": 80, "targetPort": 8080}]}
    })
}

fn slice(number: u32, nodes: u32) -> Value {
    let endpoint = |index: u32| {
        let pod = number * ENDPOINTS + index;
        let on = pod % nodes;
        let ip = format!("10.{}.{}.{}", 128 + on / 200, on % 200, 2 + pod / nodes);
        json!({
            "addresses": [ip], "nodeName": format!("simulated-{on}"), "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("simulated-{number}-{index}")}
        })
    };
    let endpoints: Vec<Value> = (0..ENDPOINTS).map(endpoint).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("simulated-{number}"),
            "labels": {"kubernetes.io/service-name": format!("simulated-{number}")}
        },
        "endpoints": endpoints, "ports": [{"port": 8080, "protocol": "TCP"}]
    })
}
