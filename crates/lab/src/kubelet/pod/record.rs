//! What is remembered of a container on disk, so that a new kubelet takes over what an earlier one started.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::kubelet::config::write_atomically;

/// One run of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Instance {
    /// The runtime's name of it.
    pub(super) id: String,
    /// How many ran before it.
    pub(super) number: u32,
    /// Its first process, and when that started, in the kernel's ticks.
    pub(super) pid: i32,
    pub(super) ticks: Option<u64>,
    pub(super) started_at: Timestamp,
    pub(super) image_id: String,
    pub(super) stop_signal: String,
    /// How it ended, once it has.
    pub(super) end: Option<End>,
}

/// The end of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) code: i32,
    pub(super) signal: Option<i32>,
    pub(super) reason: String,
    pub(super) message: Option<String>,
    pub(super) at: Timestamp,
}

/// All that is remembered of one container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The newest run.
    pub(super) current: Option<Instance>,
    /// The one before.
    pub(super) last: Option<Instance>,
    /// Runs before the first one recorded here (on an earlier life of the node).
    pub(super) base: u32,
}

impl Record {
    /// Reads what an earlier kubelet left.
    pub(super) fn load(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(dir.join("record.json")).ok()?).ok()
    }

    /// Writes it down. A failure costs only the memory of it.
    pub(super) fn save(&self, dir: &Path) {
        let text = serde_json::to_vec(self).unwrap_or_default();
        if let Err(error) = write_atomically(&dir.join("record.json"), &text) {
            tracing::warn!(dir = %dir.display(), %error, "cannot write down a container's state");
        }
    }

    /// How often the container has been restarted.
    pub(super) fn restarts(&self) -> u32 {
        self.current.as_ref().map_or(self.base, |current| current.number)
    }

    /// The number of the next run.
    pub(super) fn next_number(&self) -> u32 {
        self.current.as_ref().map_or(self.base, |current| current.number + 1)
    }

    /// The newest run, while it runs.
    pub(super) fn running(&self) -> Option<&Instance> {
        self.current.as_ref().filter(|current| current.end.is_none())
    }

    /// The newest run's end.
    pub(super) fn ended(&self) -> Option<&End> {
        self.current.as_ref()?.end.as_ref()
    }
}
