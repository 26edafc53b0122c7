//! Links: programs attached to hooks, pinned so that they stay when the agent goes.
//!
//! A pinned link is taken over by swapping its program, which the kernel does in one step. A link whose interface or
//! cgroup has gone is let go.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aya::Ebpf;
use aya::programs::{CgroupSockAddr, Program, ProgramError, ProgramFd, SchedClassifier};
use nix::libc::ENOLINK;

use super::sys::{self, Target};
use super::{Error, Result};
use crate::grace::Expedited;

/// The socket hooks: program (and pin), and the hook's number (linux/bpf.h: enum bpf_attach_type).
const SOCKET_HOOKS: [(&str, u32); 8] = [
    ("connect4", 10),
    ("connect6", 11),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
    ("recvmsg4", 19),
    ("recvmsg6", 20),
    ("getpeername4", 29),
    ("getpeername6", 30),
];

/// The hook on the host side of a pod's veth, tcx ingress: program, and the hook's number.
///
/// One only: the kernel waits for a grace period to attach one, and lets one pod at a time.
const POD_HOOK: (&str, u32) = ("from_pod", 46);

/// The hooks on uplinks and on the tunnel, tcx ingress and egress.
const NODE_HOOKS: [(&str, u32); 2] = [("from_outside", 46), ("to_outside", 47)];

/// In front of it, where the pod has a limit of what it sends.
const LIMIT_HOOK: (&str, u32) = ("limit_pod", POD_HOOK.1);

/// What the names of their pins begin with.
const POD_PIN: &str = "pod";
const LIMIT_PIN: &str = "limit";

pub(super) struct Links {
    ebpf: Ebpf,
    dir: PathBuf,
    /// How many links of an earlier agent run our programs now.
    taken_over: AtomicUsize,
}

/// The hooks of pods alone, for use beside the rest of the datapath.
///
/// The kernel takes 0.2 ms to attach one, or ten where grace periods cannot be expedited: it waits until no CPU runs what
/// was there before. Call it where blocking is allowed; nothing else waits meanwhile.
#[derive(Clone)]
pub struct PodHooks(pub(super) Arc<Links>);

impl PodHooks {
    /// Attaches the hook to the host side of a pod's veth (of the calling thread's network namespace), or puts this
    /// agent's program into it; and where the pod's sending is limited, the one in front of it. From then on the pod sends
    /// from its own addresses only: set those before.
    pub fn attach(&self, ifindex: u32, limited: bool) -> Result<()> {
        self.0.attach_pod(ifindex, limited)
    }

    /// Takes the hook off; the interface may have gone already, which makes this quick.
    pub fn detach(&self, ifindex: u32) -> Result<()> {
        self.0.detach_pod(ifindex)
    }
}

impl Links {
    /// Loads every program into the kernel.
    pub(super) fn open(ebpf: Ebpf, dir: PathBuf) -> Result<Self> {
        let mut links = Self {
            ebpf,
            dir,
            taken_over: AtomicUsize::new(0),
        };
        let of_pods = [POD_HOOK, LIMIT_HOOK];
        for (name, _) in SOCKET_HOOKS.into_iter().chain(of_pods).chain(NODE_HOOKS) {
            links.load(name)?;
        }
        Ok(links)
    }

    /// Swaps our program into every pod's link that is pinned.
    pub(super) fn take_over_pods(&self) -> Result<()> {
        for ifindex in self.attached()? {
            self.take_over(LIMIT_HOOK.0, &self.limit_pin(ifindex))?;
            self.take_over(POD_HOOK.0, &self.pod_pin(ifindex))?;
        }
        Ok(())
    }

    /// How many links of an earlier agent were found and run this agent's programs now.
    pub(super) fn taken_over(&self) -> usize {
        self.taken_over.load(Ordering::Relaxed)
    }

    /// The interfaces that carry pinned links.
    pub(super) fn attached(&self) -> Result<BTreeSet<u32>> {
        let fail = Error::file("list", &self.dir);
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(&self.dir).map_err(&fail)? {
            let name = entry.map_err(&fail)?.file_name();
            let ifindex = name.to_str().and_then(|name| name.split_once('-'));
            let ifindex = ifindex.filter(|(hook, _)| [POD_PIN, LIMIT_PIN].contains(hook));
            found.extend(ifindex.and_then(|(_, index)| index.parse::<u32>().ok()));
        }
        Ok(found)
    }

    /// Attaches the hooks to the host side of a pod's veth, or swaps their programs where they are attached.
    pub(super) fn attach_pod(&self, ifindex: u32, limited: bool) -> Result<()> {
        if limited {
            self.attach_to(LIMIT_HOOK, ifindex, &self.limit_pin(ifindex))?;
        }
        self.attach_to(POD_HOOK, ifindex, &self.pod_pin(ifindex))
    }

    fn attach_to(&self, (name, hook): (&'static str, u32), ifindex: u32, pin: &Path) -> Result<()> {
        if self.take_over(name, pin)? {
            return Ok(());
        }
        let _quick = Expedited::start();
        let target = match name == LIMIT_HOOK.0 {
            true => Target::FrontOf(ifindex),
            false => Target::Interface(ifindex),
        };
        self.attach(name, target, hook, pin)
    }

    /// The first hook that a pod lacks: whoever takes one off leaves its pin.
    pub(super) fn first_missing(&self, ifindex: u32, limited: bool) -> Result<Option<&'static str>> {
        let limit = limited.then(|| (LIMIT_HOOK.0, self.limit_pin(ifindex)));
        for (name, pin) in limit.into_iter().chain([(POD_HOOK.0, self.pod_pin(ifindex))]) {
            let there = open_pin(&pin)?.is_some_and(|link| sys::interface_of(link).is_ok_and(|found| found == ifindex));
            if !there {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Takes the hooks off an interface, which may have gone already.
    pub(super) fn detach_pod(&self, ifindex: u32) -> Result<()> {
        remove_pin(&self.limit_pin(ifindex))?;
        remove_pin(&self.pod_pin(ifindex))
    }

    /// Attaches the socket hooks, or swaps their programs where they are attached.
    pub(super) fn attach_sockets(&self, cgroup: &Path) -> Result<()> {
        let dir = File::open(cgroup).map_err(Error::file("open", cgroup))?;
        let id = dir.metadata().map_err(Error::file("look at", cgroup))?.ino();
        for (name, hook) in SOCKET_HOOKS {
            let pin = self.dir.join(name);
            let old = open_pin(&pin)?;
            let same_cgroup = old
                .as_ref()
                .is_some_and(|link| sys::cgroup_of(link).is_ok_and(|found| found == id));
            if same_cgroup && self.take_over(name, &pin)? {
                continue;
            }
            // Attached elsewhere: the new link takes the name, then the old one goes with its descriptor.
            remove_pin(&pin)?;
            self.attach(name, Target::Cgroup(dir.as_fd()), hook, &pin)?;
        }
        Ok(())
    }

    /// Loads a program into the kernel.
    fn load(&mut self, name: &'static str) -> Result<()> {
        let program = self.ebpf.program_mut(name).ok_or(Error::Incomplete { name })?;
        let loaded = match program {
            Program::CgroupSockAddr(program) => CgroupSockAddr::load(program),
            Program::SchedClassifier(program) => SchedClassifier::load(program),
            _ => return Err(Error::Incomplete { name }),
        };
        loaded.map_err(|source| Error::Program {
            program: name,
            source: Box::new(source),
        })
    }

    /// A program that has been loaded.
    fn program(&self, name: &'static str) -> Result<&ProgramFd> {
        let fd = match self.ebpf.program(name) {
            Some(Program::CgroupSockAddr(program)) => program.fd(),
            Some(Program::SchedClassifier(program)) => program.fd(),
            _ => return Err(Error::Incomplete { name }),
        };
        fd.map_err(|source: ProgramError| Error::Program {
            program: name,
            source: Box::new(source),
        })
    }

    /// Attaches a program to a hook and pins the link.
    fn attach(&self, name: &'static str, target: Target<'_>, hook: u32, pin: &Path) -> Result<()> {
        let fail = |action| {
            move |source: io::Error| match target {
                Target::Interface(ifindex) | Target::FrontOf(ifindex)
                    if source.raw_os_error() == Some(nix::libc::ENODEV) =>
                {
                    Error::NoInterface { ifindex }
                }
                _ => Error::Hook {
                    action,
                    program: name,
                    pin: pin.to_owned(),
                    source,
                },
            }
        };
        let link = sys::create_link(self.program(name)?.as_fd(), target, hook).map_err(fail("attach"))?;
        sys::pin(link, pin).map_err(fail("pin"))
    }

    /// Puts our program into a pinned link. False where there is none, or nothing is left that it is attached to.
    fn take_over(&self, name: &'static str, pin: &Path) -> Result<bool> {
        let Some(link) = open_pin(pin)? else { return Ok(false) };
        match sys::update_link(link, self.program(name)?.as_fd()) {
            Ok(()) => {
                self.taken_over.fetch_add(1, Ordering::Relaxed);
                Ok(true)
            }
            Err(e) if e.raw_os_error() == Some(ENOLINK) => {
                remove_pin(pin)?;
                Ok(false)
            }
            Err(source) => Err(Error::Hook {
                action: "replace",
                program: name,
                pin: pin.to_owned(),
                source,
            }),
        }
    }

    fn pod_pin(&self, ifindex: u32) -> PathBuf {
        self.dir.join(format!("{POD_PIN}-{ifindex}"))
    }

    fn limit_pin(&self, ifindex: u32) -> PathBuf {
        self.dir.join(format!("{LIMIT_PIN}-{ifindex}"))
    }
}

/// Opens a pinned link, if there is one.
fn open_pin(pin: &Path) -> Result<Option<OwnedFd>> {
    match sys::open_pin(pin) {
        Ok(link) => Ok(Some(link)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file("open the link pinned at", pin)(e)),
    }
}

fn remove_pin(pin: &Path) -> Result<()> {
    match fs::remove_file(pin) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", pin)(e)),
        _ => Ok(()),
    }
}
