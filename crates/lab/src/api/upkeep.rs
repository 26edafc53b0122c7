//! What the server does by itself: the cluster's own objects come back if somebody deletes them, and old events go.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::ApiServer;
use super::store::Key;

const EVERY: Duration = Duration::from_secs(10);
/// As long as a real API server keeps events by default.
const EVENT_LIFE: SignedDuration = SignedDuration::from_hours(1);

impl ApiServer {
    /// Looks after the objects that are the server's own, until the task is dropped.
    pub async fn upkeep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(EVERY).await;
            if let Err(error) = self.bootstrap() {
                tracing::warn!(%error, "cannot restore the cluster's own objects");
            }
            self.forget_events(Timestamp::now());
        }
    }

    /// Removes the events that nothing has happened to for an hour.
    pub(super) fn forget_events(&self, now: Timestamp) {
        let old = |event: &Value| {
            let times = [
                "/lastTimestamp",
                "/series/lastObservedTime",
                "/eventTime",
                "/metadata/creationTimestamp",
            ];
            let time = |path: &&str| event.pointer(path)?.as_str()?.parse::<Timestamp>().ok();
            times
                .iter()
                .filter_map(time)
                .max()
                .is_some_and(|last| now.duration_since(last) > EVENT_LIFE)
        };
        let find = |index: &super::store::Index| -> Vec<Key> {
            let events = index.list("", "events", None).filter(|event| old(&event.value));
            events.map(|event| Key::of("", "events", &event.value)).collect()
        };
        if find(self.store.read().index()).is_empty() {
            return;
        }
        let removed = self.store.write(false, |txn| {
            for key in find(txn.index()) {
                txn.remove(key);
            }
            Ok(())
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "cannot remove old events");
        }
    }
}
