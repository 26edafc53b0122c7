//! What a load balancer hears, over real sockets in a namespace that stands for a node. Needs root.

use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_model::{Change, Endpoint, EndpointPort, EndpointSlice, Node, Protocol, Service, ServiceType, TrafficPolicy};

use super::*;

const PORT: u16 = 32_000;

/// Runs `work` where every port is free.
fn on_a_node<Fut: Future<Output = ()>>(work: impl FnOnce() -> Fut + Send + 'static) {
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(work());
    };
    std::thread::spawn(body).join().unwrap();
}

/// Status line, headers in lower case, and body.
async fn get(to: &str, path: &str) -> io::Result<(u16, String, Value)> {
    let mut stream = TcpStream::connect(to).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Ok((status, head.to_lowercase(), serde_json::from_str(body).unwrap()))
}

fn node(leaving: bool) -> Change {
    Change::Node(Node {
        name: "node-1".into(),
        leaving,
        ..Node::default()
    })
}

fn balancer(name: &str) -> Change {
    Change::Service(Service {
        type_: ServiceType::LoadBalancer,
        cluster_ips: vec![[10, 96, 0, 7].into()],
        external_traffic_policy: TrafficPolicy::Local,
        health_check_node_port: Some(PORT),
        ..Service::named(ObjectKey::new("shop", name))
    })
}

fn slice(draining: bool) -> Change {
    Change::EndpointSlice(EndpointSlice {
        key: ObjectKey::new("shop", "web-1"),
        service: "web".into(),
        ports: vec![EndpointPort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: Some(80),
        }],
        endpoints: vec![Endpoint {
            addresses: vec![[10, 244, 0, 2].into()],
            ready: !draining,
            serving: true,
            terminating: draining,
            hostname: None,
            node_name: Some("node-1".into()),
            zone: None,
            for_nodes: vec![],
            for_zones: vec![],
            pod: None,
        }],
    })
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

#[test]
fn a_service_is_well_where_it_has_ready_endpoints() {
    on_a_node(|| async {
        let mut state = State::new("node-1");
        for change in [node(false), balancer("web"), slice(false)] {
            state.apply(change);
        }
        let mut health = Health::start();
        health.synced(&state);
        let body = |endpoints: u8| json!({"service": {"namespace": "shop", "name": "web"}, "localEndpoints": endpoints, "serviceProxyHealthy": true});
        for to in ["127.0.0.1:32000", "[::1]:32000"] {
            let (status, head, found) = get(to, "/").await.unwrap();
            assert_eq!((status, found), (200, body(1)));
            assert!(head.contains("\r\nx-load-balancing-endpoint-weight: 1"), "{head}");
            assert!(head.contains("\r\ncontent-type: application/json"), "{head}");
        }
        // Endpoints that are going away still serve, but are not to be chosen.
        state.apply(slice(true));
        health.service(&state, &key("web"));
        let (status, _, found) = get("127.0.0.1:32000", "/healthz").await.unwrap();
        assert_eq!((status, found), (503, body(0)));

        // A stuck agent forwards who knows what.
        state.apply(slice(false));
        health.service(&state, &key("web"));
        lock(&health.known.node).alive = Instant::now().checked_sub(STUCK).unwrap();
        let (status, _, found) = get("127.0.0.1:32000", "/").await.unwrap();
        assert_eq!((status, &found["serviceProxyHealthy"]), (503, &json!(false)));
        assert_eq!(get("127.0.0.1:10256", "/livez").await.unwrap().0, 503);
        health.alive();
        assert_eq!(get("127.0.0.1:32000", "/").await.unwrap().0, 200);

        state.apply(Change::ServiceGone(key("web")));
        health.service(&state, &key("web"));
        // Closed as soon as the runtime comes to it.
        tokio::time::timeout(Duration::from_secs(30), async {
            while get("127.0.0.1:32000", "/").await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    });
}

#[test]
fn a_node_that_leaves_lives() {
    on_a_node(|| async {
        let mut state = State::new("node-1");
        let mut health = Health::start();
        // Nothing is forwarded yet, but nobody is to restart us for that.
        assert_eq!(get("127.0.0.1:10256", "/healthz").await.unwrap().0, 503);
        assert_eq!(get("127.0.0.1:10256", "/livez").await.unwrap().0, 200);
        for (leaving, healthz) in [(false, 200), (true, 503), (false, 200)] {
            state.apply(node(leaving));
            health.synced(&state);
            let (status, _, body) = get("[::1]:10256", "/healthz").await.unwrap();
            assert_eq!((status, &body["nodeEligible"]), (healthz, &json!(!leaving)));
            assert!(body["lastUpdated"].as_str().unwrap().ends_with(" +0000 UTC"), "{body}");
            assert_eq!(get("[::1]:10256", "/livez").await.unwrap().0, 200);
        }
        assert_eq!(get("[::1]:10256", "/").await.unwrap().0, 404);
    });
}

#[test]
fn a_port_that_somebody_holds_is_said_and_tried_again() {
    on_a_node(|| async {
        let mut state = State::new("node-1");
        for change in [node(false), balancer("web"), balancer("also"), slice(false)] {
            state.apply(change);
        }
        let holders = [PORT, NODE_PORT].map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        let mut health = Health::start();
        health.synced(&state);
        let said = health.problems();
        assert!(
            said[0].starts_with("port 10256, where load balancers ask about this node: another process"),
            "{said:?}"
        );
        assert!(
            said[1].starts_with("health check port 32000 of Service shop/also: another process"),
            "{said:?}"
        );
        assert_eq!(
            said[2],
            "health check port 32000 is that of the Services shop/also, shop/web: the first has it"
        );
        drop(holders);
        health.retry();
        assert_eq!(health.problems().len(), 1);
        assert_eq!(get("127.0.0.1:32000", "/").await.unwrap().2["localEndpoints"], 0);
        assert_eq!(get("127.0.0.1:10256", "/healthz").await.unwrap().0, 200);
    });
}
