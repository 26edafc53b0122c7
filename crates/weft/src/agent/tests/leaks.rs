//! What is left when a runtime, a pod or the agent itself goes at the wrong moment.

use std::pin::pin;
use std::task::Poll;

use futures::future::BoxFuture;
use weft_model::{Namespace as KubeNamespace, PodMeta};

use super::*;
use crate::agent::leaks::Collector;

/// An API server that answers with what its watch has said.
struct Answers;

impl known::Api for Answers {
    fn pod<'a>(&'a self, _: &'a ObjectKey) -> BoxFuture<'a, Result<Option<PodMeta>, String>> {
        Box::pin(async { Ok(None) })
    }

    fn namespace<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<KubeNamespace>, String>> {
        Box::pin(async { Ok(None) })
    }

    fn is_fresh(&self) -> bool {
        true
    }
}

/// An agent with ranges, that watches pods, and takes a leak for one at once.
async fn watching(place: &Place) -> (Arc<Node>, mpsc::Sender<Change>, mpsc::Sender<Change>) {
    let mut node = Node::open("node-1", &place.dir, place.datapath()).unwrap();
    node.leak_grace = Duration::ZERO;
    node.api = Box::new(Answers);
    node.take_over().await.unwrap();
    let node = Arc::new(node);
    let (changes, receiver) = mpsc::channel(16);
    tokio::spawn(cluster::follow(node.clone(), receiver));
    for change in [local(&["10.244.0.0/23"]), Change::Synced] {
        changes.send(change).await.unwrap();
    }
    node.ready.subscribe().wait_for(|ready| ready.synced).await.unwrap();
    let (pods, receiver) = mpsc::channel(1);
    tokio::spawn(known::follow(node.clone(), receiver));
    (node, changes, pods)
}

pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap();
}

#[test]
fn a_namespace_that_went_without_a_del_is_collected() {
    on_a_node("leak-netns", |place| async move {
        let (node, _changes, _pods) = watching(&place).await;
        let (kept, lost) = (Sandbox::new(), Sandbox::new());
        add(&node, "kept", &kept).await;
        let result = add(&node, "lost", &lost).await;
        drop(lost);
        let link = result.interfaces[0].name.clone();
        while node.rtnl.link(&link).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A link of nobody, as a crash between two steps would leave it.
        ip("link add weft0123456789a type veth peer name other0");
        Collector::default().sweep(&node).await;
        assert_eq!(node.attachments().len(), 1);
        assert_eq!(node.ipam().usage()[0].used, 1);
        assert!(node.rtnl.link("weft0123456789a").await.unwrap().is_none());
        assert!(kept.has("eth0").await);
        assert_eq!(node.progress().leaks, 2);
    });
}

#[test]
fn a_pod_that_went_without_a_del_is_collected_once_nothing_runs_in_it() {
    on_a_node("leak-pod", |place| async move {
        let (node, _changes, pods) = watching(&place).await;
        let meta = |name: &str| PodMeta {
            key: ObjectKey::new("default", name),
            uid: format!("uid-of-{name}"),
            object_uid: format!("uid-of-{name}"),
            annotations: Default::default(),
        };
        for name in ["empty", "busy", "there"] {
            pods.send(Change::PodMeta(meta(name))).await.unwrap();
        }
        pods.send(Change::Synced).await.unwrap();
        until(|| node.objects().synced()).await;
        let sandboxes = [Sandbox::new(), Sandbox::new(), Sandbox::new(), Sandbox::new()];
        // The last is of a runtime that the API server knows nothing of.
        for (name, sandbox) in ["empty", "busy", "there", "podman"].into_iter().zip(&sandboxes) {
            add(&node, name, sandbox).await;
        }
        let mut inside = Process::new("nsenter")
            .args([&format!("--net={}", sandboxes[1].path()), "sleep", "60"])
            .spawn()
            .unwrap();
        let net = format!("/proc/{}/ns/net", inside.id());
        let wanted = std::fs::metadata(sandboxes[1].path()).unwrap();
        until(|| {
            use std::os::unix::fs::MetadataExt as _;
            std::fs::metadata(&net).is_ok_and(|found| found.ino() == wanted.ino())
        })
        .await;
        for name in ["empty", "busy"] {
            pods.send(Change::PodMetaGone(ObjectKey::new("default", name)))
                .await
                .unwrap();
        }
        until(|| node.objects().pod(&ObjectKey::new("default", "busy"), None).is_none()).await;
        let left = || {
            let attachments = node.attachments();
            let names = attachments.keys().map(|id| id.container_id.clone());
            names.collect::<Vec<_>>()
        };
        Collector::default().sweep(&node).await;
        assert_eq!(left(), ["busy", "podman", "there"]);
        inside.kill().unwrap();
        inside.wait().unwrap();
        Collector::default().sweep(&node).await;
        assert_eq!(left(), ["podman", "there"]);
        assert_eq!(node.ipam().usage()[0].used, 2);
        assert_eq!(node.progress().leaks, 2);
    });
}

/// An agent's life in this node, on a thread and a runtime of its own: what it began is over when this returns.
fn lifetime<F, Fut>(place: &Arc<Place>, life: F)
where
    F: FnOnce(Arc<Place>) -> Fut + Send,
    Fut: Future<Output = ()>,
{
    let place = place.clone();
    std::thread::scope(|scope| {
        let life = scope.spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(life(place));
        });
        life.join().unwrap();
    });
}

/// Works on a request until it has had to wait so many times; true where it was done before.
async fn cut_off(node: &Node, request: Request, after: usize) -> bool {
    let mut work = pin!(node.handle(request));
    let mut waits = 0;
    std::future::poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(true),
        Poll::Pending if waits == after => Poll::Ready(false),
        Poll::Pending => {
            waits += 1;
            Poll::Pending
        }
    })
    .await
}

#[test]
fn an_agent_that_dies_between_any_two_steps_leaks_nothing() {
    on_a_node("die", |place| async move {
        for command in [Command::Add, Command::Del] {
            for after in 0.. {
                let (sandbox, done) = (Sandbox::new(), std::cell::Cell::new(false));
                let done = std::sync::Mutex::new(done);
                lifetime(&place, |place| {
                    let (sandbox, done) = (&sandbox, &done);
                    async move {
                        let (node, _changes) = place.ready().await;
                        if command == Command::Del {
                            add(&node, "c1", sandbox).await;
                        }
                        let finished = cut_off(&node, request(command, "c1", Some(sandbox)), after).await;
                        done.lock().unwrap().set(finished);
                    }
                });
                // The next agent: what it counts is what is there, and the runtime's DEL leaves nothing.
                lifetime(&place, |place| async move {
                    let (node, _changes) = place.ready().await;
                    assert_eq!(node.ipam().usage()[0].used as usize, node.attachments().len());
                    let links = node.rtnl.links().await.unwrap().into_iter();
                    let links = links.filter(|link| weft_dataplane::net::name::is_host_side(&link.name));
                    assert_eq!(
                        links.count(),
                        node.attachments().len(),
                        "{command:?} cut off after {after} waits"
                    );
                    let response = node.handle(request(Command::Del, "c1", None)).await;
                    assert_eq!(response.error, None, "{command:?} cut off after {after} waits");
                    nothing_left(&node, &place).await;
                });
                if done.into_inner().unwrap().get() {
                    assert!(after > 0, "{command:?} never waited");
                    break;
                }
            }
        }
    });
}
