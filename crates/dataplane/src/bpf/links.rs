//! Links: programs attached to hooks, pinned so that they stay when the agent goes.
//!
//! A pinned link is taken over by swapping its program, which the kernel does in one step. A link whose interface or
//! cgroup has gone is let go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

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

/// A hook at interfaces.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Hook {
    program: &'static str,
    /// linux/bpf.h: enum bpf_attach_type.
    number: u32,
    /// What the pin's name begins with; the interface's index follows.
    pin: &'static str,
    /// It comes before what is attached there, not behind.
    in_front: bool,
}

/// The hook on the host side of a pod's veth, tcx ingress.
///
/// One only: the kernel waits for a grace period to attach one, and lets one pod at a time.
const POD_HOOK: Hook = Hook {
    program: "from_pod",
    number: 46,
    pin: "pod-",
    in_front: false,
};

/// In front of it, where the pod has a limit of what it sends.
const LIMIT_HOOK: Hook = Hook {
    program: "limit_pod",
    number: POD_HOOK.number,
    pin: "limit-",
    in_front: true,
};

/// The hooks at the links by which the node is reached, tcx ingress and egress.
const OUTSIDE_HOOKS: [Hook; 2] = [
    Hook {
        program: "from_outside",
        number: 46,
        pin: "in-",
        in_front: false,
    },
    Hook {
        program: "to_outside",
        number: 47,
        pin: "out-",
        in_front: false,
    },
];

pub(super) struct Links {
    /// The programs. Who attaches one holds it, so that who replaces them misses none.
    ebpf: RwLock<Ebpf>,
    dir: PathBuf,
    /// The pins whose links run our programs, and which.
    ours: Mutex<BTreeMap<PathBuf, &'static str>>,
    /// Links that are there stay with the programs of another layout, until [`Links::take_over`].
    moving: AtomicBool,
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
    /// Loads every program into the kernel. Where links of another layout are `moving`, they are left alone at first.
    pub(super) fn open(mut ebpf: Ebpf, dir: PathBuf, moving: bool) -> Result<Self> {
        load(&mut ebpf)?;
        Ok(Self {
            ebpf: RwLock::new(ebpf),
            dir,
            ours: Mutex::default(),
            moving: AtomicBool::new(moving),
            taken_over: AtomicUsize::new(0),
        })
    }

    /// Attaches the socket hooks, and puts our programs into every link that is pinned.
    pub(super) fn take_over(&self, cgroup: &Path) -> Result<()> {
        self.moving.store(false, Ordering::Relaxed);
        let programs = self.programs();
        for hook in [LIMIT_HOOK, POD_HOOK].into_iter().chain(OUTSIDE_HOOKS) {
            for ifindex in self.indexes(hook)? {
                self.put(&programs, hook.program, &self.pin(hook, ifindex))?;
            }
        }
        self.attach_sockets(&programs, cgroup)
    }

    /// Puts other programs in the place of ours, at once in every link that runs one.
    pub(super) fn replace(&self, mut ebpf: Ebpf) -> Result<()> {
        load(&mut ebpf)?;
        let mut programs = self.ebpf.write().unwrap_or_else(PoisonError::into_inner);
        let ours = self.ours().clone();
        for (pin, name) in ours {
            if let Some(link) = open_pin(&pin)? {
                match sys::update_link(link, program(&ebpf, name)?.as_fd()) {
                    // Its interface has gone; whoever notices removes the pin.
                    Err(e) if e.raw_os_error() == Some(ENOLINK) => {}
                    result => result.map_err(failed("replace", name, &pin))?,
                }
            }
        }
        *programs = ebpf;
        Ok(())
    }

    /// How many links of an earlier agent were found and run this agent's programs now.
    pub(super) fn taken_over(&self) -> usize {
        self.taken_over.load(Ordering::Relaxed)
    }

    /// The interfaces that carry pinned links of pods.
    pub(super) fn attached(&self) -> Result<BTreeSet<u32>> {
        let mut all = self.indexes(POD_HOOK)?;
        all.extend(self.indexes(LIMIT_HOOK)?);
        Ok(all)
    }

    /// Attaches the hooks to the host side of a pod's veth, or swaps their programs where they are attached.
    pub(super) fn attach_pod(&self, ifindex: u32, limited: bool) -> Result<()> {
        if limited {
            self.attach_hook(LIMIT_HOOK, ifindex)?;
        }
        self.attach_hook(POD_HOOK, ifindex)
    }

    /// The first hook that a pod lacks: whoever takes one off leaves its pin.
    pub(super) fn first_missing(&self, ifindex: u32, limited: bool) -> Result<Option<&'static str>> {
        for hook in limited.then_some(LIMIT_HOOK).into_iter().chain([POD_HOOK]) {
            if !is_at(&self.pin(hook, ifindex), ifindex)? {
                return Ok(Some(hook.program));
            }
        }
        Ok(None)
    }

    /// Takes the hooks off an interface, which may have gone already.
    pub(super) fn detach_pod(&self, ifindex: u32) -> Result<()> {
        self.detach_hook(LIMIT_HOOK, ifindex)?;
        self.detach_hook(POD_HOOK, ifindex)
    }

    /// Attaches the hooks to these links, the ones that lead out of the node, and takes them off all others.
    pub(super) fn set_outside(&self, links: &BTreeSet<u32>) -> Result<()> {
        for hook in OUTSIDE_HOOKS {
            for ifindex in links {
                match self.attach_hook(hook, *ifindex) {
                    // It went while we looked at it.
                    Err(Error::NoInterface { .. }) => {}
                    result => result?,
                }
            }
            for ifindex in self.indexes(hook)?.difference(links) {
                self.detach_hook(hook, *ifindex)?;
            }
        }
        Ok(())
    }

    /// The interfaces that carry the hooks of [`Links::set_outside`].
    pub(super) fn outside(&self) -> Result<BTreeSet<u32>> {
        self.indexes(OUTSIDE_HOOKS[0])
    }

    fn attach_hook(&self, hook: Hook, ifindex: u32) -> Result<()> {
        let programs = self.programs();
        let pin = self.pin(hook, ifindex);
        if self.ours().contains_key(&pin) && is_at(&pin, ifindex)? {
            return Ok(());
        }
        if self.moving.load(Ordering::Relaxed) && is_at(&pin, ifindex)? {
            return Ok(());
        }
        if self.put(&programs, hook.program, &pin)? {
            return Ok(());
        }
        let _quick = Expedited::start();
        let target = match hook.in_front {
            true => Target::FrontOf(ifindex),
            false => Target::Interface(ifindex),
        };
        self.attach(&programs, hook.program, target, hook.number, &pin)
    }

    fn detach_hook(&self, hook: Hook, ifindex: u32) -> Result<()> {
        let pin = self.pin(hook, ifindex);
        self.ours().remove(&pin);
        remove_pin(&pin)
    }

    /// Attaches the socket hooks, or swaps their programs where they are attached.
    fn attach_sockets(&self, programs: &Ebpf, cgroup: &Path) -> Result<()> {
        let dir = File::open(cgroup).map_err(Error::file("open", cgroup))?;
        let id = dir.metadata().map_err(Error::file("look at", cgroup))?.ino();
        for (name, hook) in SOCKET_HOOKS {
            let pin = self.dir.join(name);
            let old = open_pin(&pin)?;
            let same_cgroup = old
                .as_ref()
                .is_some_and(|link| sys::cgroup_of(link).is_ok_and(|found| found == id));
            if same_cgroup && self.put(programs, name, &pin)? {
                continue;
            }
            // Attached elsewhere: the new link takes the name, then the old one goes with its descriptor.
            remove_pin(&pin)?;
            self.attach(programs, name, Target::Cgroup(dir.as_fd()), hook, &pin)?;
        }
        Ok(())
    }

    /// Attaches a program to a hook and pins the link.
    fn attach(&self, programs: &Ebpf, name: &'static str, target: Target<'_>, hook: u32, pin: &Path) -> Result<()> {
        let fail = |action| {
            move |source: io::Error| match target {
                Target::Interface(ifindex) | Target::FrontOf(ifindex)
                    if source.raw_os_error() == Some(nix::libc::ENODEV) =>
                {
                    Error::NoInterface { ifindex }
                }
                _ => failed(action, name, pin)(source),
            }
        };
        let link = sys::create_link(program(programs, name)?.as_fd(), target, hook).map_err(fail("attach"))?;
        sys::pin(link, pin).map_err(fail("pin"))?;
        self.ours().insert(pin.to_owned(), name);
        Ok(())
    }

    /// Puts our program into a pinned link. False where there is none, or nothing is left that it is attached to.
    fn put(&self, programs: &Ebpf, name: &'static str, pin: &Path) -> Result<bool> {
        let Some(link) = open_pin(pin)? else { return Ok(false) };
        match sys::update_link(link, program(programs, name)?.as_fd()) {
            Ok(()) => {
                self.taken_over.fetch_add(1, Ordering::Relaxed);
                self.ours().insert(pin.to_owned(), name);
                Ok(true)
            }
            Err(e) if e.raw_os_error() == Some(ENOLINK) => {
                self.ours().remove(pin);
                remove_pin(pin)?;
                Ok(false)
            }
            Err(source) => Err(failed("replace", name, pin)(source)),
        }
    }

    /// The interfaces for which a hook is pinned.
    fn indexes(&self, hook: Hook) -> Result<BTreeSet<u32>> {
        let fail = Error::file("list", &self.dir);
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(&self.dir).map_err(&fail)? {
            let name = entry.map_err(&fail)?.file_name();
            let ifindex: Option<u32> = name.to_str().and_then(|name| name.strip_prefix(hook.pin)?.parse().ok());
            found.extend(ifindex);
        }
        Ok(found)
    }

    fn pin(&self, hook: Hook, ifindex: u32) -> PathBuf {
        self.dir.join(format!("{}{ifindex}", hook.pin))
    }

    fn programs(&self) -> RwLockReadGuard<'_, Ebpf> {
        self.ebpf.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn ours(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, &'static str>> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Loads every program into the kernel.
fn load(ebpf: &mut Ebpf) -> Result<()> {
    let sockets = SOCKET_HOOKS.into_iter().map(|(name, _)| name);
    let interfaces = [LIMIT_HOOK, POD_HOOK]
        .into_iter()
        .chain(OUTSIDE_HOOKS)
        .map(|hook| hook.program);
    for name in sockets.chain(interfaces) {
        let program = ebpf.program_mut(name).ok_or(Error::Incomplete { name })?;
        let loaded = match program {
            Program::CgroupSockAddr(program) => CgroupSockAddr::load(program),
            Program::SchedClassifier(program) => SchedClassifier::load(program),
            _ => return Err(Error::Incomplete { name }),
        };
        loaded.map_err(|source| Error::Program {
            program: name,
            source: Box::new(source),
        })?;
    }
    Ok(())
}

/// A program that has been loaded.
fn program<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a ProgramFd> {
    let fd = match ebpf.program(name) {
        Some(Program::CgroupSockAddr(program)) => program.fd(),
        Some(Program::SchedClassifier(program)) => program.fd(),
        _ => return Err(Error::Incomplete { name }),
    };
    fd.map_err(|source: ProgramError| Error::Program {
        program: name,
        source: Box::new(source),
    })
}

fn failed(action: &'static str, program: &'static str, pin: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Hook {
        action,
        program,
        pin: pin.to_owned(),
        source,
    }
}

/// Whether a link is pinned there that is attached to this interface: the one before may have had the same index.
fn is_at(pin: &Path, ifindex: u32) -> Result<bool> {
    let link = open_pin(pin)?;
    Ok(link.is_some_and(|link| sys::interface_of(link).is_ok_and(|found| found == ifindex)))
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
