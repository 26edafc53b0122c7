//! The OCI runtime specification of one container.

mod caps;
mod user;

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, SecurityContext};
use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, Mount, Process, Root, Spec,
};

use super::images::Image;
use super::sandbox::Sandbox;

/// A folder or file of the node that the container sees.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bind {
    pub(super) source: PathBuf,
    pub(super) destination: PathBuf,
    pub(super) read_only: bool,
    /// `rprivate`, `rslave` or `rshared`.
    pub(super) propagation: &'static str,
}

/// Everything that decides how a container is run.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) pod: &'a Pod,
    pub(super) container: &'a Container,
    pub(super) image: &'a Image,
    pub(super) sandbox: &'a Sandbox,
    /// The mounted root file system.
    pub(super) rootfs: &'a Path,
    pub(super) cgroup: String,
    /// `NAME=value`.
    pub(super) env: Vec<String>,
    /// Program and arguments.
    pub(super) args: Vec<String>,
    pub(super) binds: Vec<Bind>,
}

/// Program and arguments: the pod's `command` and `args` over the image's entrypoint and cmd.
pub(super) fn command_line(
    container: &Container,
    image: &Image,
    expand: impl Fn(&str) -> String,
) -> Result<Vec<String>, String> {
    let expanded = |list: &Option<Vec<String>>| list.iter().flatten().map(|part| expand(part)).collect::<Vec<_>>();
    let (command, args) = (expanded(&container.command), expanded(&container.args));
    let mut line = match (command.is_empty(), args.is_empty()) {
        (true, true) => [&*image.entrypoint, &*image.cmd].concat(),
        (true, false) => [image.entrypoint.clone(), args].concat(),
        (false, _) => [command, args].concat(),
    };
    if line.is_empty() {
        return Err("no command specified".to_owned());
    }
    // The built-in image has no entrypoint, so that `kubectl run … -- sh` works; flags alone go to its server.
    if image.is_builtin() && line[0].starts_with('-') {
        line.splice(0..0, image.cmd.iter().cloned());
    }
    Ok(line)
}

/// Builds the specification.
pub(super) fn build(plan: &Plan<'_>) -> Result<Spec, String> {
    let empty = SecurityContext::default();
    let security = plan.container.security_context.as_ref().unwrap_or(&empty);
    let privileged = security.privileged == Some(true);

    let mut root = Root::default();
    root.set_path(plan.rootfs.to_owned());
    root.set_readonly(security.read_only_root_filesystem);

    let mut spec = Spec::default();
    spec.set_root(Some(root))
        .set_hostname(None)
        .set_process(Some(process(plan, security)?))
        .set_mounts(Some(mounts(plan, privileged)))
        .set_linux(Some(linux(plan, security, privileged)));
    Ok(spec)
}

fn process(plan: &Plan<'_>, security: &SecurityContext) -> Result<Process, String> {
    let capabilities = caps::of(security)?;
    let user = user::of(plan.pod, plan.container, plan.image, plan.rootfs)?;
    let cwd = match plan.container.working_dir.as_deref().filter(|dir| !dir.is_empty()) {
        Some(dir) => dir,
        None if !plan.image.working_dir.is_empty() => &plan.image.working_dir,
        None => "/",
    };
    let mut env = plan.env.clone();
    if !env.iter().any(|line| line.starts_with("HOME=")) {
        env.push(format!("HOME={}", user::home(user.uid(), plan.rootfs)));
    }
    let terminal = plan.container.tty == Some(true);
    if terminal && !env.iter().any(|line| line.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    let mut process = Process::default();
    process
        .set_terminal(Some(terminal))
        .set_user(user)
        .set_args(Some(plan.args.clone()))
        .set_env(Some(env))
        .set_cwd(cwd.into())
        .set_capabilities(Some(capabilities))
        .set_rlimits(None)
        .set_no_new_privileges(Some(security.allow_privilege_escalation == Some(false)));
    Ok(process)
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

fn mounts(plan: &Plan<'_>, privileged: bool) -> Vec<Mount> {
    let access = if privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
    ];
    let shm = plan.sandbox.shm.as_deref().unwrap_or(Path::new("/dev/shm"));
    mounts.push(bind(&Bind {
        source: shm.to_owned(),
        destination: "/dev/shm".into(),
        read_only: false,
        propagation: "rprivate",
    }));
    // A bind replaces a standard mount at the same place; parents come before what is below them.
    let mut binds: Vec<&Bind> = plan.binds.iter().collect();
    binds.sort_by_key(|bind| bind.destination.components().count());
    for wanted in binds {
        mounts.retain(|mount| mount.destination() != &wanted.destination);
        mounts.push(bind(wanted));
    }
    mounts
}

fn bind(wanted: &Bind) -> Mount {
    let access = if wanted.read_only { "ro" } else { "rw" };
    let mut mount = Mount::default();
    mount
        .set_destination(wanted.destination.clone())
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(wanted.source.clone()))
        .set_options(Some(["rbind", wanted.propagation, access].map(str::to_owned).into()));
    mount
}

fn linux(plan: &Plan<'_>, security: &SecurityContext, privileged: bool) -> Linux {
    let spec = plan.pod.spec.as_ref();
    let host_pid = spec.and_then(|spec| spec.host_pid) == Some(true);
    let joined = [
        (LinuxNamespaceType::Network, &plan.sandbox.netns),
        (LinuxNamespaceType::Uts, &plan.sandbox.uts),
        (LinuxNamespaceType::Ipc, &plan.sandbox.ipc),
    ];
    let own = [LinuxNamespaceType::Mount]
        .into_iter()
        .chain((!host_pid).then_some(LinuxNamespaceType::Pid));
    let own = own
        .chain((!privileged).then_some(LinuxNamespaceType::Cgroup))
        .map(|kind| (kind, None));
    let joined = joined
        .into_iter()
        .filter_map(|(kind, path)| Some((kind, Some(path.clone()?))));
    let namespaces = own
        .chain(joined)
        .map(|(kind, path)| {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(kind).set_path(path);
            namespace
        })
        .collect();
    let unmasked = privileged || security.proc_mount.as_deref() == Some("Unmasked");
    let paths = |paths: &[&str]| (!unmasked).then(|| paths.iter().map(|path| (*path).to_owned()).collect());
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces))
        .set_cgroups_path(Some(plan.cgroup.clone().into()))
        .set_resources(None)
        .set_devices(privileged.then(host_devices))
        .set_masked_paths(paths(&[
            "/proc/acpi",
            "/proc/asound",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware",
        ]))
        .set_readonly_paths(paths(&[
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sys",
            "/proc/sysrq-trigger",
        ]));
    linux
}

/// The node's devices, for a privileged container.
fn host_devices() -> Vec<LinuxDevice> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let folders = ["/dev", "/dev/net"];
    let entries = folders
        .iter()
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            let kind = match metadata.file_type() {
                kind if kind.is_char_device() => LinuxDeviceType::C,
                kind if kind.is_block_device() => LinuxDeviceType::B,
                _ => return None,
            };
            // The runtime makes these itself, for the container's own terminal.
            if matches!(entry.file_name().to_str(), Some("console" | "ptmx" | "tty")) {
                return None;
            }
            let mut device = LinuxDevice::default();
            device
                .set_path(entry.path())
                .set_typ(kind)
                .set_major(i64::try_from(nix::sys::stat::major(metadata.rdev())).ok()?)
                .set_minor(i64::try_from(nix::sys::stat::minor(metadata.rdev())).ok()?)
                .set_file_mode(Some(metadata.mode() & 0o777))
                .set_uid(Some(metadata.uid()))
                .set_gid(Some(metadata.gid()));
            Some(device)
        })
        .collect()
}

#[cfg(test)]
mod tests;
