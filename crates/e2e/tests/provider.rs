//! Addresses that somebody else gives, as a cloud does: a small provider that is slow or silent, limits and runs out, with
//! a lab's pods at the other end.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::pools::{annotated, described, ips, pool, ready};
use crate::support::{Lab, eventually, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![test("provider::pods_get_what_it_gives", pods_get_what_it_gives)]
}

/// How it treats a node's requests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Slow,
    Silent,
    Limits,
}

/// Single addresses of 10.81.0.0/24.
#[derive(Default)]
struct Cloud {
    assigned: BTreeMap<IpAddr, String>,
    moods: BTreeMap<String, Mood>,
    /// No more are assigned than this, over all nodes.
    limit: usize,
}

impl Cloud {
    fn of(&self, node: &str) -> Vec<IpAddr> {
        let own = self.assigned.iter().filter(|(_, of)| *of == node);
        own.map(|(ip, _)| *ip).collect()
    }

    fn answer(&mut self, what: &str, body: &Value) -> Value {
        let cidr = |ip: &IpAddr| format!("{ip}/32");
        let node = body["node"].as_str().unwrap_or_default();
        match what {
            "list" => {
                let one = |(ip, node): (&IpAddr, &String)| json!({"node": node, "cidrs": [cidr(ip)]});
                json!({"assignments": self.assigned.iter().map(one).collect::<Vec<_>>()})
            }
            "release" => {
                let given = body["cidrs"].as_array().unwrap().iter();
                let given: Vec<&str> = given.filter_map(Value::as_str).collect();
                self.assigned
                    .retain(|ip, of| of != node || !given.contains(&cidr(ip).as_str()));
                json!({})
            }
            _ => {
                let want = body["blocks"]["ipv4"].as_u64().unwrap() as usize;
                while self.of(node).len() < want && self.assigned.len() < self.limit {
                    let mut all = (0..=255).map(|last| IpAddr::from([10, 81, 0, last]));
                    let free = all.find(|ip| !self.assigned.contains_key(ip)).unwrap();
                    self.assigned.insert(free, node.to_owned());
                }
                json!({"cidrs": self.of(node).iter().map(cidr).collect::<Vec<_>>()})
            }
        }
    }
}

/// The provider, which runs as long as the test.
struct Provider {
    url: String,
    cloud: Arc<Mutex<Cloud>>,
    _runtime: Runtime,
}

impl Provider {
    fn start(limit: usize) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let cloud = Arc::new(Mutex::new(Cloud {
            limit,
            ..Cloud::default()
        }));
        let shared = cloud.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let cloud = shared.clone();
                let service = service_fn(move |request| answer(cloud.clone(), request));
                let mut http = http1::Builder::new();
                http.keep_alive(false);
                // Who hangs up is the controller, and is tested elsewhere.
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self {
            url,
            cloud,
            _runtime: runtime,
        }
    }

    fn cloud(&self) -> MutexGuard<'_, Cloud> {
        self.cloud.lock().unwrap()
    }

    fn set(&self, node: &str, mood: Option<Mood>) {
        match mood {
            Some(mood) => self.cloud().moods.insert(node.to_owned(), mood),
            None => self.cloud().moods.remove(node),
        };
    }
}

async fn answer(
    cloud: Arc<Mutex<Cloud>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Box<dyn Error + Send + Sync>> {
    assert_eq!(request.method(), Method::POST);
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let body: Value = serde_json::from_slice(&body)?;
    let mood = body["node"]
        .as_str()
        .and_then(|node| cloud.lock().unwrap().moods.get(node).copied());
    match mood {
        // Until the controller has lost patience.
        Some(Mood::Silent) => return std::future::pending().await,
        Some(Mood::Limits) => {
            let mut answer = Response::new(Full::default());
            *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(1));
            return Ok(answer);
        }
        Some(Mood::Slow) => tokio::time::sleep(Duration::from_secs(2)).await,
        None => {}
    }
    let answer = cloud.lock().unwrap().answer(path.trim_start_matches("/v1/"), &body);
    Ok(Response::new(Full::from(answer.to_string())))
}

fn pods_get_what_it_gives() {
    let provider = Provider::start(5);
    let lab = Lab::own("cloud", &["--no-demo", "--nodes", "2", "--ipam", "pools"]);
    let namespace = lab.namespace("cloud");
    pool(
        &lab,
        "cloud",
        &format!(
            "{{cidrs: [10.81.0.0/24], blockSize: {{ipv4: 32}}, preAllocate: 0, maxAboveWatermark: 0, provider: {{http: {{url: '{}'}}}}}}",
            provider.url
        ),
    );
    let create = |name: &str, node: &str| annotated(&namespace, name, "weft.dev/ip-pool: cloud", Some(node));
    provider.set("node-2", Some(Mood::Slow));
    create("one", "node-1");
    create("two", "node-2");
    ready(&namespace, "--all");
    let address = |name: &str| ips(&namespace, name)[0];
    assert_eq!(provider.cloud().of("node-1"), [address("one")]);
    assert_eq!(provider.cloud().of("node-2"), [address("two")]);
    let url = format!("http://{}:8080/", address("two"));
    eventually("one reaches the other, and is seen with its own address", || {
        let said = namespace.ask("one", &["http", &url]);
        said.ok && said.stdout.contains(&address("one").to_string())
    });

    // Each of its troubles is told to the pod that has it, and over when the provider's is.
    for (name, mood, said) in [
        ("limited", Mood::Limits, "limits how often it is asked (429)"),
        ("ignored", Mood::Silent, "has not answered within 4 s"),
    ] {
        provider.set("node-1", Some(mood));
        create(name, "node-1");
        described(&namespace, name, said);
        if mood == Mood::Silent {
            create("elsewhere", "node-2");
            ready(&namespace, "elsewhere");
        }
        provider.set("node-1", None);
        ready(&namespace, name);
    }

    // All five are given.
    create("late", "node-1");
    for said in [
        "IPPool cloud has no free IPv4 address on this node: 3 of 3 are in use",
        "its provider has no more: node node-1 has 3 blocks and needs 4",
        "in use here by namespace cloud (3 pods, such as ignored)",
    ] {
        described(&namespace, "late", said);
    }
    // What another node gives back goes to the provider, and from there to who asks.
    namespace.kubectl(&["delete", "pod", "two"]).good();
    ready(&namespace, "late");
    assert_eq!(provider.cloud().of("node-1").len(), 4);

    // A controller that is killed leaves nothing behind that is assigned and in nobody's hands.
    lab.kill("controller", None);
    namespace.kubectl(&["delete", "pod", "one", "limited"]).good();
    create("after", "node-2");
    ready(&namespace, "after");
    eventually("the provider has back what is not in use", || {
        let cloud = provider.cloud();
        (cloud.of("node-1").len(), cloud.of("node-2").len()) == (2, 2)
    });
    namespace.kubectl(&["delete", "pods", "--all"]).good();
    lab.kubectl(&["delete", "ippool", "cloud", "--timeout=60s"]).good();
    assert_eq!(provider.cloud().assigned, BTreeMap::new());
}
