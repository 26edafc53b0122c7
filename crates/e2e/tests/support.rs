//! Labs that tests use, the commands they run, and the patience they have.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::Value;

/// The lab that tests share; each works in a namespace of its own.
const SHARED: &str = "e2e";
/// How every lab of the tests is called, so that what a killed run left can be found.
const PREFIX: &str = "e2e";

/// A named test from a function that panics where it fails.
pub(crate) fn test(name: &'static str, run: fn()) -> Trial {
    Trial::test(name, move || {
        run();
        Ok(())
    })
}

/// What the tests cannot do without; they fail loudly rather than skip.
pub(crate) fn require() -> Result<(), String> {
    if !weft_path().exists() {
        return Err(format!(
            "{} is missing; build it first: cargo build",
            weft_path().display()
        ));
    }
    for tool in ["cnitool", "containerd", "podman"] {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", tool]).output();
        if !found.is_ok_and(|output| output.status.success()) {
            return Err(format!(
                "{tool} is missing, which drives the plugin in tests; run: scripts/bootstrap test"
            ));
        }
    }
    let version = Command::new("kubectl")
        .args(["version", "--client", "-o", "json"])
        .output();
    let version: Value = version
        .ok()
        .and_then(|output| serde_json::from_slice(&output.stdout).ok())
        .ok_or("kubectl is missing; get 1.31 or newer: https://kubernetes.io/docs/tasks/tools/")?;
    let minor = version["clientVersion"]["minor"]
        .as_str()
        .unwrap_or_default()
        .trim_end_matches('+')
        .to_owned();
    match minor.parse::<u32>() {
        Ok(minor) if minor >= 31 => Ok(()),
        _ => Err(format!(
            "kubectl 1.{minor} is too old; get 1.31 or newer: https://kubernetes.io/docs/tasks/tools/"
        )),
    }
}

pub(crate) fn weft_path() -> PathBuf {
    // target/debug/deps/e2e-0123 -> target/debug/weft
    let own = std::env::current_exe().unwrap();
    own.parent().and_then(Path::parent).unwrap().join("weft")
}

/// What a command printed.
pub(crate) struct Said {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) ok: bool,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            ok: output.status.success(),
        }
    }
}

impl Said {
    /// What it printed, if it succeeded.
    #[track_caller]
    pub(crate) fn good(self) -> String {
        assert!(self.ok, "the command failed: {}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// What it complained of, if it failed.
    #[track_caller]
    pub(crate) fn bad(self) -> String {
        assert!(!self.ok, "the command should have failed, but printed: {}", self.stdout);
        self.stderr
    }
}

/// Runs `weft`.
pub(crate) fn weft(args: &[&str]) -> Said {
    Command::new(weft_path())
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
        .into()
}

/// A lab that is up.
#[derive(Clone)]
pub(crate) struct Lab {
    name: String,
}

impl Lab {
    /// The lab that tests share, brought up by the first that asks.
    pub(crate) fn shared() -> &'static Lab {
        static LAB: OnceLock<Lab> = OnceLock::new();
        LAB.get_or_init(|| Lab::up(SHARED, &[]))
    }

    /// A lab for one test, which may break it.
    pub(crate) fn own(suffix: &str, args: &[&str]) -> OwnLab {
        OwnLab(Lab::up(&format!("{PREFIX}-{suffix}"), args))
    }

    fn up(name: &str, args: &[&str]) -> Lab {
        weft(&[&["lab", "up", "--name", name], args].concat()).good();
        Lab { name: name.to_owned() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn dir(&self) -> PathBuf {
        Path::new("/run/weft/lab").join(&self.name)
    }

    /// A namespace of one test's own, removed with it.
    pub(crate) fn namespace(&self, name: &str) -> Namespace {
        self.kubectl(&["create", "namespace", name]).good();
        let namespace = Namespace {
            lab: self.clone(),
            name: name.to_owned(),
        };
        eventually("the namespace has its ServiceAccount", || {
            namespace.kubectl(&["get", "sa", "default"]).ok
        });
        namespace
    }

    /// `kubectl` with nothing but the lab's kubeconfig.
    pub(crate) fn kubectl_command(&self) -> Command {
        let mut command = Command::new("kubectl");
        command
            .env("KUBECONFIG", self.dir().join("kubeconfig"))
            .env("HOME", self.dir());
        command
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> Said {
        self.kubectl_command()
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap()
            .into()
    }

    /// `kubectl` with something to read.
    pub(crate) fn kubectl_stdin(&self, args: &[&str], input: &str) -> Said {
        let mut command = self.kubectl_command();
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap().into()
    }

    /// Runs a command on a node.
    pub(crate) fn on_node(&self, node: &str, command: &[&str]) -> Said {
        weft(&[&["lab", "enter", "--name", &self.name, node, "--"], command].concat())
    }

    /// `weft lab ask` on a node.
    pub(crate) fn ask_from_node(&self, node: &str, question: &[&str]) -> Said {
        let weft = weft_path();
        self.on_node(node, &[&[weft.to_str().unwrap(), "lab", "ask"], question].concat())
    }

    /// The processes of a component of the lab.
    pub(crate) fn pids(&self, component: &str, node: Option<&str>) -> Vec<i32> {
        let part = node.map_or_else(|| "control".to_owned(), |node| format!("{node}/daemons"));
        let path = cgroup2().join(format!("weft-{}/{part}/{component}/cgroup.procs", self.name));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// `kill -9` of a component; how many processes it was. They are gone when this returns: a killed process ends
    /// in its own time, which on a busy machine is a while.
    pub(crate) fn kill(&self, component: &str, node: Option<&str>) -> usize {
        let pids = self.pids(component, node);
        for pid in &pids {
            Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        }
        eventually(&format!("{component} is gone"), || {
            let left = self.pids(component, node);
            !pids.iter().any(|pid| left.contains(pid))
        });
        pids.len()
    }
}

/// A lab that ends with the test.
pub(crate) struct OwnLab(Lab);

impl std::ops::Deref for OwnLab {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.0
    }
}

impl Drop for OwnLab {
    fn drop(&mut self) {
        weft(&["lab", "down", "--name", &self.0.name]);
    }
}

/// A namespace that ends with the test.
pub(crate) struct Namespace {
    lab: Lab,
    name: String,
}

impl Namespace {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> Said {
        self.lab.kubectl(&[&["-n", &self.name], args].concat())
    }

    pub(crate) fn kubectl_stdin(&self, args: &[&str], input: &str) -> Said {
        self.lab.kubectl_stdin(&[&["-n", &self.name], args].concat(), input)
    }

    pub(crate) fn apply(&self, yaml: &str) {
        self.kubectl_stdin(&["apply", "-f", "-"], yaml).good();
    }

    /// A pod with the test server, on a node or anywhere; waits until it is ready.
    pub(crate) fn pod(&self, name: &str, node: Option<&str>) {
        let node = node.map_or_else(String::new, |node| format!("nodeName: {node}"));
        self.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n\
             spec:\n  terminationGracePeriodSeconds: 1\n  {node}\n  containers: [{{name: main, image: weft.dev/lab}}]\n"
        ));
        self.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=30s"])
            .good();
    }

    /// A command in a pod.
    pub(crate) fn exec(&self, pod: &str, command: &[&str]) -> Said {
        self.kubectl(&[&["exec", pod, "--"], command].concat())
    }

    /// `weft lab ask` in a pod.
    pub(crate) fn ask(&self, pod: &str, question: &[&str]) -> Said {
        self.exec(pod, &[&["weft", "lab", "ask"], question].concat())
    }

    /// A field of an object, by JSONPath.
    pub(crate) fn field(&self, object: &str, path: &str) -> String {
        self.kubectl(&["get", object, "-o", &format!("jsonpath={{{path}}}")])
            .good()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

/// Tries until it holds; panics after half a minute.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "not after 30 s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A process in the background that ends with the test.
pub(crate) struct Background(pub(crate) Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where the cgroup v2 tree is.
pub(crate) fn cgroup2() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let tree = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"))
        .unwrap();
    PathBuf::from(tree.split(' ').nth(1).unwrap())
}

/// One run at a time on a machine: the labs have the same names in each, and a run takes down what it finds.
pub(crate) fn wait_for_other_runs() -> std::fs::File {
    let file = std::fs::File::create("/run/lock/weft-e2e").unwrap();
    if file.try_lock().is_err() {
        eprintln!("e2e: waiting for another run on this machine to end");
        file.lock().unwrap();
    }
    file
}

pub(crate) fn take_down_what_earlier_runs_left() {
    let left = std::fs::read_dir("/run/weft/lab").into_iter().flatten().flatten();
    for name in left.filter_map(|entry| entry.file_name().into_string().ok()) {
        if name.starts_with(PREFIX) && !name.ends_with(".lock") {
            weft(&["lab", "down", "--name", &name]);
        }
    }
}

pub(crate) fn take_down() {
    weft(&["lab", "down", "--name", SHARED]);
}
