//! The kernel's network switches, those of the namespace that the calling thread is in.

use std::path::Path;

use super::NetError;

const ROOT: &str = "/proc/sys/net";

/// True where the kernel has IPv6 in this namespace.
pub fn has_ipv6() -> bool {
    Path::new(ROOT).join("ipv6/conf").exists()
}

/// Reads a switch, such as `ipv4/ip_forward`; `None` where it does not exist.
pub fn get(name: &str) -> Option<String> {
    std::fs::read_to_string(format!("{ROOT}/{name}"))
        .ok()
        .map(|text| text.trim().to_owned())
}

/// Sets a switch, if it is not set already.
pub fn set(name: &str, value: &str) -> Result<(), NetError> {
    if get(name).as_deref() == Some(value) {
        return Ok(());
    }
    write(name, value)
}

/// Sets a switch that is known to be set otherwise.
pub(super) fn write(name: &str, value: &str) -> Result<(), NetError> {
    let path = format!("{ROOT}/{name}");
    std::fs::write(&path, value).map_err(|source| NetError::Sysctl { path, source })
}

/// Makes the node a router, of both families where it has them.
pub fn enable_forwarding() -> Result<(), NetError> {
    set("ipv4/ip_forward", "1")?;
    if !has_ipv6() {
        return Ok(());
    }
    if get("ipv6/conf/all/forwarding").as_deref() == Some("0") {
        // A router ignores router advertisements, unless told otherwise (2): a node that got its default route
        // from one would lose it.
        for entry in std::fs::read_dir(format!("{ROOT}/ipv6/conf"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let switch = format!("ipv6/conf/{name}/accept_ra");
            // Nor is "default" changed: the links of pods to come would have it, and believe a pod that it is a router.
            if !matches!(name.as_str(), "all" | "default" | "lo") && get(&switch).as_deref() == Some("1") {
                set(&switch, "2")?;
            }
        }
    }
    set("ipv6/conf/all/forwarding", "1")
}
