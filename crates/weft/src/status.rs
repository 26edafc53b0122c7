//! Shows whether every layer on every node is healthy, and what to do about those that are not.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use weft_cluster::node_network::{self, NodeView};
use weft_model::report::{Layer, LayerState, STALE_AFTER_SECONDS};

use crate::Output;
use crate::which_cluster::{Cluster, Problem};

/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Command line.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    cluster: Cluster,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Everything that is printed.
#[derive(Serialize)]
struct Status {
    healthy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    /// Why nothing is known about the nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
    nodes: Vec<NodeStatus>,
}

#[derive(Serialize)]
struct NodeStatus {
    name: String,
    /// Condition `Ready` of the Node.
    ready: bool,
    healthy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    layers: Vec<Layer>,
}

/// Runs the command. Succeeds where everything is healthy.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let status = crate::block_on(look(&args))?;
    match args.output {
        Output::Text => say!("{}", text(&status).trim_end()),
        Output::Json => say!(
            "{}",
            serde_json::to_string_pretty(&status).context("cannot write JSON")?
        ),
    }
    Ok(if status.healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn look(args: &Args) -> Status {
    let kubeconfig = match args.cluster.kubeconfig() {
        Ok(path) => path,
        Err(problem) => return Status::unknown(None, problem),
    };
    let client = match weft_cluster::connect(Some(&kubeconfig)).await {
        Ok(client) => client,
        Err(error) => {
            let remedy = "pass --kubeconfig, or --lab for a lab on this machine".into();
            return Status::unknown(
                None,
                Problem {
                    message: error.to_string(),
                    remedy,
                },
            );
        }
    };
    let server = Some(client.server().to_owned());
    match tokio::time::timeout(PATIENCE, node_network::read(&client)).await {
        Ok(Ok(nodes)) => Status::of(server, nodes, jiff::Timestamp::now()),
        Ok(Err(error)) => {
            let remedy = match &error {
                weft_cluster::Error::NoDefinition { .. } => "install Weft in this cluster, or start its agents",
                error if error.is_unreachable() => {
                    "check that the API server runs (a lab: `weft lab up`) and that this machine reaches it; \
                     running pods and services are not affected"
                }
                error if error.is_refused() => "use a kubeconfig that may read nodes and nodenetworks.weft.dev",
                _ => "see the API server's log",
            };
            Status::unknown(
                server,
                Problem {
                    message: error.to_string(),
                    remedy: remedy.into(),
                },
            )
        }
        Err(_) => {
            let message = format!("{} gave no answer within {} s", client.server(), PATIENCE.as_secs());
            let remedy = "check the API server; running pods and services are not affected".into();
            Status::unknown(server, Problem { message, remedy })
        }
    }
}

impl Status {
    fn unknown(server: Option<String>, problem: Problem) -> Self {
        Self {
            healthy: false,
            server,
            problem: Some(problem),
            nodes: vec![],
        }
    }

    fn of(server: Option<String>, views: impl IntoIterator<Item = (String, NodeView)>, now: jiff::Timestamp) -> Self {
        let nodes: Vec<NodeStatus> = views
            .into_iter()
            .map(|(name, view)| NodeStatus::of(name, view, now))
            .collect();
        let problem = nodes.is_empty().then(|| Problem {
            message: "the cluster has no nodes".into(),
            remedy: "add nodes; each of them runs `weft agent`".into(),
        });
        Self {
            healthy: !nodes.is_empty() && nodes.iter().all(|node| node.healthy),
            server,
            problem,
            nodes,
        }
    }
}

impl NodeStatus {
    fn of(name: String, view: NodeView, now: jiff::Timestamp) -> Self {
        let log = format!("see the log of `weft agent` on {name} (a lab: weft lab logs), and whether it runs");
        let (agent, mut layers) = match view.report {
            None => (None, vec![Layer::failed("agent", "has never reported", log)]),
            Some(report) => {
                let age = report
                    .heartbeat
                    .parse::<jiff::Timestamp>()
                    .ok()
                    .map(|at| now.as_second() - at.as_second());
                let first = match age {
                    Some(age) if age <= STALE_AFTER_SECONDS => None,
                    Some(age) => Some(Layer::failed("agent", format!("last reported {age} s ago"), log)),
                    None => Some(Layer::failed(
                        "agent",
                        format!("reported at {:?}", report.heartbeat),
                        log,
                    )),
                };
                (
                    Some(report.agent.version),
                    first.into_iter().chain(report.layers).collect(),
                )
            }
        };
        if !view.ready {
            let remedy = format!("see `kubectl describe node {name}`, Conditions");
            layers.push(Layer::failed("node", "is not Ready", remedy));
        }
        let healthy = layers.iter().all(|layer| layer.state == LayerState::Ok);
        Self {
            name,
            ready: view.ready,
            healthy,
            agent,
            layers,
        }
    }
}

fn text(status: &Status) -> String {
    let mut lines = vec![];
    for node in &status.nodes {
        let verdict = if node.healthy { "healthy" } else { "NOT HEALTHY" };
        let agent = node
            .agent
            .as_ref()
            .map(|version| format!(", agent {version}"))
            .unwrap_or_default();
        lines.push(format!("{}: {verdict}{agent}", node.name));
        for layer in &node.layers {
            let state = match layer.state {
                LayerState::Ok => "ok",
                LayerState::Degraded => "degraded",
                LayerState::Failed => "FAILED",
            };
            lines.push(format!("  {:<9} {state:<9} {}", layer.name, layer.message));
            lines.extend(
                layer
                    .remedy
                    .iter()
                    .map(|remedy| format!("  {:<9} {:<9} -> {remedy}", "", "")),
            );
        }
    }
    if let Some(problem) = &status.problem {
        lines.push(format!("{}\n  -> {}", problem.message, problem.remedy));
    } else {
        let healthy = status.nodes.iter().filter(|node| node.healthy).count();
        lines.push(format!("{healthy} of {} nodes are healthy", status.nodes.len()));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use weft_model::report::{AgentInfo, NodeReport};

    use super::*;

    const NOW: &str = "2026-01-01T00:00:20Z";

    fn status(views: Vec<(&str, bool, Option<NodeReport>)>) -> Status {
        let views = views
            .into_iter()
            .map(|(name, ready, report)| (name.to_owned(), NodeView { ready, report }));
        Status::of(None, views, NOW.parse().unwrap())
    }

    fn report(at: &str, layers: Vec<Layer>) -> Option<NodeReport> {
        Some(NodeReport::new(
            at.into(),
            AgentInfo {
                version: "0.1.0".into(),
                pid: 7,
            },
            layers,
        ))
    }

    #[test]
    fn all_well() {
        let status = status(vec![(
            "n1",
            true,
            report("2026-01-01T00:00:18Z", vec![Layer::ok("api", "connected")]),
        )]);
        assert!(status.healthy);
        assert_eq!(
            text(&status),
            "n1: healthy, agent 0.1.0\n  api       ok        connected\n1 of 1 nodes are healthy\n"
        );
    }

    #[test]
    fn silence_and_old_reports_are_failures_with_a_remedy() {
        let status = status(vec![
            ("n1", true, None),
            (
                "n2",
                true,
                report("2026-01-01T00:00:00Z", vec![Layer::ok("api", "connected")]),
            ),
            ("n3", false, report("2026-01-01T00:00:20Z", vec![])),
        ]);
        assert!(!status.healthy);
        let text = text(&status);
        assert!(
            text.contains("n1: NOT HEALTHY\n  agent     FAILED    has never reported\n"),
            "{text}"
        );
        assert!(
            text.contains("last reported 20 s ago") && text.contains("-> see the log"),
            "{text}"
        );
        assert!(text.contains("node      FAILED    is not Ready"), "{text}");
    }

    #[test]
    fn a_cluster_without_nodes_is_not_healthy() {
        let status = status(vec![]);
        assert!(!status.healthy && text(&status).contains("no nodes"));
    }

    #[test]
    fn machines_read_the_same() {
        let layers = vec![Layer::degraded("dns", "slow", "wait")];
        let json = serde_json::to_value(status(vec![("n1", true, report(NOW, layers))])).unwrap();
        assert_eq!(json["nodes"][0]["layers"][0]["state"], "degraded");
        assert_eq!(json["healthy"], false);
    }
}
