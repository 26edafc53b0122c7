//! A world of one's own for a test: network and mount namespace, cgroup, bpffs. Gone with the test.
//!
//! Namespaces and cgroups belong to processes, and tests share one; so a test runs itself again as a child.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use weft_model::compile::{Backend, Choice, Frontend, FrontendKind, Rule, SetKey, Source, Step, Target, WhenEmpty};
use weft_model::{ObjectKey, Protocol};

use crate::bpf::{Config, Datapath, Result};

const CGROUP: &str = "WEFT_TEST_CGROUP";

/// What a test finds in its world.
pub(in crate::bpf) struct World {
    /// The test's cgroup; the test's process is in it.
    pub(in crate::bpf) cgroup: PathBuf,
    /// A bpffs that nobody else sees.
    pub(in crate::bpf) bpffs: PathBuf,
    _dir: tempfile::TempDir,
}

/// Removes the cgroup when the child has gone.
struct Cgroup(PathBuf);

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap_or_else(|e| eprintln!("{} stays behind: {e}", self.0.display()));
    }
}

/// Runs a test in a world of its own. `module` is the test's `module_path!()`, `test` its name there.
pub(in crate::bpf) fn run(module: &str, test: &str, body: impl FnOnce(&World)) {
    if let Some(cgroup) = env::var_os(CGROUP) {
        return body(&World::enter(cgroup.into()));
    }
    let cgroup = Cgroup(cgroup2().join(format!("weft-test-{test}-{}", std::process::id())));
    fs::create_dir(&cgroup.0).expect("make a cgroup: run as root, on a host with cgroup2");
    let (_, path) = module.split_once("::").expect("a module below the crate");
    let output = Command::new(env::current_exe().unwrap())
        .args([&format!("{path}::{test}"), "--exact", "--nocapture", "--test-threads=1"])
        .env(CGROUP, &cgroup.0)
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    println!("{stdout}{stderr}");
    assert!(output.status.success(), "{test} failed in its own world, see above");
    assert!(stdout.contains("1 passed"), "{path}::{test} is not a test");
}

impl World {
    fn enter(cgroup: PathBuf) -> Self {
        fs::write(cgroup.join("cgroup.procs"), "0").unwrap();
        // The calling thread moves; those that it starts are born there.
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let bpffs = dir.path().join("bpf");
        fs::create_dir(&bpffs).unwrap();
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        ip("link set lo up");
        Self {
            cgroup,
            bpffs,
            _dir: dir,
        }
    }

    pub(in crate::bpf) fn config(&self) -> Config {
        Config {
            cgroup: self.cgroup.clone(),
            pin_dir: self.bpffs.join("weft"),
            map_memory: Config::MAP_MEMORY,
        }
    }

    pub(in crate::bpf) fn open(&self) -> Datapath {
        Datapath::open(self.config()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Gives this world's loopback another address.
    pub(in crate::bpf) fn own(&self, address: &str) {
        add_address(address, "lo");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        nix::mount::umount(&self.bpffs).unwrap();
    }
}

/// Runs `ip` in the calling thread's network namespace.
pub(in crate::bpf) fn ip(args: &str) {
    let output = Command::new("ip")
        .args(args.split(' '))
        .output()
        .expect("iproute2 is installed");
    assert!(
        output.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Adds an address, with its length, to an interface of the calling thread's network namespace, and waits until
/// packets to it are taken: with IPv6, the kernel sees to that aside, which may take a while on a busy machine.
pub(in crate::bpf) fn add_address(address: &str, interface: &str) {
    let (ip_address, length) = address.split_once('/').expect("an address with its length");
    if length != "128" {
        return ip(&format!("addr add {address} dev {interface}"));
    }
    ip(&format!("addr add {address} dev {interface} nodad"));
    let taken = || {
        let routes = Command::new("ip")
            .args(["-6", "route", "show", "table", "local", ip_address])
            .output()
            .unwrap();
        !routes.stdout.is_empty()
    };
    for _ in 0..1000 {
        if taken() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{interface} does not take packets to {address}");
}

/// Where cgroup2 is mounted.
fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields[2] == "cgroup2");
    Path::new(mount.expect("cgroup2 is mounted")[1]).to_owned()
}

pub(in crate::bpf) fn tcp(ip: &str, port: u16) -> Frontend {
    Frontend {
        ip: ip.parse().unwrap(),
        port,
        protocol: Protocol::Tcp,
    }
}

pub(in crate::bpf) fn udp(ip: &str, port: u16) -> Frontend {
    Frontend {
        protocol: Protocol::Udp,
        ..tcp(ip, port)
    }
}

/// The name of the set of a Service that has this one frontend.
pub(in crate::bpf) fn set_of(frontend: &Frontend) -> SetKey {
    SetKey {
        service: ObjectKey::new("test", frontend.to_string()).into(),
        port: frontend.port,
        protocol: frontend.protocol,
        ipv6: frontend.ip.is_ipv6(),
        choice: Choice::Cluster,
    }
}

/// What a Service says that has this one frontend, of this kind.
pub(in crate::bpf) fn rule(frontend: &Frontend, kind: FrontendKind) -> Rule {
    let target = |source| Target {
        set: set_of(frontend),
        when_empty: WhenEmpty::Refuse,
        source,
    };
    Rule {
        inside: target(Source::Keep),
        outside: target(Source::Masquerade),
        affinity: None,
        source_ranges: None,
        kind,
    }
}

/// The steps for a Service that has this one frontend.
pub(in crate::bpf) fn steps(frontend: &Frontend, kind: FrontendKind, backends: &[Backend]) -> Vec<Step> {
    vec![
        Step::Set(set_of(frontend), backends.to_vec()),
        Step::Put(*frontend, rule(frontend, kind)),
    ]
}

/// Services of one cluster address.
pub(in crate::bpf) trait OneFrontend {
    fn set_frontend(&mut self, frontend: &Frontend, backends: &[Backend]) -> Result<()>;
    fn remove_frontend(&mut self, frontend: &Frontend) -> Result<()>;
}

impl OneFrontend for Datapath {
    fn set_frontend(&mut self, frontend: &Frontend, backends: &[Backend]) -> Result<()> {
        self.apply_service(&steps(frontend, FrontendKind::ClusterIp, backends))
    }

    fn remove_frontend(&mut self, frontend: &Frontend) -> Result<()> {
        self.apply_service(&[Step::Remove(*frontend), Step::Forget(set_of(frontend))])
    }
}

pub(in crate::bpf) fn backend(address: std::net::SocketAddr) -> Backend {
    Backend {
        ip: address.ip().to_canonical(),
        port: address.port(),
    }
}

pub(in crate::bpf) fn backend_at(ip: &str, port: u16) -> Backend {
    Backend {
        ip: ip.parse::<IpAddr>().unwrap(),
        port,
    }
}
