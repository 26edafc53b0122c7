//! Which capabilities a container has: the default set of containerd, changed by its security context, and never
//! more than this kubelet has itself.

use k8s_openapi::api::core::v1::SecurityContext;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// All capabilities in the order of their bits.
const BY_BIT: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What containerd gives a container that asks for nothing.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The sets of a container.
pub(super) fn of(security: &SecurityContext) -> Result<LinuxCapabilities, String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let own = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(u64::MAX);
    let names = names(security, own)?;
    let set: Capabilities = names
        .iter()
        .filter_map(|name| name.parse::<Capability>().ok())
        .collect();
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(None)
        .set_ambient(None);
    Ok(capabilities)
}

fn names(security: &SecurityContext, own: u64) -> Result<Vec<&'static str>, String> {
    let known = |name: &String| {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned();
        if short != "ALL" && !BY_BIT.contains(&&*short) {
            return Err(format!("unknown capability \"CAP_{short}\""));
        }
        Ok(short)
    };
    let wanted = security.capabilities.as_ref();
    let list = |names: Option<&Vec<String>>| names.into_iter().flatten().map(known).collect::<Result<Vec<_>, _>>();
    let add = list(wanted.and_then(|wanted| wanted.add.as_ref()))?;
    let drop = list(wanted.and_then(|wanted| wanted.drop.as_ref()))?;
    let named = |names: &[String], name: &str| names.iter().any(|other| other == name);
    let privileged = security.privileged == Some(true);
    let mut result = Vec::new();
    for (bit, name) in BY_BIT.into_iter().enumerate() {
        let base = DEFAULT.contains(&name) && !named(&drop, "ALL") || named(&add, "ALL");
        let has = named(&add, name) || base && !named(&drop, name);
        if own >> bit & 1 == 1 && (privileged || has) {
            result.push(name);
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: serde_json::Value, own: u64) -> Result<Vec<&'static str>, String> {
        names(&serde_json::from_value(value).unwrap(), own)
    }

    #[test]
    fn sets() {
        let all = u64::MAX;
        assert_eq!(of(json!({}), all).unwrap().len(), DEFAULT.len());
        assert_eq!(of(json!({"capabilities": {"drop": ["ALL"]}}), all).unwrap(), [""; 0]);
        let narrow = json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE", "cap_net_admin"]}});
        assert_eq!(of(narrow, all).unwrap(), ["NET_BIND_SERVICE", "NET_ADMIN"]);
        let without = json!({"capabilities": {"drop": ["NET_RAW"]}});
        assert!(!of(without, all).unwrap().contains(&"NET_RAW"));
        assert_eq!(of(json!({"privileged": true}), all).unwrap().len(), BY_BIT.len());
        assert_eq!(
            of(json!({"privileged": true}), 0b11).unwrap(),
            ["CHOWN", "DAC_OVERRIDE"]
        );
        assert!(
            of(json!({"capabilities": {"add": ["FLY"]}}), all)
                .unwrap_err()
                .contains("CAP_FLY")
        );
    }

    #[test]
    fn every_name_is_one_the_runtime_knows() {
        for name in BY_BIT {
            assert!(name.parse::<Capability>().is_ok(), "{name}");
        }
    }
}
