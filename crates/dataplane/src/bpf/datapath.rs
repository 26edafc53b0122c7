//! The whole of it: open the kernel's side, take over what is pinned, and change it entry by entry.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::{MapData, PerCpuArray};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};
use weft_model::compile;
use weft_packet::Reason;
use weft_packet::layout::{Family, name};

use super::links::{Links, PodHooks};
use super::pins::Pins;
use super::pods::{Drops, PodLink, Pods};
use super::services::Services;
use super::{Error, OBJECT, Result};
use crate::grace;

/// Where the datapath lives.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cgroup (version 2) whose sockets see services: the root of the node's hierarchy.
    pub cgroup: PathBuf,
    /// Directory for the pins, on a bpffs; made if it does not exist.
    pub pin_dir: PathBuf,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The map.
    pub map: &'static str,
    /// Entries in it.
    pub used: usize,
    /// Entries it has room for.
    pub capacity: usize,
}

/// How often something happened on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// What, and why.
    pub reason: Reason,
    /// How often, since the maps were made.
    pub count: u64,
}

/// Something that was probed, and what was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What it is about.
    pub name: &'static str,
    /// What was chosen, and why.
    pub choice: String,
}

/// The node's kernel programs and maps.
pub struct Datapath {
    services: Services,
    pods: Pods,
    counters: PerCpuArray<MapData, u64>,
    links: Arc<Links>,
    pins: Pins,
    /// There are maps of another layout beside ours, which programs still use.
    moving: bool,
    config: Config,
    kernel: String,
}

impl Datapath {
    /// Loads the programs and attaches the socket hooks. What an earlier agent pinned is taken over: its maps as they
    /// are, its links with our programs in them, without a moment in which a hook is empty.
    ///
    /// Where its maps have another layout, ours are new and empty beside them, and its programs stay in its links:
    /// set every pod and attach it, set every frontend, then call [`Datapath::settle`].
    pub fn open(config: Config) -> Result<Self> {
        let kernel = probe_kernel()?;
        grace::recover();
        if !is_on(&config.cgroup, CGROUP2_SUPER_MAGIC) {
            return Err(Error::NoCgroup2 { path: config.cgroup });
        }
        let (maps, links) = (config.pin_dir.join("maps"), config.pin_dir.join("links"));
        for dir in [&config.pin_dir, &maps, &links] {
            make_dir(dir)?;
        }
        if !is_on(&maps, BPF_FS_MAGIC) {
            return Err(Error::NoBpffs { path: config.pin_dir });
        }
        let pins = Pins::at(&maps);
        let moves = |family| pins.has_others(family);
        let (pods_move, services_move) = (moves(&Family::PODS)?, moves(&Family::SERVICES)?);

        let mut ebpf = load(&maps)?;
        let services = Services::open(&mut ebpf)?;
        let pods = Pods::open(&mut ebpf)?;
        let counters = open_counters(&mut ebpf)?;
        let links = Arc::new(Links::open(ebpf, links)?);
        if !pods_move {
            links.take_over_pods()?;
        }
        if !services_move {
            links.attach_sockets(&config.cgroup)?;
        }
        let moving = pins.any_others()?;
        Ok(Self {
            services,
            pods,
            counters,
            links,
            pins,
            moving,
            config,
            kernel,
        })
    }

    /// Says that every pod and every frontend that is wanted has been set. What still ran another layout's programs
    /// runs ours from now on, and the pins of that layout go. Nothing happens where there was none.
    pub fn settle(&mut self) -> Result<()> {
        if self.moving {
            self.links.attach_sockets(&self.config.cgroup)?;
            self.pins.remove_others()?;
            self.moving = false;
        }
        Ok(())
    }

    /// Makes a frontend lead to these backends, in one step for whoever connects meanwhile. Without backends,
    /// connections to it are refused.
    pub fn set_frontend(&mut self, frontend: &compile::Frontend, backends: &[compile::Backend]) -> Result<()> {
        self.services.set(frontend, backends)
    }

    /// Forgets a frontend: its address is no service of ours any more.
    pub fn remove_frontend(&mut self, frontend: &compile::Frontend) -> Result<()> {
        self.services.remove(frontend)
    }

    /// The frontends that the kernel has, whoever put them there.
    pub fn frontends(&self) -> BTreeMap<compile::Frontend, Vec<compile::Backend>> {
        self.services.all()
    }

    /// Makes an address that of the pod behind this veth: the pod may send from it, and its neighbours reach it.
    pub fn set_pod(&mut self, ip: IpAddr, link: PodLink) -> Result<()> {
        self.pods.set(ip, link)
    }

    /// Takes an address away from its pod.
    pub fn remove_pod(&mut self, ip: IpAddr) -> Result<()> {
        self.pods.remove(ip)
    }

    /// The pod that has this address.
    pub fn pod(&self, ip: IpAddr) -> Option<PodLink> {
        self.pods.get(ip)
    }

    /// The pod addresses that the kernel has, whoever put them there.
    pub fn pods(&self) -> BTreeMap<IpAddr, PodLink> {
        self.pods.all()
    }

    /// Attaches the hook to the host side of a pod's veth (of the calling thread's network namespace), or puts this
    /// agent's program into it. From then on the pod sends from its own addresses only: set those before.
    pub fn attach_pod(&mut self, ifindex: u32) -> Result<()> {
        self.links.attach_pod(ifindex, self.pods.sends_limited(ifindex))
    }

    /// The first hook that a pod lacks.
    pub fn first_missing(&self, ifindex: u32) -> Result<Option<&'static str>> {
        self.links.first_missing(ifindex, self.pods.sends_limited(ifindex))
    }

    /// Takes the hook off; the interface may have gone already.
    pub fn detach_pod(&mut self, ifindex: u32) -> Result<()> {
        self.links.detach_pod(ifindex)
    }

    /// The hooks of pods alone, for use beside the rest.
    pub fn pod_hooks(&self) -> PodHooks {
        PodHooks(self.links.clone())
    }

    /// The interfaces that carry the hook, whoever attached them.
    pub fn attached(&self) -> Result<BTreeSet<u32>> {
        self.links.attached()
    }

    /// How full the maps are.
    pub fn usage(&self) -> Vec<Usage> {
        self.services.usage().into_iter().chain([self.pods.usage()]).collect()
    }

    /// What the programs counted, in the order of [`Reason::ALL`].
    pub fn counters(&self) -> Result<Vec<Counter>> {
        let count = |reason: &Reason| {
            let values = self.counters.get(&(*reason as u32), 0).map_err(|source| Error::Map {
                map: name::COUNTERS,
                action: "read",
                source: Box::new(source),
            })?;
            Ok(Counter {
                reason: *reason,
                count: values.iter().sum(),
            })
        };
        Reason::ALL.iter().map(count).collect()
    }

    /// What pods sent that ended at their hooks, by the interface of the pod; nothing of those that behave.
    pub fn drops(&self) -> Result<BTreeMap<u32, Vec<Drops>>> {
        self.pods.drops()
    }

    /// What was found on this node, and chosen.
    pub fn features(&self) -> Vec<Feature> {
        let taken_over = match self.links.taken_over() {
            0 => "nothing was pinned: started afresh".to_owned(),
            n => format!("took over {n} links that were pinned, without a gap"),
        };
        vec![
            Feature {
                name: "pods",
                choice: format!("tcx links and redirect_peer (Linux {}), {}", self.kernel, attaching()),
            },
            Feature {
                name: "services",
                choice: format!("socket hooks on the cgroup {}", self.config.cgroup.display()),
            },
            Feature {
                name: "restart",
                choice: format!("{taken_over}; pins in {}", self.config.pin_dir.display()),
            },
        ]
    }
}

fn attaching() -> &'static str {
    if grace::available() {
        "attached within expedited grace periods"
    } else {
        "attached slowly: /sys/kernel/rcu_expedited cannot be written, so that each pod waits for some 10 ms"
    }
}

/// The kernel's version, if it has everything that the programs use: tcx links are the youngest, of Linux 6.6.
fn probe_kernel() -> Result<String> {
    let name = nix::sys::utsname::uname().map_err(|e| Error::UnknownKernel(e.into()))?;
    let release = name.release().to_string_lossy().into_owned();
    if KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0)) {
        Ok(release)
    } else {
        Err(Error::OldKernel { found: release })
    }
}

fn is_on(path: &Path, magic: FsType) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == magic)
}

fn make_dir(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::file("make the directory", dir)(e)),
        _ => Ok(()),
    }
}

/// Makes the maps, or opens those that are pinned, and prepares the programs.
pub(super) fn load(maps: &Path) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    // The programs need no BTF, and reading the kernel's takes longer than loading them.
    loader.btf(None);
    let pins = Pins::at(maps);
    for family in &Family::ALL {
        for map in family.maps {
            loader.map_pin_path(map, pins.path(family, map));
        }
    }
    loader.load(OBJECT).map_err(|source| Error::Load(Box::new(source)))
}

pub(super) fn open_counters(ebpf: &mut Ebpf) -> Result<PerCpuArray<MapData, u64>> {
    let map = ebpf
        .take_map(name::COUNTERS)
        .ok_or(Error::Incomplete { name: name::COUNTERS })?;
    PerCpuArray::try_from(map).map_err(|source| Error::Map {
        map: name::COUNTERS,
        action: "open",
        source: Box::new(source),
    })
}
