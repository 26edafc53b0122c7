//! Work by key: a key that is added twice is done once, one that fails is tried again later and later, and one that is
//! being worked on is not given to a second worker.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::Error;
use super::object::Key;

const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// The keys of one controller that have something to be done.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Key>,
    /// In `ready`, or to be put there when the running work on it ends.
    wanted: HashSet<Key>,
    running: HashSet<Key>,
    later: BTreeMap<(Instant, Key), ()>,
    failures: HashMap<Key, u32>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This key wants work now.
    pub(crate) fn add(&self, key: Key) {
        let mut state = self.lock();
        if state.wanted.insert(key.clone()) && !state.running.contains(&key) {
            state.ready.push_back(key);
            self.wake.notify_one();
        }
    }

    /// This key wants work after a while.
    pub(crate) fn add_after(&self, key: Key, delay: Duration) {
        self.lock().later.insert((Instant::now() + delay, key), ());
        self.wake.notify_one();
    }

    /// Waits for the next key to work on; `done` must follow.
    pub(crate) async fn next(&self) -> Key {
        loop {
            let due = {
                let mut state = self.lock();
                state.promote(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.wanted.remove(&key);
                    state.running.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.later.keys().next().map(|(due, _)| *due)
            };
            match due {
                None => self.wake.notified().await,
                Some(due) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                },
            }
        }
    }

    /// The work on a key ended; `failed` keys come again after their backoff.
    pub(crate) fn done(&self, key: Key, failed: bool) {
        let mut state = self.lock();
        state.running.remove(&key);
        if state.wanted.contains(&key) {
            state.ready.push_back(key.clone());
        }
        if failed {
            let failures = state.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            let backoff = FIRST_BACKOFF
                .saturating_mul(1 << (*failures - 1).min(16))
                .min(LONGEST_BACKOFF);
            state.later.insert((Instant::now() + backoff, key), ());
        } else {
            state.failures.remove(&key);
        }
        drop(state);
        self.wake.notify_one();
    }
}

impl State {
    /// Moves what is due from `later` to `ready`.
    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now
        {
            let ((_, key), ()) = entry.remove_entry();
            if self.wanted.insert(key.clone()) && !self.running.contains(&key) {
                self.ready.push_back(key);
            }
        }
    }
}

/// Brings one object to where it should be.
pub(crate) trait Reconcile: Send + Sync + 'static {
    /// For logs, such as `deployment`.
    fn name(&self) -> &'static str;

    /// Does what is to be done for `key`; says when to look again though nothing has changed.
    fn reconcile(&self, key: &Key) -> impl Future<Output = Result<Option<Duration>, Error>> + Send;
}

/// Works on a queue forever. A failure, even a panic, costs only the key it belongs to some time.
pub(crate) async fn work<R: Reconcile>(reconciler: Arc<R>, queue: Arc<Queue>, workers: usize) {
    let worker = || {
        let (reconciler, queue) = (reconciler.clone(), queue.clone());
        async move {
            loop {
                let key = queue.next().await;
                let (task, of) = (reconciler.clone(), key.clone());
                let outcome = tokio::spawn(async move { task.reconcile(&of).await }).await;
                let failed = match outcome {
                    Ok(Ok(again)) => {
                        if let Some(delay) = again {
                            queue.add_after(key.clone(), delay);
                        }
                        false
                    }
                    Ok(Err(error)) => {
                        if error.is_passing() {
                            tracing::debug!(controller = reconciler.name(), %key, %error, "trying again");
                        } else {
                            tracing::warn!(controller = reconciler.name(), %key, %error, "trying again later");
                        }
                        true
                    }
                    Err(panic) => {
                        tracing::error!(controller = reconciler.name(), %key, %panic, "the reconciler panicked");
                        true
                    }
                };
                queue.done(key, failed);
            }
        }
    };
    futures::future::join_all((0..workers).map(|_| worker())).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("a", name)
    }

    #[tokio::test]
    async fn keys_are_deduplicated_and_never_run_twice_at_once() {
        let queue = Queue::default();
        for name in ["x", "y", "x"] {
            queue.add(key(name));
        }
        assert_eq!(queue.next().await, key("x"));
        queue.add(key("x"));
        assert_eq!(queue.next().await, key("y"));
        let empty = tokio::time::timeout(Duration::from_millis(50), queue.next()).await;
        assert!(empty.is_err(), "x is still being worked on");
        queue.done(key("x"), false);
        assert_eq!(queue.next().await, key("x"));
    }

    #[tokio::test]
    async fn failures_come_back_later_and_later() {
        let queue = Queue::default();
        queue.add(key("x"));
        for at_least in [0, 10, 20, 40] {
            let start = Instant::now();
            assert_eq!(queue.next().await, key("x"));
            assert!(start.elapsed().as_millis() >= at_least);
            queue.done(key("x"), true);
        }
    }

    #[tokio::test]
    async fn a_panic_costs_one_key() {
        struct Picky(Arc<Queue>);
        impl Reconcile for Picky {
            fn name(&self) -> &'static str {
                "picky"
            }
            async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
                assert_ne!(key.name, "bad", "made to panic");
                self.0.add(Key::new("", "seen"));
                Ok(None)
            }
        }
        let (queue, seen) = (Arc::new(Queue::default()), Arc::new(Queue::default()));
        queue.add(key("bad"));
        queue.add(key("good"));
        tokio::spawn(work(Arc::new(Picky(seen.clone())), queue, 1));
        seen.next().await;
    }
}
