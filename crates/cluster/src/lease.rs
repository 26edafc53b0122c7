//! Which of several processes is the one that acts: a `Lease`, held and renewed as client-go's leader election does
//! it, so that both understand each other.
//!
//! A leader that cannot renew for [`RENEW_DEADLINE`] stops by itself; others wait until they have seen no renewal
//! for [`DURATION`], by their own clock. What lies between is longer than any write of a leader takes, on the server
//! too ([`WRITE_LIMIT`](crate::custom::WRITE_LIMIT)), so that none of the old leader's lands after the new one began.
//!
//! A leader that is known to have ended is waited for only as long as what it sent may still be under way
//! ([`SETTLE`]).

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tracing::{debug, info};

use crate::client::Client;
use crate::error::Error;

/// How long others wait for a leader that is silent.
pub const DURATION: Duration = Duration::from_secs(15);
/// How long others wait for a leader of which they know that it has ended: longer than a write that it sent last
/// can take.
pub const SETTLE: Duration = Duration::from_secs(5);
/// How long a leader goes on without having renewed.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often it renews, and others look.
pub const RETRY: Duration = Duration::from_secs(2);
/// The first attempts follow each other faster: a controller may be started a moment before the API server.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// One candidate.
pub struct Election {
    client: Client,
    api: Api<Lease>,
    name: String,
    identity: String,
    has_ended: Box<dyn Fn(&str) -> bool + Send>,
    /// What the Lease said last, and since when it says that.
    seen: Option<(LeaseSpec, Instant)>,
    /// Whether this process has held the Lease: before that, whoever holds it under this identity is an earlier one.
    held: bool,
}

impl Election {
    /// A candidate for a Lease. No two processes may have the same identity at a time; one after the other may.
    /// `has_ended` is true of a holder of which this process knows for certain that it runs no more.
    pub fn new(
        client: &Client,
        namespace: &str,
        name: &str,
        identity: &str,
        has_ended: impl Fn(&str) -> bool + Send + 'static,
    ) -> Self {
        Self {
            client: client.clone(),
            api: Api::namespaced(client.kube.clone(), namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            has_ended: Box::new(has_ended),
            seen: None,
            held: false,
        }
    }

    /// Waits until this process leads. What fails meanwhile is told to `on_error`, and tried again.
    pub async fn acquire(&mut self, mut on_error: impl FnMut(&Error)) {
        let mut pause = FIRST_PAUSE;
        loop {
            match tokio::time::timeout(RENEW_DEADLINE, self.try_once()).await {
                Ok(Ok(true)) => {
                    self.held = true;
                    info!(lease = self.name, identity = self.identity, "leading");
                    return;
                }
                Ok(Ok(false)) => debug!(lease = self.name, holder = self.holder(), "somebody else leads"),
                Ok(Err(error)) => on_error(&error),
                Err(_) => on_error(&self.client.silent(format!("read Lease {}", self.name), RENEW_DEADLINE)),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY);
        }
    }

    /// Renews for as long as that can be done. Returns why this process leads no more: it must stop at once.
    pub async fn renew(&mut self) -> String {
        let mut renewed = Instant::now();
        let mut why = "the API server has not answered".to_owned();
        loop {
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            if left.is_zero() {
                return format!(
                    "the Lease could not be renewed for {} s: {why}",
                    RENEW_DEADLINE.as_secs()
                );
            }
            tokio::time::sleep(RETRY.min(left)).await;
            // What is renewed counts from when that was asked for.
            let asked = Instant::now();
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.try_once()).await {
                Ok(Ok(true)) => renewed = asked,
                Ok(Ok(false)) => return format!("{} leads now", self.holder()),
                Ok(Err(error)) => why = error.to_string(),
                Err(_) => {}
            }
        }
    }

    /// Lets others lead at once. Nothing that was begun as leader may be under way.
    pub async fn release(&mut self) -> Result<(), Error> {
        let what = format!("release Lease {}", self.name);
        let found = self
            .api
            .get(&self.name)
            .await
            .map_err(|source| self.client.failed(&what, source))?;
        let Some(mut spec) = found.spec.clone().filter(|spec| holder(spec) == self.identity) else {
            return Ok(());
        };
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        self.write(found.metadata, spec).await?;
        Ok(())
    }

    /// True where the Lease is this process's now.
    async fn try_once(&mut self) -> Result<bool, Error> {
        let what = format!("read Lease {}", self.name);
        let found = self
            .api
            .get_opt(&self.name)
            .await
            .map_err(|source| self.client.failed(what, source))?;
        let Some(lease) = found else { return self.create().await };
        let spec = lease.spec.unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != spec) {
            self.seen = Some((spec.clone(), Instant::now()));
        }
        let silent = self.seen.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        match next(&spec, self.standing(&spec), silent, &self.identity, Timestamp::now()) {
            Some(spec) => self.write(lease.metadata, spec).await,
            None => Ok(false),
        }
    }

    fn standing(&self, spec: &LeaseSpec) -> Holder {
        match holder(spec) {
            "" => Holder::Nobody,
            holder if holder == self.identity && self.held => Holder::Me,
            holder if holder == self.identity || (self.has_ended)(holder) => Holder::Ended,
            _ => Holder::Another,
        }
    }

    async fn create(&mut self) -> Result<bool, Error> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            spec: next(
                &LeaseSpec::default(),
                Holder::Nobody,
                Duration::ZERO,
                &self.identity,
                Timestamp::now(),
            ),
        };
        match self.api.create(&PostParams::default(), &lease).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(source) => Err(self.client.failed(format!("create Lease {}", self.name), source)),
        }
    }

    /// The metadata has the version that was read, so that of two candidates one succeeds.
    async fn write(&mut self, metadata: ObjectMeta, spec: LeaseSpec) -> Result<bool, Error> {
        let lease = Lease {
            metadata,
            spec: Some(spec),
        };
        match self.api.replace(&self.name, &PostParams::default(), &lease).await {
            Ok(written) => {
                self.seen = written.spec.map(|spec| (spec, Instant::now()));
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(source) => Err(self.client.failed(format!("write Lease {}", self.name), source)),
        }
    }

    fn holder(&self) -> &str {
        self.seen.as_ref().map_or("nobody", |(spec, _)| holder(spec))
    }
}

fn holder(spec: &LeaseSpec) -> &str {
    spec.holder_identity.as_deref().unwrap_or_default()
}

/// Who holds a Lease, as one candidate sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// It has been released, or never held.
    Nobody,
    Me,
    /// Somebody who runs no more, but may have a write under way.
    Ended,
    Another,
}

/// What this candidate may write into a Lease that has said the same for so long; `None` where another one leads.
fn next(spec: &LeaseSpec, by: Holder, silent: Duration, identity: &str, now: Timestamp) -> Option<LeaseSpec> {
    let seconds = spec.lease_duration_seconds.unwrap_or_default().max(0).unsigned_abs();
    let granted = Duration::from_secs(seconds.into());
    let wait = match by {
        Holder::Nobody | Holder::Me => Duration::ZERO,
        Holder::Ended => granted.min(SETTLE),
        Holder::Another => granted,
    };
    if silent < wait {
        return None;
    }
    let mine = by == Holder::Me;
    let first = spec.holder_identity.is_none();
    let transitions = spec.lease_transitions.unwrap_or_default() + i32::from(!mine && !first);
    Some(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(DURATION.as_secs() as i32),
        acquire_time: if mine {
            spec.acquire_time.clone()
        } else {
            Some(MicroTime(now))
        },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(transitions),
        ..spec.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::custom::WRITE_LIMIT;

    fn taken(spec: &LeaseSpec, by: Holder, silent: u64, identity: &str) -> Option<LeaseSpec> {
        next(spec, by, Duration::from_secs(silent), identity, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_mine_or_silent_for_too_long() {
        let first = taken(&LeaseSpec::default(), Holder::Nobody, 0, "a").unwrap();
        assert_eq!((holder(&first), first.lease_transitions), ("a", Some(0)));
        assert_eq!(taken(&first, Holder::Another, 14, "b"), None);
        assert_eq!(taken(&first, Holder::Me, 1, "a").unwrap().lease_transitions, Some(0));
        let other = taken(&first, Holder::Another, 15, "b").unwrap();
        assert_eq!((holder(&other), other.lease_transitions), ("b", Some(1)));
        let released = LeaseSpec {
            holder_identity: Some(String::new()),
            ..other
        };
        let again = taken(&released, Holder::Nobody, 0, "a").unwrap();
        assert_eq!(again.lease_transitions, Some(2));
    }

    #[test]
    fn who_has_ended_is_waited_for_only_until_its_last_write_is_over() {
        let first = taken(&LeaseSpec::default(), Holder::Nobody, 0, "a").unwrap();
        assert_eq!(taken(&first, Holder::Ended, WRITE_LIMIT.as_secs(), "b"), None);
        let other = taken(&first, Holder::Ended, SETTLE.as_secs(), "b").unwrap();
        assert_eq!((holder(&other), other.lease_transitions), ("b", Some(1)));
    }

    #[test]
    fn what_a_leader_has_under_way_ends_before_the_next_one_begins() {
        assert!(RENEW_DEADLINE + WRITE_LIMIT < DURATION);
        assert!(WRITE_LIMIT < SETTLE);
    }
}
