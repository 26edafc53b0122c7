//! What a pod may send in a time, enforced where its packets enter the node: out of reach of whoever is root in the pod.
//!
//! A token bucket, kept as the time at which it will be full again (the generic cell rate algorithm, ITU-T I.371): one
//! number, which all CPUs change.

const NANOSECONDS: u64 = 1_000_000_000;

/// How often a packet tries to get its part before another CPU's packet does.
const ATTEMPTS: u32 = 4;

/// Bytes of headers that each packet has of those which the kernel carries as one: Ethernet, IPv4 and TCP without options.
const HEADERS: u64 = 14 + 20 + 20;

/// Bytes that a packet of the kernel's stands for on a wire: it may be many segments with headers of their own.
#[inline(always)]
pub fn on_wire(len: u32, segments: u32) -> u64 {
    let further = segments.saturating_sub(1);
    len as u64 + further as u64 * HEADERS
}

/// A number that all CPUs change.
pub trait Shared {
    /// What it is.
    fn load(&self) -> u64;
    /// Makes it `new` if it is `old`, in one step. False where it was another.
    fn replace(&self, old: u64, new: u64) -> bool;
}

/// Takes a packet of so many bytes out of the bucket, if it holds as much; a full bucket gives any packet.
///
/// `full_at` is when the bucket will be full again, `now` the same clock, both in nanoseconds. `rate` is in bytes per
/// second, `room` the time in which the bucket fills, in nanoseconds. A rate of 0 lets nothing pass.
#[inline(always)]
pub fn take(full_at: &impl Shared, rate: u64, room: u64, bytes: u64, now: u64) -> bool {
    if rate == 0 {
        return false;
    }
    let time = bytes * NANOSECONDS / rate;
    for _ in 0..ATTEMPTS {
        let before = full_at.load();
        if before > now && before - now + time > room {
            return false;
        }
        // What has flowed over is lost.
        let start = if before > now { before } else { now };
        if full_at.replace(before, start + time) {
            return true;
        }
    }
    // Others took it each time.
    false
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    impl Shared for AtomicU64 {
        fn load(&self) -> u64 {
            AtomicU64::load(self, Relaxed)
        }

        fn replace(&self, old: u64, new: u64) -> bool {
            self.compare_exchange(old, new, Relaxed, Relaxed).is_ok()
        }
    }

    const SECOND: u64 = NANOSECONDS;

    /// How many bytes pass in packets of such a size, one each so many nanoseconds, in a time.
    fn passed(rate: u64, room: u64, bytes: u64, each: u64, time: u64) -> u64 {
        let (full_at, start) = (AtomicU64::new(0), 3600 * SECOND);
        let sent = (0..time / each).filter(|n| take(&full_at, rate, room, bytes, start + n * each));
        sent.count() as u64 * bytes
    }

    #[test]
    fn a_flood_gets_the_rate_and_one_bucket() {
        // 10 Mbit/s with 20 ms, flooded with ten times as much, for 5 s.
        let got = passed(1_250_000, SECOND / 50, 1514, 120_000, 5 * SECOND);
        let most = 1_250_000 * 5 + 1_250_000 / 50;
        assert!((most - 2 * 1514..=most).contains(&got), "{got} of {most}");
    }

    #[test]
    fn who_keeps_to_the_rate_loses_nothing() {
        // 1,000 bytes each millisecond at 1 MB/s.
        assert_eq!(passed(1_000_000, SECOND / 100, 1000, 1_000_000, SECOND), 1_000_000);
    }

    #[test]
    fn rest_does_not_add_up_and_a_large_packet_passes_a_full_bucket() {
        let full_at = AtomicU64::new(0);
        let at = |now: u64| take(&full_at, 1_000_000, SECOND / 100, 60_000, now);
        assert!(at(SECOND));
        assert!(!at(SECOND));
        assert!(!at(SECOND + SECOND / 20));
        assert!(at(3600 * SECOND));
        assert!(!at(3600 * SECOND + 1));
    }

    #[test]
    fn segments_have_headers_each() {
        assert_eq!(on_wire(1514, 0), 1514);
        assert_eq!(on_wire(1514, 1), 1514);
        assert_eq!(on_wire(54 + 3 * 1460, 3), 3 * 1514);
        assert!(!take(&AtomicU64::new(0), 0, SECOND, 1, SECOND));
    }

    #[test]
    fn many_get_together_what_one_gets() {
        let full_at = AtomicU64::new(0);
        // A bucket of 1,000 packets, at a time that stands still.
        let flood = || {
            (0..10_000)
                .filter(|_| take(&full_at, 1_000_000, SECOND, 1000, SECOND))
                .count()
        };
        let got: usize = std::thread::scope(|scope| {
            let all: std::vec::Vec<_> = (0..4).map(|_| scope.spawn(flood)).collect();
            all.into_iter().map(|one| one.join().unwrap()).sum()
        });
        assert_eq!(got, 1000);
    }
}
