//! What a node says about its network: one report with a verdict for each layer and, where something is wrong,
//! what to do about it. The agent writes it, `weft status` reads it.

use serde::{Deserialize, Serialize};

/// How long a report may be silent before its node counts as failed.
pub const STALE_AFTER_SECONDS: i64 = 15;

/// The status of a `NodeNetwork`: everything one agent knows about the network of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeReport {
    /// When the report was written (RFC 3339).
    pub heartbeat: String,
    /// Who wrote it.
    pub agent: AgentInfo,
    /// True where every layer is ok.
    pub healthy: bool,
    /// The first layer that is not ok, with its message; empty where all are.
    pub problem: String,
    /// The layers, from the bottom up.
    pub layers: Vec<Layer>,
}

/// The process that wrote a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentInfo {
    /// Version of the agent.
    pub version: String,
    /// Its process id on the node.
    pub pid: u32,
}

/// One layer of a node's network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// `api`, `kernel`, `pods`, `isolation`, `services`, `routes`, `dns` or `cni`.
    pub name: String,
    /// The verdict.
    pub state: LayerState,
    /// What was found.
    pub message: String,
    /// What to do, where the layer is not ok.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// How a layer is doing; the later, the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerState {
    /// Does its work.
    Ok,
    /// Works, but not wholly, or not for long.
    Degraded,
    /// Does not do its work.
    Failed,
}

impl Layer {
    /// A layer that does its work.
    pub fn ok(name: &str, message: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state: LayerState::Ok,
            message: message.into(),
            remedy: None,
        }
    }

    /// A layer that works partly, and what to do about it.
    pub fn degraded(name: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state: LayerState::Degraded,
            message: message.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// A layer that does not work, and what to do about it.
    pub fn failed(name: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state: LayerState::Failed,
            message: message.into(),
            remedy: Some(remedy.into()),
        }
    }
}

impl NodeReport {
    /// Puts a report together; the summary follows from the layers.
    pub fn new(heartbeat: String, agent: AgentInfo, layers: Vec<Layer>) -> Self {
        let worst = layers
            .iter()
            .filter(|layer| layer.state != LayerState::Ok)
            .max_by_key(|layer| layer.state);
        let problem = worst
            .map(|layer| format!("{}: {}", layer.name, layer.message))
            .unwrap_or_default();
        Self {
            heartbeat,
            agent,
            healthy: worst.is_none(),
            problem,
            layers,
        }
    }

    /// True where both say the same, whenever they said it.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.agent == other.agent && self.layers == other.layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_the_worst_layer() {
        let layers = vec![
            Layer::ok("api", "connected"),
            Layer::degraded("dns", "slow", "wait"),
            Layer::failed("pods", "no pod CIDR", "give the node one"),
        ];
        let report = NodeReport::new("now".into(), AgentInfo::default(), layers);
        assert!(!report.healthy);
        assert_eq!(report.problem, "pods: no pod CIDR");
        assert!(NodeReport::new("now".into(), AgentInfo::default(), vec![Layer::ok("api", "")]).healthy);
    }
}
