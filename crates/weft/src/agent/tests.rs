//! The agent's own half of CNI against the real kernel, in a namespace that stands for a node. Needs root.

use std::collections::HashSet;
use std::fs::File;
use std::future::Future;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use weft_dataplane::net::{Link, Namespace};
use weft_model::cni::{AddResult, AttachmentId, Command, Request, Response, code};
use weft_model::{Change, ObjectKey, Protocol, Service, ServicePort};

use std::time::Duration;

use super::*;

mod isolation;
mod leaks;
mod pools;
mod routes;

/// A node's namespaces, directories and cgroup; everything goes with it.
struct Place {
    dir: PathBuf,
    cgroup: PathBuf,
}

impl Place {
    fn datapath(&self) -> bpf::Datapath {
        let config = bpf::Config {
            cgroup: self.cgroup.clone(),
            pin_dir: self.dir.join("bpf/weft"),
            map_memory: bpf::Config::MAP_MEMORY,
        };
        bpf::Datapath::open(config).unwrap()
    }

    /// An agent that has just started here.
    async fn agent(&self) -> Arc<Node> {
        let mut node = Node::open("node-1", &self.dir, self.datapath()).unwrap();
        node.patience = Duration::from_millis(200);
        node.take_over().await.unwrap();
        Arc::new(node)
    }

    /// An agent that has heard from the API server.
    async fn ready(&self) -> (Arc<Node>, mpsc::Sender<Change>) {
        self.ready_with(vec![local(&["10.244.0.0/23", "fd00:10:244::/64"])])
            .await
    }

    async fn ready_with(&self, changes: Vec<Change>) -> (Arc<Node>, mpsc::Sender<Change>) {
        let node = self.agent().await;
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(cluster::follow(node.clone(), receiver));
        for change in changes.into_iter().chain([Change::Synced]) {
            sender.send(change).await.unwrap();
        }
        node.ready.subscribe().wait_for(|ready| ready.synced).await.unwrap();
        (node, sender)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Pinned links keep the cgroup's hooks; the mount takes them along.
        let _ = nix::mount::umount2(&self.dir.join("bpf"), nix::mount::MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir_all(&self.dir);
        let _ = std::fs::remove_dir(&self.cgroup);
    }
}

/// Runs `work` on a node of its own.
fn on_a_node<F, Fut>(name: &'static str, work: F)
where
    F: FnOnce(Arc<Place>) -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let unique = format!("weft-agent-test-{name}-{}", std::process::id());
        let place = Place {
            dir: std::env::temp_dir().join(&unique),
            cgroup: find_cgroup().join(&unique),
        };
        std::fs::create_dir_all(place.dir.join("bpf")).unwrap();
        std::fs::create_dir_all(&place.cgroup).unwrap();
        mount(Some("bpf"), &place.dir.join("bpf"), Some("bpf"), MsFlags::empty(), none).unwrap();
        ip("link set lo up");
        ip("link add up0 type veth peer name up1");
        ip("link set up1 up");
        ip("link set up0 mtu 1480 up");
        ip("address add 10.89.0.10/16 dev up0");
        ip("address add fd89::10/64 dev up0 nodad");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let place = Arc::new(place);
        runtime.block_on(work(place.clone()));
        drop(runtime);
    };
    if let Err(panic) = std::thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .unwrap()
        .join()
    {
        std::panic::resume_unwind(panic);
    }
}

fn ip(args: &str) {
    assert!(
        Process::new("ip").args(args.split(' ')).status().unwrap().success(),
        "ip {args}"
    );
}

/// The network namespace of a pod: without a name, so that nothing is left.
struct Sandbox(File);

impl Sandbox {
    fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(file.join().unwrap())
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    async fn link(&self, ifname: &'static str) -> Option<Link> {
        let namespace = Namespace::open(Path::new(&self.path())).unwrap();
        let found = namespace.run(move |rtnl| async move { rtnl.link(ifname).await });
        found.await.unwrap()
    }

    async fn has(&self, ifname: &'static str) -> bool {
        self.link(ifname).await.is_some()
    }

    async fn mtu(&self, ifname: &'static str) -> Option<u32> {
        self.link(ifname).await.map(|link| link.mtu)
    }
}

fn local(cidrs: &[&str]) -> Change {
    Change::Node(weft_model::Node {
        name: "node-1".into(),
        internal_ips: vec!["10.89.0.10".parse().unwrap(), "fd89::10".parse().unwrap()],
        pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        zone: None,
        leaving: false,
        labels: Default::default(),
    })
}

fn service(name: &str, address: &str) -> Change {
    Change::Service(Service {
        cluster_ips: vec![address.parse().unwrap()],
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        ..Service::named(ObjectKey::new("default", name))
    })
}

fn request(command: Command, container: &str, netns: Option<&Sandbox>) -> Request {
    Request {
        command,
        container_id: container.into(),
        ifname: "eth0".into(),
        netns: netns.map(Sandbox::path),
        args: vec![
            ("K8S_POD_NAMESPACE".into(), "default".into()),
            ("K8S_POD_NAME".into(), container.into()),
        ],
        mtu: None,
        prev_result: None,
        runtime: Default::default(),
        valid_attachments: vec![],
    }
}

async fn add(node: &Node, container: &str, sandbox: &Sandbox) -> AddResult {
    let response = node.handle(request(Command::Add, container, Some(sandbox))).await;
    assert_eq!(response.error, None);
    response.result.unwrap()
}

async fn error(node: &Node, request: Request) -> (u32, String) {
    let error = node.handle(request).await.error.unwrap();
    (error.code, format!("{} - {}", error.msg, error.details))
}

/// Nothing of any pod is in the kernel, on disk, or in the books.
async fn nothing_left(node: &Node, place: &Place) {
    assert!(
        !node
            .rtnl
            .links()
            .await
            .unwrap()
            .iter()
            .any(|link| weft_dataplane::net::name::is_host_side(&link.name))
    );
    // What stays is the end of the node's own ranges.
    let routes = node.rtnl.routes().await.unwrap();
    assert!(!routes.iter().any(|route| route.ours && !route.unreachable));
    assert!(node.datapath().pods().is_empty());
    assert!(node.datapath().attached().unwrap().is_empty());
    assert!(node.attachments().is_empty());
    assert_eq!(std::fs::read_dir(place.dir.join("attachments")).unwrap().count(), 0);
    assert!(node.ipam().usage().iter().all(|usage| usage.used == 0));
}

#[test]
fn a_pod_comes_is_checked_and_goes() {
    on_a_node("lifecycle", |place| async move {
        let (node, _changes) = place.ready().await;
        let sandbox = Sandbox::new();
        let result = add(&node, "c1", &sandbox).await;
        let ips: Vec<String> = result.ips.iter().map(|ip| ip.address.to_string()).collect();
        assert_eq!(ips, ["10.244.0.2/32", "fd00:10:244::2/128"]);
        assert_eq!(result.interfaces[1].sandbox, sandbox.path());
        assert_eq!(result.interfaces[1].mtu, Some(1480));
        assert_eq!(result.routes[0].gw, Some("169.254.1.1".parse().unwrap()));
        // In the kernel by now, hooks and all.
        let index = node.rtnl.link(&result.interfaces[0].name).await.unwrap().unwrap().index;
        assert_eq!(node.datapath().pods()[&"10.244.0.2".parse().unwrap()].ifindex, index);
        assert!(node.datapath().attached().unwrap().contains(&index));

        let mut check = request(Command::Check, "c1", Some(&sandbox));
        check.prev_result = Some(result.clone());
        assert_eq!(node.handle(check.clone()).await, Response::default());
        assert_eq!(
            error(&node, request(Command::Check, "c2", Some(&sandbox))).await.0,
            code::UNKNOWN_CONTAINER
        );
        let mut foreign = check.clone();
        foreign.prev_result.as_mut().unwrap().ips.remove(0);
        assert!(
            error(&node, foreign)
                .await
                .1
                .contains("prevResult lacks the pod's address 10.244.0.2")
        );
        node.datapath().remove_pod("10.244.0.2".parse().unwrap()).unwrap();
        let (found, text) = error(&node, check).await;
        assert_eq!(found, code::CHECK);
        assert!(
            text.contains("the datapath has lost the pod's address 10.244.0.2"),
            "{text}"
        );

        // ADD again is an error, and changes nothing.
        let (found, text) = error(&node, request(Command::Add, "c1", Some(&sandbox))).await;
        assert!(found == code::SETUP && text.contains("eth0 exists already"), "{text}");
        assert!(sandbox.has("eth0").await);
        // Of another container with the same namespace, too.
        let (found, text) = error(&node, request(Command::Add, "c9", Some(&sandbox))).await;
        assert!(found == code::SETUP && text.contains("eth0 exists already"), "{text}");
        assert!(sandbox.has("eth0").await);

        for _ in 0..2 {
            assert_eq!(
                node.handle(request(Command::Del, "c1", None)).await,
                Response::default()
            );
        }
        assert!(!sandbox.has("eth0").await);
        nothing_left(&node, &place).await;
    });
}

#[test]
fn a_pod_whose_namespace_has_gone_can_still_be_deleted() {
    on_a_node("gone", |place| async move {
        let (node, _changes) = place.ready().await;
        let sandbox = Sandbox::new();
        add(&node, "c1", &sandbox).await;
        drop(sandbox);
        assert_eq!(node.handle(request(Command::Del, "c1", None)).await.error, None);
        nothing_left(&node, &place).await;
    });
}

#[test]
fn a_hundred_pods_come_at_once_and_go() {
    on_a_node("many", |place| async move {
        let (node, _changes) = place.ready().await;
        let sandboxes: Vec<Sandbox> = (0..100).map(|_| Sandbox::new()).collect();
        let added = sandboxes.iter().enumerate().map(|(n, sandbox)| {
            let node = &node;
            async move { add(node, &format!("c{n}"), sandbox).await }
        });
        let added = futures::future::join_all(added).await;
        let addresses: HashSet<_> = added
            .iter()
            .flat_map(|result| &result.ips)
            .map(|ip| ip.address)
            .collect();
        assert_eq!(addresses.len(), 200);
        assert_eq!(node.ipam().usage()[0].used, 100);
        let gone = (0..100).map(|n| {
            let node = &node;
            async move { node.handle(request(Command::Del, &format!("c{n}"), None)).await }
        });
        assert!(
            futures::future::join_all(gone)
                .await
                .iter()
                .all(|response| response.error.is_none())
        );
        nothing_left(&node, &place).await;
    });
}

#[test]
fn what_the_node_lacks_is_named_and_can_be_tried_again() {
    on_a_node("lacks", |place| async move {
        let node = place.agent().await;
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(cluster::follow(node.clone(), receiver));
        let sandbox = Sandbox::new();
        let try_add = || request(Command::Add, "c1", Some(&sandbox));
        let (found, text) = error(&node, try_add()).await;
        assert!(
            found == code::TRY_AGAIN && text.contains("has not heard from the API server"),
            "{text}"
        );
        assert_eq!(
            error(&node, request(Command::Status, "", None)).await.0,
            code::NOT_AVAILABLE
        );
        sender.send(Change::Synced).await.unwrap();
        let (found, text) = error(&node, try_add()).await;
        assert!(
            found == code::TRY_AGAIN && text.contains("no Node object called node-1"),
            "{text}"
        );
        sender.send(local(&[])).await.unwrap();
        let (found, text) = error(&node, try_add()).await;
        assert!(
            found == code::TRY_AGAIN && text.contains("node node-1 has no pod CIDR"),
            "{text}"
        );
        // The rest works meanwhile.
        sender.send(service("web", "10.96.0.7")).await.unwrap();
        // One that waits is served the moment there is a range.
        let waiting = node.handle(try_add());
        let (response, _) = tokio::join!(waiting, sender.send(local(&["10.244.0.0/30"])));
        assert_eq!(response.error, None);
        assert_eq!(node.datapath().frontends().len(), 1);
        let other = Sandbox::new();
        let (found, text) = error(&node, request(Command::Add, "c2", Some(&other))).await;
        assert!(
            found == code::TRY_AGAIN && text.contains("10.244.0.0/30 is full: 1 of 1"),
            "{text}"
        );
        assert!(!other.has("eth0").await);
        assert_eq!(
            error(&node, request(Command::Status, "", None)).await.0,
            code::NOT_AVAILABLE
        );
    });
}

#[test]
fn a_failed_add_leaves_nothing() {
    on_a_node("failed", |place| async move {
        let (node, _changes) = place.ready().await;
        let mut missing = request(Command::Add, "c1", None);
        missing.netns = Some("/nonexistent/netns".into());
        let (found, text) = error(&node, missing).await;
        assert!(
            found == code::UNKNOWN_CONTAINER
                && text.contains("network namespace /nonexistent/netns: ")
                && text.contains("the container has ended meanwhile"),
            "{text}"
        );
        nothing_left(&node, &place).await;
    });
}

#[test]
fn the_next_agent_takes_over_what_is_there_and_removes_the_rest() {
    on_a_node("restart", |place| async move {
        let (first, changes) = place
            .ready_with(vec![
                local(&["10.244.0.0/23"]),
                service("web", "10.96.0.7"),
                service("old", "10.96.0.8"),
            ])
            .await;
        let (kept, lost) = (Sandbox::new(), Sandbox::new());
        let result = add(&first, "kept", &kept).await;
        add(&first, "lost", &lost).await;
        // While nobody looks: a namespace goes, an interrupted ADD leaves a link, a DEL is asked for, a file breaks.
        drop((first, changes));
        ip(&format!(
            "link del {}",
            weft_dataplane::net::name::host_side("lost", "eth0")
        ));
        ip(&format!(
            "link add {} type veth peer name stray",
            weft_dataplane::net::name::host_side("half", "eth0")
        ));
        std::fs::write(place.dir.join("attachments/broken@eth0.json"), "{").unwrap();

        let second = place.agent().await;
        assert_eq!(second.attachments().len(), 1);
        assert!(kept.has("eth0").await);
        let mut check = request(Command::Check, "kept", Some(&kept));
        check.prev_result = Some(result);
        assert_eq!(second.handle(check).await, Response::default());
        assert_eq!(second.datapath().pods().len(), 1);
        assert_eq!(second.datapath().attached().unwrap().len(), 1);
        assert!(second.rtnl.link("stray").await.unwrap().is_none());
        assert_eq!(std::fs::read_dir(place.dir.join("attachments")).unwrap().count(), 1);
        // Nothing is known yet, so every service stays.
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(cluster::follow(second.clone(), receiver));
        sender.send(local(&["10.244.0.0/23"])).await.unwrap();
        sender.send(service("web", "10.96.0.7")).await.unwrap();
        second
            .ready
            .subscribe()
            .wait_for(|ready| ready.has_addresses)
            .await
            .unwrap();
        assert_eq!(second.datapath().frontends().len(), 2);
        // Then what is only in the kernel goes.
        sender.send(Change::Synced).await.unwrap();
        second.ready.subscribe().wait_for(|ready| ready.synced).await.unwrap();
        assert_eq!(second.datapath().frontends().len(), 1);
        // The address of the pod that is alive is not given twice.
        let third = Sandbox::new();
        assert_ne!(
            add(&second, "third", &third).await.ips[0].address.to_string(),
            "10.244.0.2/32"
        );
    });
}

#[test]
fn what_was_asked_for_while_no_agent_ran_is_finished() {
    on_a_node("spool", |place| async move {
        let (node, _changes) = place.ready().await;
        let sandbox = Sandbox::new();
        add(&node, "c1", &sandbox).await;
        let spool = place.dir.join("cni-spool");
        std::fs::create_dir_all(&spool).unwrap();
        let del = request(Command::Del, "c1", None);
        std::fs::write(spool.join(del.spool_name()), serde_json::to_vec(&del).unwrap()).unwrap();
        std::fs::write(spool.join("broken@eth0.json"), "{").unwrap();
        node.finish_spooled().await;
        assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 0);
        nothing_left(&node, &place).await;
    });
}

#[test]
fn garbage_is_what_the_runtime_does_not_list() {
    on_a_node("gc", |place| async move {
        let (node, _changes) = place.ready().await;
        let (one, two) = (Sandbox::new(), Sandbox::new());
        add(&node, "c1", &one).await;
        add(&node, "c2", &two).await;
        let mut gc = request(Command::Gc, "", None);
        gc.valid_attachments = vec![AttachmentId {
            container_id: "c2".into(),
            ifname: "eth0".into(),
        }];
        assert_eq!(node.handle(gc).await, Response::default());
        assert!(!one.has("eth0").await && two.has("eth0").await);
        assert_eq!(
            node.handle(request(Command::Status, "", None)).await,
            Response::default()
        );
    });
}

/// 50 says that pods wait, 51 that those which are there are hurt, too.
#[test]
fn a_node_that_is_cut_off_says_so() {
    on_a_node("cut-off", |place| async move {
        let (node, _changes) = place.ready_with(vec![local(&["10.244.0.0/30"])]).await;
        let status = || request(Command::Status, "", None);
        assert_eq!(node.handle(status()).await, Response::default());
        let sandbox = Sandbox::new();
        add(&node, "c1", &sandbox).await;
        let (found, text) = error(&node, status()).await;
        assert_eq!(
            (found, text.as_str()),
            (
                code::NOT_AVAILABLE,
                "pods cannot be added on this node - pod CIDR 10.244.0.0/30 is full (1 addresses)"
            )
        );
        ip("link del up0");
        let (found, text) = error(&node, status()).await;
        assert!(
            found == code::LIMITED && text.contains("is full") && text.contains("nor a default route"),
            "{found} {text}"
        );
        assert_eq!(
            node.handle(request(Command::Del, "c1", None)).await,
            Response::default()
        );
        let (found, text) = error(&node, status()).await;
        assert!(
            found == code::LIMITED && text.contains("this node has neither"),
            "{found} {text}"
        );
    });
}

#[test]
fn the_socket_answers_one_line_with_one_line() {
    on_a_node("socket", |place| async move {
        let (node, _changes) = place.ready().await;
        // An earlier agent's socket is in the way.
        std::fs::write(place.dir.join("cni.sock"), "").unwrap();
        let listener = server::listen(&place.dir).unwrap();
        let path = listener.path.clone();
        tokio::spawn(server::run(node.clone(), listener.socket));
        let ask = async |line: String| -> Value {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(line.as_bytes()).await.unwrap();
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).await.unwrap();
            serde_json::from_str(&answer).unwrap()
        };
        let sandbox = Sandbox::new();
        let line = serde_json::to_string(&request(Command::Add, "c1", Some(&sandbox))).unwrap() + "\n";
        assert_eq!(ask(line).await["result"]["ips"][0]["address"], "10.244.0.2/32");
        assert_eq!(ask("nonsense\n".into()).await["error"]["code"], json!(code::DECODE));
        let line = serde_json::to_string(&request(Command::Del, "c1", None)).unwrap() + "\n";
        assert_eq!(ask(line).await, json!({}));
    });
}

#[test]
fn what_the_runtime_wants_is_given_or_refused_with_its_code() {
    on_a_node("wanted", |place| async move {
        let (node, _changes) = place.ready().await;
        let sandbox = Sandbox::new();
        let add = |change: &dyn Fn(&mut Request)| {
            let mut wanted = request(Command::Add, "c1", Some(&sandbox));
            change(&mut wanted);
            wanted
        };
        let gone = add(&|add| add.netns = Some("/run/netns/weft-gone".into()));
        assert_eq!(error(&node, gone).await.0, code::UNKNOWN_CONTAINER);
        let file = place.dir.join("unmounted");
        std::fs::write(&file, "").unwrap();
        let unmounted = add(&|add| add.netns = Some(file.display().to_string()));
        assert_eq!(error(&node, unmounted).await.0, code::UNKNOWN_CONTAINER);
        let (found, text) = error(&node, add(&|add| add.netns = Some("/proc/thread-self/ns/net".into()))).await;
        assert_eq!(found, code::ENVIRONMENT);
        assert!(text.contains("the node's own network namespace"), "{text}");
        for mac in ["01:00:5e:00:00:01", "00:00:00:00:00:00", "02:00"] {
            let wanted = add(&|add| add.runtime.mac = Some(mac.into()));
            assert_eq!(error(&node, wanted).await.0, code::CONFIG, "{mac}");
            let wanted = add(&|add| add.args.push(("MAC".into(), mac.into())));
            assert_eq!(error(&node, wanted).await.0, code::ENVIRONMENT, "{mac}");
        }
        nothing_left(&node, &place).await;
        let wanted = add(&|add| add.runtime.mac = Some("02:00:00:00:00:09".into()));
        let result = node.handle(wanted).await.result.unwrap();
        assert_eq!(result.interfaces[1].mac, "02:00:00:00:00:09");
        // The same container again, and another for which its interface is in the way: the first stays.
        assert_eq!(error(&node, add(&|_| {})).await.0, code::SETUP);
        let mut other = request(Command::Add, "c2", Some(&sandbox));
        let (found, text) = error(&node, other.clone()).await;
        let said = format!(
            "cannot connect the pod - interface eth0 exists already in network namespace {}; the container is connected already",
            sandbox.path()
        );
        assert!(found == code::SETUP && text.starts_with(&said), "{text}");
        other.ifname = "net1".into();
        assert_eq!(node.handle(other.clone()).await.error, None);
        assert!(sandbox.has("eth0").await && sandbox.has("net1").await);
        other.command = Command::Del;
        for request in [
            other,
            request(Command::Del, "c1", None),
            request(Command::Del, "never", None),
        ] {
            assert_eq!(node.handle(request).await, Response::default());
        }
        nothing_left(&node, &place).await;
    });
}

#[test]
fn the_runtime_finds_the_plugin_once_the_node_can_take_pods() {
    on_a_node("conflist", |place| async move {
        let conf_dir = place.dir.join("net.d");
        let node = place.agent().await;
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(cluster::follow(node.clone(), receiver));
        let install = tokio::spawn(conflist::install_when_ready(
            node.clone(),
            conf_dir.clone(),
            place.dir.clone(),
        ));
        sender.send(Change::Synced).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(conflist::in_use(&conf_dir), None);
        sender.send(local(&["10.244.0.0/23"])).await.unwrap();
        let file = conf_dir.join(conflist::NAME);
        leaks::until(|| conflist::in_use(&conf_dir).as_deref() == Some(conflist::NAME)).await;
        let text = std::fs::read_to_string(&file).unwrap();
        // Deleted or changed, it is put back.
        std::fs::remove_file(&file).unwrap();
        leaks::until(|| file.exists()).await;
        std::fs::write(&file, "{}").unwrap();
        leaks::until(|| std::fs::read_to_string(&file).is_ok_and(|found| found == text)).await;
        install.abort();
        let config: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["plugins"][0]["agentSocket"], json!(place.dir.join("cni.sock")));
        std::fs::write(conf_dir.join("05-other.conf"), "{}").unwrap();
        assert_eq!(conflist::in_use(&conf_dir).as_deref(), Some("05-other.conf"));
    });
}
