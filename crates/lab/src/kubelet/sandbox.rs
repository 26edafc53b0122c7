//! The namespaces that the containers of one pod share, held by files: no process keeps them alive.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::cni::Attachment;
use super::error::Error;

/// A pod's sandbox, as it is remembered on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sandbox {
    /// CNI's container id.
    pub(super) id: String,
    /// The network namespace; `None`: the node's own.
    pub(super) netns: Option<PathBuf>,
    /// The UTS namespace; `None`: the node's own.
    pub(super) uts: Option<PathBuf>,
    /// The IPC namespace; `None`: the node's own.
    pub(super) ipc: Option<PathBuf>,
    /// `/dev/shm` of all containers; `None`: the node's own.
    pub(super) shm: Option<PathBuf>,
    /// The network it was added to.
    pub(super) network: Option<Attachment>,
    /// The pod's addresses.
    pub(super) ips: Vec<IpAddr>,
}

/// The file in a pod's folder that remembers it.
pub(super) const FILE: &str = "sandbox.json";

/// What a sandbox has of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Shape {
    /// Its own network and host name.
    pub(super) network: bool,
    /// Its own System V and POSIX message queues, and shared memory.
    pub(super) ipc: bool,
    /// What the machine is called inside.
    pub(super) hostname: String,
    /// Kernel settings of its network and IPC namespaces.
    pub(super) sysctls: BTreeMap<String, String>,
}

impl Sandbox {
    /// Makes the namespaces; the network is still without an interface other than `lo`.
    pub(super) async fn create(id: String, dir: &Path, netns_dir: &Path, shape: Shape) -> Result<Self, Error> {
        let sandbox = Self {
            netns: shape.network.then(|| netns_dir.join(&id)),
            uts: shape.network.then(|| dir.join("uts")),
            ipc: shape.ipc.then(|| dir.join("ipc")),
            shm: shape.ipc.then(|| dir.join("shm")),
            network: None,
            ips: Vec::new(),
            id,
        };
        for parent in [dir, netns_dir] {
            std::fs::create_dir_all(parent).map_err(Error::io("create folder", parent))?;
        }
        // A namespace is entered for good: a thread of its own, which ends after it has bound them to files.
        let (done, result) = oneshot::channel();
        let plan = sandbox.clone();
        std::thread::Builder::new()
            .name("sandbox".to_owned())
            .spawn(move || {
                let outcome = build(&plan, &shape).inspect_err(|_| plan.unbind());
                done.send(outcome).ok();
            })
            .map_err(Error::io("start a thread for", "the sandbox"))?;
        result
            .await
            .unwrap_or_else(|_| Err(Error::Config("the sandbox's thread has died".to_owned())))?;
        Ok(sandbox)
    }

    /// The attachments of all pods below this folder, finished or not.
    pub(super) fn attachments(pods: &Path) -> Vec<Attachment> {
        let files = std::fs::read_dir(pods).into_iter().flatten().flatten();
        let read = |pod: std::fs::DirEntry| -> Option<Attachment> {
            let text = std::fs::read(pod.path().join(FILE)).ok()?;
            serde_json::from_slice::<Sandbox>(&text).ok()?.network
        };
        files.filter_map(read).collect()
    }

    /// Lets go of the namespaces. Interfaces go with them.
    pub(super) fn unbind(&self) {
        for path in [&self.netns, &self.uts, &self.ipc, &self.shm].into_iter().flatten() {
            detach(path);
            // A folder or a file, or never made: whichever it is, it has to go.
            if std::fs::remove_file(path).is_err() {
                std::fs::remove_dir(path).ok();
            }
        }
    }
}

/// Takes a mount away, however often something was mounted there.
pub(super) fn detach(path: &Path) {
    while nix::mount::umount2(path, MntFlags::MNT_DETACH).is_ok() {}
}

fn build(sandbox: &Sandbox, shape: &Shape) -> Result<(), Error> {
    let mut flags = CloneFlags::empty();
    if shape.network {
        flags |= CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
    }
    if shape.ipc {
        flags |= CloneFlags::CLONE_NEWIPC;
    }
    nix::sched::unshare(flags).map_err(Error::nix("unshare namespaces of", &sandbox.id))?;
    if shape.network {
        nix::unistd::sethostname(&shape.hostname).map_err(Error::nix("set host name of", &sandbox.id))?;
        raise_loopback().map_err(Error::io("raise lo in", &sandbox.id))?;
    }
    for (name, value) in &shape.sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        std::fs::write(&path, value).map_err(Error::io("set", &path))?;
    }
    for (kind, path) in [("net", &sandbox.netns), ("uts", &sandbox.uts), ("ipc", &sandbox.ipc)] {
        let Some(path) = path else { continue };
        std::fs::File::create(path).map_err(Error::io("create", path))?;
        let own = format!("/proc/thread-self/ns/{kind}");
        nix::mount::mount(Some(&*own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(Error::nix("bind namespace to", path))?;
    }
    if let Some(shm) = &sandbox.shm {
        std::fs::create_dir_all(shm).map_err(Error::io("create folder", shm))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        nix::mount::mount(Some("shm"), shm, Some("tmpfs"), flags, Some("mode=1777,size=64m"))
            .map_err(Error::nix("mount shared memory at", shm))?;
    }
    Ok(())
}

/// Sets `lo` up in this thread's network namespace.
fn raise_loopback() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let message = rtnetlink::LinkUnspec::new_with_index(1).up().build();
        let outcome = handle.link().set(message).execute().await;
        connection.abort();
        outcome.map_err(std::io::Error::other)
    })
}
