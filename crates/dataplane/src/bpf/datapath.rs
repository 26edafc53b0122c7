//! The whole of it: open the kernel's side, take over what is pinned, and change it entry by entry.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::{MapData, PerCpuArray};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use ipnet::IpNet;
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};
use tracing::{info, warn};
use weft_model::compile::{self, Step};
use weft_packet::layout::{Family, name};
use weft_packet::{PeerKey, Reason, SockAddr};

use super::links::{Links, PodHooks};
use super::node::{Here, NodeMaps};
use super::pins::Pins;
use super::pods::{Drops, PodLink, Pods};
use super::services::Services;
use super::table::Table;
use super::{Error, OBJECT, Result};
use crate::grace;

/// Where the datapath lives.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cgroup (version 2) whose sockets see services: the root of the node's hierarchy.
    pub cgroup: PathBuf,
    /// Directory for the pins, on a bpffs; made if it does not exist.
    pub pin_dir: PathBuf,
    /// How many bytes one map may take, entries and their keep: no cluster is to take all of a node's memory.
    pub map_memory: usize,
}

impl Config {
    /// What a map may take where nobody says otherwise: two million backends.
    pub const MAP_MEMORY: usize = 256 << 20;
}

/// Service changes that are written to the maps together.
const BATCH: usize = 256;

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The map.
    pub map: &'static str,
    /// Entries in it.
    pub used: usize,
    /// Entries it has room for.
    pub capacity: usize,
    /// Bytes that an entry takes.
    pub entry_size: usize,
}

impl Usage {
    /// Whether a larger map should take its place: so early that nobody ever meets a full one.
    pub fn is_almost_full(&self) -> bool {
        self.used * 5 > self.capacity * 4
    }

    /// How many entries the map may have that is to take its place, of so many bytes.
    fn sized_for(&self, memory: usize) -> usize {
        let mut size = self.capacity;
        while (Usage {
            capacity: size,
            ..*self
        })
        .is_almost_full()
            && size * 2 * self.entry_size <= memory
        {
            size *= 2;
        }
        size
    }
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
    node: NodeMaps,
    pods: Pods,
    peers: Table<PeerKey, SockAddr>,
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
        pins.remove_larger()?;
        let moving = pins.any_others()?;
        let mut ebpf = load(&maps, &[])?;
        let services = Services::open(&mut ebpf)?;
        let node = NodeMaps::open(&mut ebpf)?;
        let pods = Pods::open(&mut ebpf)?;
        let peers = Table::take(&mut ebpf, name::PEERS)?;
        let counters = open_counters(&mut ebpf)?;
        let links = Arc::new(Links::open(ebpf, links, moving)?);
        if !moving {
            links.take_over(&config.cgroup)?;
        }
        Ok(Self {
            services,
            node,
            pods,
            peers,
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
            self.links.take_over(&self.config.cgroup)?;
            self.pins.remove_others()?;
            self.moving = false;
        }
        Ok(())
    }

    /// Takes the steps of one Service, all or none: what does not fit, or cannot be, changes nothing.
    pub fn apply_service(&mut self, steps: &[Step]) -> Result<()> {
        self.accept(steps)?;
        self.services.flush()
    }

    /// Takes the steps of every Service that there is, each with all that it wants, and removes whatever none of them
    /// wants. What cannot be taken in keeps what it had; the answers are in the order of the Services.
    pub fn replace_services(&mut self, all: &[Vec<Step>]) -> Result<Vec<Result<()>>> {
        let mut answers = Vec::with_capacity(all.len());
        for some in all.chunks(BATCH) {
            let accepted: Vec<Result<()>> = some.iter().map(|steps| self.accept(steps)).collect();
            match self.services.flush() {
                Ok(()) => answers.extend(accepted),
                // One of them is to blame, the others are well.
                Err(_) => answers.extend(some.iter().map(|steps| self.apply_service(steps))),
            }
        }
        let frontend = |step: &Step| match step {
            Step::Put(frontend, _) => Some(*frontend),
            _ => None,
        };
        let wanted: HashSet<compile::Frontend> = all.iter().flatten().filter_map(frontend).collect();
        self.services.retain(&wanted)?;
        Ok(answers)
    }

    fn accept(&mut self, steps: &[Step]) -> Result<()> {
        let plan = self.services.plan(steps)?;
        let usage = self.services.with(&plan)?;
        self.make_room(&usage)?;
        self.services.accept(plan);
        Ok(())
    }

    /// The frontends that the kernel has, whoever put them there, with what those inside are led to.
    pub fn frontends(&self) -> BTreeMap<compile::Frontend, Vec<compile::Backend>> {
        self.services.all()
    }

    /// How many entries of the services' maps were written or removed since the agent was started.
    pub fn service_writes(&self) -> u64 {
        self.services.writes()
    }

    /// Where addresses of Services are taken from, and where the cluster's pods are.
    pub fn set_ranges(&mut self, services: &[IpNet], pods: &[IpNet]) -> Result<()> {
        self.node.set_ranges(services, pods)
    }

    /// Who this node is, and its links to the outside, which carry the hooks from then on; others do not any more.
    pub fn set_node(&mut self, here: &Here) -> Result<()> {
        self.node.set(here)?;
        self.links.set_outside(&here.links)
    }

    /// Whether backends of UDP have gone since this was asked last: see [`Datapath::stale_sockets`].
    pub fn take_released(&mut self) -> bool {
        self.services.take_released()
    }

    /// Sockets that may be connected to backends which their Service does not have any more, by the kernel's cookie of
    /// the socket: what it sends goes into nothing. Sockets of TCP, and some that are closed, may be among them.
    pub fn stale_sockets(&self) -> Result<HashSet<u64>> {
        let mut stale = HashSet::new();
        for (peer, service) in self.peers.entries()? {
            if self.services.is_stale(&peer, &service)? {
                stale.insert(peer.cookie);
            }
        }
        Ok(stale)
    }

    /// Puts larger maps into the place of those that get full. An error where one would be over-full and can not grow.
    fn make_room(&mut self, usage: &[Usage]) -> Result<()> {
        let size = |usage: &Usage| (usage.map, usage.sized_for(self.config.map_memory) as u32);
        let larger = usage.iter().map(|usage| (size(usage), usage.capacity));
        let larger = larger.filter(|((_, size), capacity)| *size as usize > *capacity);
        let larger: Vec<(&'static str, u32)> = larger.map(|(larger, _)| larger).collect();
        if !larger.is_empty() {
            match self.grow(&larger) {
                Ok(()) => return self.fits(usage, &larger),
                Err(error) => {
                    self.pins.remove_larger()?;
                    warn!("{error}; services stay with the maps they have");
                }
            }
        }
        self.fits(usage, &[])
    }

    fn fits(&self, usage: &[Usage], larger: &[(&'static str, u32)]) -> Result<()> {
        let capacity = |usage: &Usage| {
            let grown = larger.iter().find(|(map, _)| *map == usage.map);
            grown.map_or(usage.capacity, |(_, size)| *size as usize)
        };
        match usage.iter().find(|usage| usage.used > capacity(usage)) {
            Some(full) => Err(Error::MapFull {
                map: full.map,
                capacity: capacity(full) as u32,
            }),
            None => Ok(()),
        }
    }

    /// Fills larger maps with what those of the same name hold, and makes every program use them, without a gap: both
    /// hold the same meanwhile, and new programs replace those in the links.
    fn grow(&mut self, larger: &[(&'static str, u32)]) -> Result<()> {
        self.services.flush()?;
        let mut ebpf = load(&self.config.pin_dir.join("maps"), larger)?;
        let services = self.services.larger(&mut ebpf)?;
        let pods = self.pods.larger(&mut ebpf)?;
        self.links.replace(ebpf)?;
        self.services.move_to(services);
        self.pods.move_to(pods);
        let maps: Vec<&str> = larger.iter().map(|(map, _)| *map).collect();
        self.pins.rename_larger(&maps)?;
        info!(?larger, "maps that were almost full have been replaced by larger ones");
        Ok(())
    }

    /// Makes an address that of the pod behind this veth: the pod may send from it, and its neighbours reach it.
    pub fn set_pod(&mut self, ip: IpAddr, link: PodLink) -> Result<()> {
        let usage = self.pods.usage_with(1);
        self.make_room(&usage)?;
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

    /// The links that carry the hooks to the outside.
    pub fn outside(&self) -> Result<BTreeSet<u32>> {
        self.links.outside()
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
        let usage = self.services.usage().into_iter().chain(self.pods.usage());
        usage.chain(self.node.usage()).collect()
    }

    /// What the programs counted, in the order of [`Reason::ALL`].
    pub fn counters(&self) -> Result<Vec<Counter>> {
        let count = |reason: &Reason| {
            let values = self
                .counters
                .get(&(*reason as u32), 0)
                .map_err(Error::map(name::COUNTERS, "read"))?;
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

/// Makes the maps, or opens those that are pinned, and prepares the programs. Those of `larger` are made beside those
/// that are pinned, with so many entries.
pub(super) fn load(maps: &Path, larger: &[(&'static str, u32)]) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    // The programs need no BTF, and reading the kernel's takes longer than loading them.
    loader.btf(None);
    let pins = Pins::at(maps);
    for family in &Family::ALL {
        for map in family.maps {
            loader.map_pin_path(map, pins.path(family, map));
        }
    }
    for (map, size) in larger {
        if let Some(pin) = pins.larger(map) {
            loader.map_pin_path(map, pin).map_max_entries(map, *size);
        }
    }
    loader.load(OBJECT).map_err(|source| Error::Load(Box::new(source)))
}

pub(super) fn open_counters(ebpf: &mut Ebpf) -> Result<PerCpuArray<MapData, u64>> {
    let map = ebpf
        .take_map(name::COUNTERS)
        .ok_or(Error::Incomplete { name: name::COUNTERS })?;
    PerCpuArray::try_from(map).map_err(Error::map(name::COUNTERS, "open"))
}
