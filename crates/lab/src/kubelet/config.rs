//! What a kubelet is told, and where it keeps things.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// One node's kubelet. `Config::new` fills in what every lab uses.
#[derive(Clone, Debug)]
pub struct Config {
    /// The lab's folder as this process sees it: `api.sock`, `images/` and `nodes/<node>/` are in it.
    pub lab_dir: PathBuf,
    /// Name of the Node object.
    pub node_name: String,
    /// Value of the label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// The node's own addresses, the first of each family being the primary one.
    pub addresses: Vec<IpAddr>,
    /// Addresses of the cluster's DNS service.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// What lives as long as the machine runs: sandboxes, bundles, root file systems. Must be on a tmpfs.
    pub state_dir: PathBuf,
    /// Volumes of pods.
    pub root_dir: PathBuf,
    /// Logs of containers.
    pub log_dir: PathBuf,
    /// Where network configurations are looked for.
    pub cni_conf_dir: PathBuf,
    /// Where network plugins are looked for.
    pub cni_bin_dir: PathBuf,
    /// Where sandboxes' network namespaces are bound.
    pub netns_dir: PathBuf,
    /// The cgroup v2 folder that pods' cgroups are made in, below `/sys/fs/cgroup`.
    pub cgroup_parent: String,
    /// The `weft` binary, put into containers of the built-in image.
    pub weft_binary: PathBuf,
    /// The program that keeps containers over the end of this kubelet, called as `PROGRAM lab keeper`; `None`: what
    /// ends while no kubelet runs ends with an unknown code.
    pub keeper: Option<PathBuf>,
    /// How many pods this node takes.
    pub max_pods: u32,
}

impl Config {
    /// The defaults of a lab node.
    pub fn new(lab_dir: impl Into<PathBuf>, node_name: impl Into<String>) -> Self {
        Self {
            lab_dir: lab_dir.into(),
            node_name: node_name.into(),
            zone: None,
            addresses: Vec::new(),
            cluster_dns: vec![IpAddr::from([10, 96, 0, 10])],
            cluster_domain: "cluster.local".to_owned(),
            state_dir: "/run/weft-kubelet".into(),
            root_dir: "/var/lib/kubelet".into(),
            log_dir: "/var/log/pods".into(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_bin_dir: "/opt/cni/bin".into(),
            netns_dir: "/run/netns".into(),
            cgroup_parent: "kubepods".to_owned(),
            weft_binary: std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()),
            keeper: None,
            max_pods: 500,
        }
    }

    /// The API server's socket.
    pub fn api_socket(&self) -> PathBuf {
        self.lab_dir.join("api.sock")
    }

    /// Where the streaming server listens.
    pub fn streaming_socket(&self) -> PathBuf {
        self.lab_dir.join("nodes").join(&self.node_name).join("kubelet.sock")
    }

    /// Loaded images.
    pub fn image_dir(&self) -> PathBuf {
        self.lab_dir.join("images")
    }

    /// State of one pod.
    pub(super) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.state_dir.join("pods").join(uid)
    }

    /// Volumes of one pod.
    pub(super) fn volume_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// Where a pod's containers log.
    pub(super) fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.log_dir.join(format!("{namespace}_{name}_{uid}"))
    }
}

/// Writes a file so that a reader sees the old content or the new one, never a part.
pub(super) fn write_atomically(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    std::fs::write(&draft, content)?;
    std::fs::rename(&draft, path)
}
