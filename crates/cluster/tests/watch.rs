//! Watches against a server that breaks in every way a real one does.
#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};
use weft_cluster::{Client, Kind};
use weft_model::{Change, ObjectKey};

/// An API server in miniature: whole lists, and watches that end when told to.
#[derive(Clone)]
struct Server {
    objects: Arc<Mutex<BTreeMap<&'static str, Vec<Value>>>>,
    events: Arc<Mutex<BTreeMap<String, broadcast::Sender<Value>>>>,
}

impl Server {
    fn new() -> Self {
        Self {
            objects: Arc::default(),
            events: Arc::default(),
        }
    }

    fn set(&self, plural: &'static str, objects: Vec<Value>) {
        self.objects.lock().unwrap().insert(plural, objects);
    }

    fn channel(&self, plural: &str) -> broadcast::Sender<Value> {
        let mut events = self.events.lock().unwrap();
        let channel = events
            .entry(plural.to_owned())
            .or_insert_with(|| broadcast::channel(64).0);
        channel.clone()
    }

    /// Sends an event to who watches this kind, once somebody does.
    async fn send(&self, plural: &'static str, kind: &str, object: Value) {
        let channel = self.channel(plural);
        while channel.receiver_count() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        channel.send(json!({"type": kind, "object": object})).unwrap();
    }

    /// Serves until the handle is aborted; connections end with it.
    async fn start(&self, port: u16) -> (tokio::task::JoinHandle<()>, u16) {
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", port)).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let port = listener.local_addr().unwrap().port();
        let server = self.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = server.clone();
                connections.spawn(async move {
                    let _ = server.serve(stream).await;
                });
            }
        });
        (task, port)
    }

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let mut reader = BufReader::new(&mut stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head).await? == 0 {
                    return Ok(());
                }
            }
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let path = target.split('?').next().unwrap_or_default();
            let plural = ["services", "endpointslices", "nodes", "version"]
                .into_iter()
                .find(|p| path.ends_with(p));
            let Some(plural) = plural else { return Ok(()) };
            if target.contains("watch=true") {
                return self.watch(stream, plural).await;
            }
            let body = match plural {
                "version" => json!({"major": "1", "minor": "33", "gitVersion": "", "gitCommit": "", "gitTreeState": "",
                    "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
                _ => {
                    let items = self.objects.lock().unwrap().get(plural).cloned().unwrap_or_default();
                    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": items})
                }
            };
            let body = body.to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).await?;
        }
    }

    async fn watch(&self, mut stream: TcpStream, plural: &str) -> std::io::Result<()> {
        let mut events = self.channel(plural).subscribe();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await?;
        let mut byte = [0];
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => {
                        let line = format!("{event}\n");
                        stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await?;
                    }
                    Err(_) => return Ok(()),
                },
                gone = stream.read(&mut byte) => if gone? == 0 { return Ok(()) },
            }
        }
    }
}

struct Kubeconfig(PathBuf);

impl Kubeconfig {
    fn new(name: &str, port: u16) -> Self {
        let path = std::env::temp_dir().join(format!("weft-cluster-{name}-{}", std::process::id()));
        let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
            "users": [{"name": "u", "user": {}}]});
        std::fs::write(&path, text.to_string()).unwrap();
        Self(path)
    }

    async fn connect(&self) -> Client {
        weft_cluster::connect(Some(&self.0)).await.unwrap()
    }
}

impl Drop for Kubeconfig {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn service(name: &str, version: u32, ports: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "resourceVersion": version.to_string()},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": ports}})
}

fn good(name: &str) -> Value {
    service(name, 1, json!([{"port": 80}]))
}

async fn next(changes: &mut mpsc::Receiver<Change>) -> Change {
    tokio::time::timeout(Duration::from_secs(20), changes.recv())
        .await
        .unwrap()
        .unwrap()
}

fn name_of(change: &Change) -> String {
    match change {
        Change::Service(service) => format!("+{}", service.key.name),
        Change::ServiceGone(key) => format!("-{}", key.name),
        Change::Synced => "synced".into(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_malformed_is_skipped_and_the_rest_goes_on() {
    let server = Server::new();
    server.set(
        "services",
        vec![good("a"), service("bad", 1, json!([{"port": 0}])), good("c")],
    );
    let (_task, port) = server.start(0).await;
    let client = Kubeconfig::new("malformed", port).connect().await;
    let mut changes = weft_cluster::watch(&client, &[Kind::Services]);
    let seen = [
        next(&mut changes).await,
        next(&mut changes).await,
        next(&mut changes).await,
    ];
    assert_eq!(seen.each_ref().map(name_of), ["+a", "+c", "synced"]);
    let malformed = client.health().malformed;
    assert_eq!(
        malformed["Service default/bad"],
        "Service default/bad: spec.ports[0].port: expected a port from 1 to 65535, found 0"
    );
    // A good one that goes bad keeps its last good version; corrected, it comes back, and is forgiven.
    server
        .send("services", "MODIFIED", service("a", 8, json!([{"port": "http"}])))
        .await;
    server
        .send("services", "MODIFIED", service("bad", 9, json!([{"port": 80}])))
        .await;
    assert_eq!(name_of(&next(&mut changes).await), "+bad");
    assert_eq!(
        client.health().malformed.keys().collect::<Vec<_>>(),
        ["Service default/a"]
    );
    server
        .send("services", "DELETED", service("a", 10, json!([{"port": "http"}])))
        .await;
    assert_eq!(
        next(&mut changes).await,
        Change::ServiceGone(ObjectKey::new("default", "a"))
    );
    assert!(client.health().malformed.is_empty());
}

#[tokio::test]
async fn a_server_that_goes_and_comes_back_is_followed_without_a_gap() {
    let server = Server::new();
    server.set("services", vec![good("a"), good("b")]);
    let (task, port) = server.start(0).await;
    let client = Kubeconfig::new("restart", port).connect().await;
    let mut changes = weft_cluster::watch(&client, &[Kind::Services]);
    for expected in ["+a", "+b", "synced"] {
        assert_eq!(name_of(&next(&mut changes).await), expected);
    }
    task.abort();
    while client.health().broken.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Back with a watch that has nothing to say: that it is well is noticed all the same.
    let (_task, _) = server.start(port).await;
    while !client.health().broken.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Too far behind: everything is listed again, and what has gone meanwhile is said to have gone.
    server.set("services", vec![good("b"), good("c")]);
    server
        .send(
            "services",
            "ERROR",
            json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old", "status": "Failure"}),
        )
        .await;
    let mut seen = vec![];
    for _ in 0..3 {
        seen.push(name_of(&next(&mut changes).await));
    }
    assert_eq!(seen, ["+b", "+c", "-a"]);
}

#[tokio::test]
async fn a_connection_that_says_nothing_any_more_is_left_for_another() {
    let server = Server::new();
    server.set("services", vec![good("a"), good("b")]);
    let (_task, port) = server.start(0).await;
    let client = Kubeconfig::new("moved", port).connect().await;
    let mut changes = weft_cluster::watch(&client, &[Kind::Services]);
    for expected in ["+a", "+b", "synced"] {
        assert_eq!(name_of(&next(&mut changes).await), expected);
    }
    // The watch is not told of this, as if what was sent to it was lost.
    server.set("services", vec![good("b"), good("c")]);
    client.reconnect().unwrap();
    let mut seen = vec![];
    for _ in 0..3 {
        seen.push(name_of(&next(&mut changes).await));
    }
    assert_eq!(seen, ["+b", "+c", "-a"]);
}

#[tokio::test]
async fn synced_comes_once_and_only_after_every_kind() {
    let server = Server::new();
    server.set("services", vec![good("a")]);
    let (_task, port) = server.start(0).await;
    let client = Kubeconfig::new("synced", port).connect().await;
    let mut changes = weft_cluster::watch(&client, &[Kind::Services, Kind::EndpointSlices, Kind::Nodes]);
    assert_eq!(name_of(&next(&mut changes).await), "+a");
    assert_eq!(next(&mut changes).await, Change::Synced);
    server
        .send(
            "nodes",
            "ADDED",
            json!({"metadata": {"name": "n1", "resourceVersion": "9"}}),
        )
        .await;
    assert!(matches!(next(&mut changes).await, Change::Node(_)));
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_named() {
    let error = weft_cluster::connect(Some("/nonexistent/kubeconfig".as_ref()))
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("/nonexistent/kubeconfig"), "{error}");
    assert!(
        weft_cluster::connect(None)
            .await
            .err()
            .unwrap()
            .to_string()
            .contains("--kubeconfig")
    );
}
