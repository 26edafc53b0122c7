//! Where calls come from, and how many are made at once from there.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::cast::Cast;
use crate::support::weft_path;

/// Somebody who calls a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A pod, by name.
    Pod(&'static str),
    /// A process of a node.
    Node(&'static str),
    /// A machine on the nodes' own segment.
    Router,
    /// A machine beyond the router.
    Internet,
}

impl Place {
    /// The addresses that calls from here have at the start, IPv4 first.
    pub(super) fn addresses(self, cast: &Cast) -> Vec<IpAddr> {
        let texts = match self {
            Place::Pod(pod) => return cast.pod(pod).to_vec(),
            Place::Node(node) => return cast.node(node).to_vec(),
            Place::Router => ["10.89.0.1", "fd89::1"],
            Place::Internet => ["198.51.100.10", "2001:db8::a"],
        };
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// As `weft lab ask --from` knows it; for a pod, its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Place::Pod(name) | Place::Node(name) => name,
            Place::Router => "router",
            Place::Internet => "internet",
        }
    }

    /// Asks all of these at once; an outcome for each.
    pub(super) fn ask(self, cast: &Cast, questions: &[Question]) -> Vec<Outcome> {
        let input = json!(questions.iter().map(Question::json).collect::<Vec<_>>()).to_string();
        let said = match self {
            Place::Pod(pod) => {
                let command = [
                    "-n",
                    super::cast::NAMESPACE,
                    "exec",
                    "-i",
                    pod,
                    "--",
                    "weft",
                    "lab",
                    "ask",
                    "batch",
                ];
                cast.lab.kubectl_stdin(&command, &input)
            }
            _ => from(cast, self.name(), &input),
        };
        let outcomes: Vec<Value> = serde_json::from_str(&said.stdout)
            .unwrap_or_else(|error| panic!("{self:?}: {error}: {}{}", said.stdout, said.stderr));
        outcomes.iter().map(Outcome::of).collect()
    }
}

fn from(cast: &Cast, place: &str, input: &str) -> crate::support::Said {
    let mut weft = Command::new(weft_path());
    weft.args(["lab", "ask", "--lab", cast.lab.name(), "--from", place, "batch"]);
    let mut child = weft
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

/// How something is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Tcp,
    Udp,
    /// A datagram that takes three packets.
    LargeUdp,
    /// A request; only loads are made of them.
    Http,
}

/// One call.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) by: By,
    pub(super) to: SocketAddr,
    pub(super) from_port: u16,
}

impl Question {
    fn json(&self) -> Value {
        let by = match self.by {
            By::Tcp => "tcp",
            By::Udp | By::LargeUdp => "udp",
            By::Http => "http",
        };
        let size = if self.by == By::LargeUdp { 4000 } else { 0 };
        json!({"by": by, "address": self.to.to_string(), "from_port": self.from_port, "size": size, "patience_ms": 1500})
    }
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Who answered, and whom they saw.
    Answer {
        pod: String,
        client: IpAddr,
    },
    Refused,
    Silence,
    Failed(String),
}

impl Outcome {
    fn of(outcome: &Value) -> Self {
        if outcome["refused"].is_string() {
            return Self::Refused;
        }
        if outcome["silence"].is_string() {
            return Self::Silence;
        }
        // As the kernel tells a process of the node whose own datagram a rule rejects, of kube-proxy's as well.
        let failed = outcome["failed"].as_str().unwrap_or_default();
        if failed.contains("Operation not permitted") {
            return Self::Refused;
        }
        let Some(answer) = outcome["answer"].as_str() else {
            return Self::Failed(outcome.to_string());
        };
        // As the test server writes it: pod=NAME node=NAME client=ADDRESS:PORT
        let field = |name: &str| answer.split(' ').find_map(|word| word.strip_prefix(name));
        match (
            field("pod="),
            field("client=").and_then(|client| client.parse::<SocketAddr>().ok()),
        ) {
            (Some(pod), Some(client)) => Self::Answer {
                pod: pod.to_owned(),
                client: client.ip(),
            },
            _ => Self::Failed(outcome.to_string()),
        }
    }
}
