//! The kubelet with a real runtime, a real API server and real namespaces. Each test is a node of its own: a mount and
//! network namespace on a thread of its own, and a cgroup, all gone at the end whatever happens.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::Config;
use crate::api::{self, ApiServer};
use crate::client::{Client, Error, ListOptions, Patch, Res};

const PODS: Res = Res::new("", "v1", "pods");

/// The cgroup of a test; what runs in it ends with it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let v2 = mounts
            .lines()
            .find(|line| line.split(' ').nth(2) == Some("cgroup2"))
            .expect("a cgroup2 mount");
        let name = format!("weft-kubelet-test-{:08x}", rand::random::<u32>());
        let path = Path::new(v2.split(' ').nth(1).unwrap()).join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn remove(path: &Path) {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                Self::remove(&entry.path());
            }
        }
        std::fs::remove_dir(path).ok();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        std::fs::write(self.0.join("cgroup.kill"), "1").ok();
        for _ in 0..200 {
            Self::remove(&self.0);
            if !self.0.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A node and its cluster.
struct Node {
    config: Config,
    client: Client,
    api: Runtime,
    kubelet: Option<Runtime>,
    base: PathBuf,
}

/// The network plugin: an address per sandbox, and a record of what it was asked.
const PLUGIN: &str = r#"#!/bin/sh
cat >/dev/null
echo "$CNI_COMMAND $CNI_CONTAINERID" >> BASE/cni.log
[ "$CNI_COMMAND" = ADD ] || exit 0
[ ! -e BASE/away ] || { echo '{"cniVersion":"1.0.0","code":11,"msg":"agent is away"}'; exit 1; }
echo '{"cniVersion":"1.0.0","ips":[{"address":"127.0.0.9/8"},{"address":"fd00::9/64"}]}'
"#;

/// What the keeper does on a node: waits for processes that were in a container when the runtime above them ended.
/// Until somebody has, the container cannot end.
fn reap() {
    loop {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        for pid in numbers.filter(|pid| is_orphan(*pid)) {
            nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).ok();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// An ended child of this process, in another process namespace and not the first there.
fn is_orphan(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(name));
        found.unwrap_or_default().trim()
    };
    let numbers: Vec<_> = field("NSpid:").split_whitespace().collect();
    field("State:").starts_with('Z')
        && field("PPid:") == std::process::id().to_string()
        && numbers.len() > 1
        && numbers.last() != Some(&"1")
}

impl Node {
    /// Runs a test in namespaces of its own.
    fn test(work: impl FnOnce(&mut Node) + Send) {
        static REAPER: std::sync::Once = std::sync::Once::new();
        REAPER.call_once(|| drop(std::thread::spawn(reap)));
        let cgroup = Cgroup::new();
        let base = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            let (cgroup, base) = (&cgroup.0, base.path());
            let thread = scope.spawn(move || {
                nix::sched::unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
                let mount = |source: &Path, target: &Path, kind: &str, flags: MsFlags| {
                    nix::mount::mount(Some(source), target, Some(kind), flags, None::<&str>).unwrap();
                };
                mount(
                    Path::new("none"),
                    Path::new("/"),
                    "",
                    MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                );
                mount(Path::new("tmpfs"), base, "tmpfs", MsFlags::empty());
                mount(cgroup, Path::new("/sys/fs/cgroup"), "", MsFlags::MS_BIND);
                let mut node = Node::new(base.to_owned());
                work(&mut node);
            });
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    fn new(base: PathBuf) -> Self {
        let mut config = Config::new(&base, "node-1");
        config.addresses = vec!["192.0.2.1".parse().unwrap()];
        config.state_dir = base.join("state");
        config.root_dir = base.join("kubelet");
        config.log_dir = base.join("logs");
        config.cni_conf_dir = base.join("net.d");
        config.cni_bin_dir = base.join("bin");
        config.netns_dir = base.join("netns");
        config.weft_binary = "/bin/true".into();
        for dir in [&config.cni_conf_dir, &config.cni_bin_dir] {
            std::fs::create_dir_all(dir).unwrap();
        }
        let plugin = config.cni_bin_dir.join("fake");
        std::fs::write(&plugin, PLUGIN.replace("BASE", base.to_str().unwrap())).unwrap();
        std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();

        let api = Runtime::new().unwrap();
        let server = ApiServer::open(api::Config {
            database: base.join("api.redb"),
            lab_dir: base.clone(),
            advertise: "192.0.2.2:6443".parse().unwrap(),
            families: crate::families::Families::Dual,
            token_key: b"a key for tests, long enough to be one".to_vec(),
        })
        .unwrap();
        let client = Client::local(server.handler());
        let socket = config.api_socket();
        api.spawn(async move { server.serve_unix(&socket).await.unwrap() });
        let node = Self {
            config,
            client,
            api,
            kubelet: None,
            base,
        };
        let named = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
        node.create("serviceaccounts", named("ServiceAccount", "default"));
        let mut authority = named("ConfigMap", "kube-root-ca.crt");
        authority["data"] = json!({"ca.crt": "none"});
        node.create("configmaps", authority);
        node
    }

    fn network(&self) {
        let config = r#"{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"fake"}]}"#;
        std::fs::write(self.config.cni_conf_dir.join("10-test.conflist"), config).unwrap();
    }

    fn start(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let config = self.config.clone();
        runtime.spawn(async move { super::run(config).await.unwrap() });
        self.kubelet = Some(runtime);
    }

    /// As `kill -9`: nothing is told to end.
    fn kill(&mut self) {
        self.kubelet.take().unwrap().shutdown_background();
    }

    fn create(&self, plural: &'static str, object: Value) {
        self.api
            .block_on(self.client.create(&Res::new("", "v1", plural), "default", &object))
            .unwrap();
    }

    fn pod(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = "node-1".into();
        self.create(
            "pods",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}),
        );
    }

    fn get(&self, name: &str) -> Result<Value, Error> {
        self.api.block_on(self.client.get(&PODS, "default", name))
    }

    /// Waits until a pod is as it should be.
    #[track_caller]
    fn wait(&self, name: &str, good: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..1500 {
            last = self.get(name).unwrap_or_default();
            if good(&last) {
                return last;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!(
            "{name} is not as it should be: {}; events: {:#?}",
            last["status"],
            self.events(name)
        );
    }

    fn delete(&self, name: &str, grace: Option<u64>) {
        self.api
            .block_on(self.client.delete(&PODS, "default", name, grace, None))
            .unwrap();
    }

    #[track_caller]
    fn gone(&self, name: &str) {
        self.wait(name, Value::is_null);
        // Forced ones leave the API server before they leave the node.
        for _ in 0..3000 {
            if self.left().is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("left behind: {:?}", self.left());
    }

    fn events(&self, name: &str) -> Vec<String> {
        let (resource, all) = (Res::new("", "v1", "events"), ListOptions::default());
        let list = self.client.list(&resource, "default", &all);
        let events = self.api.block_on(list).unwrap().items;
        let about = events.iter().filter(|event| event["involvedObject"]["name"] == name);
        let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().replace('"', "");
        about
            .map(|event| format!("{}: {}", text(event, "reason"), text(event, "message")))
            .collect()
    }

    fn log(&self, pod: &Value, container: &str, number: u32) -> String {
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let name = pod["metadata"]["name"].as_str().unwrap();
        let path = self
            .config
            .pod_log_dir("default", name, uid)
            .join(container)
            .join(format!("{number}.log"));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.splitn(4, ' ').nth(3))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Everything that pods leave while they live.
    fn left(&self) -> Vec<String> {
        let list = |dir: PathBuf| {
            std::fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path().display().to_string())
        };
        let cgroup = |path: &String| Path::new(path).is_dir();
        let base = self.base.to_str().unwrap();
        let mounts = std::fs::read_to_string("/proc/thread-self/mounts").unwrap();
        let mounts = mounts.lines().filter(|line| {
            line.split(' ')
                .nth(1)
                .is_some_and(|at| at.starts_with(base) && at != base)
        });
        list(self.config.state_dir.join("pods"))
            .chain(list(self.config.state_dir.join("runtime")))
            .chain(list(self.config.root_dir.join("pods")))
            .chain(list(self.config.log_dir.clone()))
            .chain(list(self.config.netns_dir.clone()))
            .chain(list("/sys/fs/cgroup/kubepods".into()).filter(cgroup))
            .chain(mounts.map(str::to_owned))
            .collect()
    }

    fn cni_log(&self) -> String {
        std::fs::read_to_string(self.base.join("cni.log")).unwrap_or_default()
    }
}

fn running(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn shell(script: &str) -> Value {
    json!({"name": "c", "image": "weft.dev/lab", "command": ["sh", "-c", script]})
}

#[test]
fn a_pod_from_beginning_to_end() {
    Node::test(|node| {
        node.network();
        node.start();
        node.create(
            "configmaps",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"k": "v1"}}),
        );
        let mut main = shell(
            "cat /shared/init /cm/k; echo; hostname; id -u; echo $IP; grep ^0:: /proc/self/cgroup; wc -c < /run/secrets/kubernetes.io/serviceaccount/token; \
             trap 'echo bye; sleep 0.2; exit 0' TERM; while :; do sleep 0.05; done",
        );
        main["env"] = json!([{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}}]);
        main["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}, {"name": "cm", "mountPath": "/cm"}]);
        main["readinessProbe"] = json!({"exec": {"command": ["test", "-e", "/shared/ready"]}, "periodSeconds": 1});
        main["lifecycle"] = json!({"preStop": {"exec": {"command": ["touch", "/shared/stopping"]}}});
        let mut init = shell("echo from init > /shared/init");
        init["name"] = "init".into();
        init["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}]);
        node.pod(
            "web",
            json!({"terminationGracePeriodSeconds": 20, "initContainers": [init], "containers": [main, {
                    "name": "second", "image": "weft.dev/lab", "command": ["sleep", "1000"],
                    "volumeMounts": [{"name": "shared", "mountPath": "/s"}],
                    "lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "sleep 0.3; touch /s/ready"]}}}}],
                "volumes": [{"name": "shared", "emptyDir": {}}, {"name": "cm", "configMap": {"name": "cm"}}]}),
        );
        let pod = node.wait("web", running);
        let status = &pod["status"];
        assert_eq!(
            (status["phase"].as_str(), status["podIP"].as_str()),
            (Some("Running"), Some("127.0.0.9"))
        );
        assert_eq!(status["podIPs"][1]["ip"], "fd00::9");
        assert_eq!(status["hostIP"], "192.0.2.1");
        assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
        let log = node.log(&pod, "c", 0);
        let lines: Vec<_> = log.lines().collect();
        assert_eq!(
            lines[..5],
            ["from init", "v1", "web", "0", "127.0.0.9,fd00::9"],
            "{log}"
        );
        assert_eq!(lines[5], "0::/", "its own cgroup namespace");
        assert!(lines[6].trim().parse::<u32>().unwrap() > 100, "a token: {log}");

        let change = Patch::Merge(json!({"data": {"k": "v2"}}));
        let resource = Res::new("", "v1", "configmaps");
        let changed = node.client.patch(&resource, "default", "cm", None, &change);
        node.api.block_on(changed).unwrap();
        let volume = node
            .config
            .volume_dir(pod["metadata"]["uid"].as_str().unwrap())
            .join("volumes");
        for _ in 0..250 {
            if std::fs::read_to_string(volume.join("cm/k")).unwrap() == "v2" {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(std::fs::read_to_string(volume.join("cm/k")).unwrap(), "v2");

        node.delete("web", None);
        for _ in 0..500 {
            if node.log(&pod, "c", 0).ends_with("bye") {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(
            volume.join("shared/stopping").exists(),
            "the hook ran before the signal"
        );
        // `sleep` as first process ignores SIGTERM; nobody waits 20 s for it here.
        node.delete("web", Some(1));
        node.gone("web");
        assert_eq!(node.cni_log().lines().filter(|line| line.starts_with("DEL")).count(), 1);
        node.kill();
    });
}

#[test]
fn containers_outlive_the_kubelet() {
    Node::test(|node| {
        node.network();
        node.start();
        let script = "i=0; while [ ! -e /stop ]; do i=$((i+1)); echo $i; sleep 0.02; done; exit 7";
        let mut container = shell(script);
        container["volumeMounts"] = json!([]);
        node.pod("counter", json!({"restartPolicy": "Never", "containers": [container]}));
        let pod = node.wait("counter", running);
        let id = pod["status"]["containerStatuses"][0]["containerID"].clone();
        node.kill();
        node.pod(
            "late",
            json!({"restartPolicy": "Never", "containers": [shell("echo hi; exit 3")]}),
        );
        std::thread::sleep(Duration::from_millis(300));
        node.start();
        node.wait("late", |pod| pod["status"]["phase"] == "Failed");
        let pod = node.wait("counter", running);
        assert_eq!(pod["status"]["containerStatuses"][0]["containerID"], id);
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        std::fs::write(node.config.pod_dir(uid).join("c/c/rootfs/stop"), "").unwrap();
        let pod = node.wait("counter", |pod| pod["status"]["phase"] == "Failed");
        assert_eq!(
            pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"],
            7
        );
        assert_eq!(
            pod["status"]["podIP"], "127.0.0.9",
            "a pod that has ended keeps its address in the status"
        );
        let log = node.log(&pod, "c", 0);
        let numbers: Vec<u32> = log.lines().map(|line| line.parse().unwrap()).collect();
        assert!(
            numbers.len() > 15 && numbers.iter().zip(1..).all(|(seen, wanted)| *seen == wanted),
            "no line is lost"
        );

        // Deleted while no kubelet runs: the next one clears it away.
        node.pod("orphan", json!({"containers": [shell("sleep 1000")]}));
        node.wait("orphan", running);
        node.kill();
        for name in ["orphan", "counter", "late"] {
            node.delete(name, Some(0));
        }
        node.start();
        node.gone("orphan");
        node.kill();
    });
}

#[test]
fn what_cannot_be_run_says_why() {
    Node::test(|node| {
        std::fs::write(node.config.cni_conf_dir.join("10-test.conflist"), "{").unwrap();
        node.start();
        let plain = || json!({"containers": [shell("sleep 1000")], "terminationGracePeriodSeconds": 0});
        node.pod("early", plain());
        let told = |name: &str, words: &str| {
            for _ in 0..500 {
                if node.events(name).iter().any(|event| event.contains(words)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            panic!("no event of {name} says {words:?}: {:#?}", node.events(name));
        };
        told("early", "FailedCreatePodSandBox: Failed to create pod sandbox");
        told("early", "10-test.conflist: not valid JSON");
        let nodes = Res::new("", "v1", "nodes");
        let conditions =
            node.api.block_on(node.client.get(&nodes, "", "node-1")).unwrap()["status"]["conditions"].clone();
        let ready = conditions
            .as_array()
            .unwrap()
            .iter()
            .find(|condition| condition["type"] == "Ready")
            .unwrap();
        assert!(ready["status"] == "False" && ready["message"].as_str().unwrap().contains("cni config load failed"));

        // The agent is away at first; the pod starts when it is back.
        std::fs::write(node.base.join("away"), "").unwrap();
        node.network();
        node.pod("image", json!({"containers": [{"name": "c", "image": "nginx"}]}));
        node.pod(
            "never",
            json!({"containers": [{"name": "c", "image": "nginx", "imagePullPolicy": "Never"}]}),
        );
        node.pod("env", json!({"containers": [{"name": "c", "image": "weft.dev/lab", "envFrom": [{"configMapRef": {"name": "absent"}}]}]}));
        node.pod(
            "program",
            json!({"containers": [{"name": "c", "image": "weft.dev/lab", "command": ["/absent"]}]}),
        );
        let claim = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}]);
        node.pod("volume", json!({"containers": [shell("sleep 1000")], "volumes": claim}));
        let absent = json!([{"name": "v", "configMap": {"name": "absent"}}]);
        node.pod(
            "map",
            json!({"containers": [shell("sleep 1000")], "volumes": absent, "terminationGracePeriodSeconds": 0}),
        );
        std::thread::sleep(Duration::from_millis(200));
        std::fs::remove_file(node.base.join("away")).unwrap();
        node.wait("early", running);
        let waits = |name: &str, reasons: &[&str]| {
            node.wait(name, |pod| {
                let reason = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
                reasons.iter().any(|wanted| reason == wanted)
            });
        };
        waits("image", &["ErrImagePull", "ImagePullBackOff"]);
        told("image", "Failed: Failed to pull image nginx: not found on this machine");
        waits("never", &["ErrImageNeverPull"]);
        waits("env", &["CreateContainerConfigError"]);
        told("env", "configmap absent not found");
        waits("program", &["RunContainerError", "CrashLoopBackOff"]);
        told("program", "executable file `/absent` not found");
        waits("volume", &["ContainerCreating"]);
        told(
            "volume",
            "FailedMount: MountVolume.SetUp failed for volume v : persistentvolumeclaim claim",
        );
        told(
            "map",
            "FailedMount: MountVolume.SetUp failed for volume v : configmap absent not found",
        );
        node.create(
            "configmaps",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "absent"}}),
        );
        node.wait("map", running);
        for name in ["early", "image", "never", "env", "program", "volume", "map"] {
            node.delete(name, Some(0));
        }
        node.gone("map");
        node.kill();
    });
}

#[test]
fn health_and_restarts() {
    Node::test(|node| {
        node.network();
        node.start();
        let mut sick = shell("touch /tmp/weft-well; sleep 0.5; rm /tmp/weft-well; exec sleep 1000");
        sick["livenessProbe"] = json!({"exec": {"command": ["test", "-e", "/tmp/weft-well"]}, "periodSeconds": 1, "failureThreshold": 1,
            "timeoutSeconds": 5});
        let spec = |container: &Value, policy: &str| json!({"containers": [container], "restartPolicy": policy, "terminationGracePeriodSeconds": 0});
        node.pod("sick", spec(&sick, "Always"));
        node.pod(
            "crash",
            spec(&shell("echo boom >/dev/termination-log; exit 3"), "Always"),
        );
        node.pod(
            "retry",
            spec(
                &shell("test -e /dev/shm/second || { touch /dev/shm/second; exit 1; }"),
                "OnFailure",
            ),
        );
        let done = node.wait("retry", |pod| pod["status"]["phase"] == "Succeeded");
        assert_eq!(
            done["status"]["containerStatuses"][0]["restartCount"], 1,
            "shared memory outlives a container"
        );
        let crash = node.wait("crash", |pod| {
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        });
        let container = &crash["status"]["containerStatuses"][0];
        assert_eq!(
            container["restartCount"], 1,
            "the first restart is at once, the second after ten seconds"
        );
        assert_eq!(container["lastState"]["terminated"]["exitCode"], 3);
        assert_eq!(container["lastState"]["terminated"]["message"], "boom\n");
        let message = container["state"]["waiting"]["message"].as_str().unwrap();
        assert!(
            message.starts_with("back-off 10s restarting failed container=c pod=crash_default("),
            "{message}"
        );
        let sick = node.wait("sick", |pod| {
            pod["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(1)
        });
        assert_eq!(
            sick["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"],
            137
        );
        assert!(
            node.events("sick")
                .iter()
                .any(|event| event.starts_with("Unhealthy: Liveness probe failed"))
        );
        for name in ["sick", "crash", "retry"] {
            node.delete(name, Some(0));
        }
        node.gone("sick");
        node.kill();
    });
}
