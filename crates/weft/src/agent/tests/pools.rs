//! Addresses out of pools, as the agent gives them: the controller is what the test says.

use std::collections::BTreeMap;

use weft_model::ipam::spec::{BlockSize, Refusal};
use weft_model::ipam::{IpPool, NodeAddresses, NodeAddressesSpec, PoolBlocks, PoolSpec, PoolStatus};
use weft_model::{Namespace as KubeNamespace, PodMeta};

use super::*;

/// A node without ranges, in a cluster with these pools; what it has of them is known from the start.
async fn pooled(place: &Place, pools: Vec<IpPool>, has: NodeAddresses) -> (Arc<Node>, mpsc::Sender<Change>) {
    let mut changes = vec![local(&[])];
    changes.extend(pools.into_iter().map(Box::new).map(Change::Pool));
    let (node, changes) = place.ready_with(changes).await;
    node.pools().open(has);
    (node, changes)
}

fn pool(name: &str, cidrs: &[&str]) -> IpPool {
    let spec = PoolSpec {
        cidrs: cidrs.iter().map(|cidr| (*cidr).into()).collect(),
        block_size: BlockSize { ipv4: 30, ipv6: 126 },
        pre_allocate: 0,
        ..PoolSpec::default()
    };
    IpPool {
        name: name.into(),
        status: PoolStatus {
            in_force: Some(spec.clone()),
            ..PoolStatus::default()
        },
        spec,
        ..IpPool::default()
    }
}

fn has(version: u64, blocks: &[(&str, &[&str])]) -> NodeAddresses {
    let of = |(pool, cidrs): &(&str, &[&str])| PoolBlocks {
        pool: (*pool).into(),
        cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
    };
    NodeAddresses {
        node: "node-1".into(),
        version,
        spec: NodeAddressesSpec {
            allocated: blocks.iter().map(of).collect(),
            refused: vec![],
        },
        ..NodeAddresses::default()
    }
}

/// Tells of a pod with these annotations, in a namespace without any.
fn annotated(node: &Node, name: &str, annotations: &[(&str, &str)]) {
    let pairs = annotations.iter().map(|(key, value)| ((*key).into(), (*value).into()));
    let pod = PodMeta {
        key: ObjectKey::new("default", name),
        uid: name.into(),
        object_uid: name.into(),
        annotations: BTreeMap::from_iter(pairs),
    };
    let namespace = KubeNamespace {
        name: "default".into(),
        ..KubeNamespace::default()
    };
    node.objects().apply(Change::PodMeta(pod));
    node.objects().apply(Change::Namespace(namespace));
}

fn addresses(result: &AddResult) -> Vec<String> {
    result.ips.iter().map(|ip| ip.address.addr().to_string()).collect()
}

#[test]
fn a_pod_waits_for_a_block_and_an_exhausted_pool_says_by_whom() {
    on_a_node("pool", |place| async move {
        let cidrs = ["10.1.0.0/24", "fd01::/120"];
        let (node, changes) = pooled(&place, vec![pool("default", &cidrs)], has(1, &[])).await;
        let sandbox = Sandbox::new();
        let granted = has(2, &[("default", &["10.1.0.0/31", "fd01::/127"])]);
        let (result, _) = tokio::join!(add(&node, "c1", &sandbox), changes.send(Change::NodeAddresses(granted)));
        assert_eq!(addresses(&result), ["10.1.0.0", "fd01::"]);
        let other = Sandbox::new();
        assert_eq!(addresses(&add(&node, "c2", &other).await), ["10.1.0.1", "fd01::1"]);
        // The next has to ask for more; the controller has none.
        let mut full = has(3, &[("default", &["10.1.0.0/31", "fd01::/127"])]);
        full.spec.refused = vec![Refusal {
            pool: "default".into(),
            message: "all of it is given".into(),
        }];
        node.take_in_addresses(Some(&full));
        let third = Sandbox::new();
        let (found, text) = error(&node, request(Command::Add, "c3", Some(&third))).await;
        assert_eq!(found, code::TRY_AGAIN);
        for part in [
            "no address for pod default/c3 on node node-1",
            "IPPool default has no free IPv4 address on this node: 2 of 2 are in use",
            "all of it is given",
            "in use here by namespace default (2 pods, such as c1)",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!third.has("eth0").await);
        for name in ["c1", "c2"] {
            node.handle(request(Command::Del, name, None)).await;
        }
        assert_eq!(node.pools().book().status().used[0].used, 0);
        nothing_left(&node, &place).await;
    });
}

#[test]
fn annotations_choose_and_a_wrong_one_is_named() {
    on_a_node("annotations", |place| async move {
        let mut leaving = pool("leaving", &["10.3.0.0/24"]);
        leaving.deleting = true;
        let pools = vec![
            pool("default", &["10.1.0.0/24"]),
            pool("blue", &["10.2.0.0/24"]),
            leaving,
        ];
        let blocks: [(&str, &[&str]); 2] = [("default", &["10.1.0.0/30"]), ("blue", &["10.2.0.0/30"])];
        let (node, _changes) = pooled(&place, pools, has(1, &blocks)).await;
        let pool_annotation = "weft.dev/ip-pool";
        annotated(&node, "blue", &[(pool_annotation, "blue")]);
        annotated(&node, "fixed", &[("weft.dev/ip", "10.2.0.3")]);
        let (one, two) = (Sandbox::new(), Sandbox::new());
        assert_eq!(addresses(&add(&node, "blue", &one).await), ["10.2.0.0"]);
        assert_eq!(addresses(&add(&node, "fixed", &two).await), ["10.2.0.3"]);
        for (name, annotation, parts) in [
            (
                "gone",
                (pool_annotation, "green"),
                ["there is no IPPool green", "kubectl get ippools"],
            ),
            (
                "leave",
                (pool_annotation, "leaving"),
                ["IPPool leaving gives no addresses", "being deleted"],
            ),
            (
                "nine",
                ("weft.dev/ip", "nine"),
                ["annotation weft.dev/ip: \"nine\"", "10.1.0.9,fd00::9"],
            ),
        ] {
            annotated(&node, name, &[annotation]);
            let sandbox = Sandbox::new();
            let (found, text) = error(&node, request(Command::Add, name, Some(&sandbox))).await;
            assert_eq!(found, code::CONFIG, "{text}");
            assert!(text.contains(&format!("pod default/{name}")), "{text}");
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
        // One that another has is waited for: pods with names of their own are replaced like that.
        annotated(&node, "next", &[("weft.dev/ip", "10.2.0.3")]);
        let third = Sandbox::new();
        let (found, text) = error(&node, request(Command::Add, "next", Some(&third))).await;
        assert!(
            found == code::TRY_AGAIN && text.contains("namespace default (fixed)"),
            "{text}"
        );
        let waiting = request(Command::Add, "next", Some(&third));
        let (response, _) = tokio::join!(node.handle(waiting), node.handle(request(Command::Del, "fixed", None)));
        assert_eq!(addresses(&response.result.unwrap()), ["10.2.0.3"]);
        // The runtime's word is the nearest.
        let third = Sandbox::new();
        let mut asked = request(Command::Add, "podman", Some(&third));
        asked.args = vec![("IP".into(), "10.1.0.2".into())];
        let response = node.handle(asked).await;
        assert_eq!(addresses(&response.result.unwrap()), ["10.1.0.2"]);
    });
}

#[test]
fn what_pods_have_is_theirs_after_a_restart_even_where_the_block_is_gone() {
    on_a_node("pool-restart", |place| async move {
        let pools = || vec![pool("default", &["10.1.0.0/24"])];
        let blocks: [(&str, &[&str]); 1] = [("default", &["10.1.0.0/31"])];
        let sandbox = Sandbox::new();
        let (first, changes) = pooled(&place, pools(), has(1, &blocks)).await;
        assert_eq!(addresses(&add(&first, "c1", &sandbox).await), ["10.1.0.0"]);
        drop((first, changes));
        let (second, _changes) = pooled(&place, pools(), has(2, &blocks)).await;
        let other = Sandbox::new();
        assert_eq!(addresses(&add(&second, "c2", &other).await), ["10.1.0.1"]);
        second.take_in_addresses(Some(&has(3, &[])));
        assert_eq!(second.pools().book().status().wanted.len(), 2);
        let said = format!("{:?}", addresses::layer(&second));
        assert!(
            said.contains("2 in use are of no pod CIDR or block of this node, such as 10.1.0.0"),
            "{said}"
        );
        second.take_in_addresses(Some(&has(4, &blocks)));
        let third = Sandbox::new();
        assert_eq!(
            error(&second, request(Command::Add, "c3", Some(&third))).await.0,
            code::TRY_AGAIN
        );
    });
}

/// An API server that does not answer.
struct Away;

impl known::Api for Away {
    fn pod<'a>(&'a self, _: &'a ObjectKey) -> futures::future::BoxFuture<'a, Result<Option<PodMeta>, String>> {
        Box::pin(async { Err("no route to host".into()) })
    }

    fn namespace<'a>(&'a self, _: &'a str) -> futures::future::BoxFuture<'a, Result<Option<KubeNamespace>, String>> {
        Box::pin(async { Err("no route to host".into()) })
    }

    fn is_fresh(&self) -> bool {
        false
    }
}

#[test]
fn a_pod_that_nobody_can_tell_about_is_tried_again() {
    on_a_node("away", |place| async move {
        let mut node = Node::open("node-1", &place.dir, place.datapath()).unwrap();
        node.api = Box::new(Away);
        let node = Arc::new(node);
        let (changes, receiver) = mpsc::channel(16);
        tokio::spawn(cluster::follow(node.clone(), receiver));
        for change in [local(&["10.244.0.0/23"]), Change::Synced] {
            changes.send(change).await.unwrap();
        }
        let sandbox = Sandbox::new();
        let (found, text) = error(&node, request(Command::Add, "c1", Some(&sandbox))).await;
        assert!(found == code::TRY_AGAIN && text.contains("no route to host"), "{text}");
        // A pod that the watch has told of needs nobody, and neither does a container that is no pod.
        annotated(&node, "c1", &[]);
        add(&node, "c1", &sandbox).await;
        let other = Sandbox::new();
        let mut podman = request(Command::Add, "c2", Some(&other));
        podman.args.clear();
        assert_eq!(node.handle(podman).await.error, None);
    });
}

#[test]
fn a_range_that_is_somebody_elses_too_is_refused_until_that_is_corrected() {
    on_a_node("overlap", |place| async move {
        let (node, changes) = place.ready().await;
        let (kept, sandbox) = (Sandbox::new(), Sandbox::new());
        add(&node, "c1", &kept).await;
        let other = |cidr: &str| {
            let Change::Node(mut other) = local(&[cidr]) else {
                unreachable!()
            };
            other.name = "node-0".into();
            other.internal_ips = vec!["10.89.0.12".parse().unwrap()];
            Change::Node(other)
        };
        changes.send(other("10.244.1.0/24")).await.unwrap();
        let refused = || node.ipam().refused().is_some();
        leaks::until(refused).await;
        let (found, text) = error(&node, request(Command::Add, "c2", Some(&sandbox))).await;
        assert_eq!(found, code::CONFIG);
        let expected = "pod CIDR 10.244.0.0/23 of this node overlaps pod CIDR 10.244.1.0/24 of node node-0";
        assert!(text.contains(expected), "{text}");
        let layer = addresses::layer(&node);
        assert!(layer.message.contains(expected), "{layer:?}");
        assert!(kept.has("eth0").await);
        changes.send(other("10.244.2.0/24")).await.unwrap();
        leaks::until(|| !refused()).await;
        add(&node, "c2", &sandbox).await;
    });
}
