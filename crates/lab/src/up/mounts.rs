//! The mount namespace of a node: the machine's own file system, with the places that a node writes to or
//! that say who it is (`/etc`, `/opt`, `/var`, `/run`, `/sys`) private to it.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::daemon::Namespaces;
use super::spec::{KUBECONFIG_IN_NODE, LAB_DIR_IN_NODE, Lab, NodeSpec};
use super::{Error, cgroup, netns};

const NONE: Option<&str> = None;

/// What a node's file system is made from.
pub(super) struct NodeFiles<'a> {
    /// The lab.
    pub(super) lab: &'a Lab,
    /// The node.
    pub(super) node: &'a NodeSpec,
    /// The CNI plugin's binary.
    pub(super) cni: &'a Path,
    /// The kubeconfig for the node's daemons.
    pub(super) kubeconfig: &'a str,
}

impl NodeFiles<'_> {
    /// Makes the node's mount and host name namespace beside its network namespace.
    pub(super) fn create(&self, net: File) -> Result<Namespaces, Error> {
        let enter = Error::io("enter the namespaces of", &self.node.name);
        let (mnt, uts) = netns::on_thread(|| {
            setns(net.as_fd(), CloneFlags::CLONE_NEWNET)
                .and_then(|()| unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS))
                .map_err(enter)?;
            nix::unistd::sethostname(&self.node.name).map_err(Error::io("set the host name", &self.node.name))?;
            self.mount_all()?;
            let open = |kind: &str| {
                let path = format!("/proc/thread-self/ns/{kind}");
                File::open(&path).map_err(Error::io("open", path))
            };
            Ok((open("mnt")?, open("uts")?))
        })?;
        Ok(Namespaces { net, mnt, uts })
    }

    fn mount_all(&self) -> Result<(), Error> {
        let dir = self.lab.node_dir(&self.node.name);
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE).map_err(Error::io("make private", "/"))?;
        forget_other_labs(&self.lab.dir())?;
        for name in ["etc", "opt", "var"] {
            overlay(&dir, name)?;
        }
        // The last so that no network of the machine's own container runtimes is taken for the node's.
        for path in ["/var/lib/weft", "/var/lib/kubelet", "/var/log/pods", "/etc/cni/net.d"] {
            let backing = dir.join(path.trim_start_matches('/').replace('/', "-"));
            make_dirs([&*backing, Path::new(path)])?;
            bind(&backing, Path::new(path))?;
        }
        self.write_etc()?;

        let stage = dir.join("cgroup");
        make_dirs([&*stage])?;
        bind(&cgroup::of_node(self.lab, &self.node.name)?, &stage)?;
        special("sysfs", "/sys")?;
        bind(&stage, Path::new("/sys/fs/cgroup"))?;
        special("bpf", "/sys/fs/bpf")?;
        bind(
            &self.lab.boot_id(&self.node.name),
            Path::new("/proc/sys/kernel/random/boot_id"),
        )?;

        let run = dir.join("run");
        let lab_dir = run.join(LAB_DIR_IN_NODE.trim_start_matches("/run/"));
        make_dirs([&*lab_dir, &run.join("netns"), &run.join("lock")])?;
        bind(&self.lab.dir(), &lab_dir)?;
        bind(&run, Path::new("/run"))
    }

    fn write_etc(&self) -> Result<(), Error> {
        let upstream = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        // A resolver on the machine's own loopback cannot be reached from a node.
        let reachable = |line: &&str| match line.strip_prefix("nameserver ").map(|ip| ip.trim().parse::<IpAddr>()) {
            Some(Ok(ip)) => !ip.is_loopback(),
            _ => !line.starts_with("nameserver"),
        };
        let resolv: String = upstream
            .lines()
            .filter(reachable)
            .flat_map(|line| [line, "\n"])
            .collect();
        write("/etc/resolv.conf", &resolv)?;
        write("/etc/hostname", &format!("{}\n", self.node.name))?;
        write_hosts(self.node)?;
        write(KUBECONFIG_IN_NODE, self.kubeconfig)?;
        make_dirs([Path::new("/opt/cni/bin")])?;
        let plugin = "/opt/cni/bin/weft-cni";
        remove(Path::new(plugin))?;
        std::os::unix::fs::symlink(self.cni, plugin).map_err(Error::io("link", plugin))
    }
}

/// A node's own name and addresses, in the mount namespace of the calling thread.
pub(super) fn write_hosts(node: &NodeSpec) -> Result<(), Error> {
    let own: String = node.ips().iter().map(|ip| format!("{ip} {}\n", node.name)).collect();
    write("/etc/hosts", &format!("127.0.0.1 localhost\n::1 localhost\n{own}"))
}

/// Unmounts copies of other labs' mounts from this namespace, so that those labs can end while this one lives.
fn forget_other_labs(own: &Path) -> Result<(), Error> {
    let path = "/proc/thread-self/mountinfo";
    let mounts = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    for target in targets.filter(|target| target.starts_with("/run/netns/") || target.starts_with(Lab::root())) {
        if target.starts_with("/run/netns/") || !target.starts_with(own) {
            match umount2(target, MntFlags::MNT_DETACH) {
                Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
                Err(error) => return Err(Error::io("unmount", target)(error)),
            }
        }
    }
    Ok(())
}

fn overlay(node_dir: &Path, name: &str) -> Result<(), Error> {
    let (upper, work) = (node_dir.join(name).join("upper"), node_dir.join(name).join("work"));
    let target = format!("/{name}");
    make_dirs([&*upper, &*work, Path::new(&target)])?;
    let options = format!(
        "lowerdir={target},upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        &*target,
        Some("overlay"),
        MsFlags::empty(),
        Some(&*options),
    )
    .map_err(Error::io("mount an overlay on", target))
}

fn special(kind: &str, target: &str) -> Result<(), Error> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), NONE).map_err(Error::io("mount", target))
}

fn bind(source: &Path, target: &Path) -> Result<(), Error> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).map_err(Error::io("bind", target))
}

fn make_dirs<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<(), Error> {
    paths
        .into_iter()
        .try_for_each(|path| fs::create_dir_all(path).map_err(Error::io("create", path)))
}

/// Replaces a file of the node (a link of that name is not followed).
fn write(path: &str, text: &str) -> Result<(), Error> {
    let path = Path::new(path);
    if let Some(parent) = path.parent() {
        make_dirs([parent])?;
    }
    remove(path)?;
    fs::write(path, text).map_err(Error::io("write", path))
}

/// Removes a file of the node (what a link points to stays). Fine if there is none.
fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("replace", path)(error)),
        _ => Ok(()),
    }
}
