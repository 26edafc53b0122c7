//! How long to wait before trying again.

use std::time::Duration;

use tokio::time::Instant;

/// Doubles from the first delay to the longest.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
    /// Not before this.
    pub(super) until: Option<Instant>,
}

impl Backoff {
    /// No delay yet.
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
            until: None,
        }
    }

    /// Something failed: how long to wait from now on.
    pub(super) fn fail(&mut self) -> Duration {
        let delay = self.next;
        self.until = Some(Instant::now() + delay);
        self.next = (delay * 2).min(self.longest);
        delay
    }

    /// All is well again.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
        self.until = None;
    }

    /// How long it is still to wait, if at all.
    pub(super) fn waiting(&self) -> Option<Instant> {
        self.until.filter(|until| *until > Instant::now())
    }
}

/// The delays of a container that keeps ending: none before the first restart, then 10 s doubling to 5 min; forgotten
/// after it has run for 10 min.
#[derive(Clone, Debug)]
pub(super) struct CrashLoop {
    backoff: Backoff,
    /// The first restart is free.
    crashed: bool,
    /// The delay that counts now, for messages.
    pub(super) delay: Duration,
}

impl CrashLoop {
    /// Of a container that has not crashed yet.
    pub(super) fn new() -> Self {
        Self {
            backoff: Backoff::new(Duration::from_secs(10), Duration::from_secs(300)),
            crashed: false,
            delay: Duration::ZERO,
        }
    }

    /// The container ended after running for so long.
    pub(super) fn ended(&mut self, ran: Duration) {
        if ran >= Duration::from_secs(600) {
            *self = Self::new();
        }
        if self.crashed {
            self.delay = self.backoff.fail();
        }
        self.crashed = true;
    }

    /// Until when it must not be started again.
    pub(super) fn waiting(&self) -> Option<Instant> {
        self.backoff.waiting()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crash_loop_as_users_know_it() {
        let mut crashes = CrashLoop::new();
        let delays: Vec<u64> = (0..8)
            .map(|_| {
                crashes.ended(Duration::from_secs(1));
                let left = crashes
                    .waiting()
                    .map_or(Duration::ZERO, |until| until.duration_since(Instant::now()));
                left.as_millis().div_ceil(1000) as u64
            })
            .collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
        crashes.ended(Duration::from_secs(700));
        assert_eq!(crashes.waiting(), None);
    }
}
