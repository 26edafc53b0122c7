//! Grace periods of the kernel's RCU, made short while a pod's hook is attached or removed.
//!
//! The kernel attaches a tcx program, and takes it off, only after a grace period: until every processor has been seen
//! outside of what read the old list. It waits for that under its lock on all network configuration, 7 to 19 ms at a
//! time, in which no pod of the node can start. An expedited grace period asks the processors instead of waiting for
//! them (0.1 ms). The kernel's own network code does so wherever it waits under that lock, tcx does not; the switch
//! for it is one for the whole machine, so it is on for as long as the request takes and not longer.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

const SWITCH: &str = "/sys/kernel/rcu_expedited";

/// How many requests want it now.
static WANTED: Mutex<u32> = Mutex::new(0);

/// While this lives, grace periods are expedited, where the switch can be set: otherwise everything only takes longer.
pub(crate) struct Expedited {
    /// It was this process that set the switch, or will have to.
    counted: bool,
}

impl Expedited {
    pub(crate) fn start() -> Self {
        let mut wanted = WANTED.lock().unwrap_or_else(PoisonError::into_inner);
        if *wanted == 0 && (is_on() || !set(true)) {
            // An administrator's choice, or another agent on this machine is at it.
            return Self { counted: false };
        }
        *wanted += 1;
        Self { counted: true }
    }
}

impl Drop for Expedited {
    fn drop(&mut self) {
        if self.counted {
            let mut wanted = WANTED.lock().unwrap_or_else(PoisonError::into_inner);
            *wanted -= 1;
            if *wanted == 0 {
                set(false);
            }
        }
    }
}

/// Takes back what an agent left that was killed while it attached a hook. What the kernel was started with stays.
pub(crate) fn recover() {
    let asked_for = std::fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.contains("rcu_expedited"));
    if is_on() && !asked_for {
        set(false);
    }
}

/// Whether pods attach quickly on this node.
pub(crate) fn available() -> bool {
    nix::unistd::access(Path::new(SWITCH), nix::unistd::AccessFlags::W_OK).is_ok()
}

fn is_on() -> bool {
    std::fs::read_to_string(SWITCH).is_ok_and(|text| text.trim() != "0")
}

fn set(on: bool) -> bool {
    std::fs::write(SWITCH, if on { "1" } else { "0" }).is_ok()
}
