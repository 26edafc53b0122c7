//! The latest changes of one resource. Watches read from it at their own pace; nobody waits for a slow one,
//! which instead learns that it has fallen behind.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Object;

/// How many changes of a resource are kept.
const KEPT: usize = 2048;

/// One write.
#[derive(Clone, Debug)]
pub struct Change {
    /// The object after the write; of a deleted one, its last state.
    pub object: Arc<Object>,
    /// The object before the write.
    pub old: Option<Arc<Object>>,
    /// The object is gone.
    pub deleted: bool,
}

/// The history no longer reaches back to what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Watching is possible from this resource version on.
    pub oldest: u64,
}

/// The latest changes of one resource.
#[derive(Debug)]
pub struct History {
    ring: Mutex<Ring>,
    latest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Ring {
    changes: VecDeque<Change>,
    /// The version of the last change that is no longer in `changes`.
    forgotten: u64,
}

impl History {
    pub(super) fn new(forgotten: u64) -> Self {
        let ring = Ring {
            changes: VecDeque::new(),
            forgotten,
        };
        Self {
            ring: Mutex::new(ring),
            latest: watch::Sender::new(forgotten),
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, change: Change) {
        let version = change.object.version;
        let mut ring = self.ring();
        ring.changes.push_back(change);
        if ring.changes.len() > KEPT
            && let Some(first) = ring.changes.pop_front()
        {
            ring.forgotten = first.object.version;
        }
        drop(ring);
        self.latest.send_replace(version);
    }

    /// Follows the changes after `version`.
    pub fn follow(self: &Arc<Self>, version: u64) -> Result<Follower, Expired> {
        let follower = Follower {
            history: self.clone(),
            version,
            latest: self.latest.subscribe(),
        };
        follower.pending().map(|_| follower)
    }
}

/// A reader of a history.
#[derive(Debug)]
pub struct Follower {
    history: Arc<History>,
    version: u64,
    latest: watch::Receiver<u64>,
}

impl Follower {
    fn pending(&self) -> Result<Vec<Change>, Expired> {
        let ring = self.history.ring();
        if self.version < ring.forgotten {
            return Err(Expired { oldest: ring.forgotten });
        }
        let first = ring
            .changes
            .partition_point(|change| change.object.version <= self.version);
        Ok(ring.changes.range(first..).cloned().collect())
    }

    /// The changes since the last call, without waiting; none is an empty list.
    pub fn take(&mut self) -> Result<Vec<Change>, Expired> {
        self.latest.mark_unchanged();
        let changes = self.pending()?;
        if let Some(last) = changes.last() {
            self.version = last.object.version;
        }
        Ok(changes)
    }

    /// Waits until there may be changes to take.
    pub async fn changed(&mut self) {
        // The sender lives in `history`, so this ends only with a change.
        let _ = self.latest.changed().await;
    }
}
