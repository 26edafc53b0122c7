//! Addresses that somebody else gives, as a cloud does: a small provider that is slow or silent, limits and runs out, with
//! a lab's pods at the other end.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::{Value, json};

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
}

impl Provider {
    fn start(limit: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cloud = Cloud {
            limit,
            ..Cloud::default()
        };
        let provider = Self {
            url: format!("http://{}/v1", listener.local_addr().unwrap()),
            cloud: Arc::new(Mutex::new(cloud)),
        };
        let cloud = provider.cloud.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let cloud = cloud.clone();
                // Who hangs up is the controller, and is tested elsewhere.
                std::thread::spawn(move || drop(serve(&cloud, stream)));
            }
        });
        provider
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

/// One request for each connection.
fn serve(cloud: &Mutex<Cloud>, stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut what, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        if let Some(target) = line.strip_prefix("POST /v1/") {
            what = target.split(' ').next().unwrap_or_default().to_owned();
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body)?;
    let mood = body["node"]
        .as_str()
        .and_then(|node| cloud.lock().unwrap().moods.get(node).copied());
    let answer = || cloud.lock().unwrap().answer(&what, &body).to_string();
    let (status, header, answer) = match mood {
        // Until the controller has lost patience.
        Some(Mood::Silent) => return stream.read_to_end(&mut vec![]).map(drop),
        Some(Mood::Limits) => ("429 Too Many Requests", "Retry-After: 1\r\n", String::new()),
        Some(Mood::Slow) => {
            std::thread::sleep(Duration::from_secs(2));
            ("200 OK", "", answer())
        }
        None => ("200 OK", "", answer()),
    };
    let length = answer.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{header}\r\n");
    stream.get_mut().write_all((head + &answer).as_bytes())
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
