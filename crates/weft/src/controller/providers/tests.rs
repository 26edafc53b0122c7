//! Providers that are slow, fail, limit, lie and lose answers: a small HTTP server on loopback against the books.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use weft_model::Node;
use weft_model::ipam::spec::{self, BlockSize, HttpProvider, Provider as Spec};
use weft_model::ipam::{IpPool, NodeAddresses, PoolSpec};

use super::*;

/// How the server treats a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Silent,
    Fails,
    Limits,
    Garbles,
    Outside,
    Twice,
    /// It assigns, and hangs up.
    LosesAnswers,
    Empty,
}

/// A provider of 10.9.0.0/24, one address at a time.
#[derive(Default)]
struct Cloud {
    assigned: BTreeMap<IpNet, String>,
    moods: BTreeMap<String, Mood>,
    asked: BTreeMap<String, u32>,
}

type Shared = Arc<Mutex<Cloud>>;
type Answer = Response<Full<Bytes>>;

async fn serve(cloud: Shared) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let cloud = cloud.clone();
            let service = service_fn(move |request| answer(cloud.clone(), request));
            let mut http = http1::Builder::new();
            http.keep_alive(false);
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    url
}

/// An error ends the connection without an answer.
async fn answer(cloud: Shared, request: Request<Incoming>) -> Result<Answer, Box<dyn Error + Send + Sync>> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let body: Value = serde_json::from_slice(&body)?;
    let reply = cloud.lock().unwrap().reply(path.trim_start_matches("/v1/"), &body);
    match reply {
        Some(answer) => Ok(answer),
        // Until the other side gives up.
        None if cloud.lock().unwrap().mood(&body) == Some(Mood::Silent) => std::future::pending().await,
        None => Err("the answer is lost".into()),
    }
}

impl Cloud {
    fn mood(&self, body: &Value) -> Option<Mood> {
        self.moods.get(body["node"].as_str()?).copied()
    }

    fn reply(&mut self, what: &str, body: &Value) -> Option<Answer> {
        let with = |status: StatusCode, text: String| {
            let mut answer = Response::new(Full::from(text));
            *answer.status_mut() = status;
            answer
        };
        let good = |value: Value| Some(with(StatusCode::OK, value.to_string()));
        let node = body["node"].as_str().unwrap_or_default().to_owned();
        *self.asked.entry(node.clone()).or_default() += 1;
        match (what, self.mood(body)) {
            ("list", _) => {
                let one = |(cidr, node): (&IpNet, &String)| json!({"node": node, "cidrs": [cidr]});
                good(json!({"assignments": self.assigned.iter().map(one).collect::<Vec<_>>()}))
            }
            (_, Some(Mood::Silent)) => None,
            (_, Some(Mood::Fails)) => {
                let why = json!({"message": "quota of the account"});
                Some(with(StatusCode::INTERNAL_SERVER_ERROR, why.to_string()))
            }
            (_, Some(Mood::Limits)) => {
                let mut answer = with(StatusCode::TOO_MANY_REQUESTS, String::new());
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(1));
                Some(answer)
            }
            (_, Some(Mood::Garbles)) => Some(with(StatusCode::OK, "{\"cidrs\": [7".into())),
            ("release", _) => {
                for cidr in body["cidrs"].as_array().unwrap() {
                    let cidr: IpNet = cidr.as_str().unwrap().parse().unwrap();
                    if self.assigned.get(&cidr) == Some(&node) {
                        self.assigned.remove(&cidr);
                    }
                }
                good(json!({}))
            }
            (_, Some(Mood::Outside)) => good(json!({"cidrs": ["192.0.2.1/32"]})),
            (_, Some(Mood::Twice)) => {
                let other = self.assigned.iter().find(|(_, of)| **of != node).map(|(cidr, _)| *cidr);
                good(json!({"cidrs": other.into_iter().collect::<Vec<_>>()}))
            }
            (_, Some(Mood::Empty)) => good(json!({"cidrs": []})),
            (_, mood) => {
                let want = body["blocks"]["ipv4"].as_u64().unwrap();
                let mine = |cloud: &Self| {
                    cloud
                        .assigned
                        .iter()
                        .filter(|(_, of)| **of == node)
                        .map(|(cidr, _)| *cidr)
                        .collect::<Vec<_>>()
                };
                let missing = want.saturating_sub(mine(self).len() as u64);
                for _ in 0..missing {
                    let mut all = (0..=255u8).map(|last| IpNet::from(std::net::IpAddr::from([10, 9, 0, last])));
                    let free = all.find(|cidr| !self.assigned.contains_key(cidr)).unwrap();
                    self.assigned.insert(free, node.clone());
                }
                if mood == Some(Mood::LosesAnswers) {
                    self.moods.remove(&node);
                    return None;
                }
                good(json!({"cidrs": mine(self)}))
            }
        }
    }
}

/// The books with an API that takes every write at once.
struct World {
    ledger: Ledger,
    providers: Providers,
    nodes: BTreeMap<String, NodeAddresses>,
    clock: u64,
    url: String,
}

impl World {
    fn new(url: &str) -> Self {
        let mut world = Self {
            ledger: Ledger::default(),
            providers: Providers::default(),
            nodes: BTreeMap::new(),
            clock: 0,
            url: url.into(),
        };
        world.add_pool();
        world
    }

    fn add_pool(&mut self) {
        let spec = PoolSpec {
            cidrs: vec!["10.9.0.0/24".into()],
            block_size: BlockSize { ipv4: 32, ipv6: 128 },
            provider: Some(Spec {
                http: Some(HttpProvider { url: self.url.clone() }),
            }),
            ..PoolSpec::default()
        };
        let pool = IpPool {
            name: "cloud".into(),
            version: 1,
            generation: 1,
            held: true,
            spec,
            ..IpPool::default()
        };
        self.ledger.pool(pool);
    }

    /// A new controller: it knows what the objects say.
    fn restart(&mut self) {
        (self.ledger, self.providers) = (Ledger::default(), Providers::default());
        self.add_pool();
        for object in self.nodes.values() {
            self.ledger.node(&node(&object.node));
            self.ledger.observe(object.clone());
        }
    }

    fn want(&mut self, name: &str, ipv4: u64) {
        self.clock += 1;
        let object = self.nodes.entry(name.into()).or_default();
        object.node = name.into();
        object.version = self.clock;
        object.status.requested = vec![spec::Request {
            pool: "cloud".into(),
            ipv4,
            ipv6: 0,
        }];
        self.ledger.node(&node(name));
        self.ledger.observe(object.clone());
    }

    fn give_back(&mut self, name: &str) {
        self.want(name, 0);
        self.clock += 1;
        let object = self.nodes.get_mut(name).unwrap();
        object.version = self.clock;
        object.status.releasing = object.spec.allocated.clone();
        self.ledger.observe(object.clone());
    }

    fn work(&mut self) {
        for pool in self.ledger.take_dirty_pools() {
            self.ledger.judge(&pool);
        }
        self.providers.look_at_pools(&mut self.ledger);
        for name in self.ledger.take_dirty_nodes() {
            let grant = self.ledger.decide(&name);
            self.providers.look_at_node(&self.ledger, &name);
            if let Some(grant) = grant {
                self.clock += 1;
                let object = NodeAddresses {
                    version: self.clock,
                    spec: grant.spec,
                    ..grant.at
                };
                self.nodes.insert(name.clone(), object.clone());
                self.ledger.observe(object);
                self.ledger.reconsider(&name);
            }
        }
    }

    /// Works until this holds, checking all the while that nothing is with two nodes.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            self.work();
            let all: Vec<IpNet> = self.nodes.values().flat_map(NodeAddresses::blocks).collect();
            assert_eq!(
                all.iter().collect::<BTreeSet<_>>().len(),
                all.len(),
                "given twice: {all:?}"
            );
            if holds(self) {
                return;
            }
            let event = tokio::time::timeout(Duration::from_millis(20), self.providers.next()).await;
            if let Ok(event) = event {
                self.providers.take_in(&mut self.ledger, event);
            }
            assert!(tokio::time::Instant::now() < deadline, "{what}: {:#?}", self.nodes);
        }
    }

    fn count(&self, name: &str) -> usize {
        self.nodes.get(name).map_or(0, |object| object.blocks().count())
    }

    fn refused(&self, name: &str) -> String {
        let refused = self.nodes.get(name).and_then(|object| object.spec.refused.first());
        refused.map(|refusal| refusal.message.clone()).unwrap_or_default()
    }
}

fn node(name: &str) -> Node {
    Node {
        name: name.into(),
        ..Node::default()
    }
}

fn assigned_to(cloud: &Shared, name: &str) -> usize {
    cloud.lock().unwrap().assigned.values().filter(|of| *of == name).count()
}

#[tokio::test]
async fn nodes_get_what_the_provider_assigns_and_what_they_give_back_is_released() {
    let cloud = Shared::default();
    let mut world = World::new(&serve(cloud.clone()).await);
    world.want("n1", 3);
    world.want("n2", 2);
    world
        .until("both have theirs", |world| {
            (world.count("n1"), world.count("n2")) == (3, 2)
        })
        .await;
    world.want("n1", 5);
    world.until("two more", |world| world.count("n1") == 5).await;
    world.give_back("n1");
    let seen = cloud.clone();
    world
        .until("all of it goes back", |world| {
            world.count("n1") == 0 && assigned_to(&seen, "n1") == 0
        })
        .await;
    assert_eq!(assigned_to(&cloud, "n2"), 2);
}

#[tokio::test]
async fn the_trouble_of_one_node_is_named_and_nobody_elses() {
    let cloud = Shared::default();
    let url = serve(cloud.clone()).await;
    let mut world = World::new(&url);
    let troubles = [
        ("silent", Mood::Silent, format!("IPPool cloud: the provider at {url} has not answered within 4 s; it is asked again")),
        ("fails", Mood::Fails, format!("IPPool cloud: the provider at {url} refused (500): quota of the account")),
        ("limits", Mood::Limits, format!("IPPool cloud: the provider at {url} limits how often it is asked (429); it is asked again in 1 s")),
        ("garbles", Mood::Garbles, format!("IPPool cloud: the provider at {url} answered what cannot be understood: assign: ")),
        ("outside", Mood::Outside, "IPPool cloud: its provider assigned what cannot be used: 192.0.2.1/32 is no block (/32 or /128) of its spec.cidrs".into()),
        ("twice", Mood::Twice, "IPPool cloud: its provider assigned what cannot be used: 10.9.0.0/32 is with node good (IPPool cloud) already".into()),
        ("empty", Mood::Empty, "IPPool cloud: its provider has no more: node empty has 0 blocks and needs 2".into()),
    ];
    world.want("good", 3);
    world
        .until("the good one has its own", |world| world.count("good") == 3)
        .await;
    for (name, mood, _) in &troubles {
        cloud.lock().unwrap().moods.insert((*name).into(), *mood);
        world.want(name, 2);
    }
    world.want("other", 4);
    world
        .until("nobody waits for the others", |world| world.count("other") == 4)
        .await;
    for (name, _, message) in &troubles {
        world
            .until(message, |world| world.refused(name).starts_with(message))
            .await;
        assert_eq!(world.count(name), 0, "{name}");
    }
    cloud.lock().unwrap().moods.clear();
    let names: Vec<&str> = troubles.iter().map(|(name, ..)| *name).collect();
    world
        .until("all have theirs", |world| {
            names
                .iter()
                .all(|name| world.count(name) == 2 && world.refused(name).is_empty())
        })
        .await;
    assert_eq!(cloud.lock().unwrap().assigned.len(), 3 + 4 + 2 * names.len());
}

#[tokio::test]
async fn what_a_lost_answer_assigned_is_in_the_next_one() {
    let cloud = Shared::default();
    let mut world = World::new(&serve(cloud.clone()).await);
    cloud.lock().unwrap().moods.insert("n1".into(), Mood::LosesAnswers);
    world.want("n1", 3);
    world.until("three", |world| world.count("n1") == 3).await;
    assert_eq!(assigned_to(&cloud, "n1"), 3);
}

#[tokio::test]
async fn a_new_controller_uses_or_gives_back_what_the_provider_has_assigned() {
    let cloud = Shared::default();
    let mut world = World::new(&serve(cloud.clone()).await);
    world.want("n1", 2);
    world.until("two", |world| world.count("n1") == 2).await;
    // An earlier controller was given more, and wrote it nowhere: for a node that needs it, and for two that do not.
    for (cidr, of) in [("10.9.0.77/32", "n1"), ("10.9.0.78/32", "n1"), ("10.9.0.79/32", "gone")] {
        cloud.lock().unwrap().assigned.insert(cidr.parse().unwrap(), of.into());
    }
    world.want("n1", 3);
    world.restart();
    let seen = cloud.clone();
    world
        .until("one is used, the others go", |world| {
            world.count("n1") == 3 && assigned_to(&seen, "n1") == 3 && assigned_to(&seen, "gone") == 0
        })
        .await;
    let blocks: Vec<String> = world.nodes["n1"].blocks().map(|cidr| cidr.to_string()).collect();
    assert_eq!(blocks, ["10.9.0.0/32", "10.9.0.1/32", "10.9.0.77/32"]);
}
