//! Who a controller is, in words from which another process of the same machine can tell whether it still runs: so
//! that the successor of one that was killed need not wait until its Lease has run out.

use std::fmt;
use std::fs;
use std::str::FromStr;

use anyhow::Context as _;

/// A process, told apart from every other there ever was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    host: String,
    /// Which start of which machine.
    boot: String,
    /// Inode of the namespace that the process's number is of.
    namespace: u64,
    pid: u32,
    /// Clock ticks from the machine's start to the process's.
    started: u64,
}

impl Process {
    /// This process.
    pub(super) fn current() -> anyhow::Result<Self> {
        let host = nix::unistd::gethostname().context("cannot read the host's name")?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read which boot this is")?;
        let pid = std::process::id();
        Ok(Self {
            host: host.to_string_lossy().into_owned(),
            boot: boot.trim().to_owned(),
            namespace: pid_namespace().context("cannot read /proc/self/ns/pid")?,
            pid,
            started: started(pid).context("cannot read /proc/self/stat")?,
        })
    }

    /// True where it is certain that the process of this identity has ended. Of one on another machine, before the last
    /// boot or in another container nothing is certain.
    pub(super) fn has_ended(&self, identity: &str) -> bool {
        let Ok(other) = identity.parse::<Self>() else {
            return false;
        };
        let comparable = other.host == self.host && other.boot == self.boot && other.namespace == self.namespace;
        comparable && started(other.pid) != Some(other.started)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            boot,
            namespace,
            pid,
            started,
        } = self;
        write!(f, "{host}_{boot}_{namespace}_{pid}_{started}")
    }
}

impl FromStr for Process {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.rsplitn(5, '_');
        let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or(());
        let (started, pid, namespace) = (number()?, number()?, number()?);
        let (Some(boot), Some(host)) = (parts.next(), parts.next()) else {
            return Err(());
        };
        Ok(Self {
            host: host.to_owned(),
            boot: boot.to_owned(),
            namespace,
            pid: u32::try_from(pid).map_err(drop)?,
            started,
        })
    }
}

/// `pid:[4026531836]`
fn pid_namespace() -> Option<u64> {
    let link = fs::read_link("/proc/self/ns/pid").ok()?;
    let text = link.to_str()?;
    text.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

/// Field 22 of proc_pid_stat(5). The second field, the command, may itself hold spaces and parentheses.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_one_that_had_its_number_before() {
        let this = Process::current().unwrap();
        assert_eq!(this.to_string().parse(), Ok(this.clone()));
        assert!(!this.has_ended(&this.to_string()));
        let earlier = Process {
            started: this.started - 1,
            ..this.clone()
        };
        assert!(this.has_ended(&earlier.to_string()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = Process {
            pid: child.id(),
            ..this.clone()
        };
        child.wait().unwrap();
        assert!(this.has_ended(&ended.to_string()));
    }

    #[test]
    fn nothing_is_certain_of_processes_elsewhere() {
        let this = Process::current().unwrap();
        for elsewhere in [
            Process {
                host: "other".into(),
                started: 0,
                ..this.clone()
            },
            Process {
                boot: "earlier".into(),
                started: 0,
                ..this.clone()
            },
            Process {
                namespace: 0,
                started: 0,
                ..this.clone()
            },
        ] {
            assert!(!this.has_ended(&elsewhere.to_string()), "{elsewhere}");
        }
        for other in ["", "weft-controller-0", "a_b_c_d_e", "host_boot_1_2"] {
            assert!(!this.has_ended(other), "{other}");
        }
    }
}
