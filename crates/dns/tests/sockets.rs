//! The DNS process on real sockets: UDP, TCP, truncation, forwarding, health. Loopback only.

#![expect(clippy::unwrap_used, reason = "a test helper may fail only by failing the test")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use weft_dns::Config;
use weft_model::{Change, Endpoint, EndpointSlice, ObjectKey, Service};

/// A DNS process; it ends when this is dropped.
struct Server {
    address: SocketAddr,
    health: SocketAddr,
    changes: mpsc::Sender<Change>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A port that was free a moment ago, for both transports.
async fn free() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    socket.local_addr().unwrap()
}

async fn start(upstreams: Vec<SocketAddr>) -> Server {
    let (address, health) = (free().await, free().await);
    let config = Config {
        domain: "cluster.local".into(),
        listen: vec![address],
        health: Some(health),
        upstreams,
        server: ObjectKey::new("kube-system", "kube-dns"),
        ranges: Vec::new(),
    };
    let (changes, receiver) = mpsc::channel(16);
    let task = tokio::spawn(async move { weft_dns::run(config, receiver).await.unwrap() });
    while TcpStream::connect(health).await.is_err() || TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Server {
        address,
        health,
        changes,
        task,
    }
}

fn service(name: &str, ip: Option<Ipv4Addr>) -> Change {
    Change::Service(Service {
        cluster_ips: ip.into_iter().map(Into::into).collect(),
        headless: ip.is_none(),
        ..Service::named(ObjectKey::new("kube-system", name))
    })
}

fn endpoints(count: u32) -> Change {
    let endpoint = |i: u32| Endpoint {
        addresses: vec![Ipv4Addr::from(0x0af4_0000 + i).into()],
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node_name: None,
        zone: None,
        for_nodes: Vec::new(),
        for_zones: Vec::new(),
        pod: None,
    };
    Change::EndpointSlice(EndpointSlice {
        key: ObjectKey::new("kube-system", "many-1"),
        service: "many".into(),
        ports: Vec::new(),
        endpoints: (0..count).map(endpoint).collect(),
    })
}

async fn fill(server: &Server) {
    let changes = [
        service("one", Some(Ipv4Addr::new(10, 96, 0, 9))),
        service("many", None),
        endpoints(500),
    ];
    for change in changes {
        server.changes.send(change).await.unwrap();
    }
    server.changes.send(Change::Synced).await.unwrap();
    while !health(server, "/ready").await.starts_with("HTTP/1.1 200") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn question(name: &str) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

async fn over_udp(to: SocketAddr, request: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&request.to_vec().unwrap(), to).await.unwrap();
    let mut buffer = [0; 4096];
    let (length, from) = tokio::time::timeout(Duration::from_secs(10), socket.recv_from(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(from, to);
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn over_tcp(stream: &mut TcpStream, request: &Message) -> Message {
    let bytes = request.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut buffer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut buffer).await.unwrap();
    Message::from_vec(&buffer).unwrap()
}

async fn health(server: &Server, path: &str) -> String {
    let mut stream = TcpStream::connect(server.health).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// An upstream resolver: everything is 192.0.2.1. Over UDP, `big.` is truncated.
async fn upstream() -> (SocketAddr, tokio::task::JoinSet<()>) {
    fn reply(bytes: &[u8], udp: bool) -> Vec<u8> {
        let mut message = Message::from_vec(bytes).unwrap();
        message.metadata.message_type = MessageType::Response;
        let name = message.queries[0].name.clone();
        if udp && name.to_ascii() == "big." {
            message.metadata.truncation = true;
        } else {
            message.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
        }
        message.to_vec().unwrap()
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            let mut wrong = reply(&buffer[..length], true);
            wrong[0] ^= 0xff;
            // A forged answer comes first, and must not be believed.
            socket.send_to(&wrong, client).await.unwrap();
            socket.send_to(&reply(&buffer[..length], true), client).await.unwrap();
        }
    });
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut buffer).await.unwrap();
            let bytes = reply(&buffer, false);
            stream.write_u16(bytes.len() as u16).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    });
    (address, tasks)
}

const ONE: &str = "one.kube-system.svc.cluster.local.";
const MANY: &str = "many.kube-system.svc.cluster.local.";

#[tokio::test]
async fn cluster_names_over_udp_and_tcp() {
    let server = start(Vec::new()).await;
    assert!(health(&server, "/ready").await.starts_with("HTTP/1.1 503"));
    assert!(health(&server, "/health").await.starts_with("HTTP/1.1 200"));
    assert_eq!(
        over_udp(server.address, &question(ONE)).await.metadata.response_code,
        ResponseCode::ServFail
    );
    fill(&server).await;
    let answer = over_udp(server.address, &question(ONE)).await;
    assert_eq!(answer.answers[0].data, RData::A(A::new(10, 96, 0, 9)));

    let cut = over_udp(server.address, &question(MANY)).await;
    assert!(cut.metadata.truncation);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let whole = over_tcp(&mut stream, &question(MANY)).await;
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 500));
    assert_eq!(
        over_tcp(&mut stream, &question(ONE)).await.answers.len(),
        1,
        "the connection stays"
    );
}

#[tokio::test]
async fn a_change_is_answered_at_once_and_a_lost_watch_does_no_harm() {
    let server = start(Vec::new()).await;
    fill(&server).await;
    server
        .changes
        .send(service("one", Some(Ipv4Addr::new(10, 96, 0, 10))))
        .await
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(2);
    while over_udp(server.address, &question(ONE)).await.answers[0].data != RData::A(A::new(10, 96, 0, 10)) {
        assert!(Instant::now() < deadline, "the change is not answered");
    }
    let Server { address, .. } = server;
    let gone = ObjectKey::new("kube-system", "one");
    server.changes.send(Change::ServiceGone(gone)).await.unwrap();
    while over_udp(address, &question(ONE)).await.metadata.response_code != ResponseCode::NXDomain {
        assert!(Instant::now() < deadline, "the removal is not answered");
    }
}

#[tokio::test]
async fn other_names_are_forwarded() {
    let (address, _tasks) = upstream().await;
    let dead = free().await;
    let server = start(vec![dead, address]).await;
    fill(&server).await;
    for name in ["example.com.", "big."] {
        let answer = over_udp(server.address, &question(name)).await;
        assert_eq!(answer.answers[0].data, RData::A(A::new(192, 0, 2, 1)), "{name}");
        assert!(!answer.metadata.authoritative);
    }
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(over_tcp(&mut stream, &question("example.com.")).await.answers.len(), 1);
    let inside = over_udp(server.address, &question("nothing.default.svc.cluster.local.")).await;
    assert_eq!(
        inside.metadata.response_code,
        ResponseCode::NXDomain,
        "cluster names stay inside"
    );
}

#[tokio::test]
async fn no_upstream_is_said_at_once() {
    let server = start(Vec::new()).await;
    let begin = Instant::now();
    let answer = over_udp(server.address, &question("example.com.")).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn the_clusters_own_service_is_no_upstream() {
    let (address, _tasks) = upstream().await;
    let server = start(vec![address]).await;
    assert_eq!(
        over_udp(server.address, &question("example.com.")).await.answers.len(),
        1
    );
    server
        .changes
        .send(service("kube-dns", Some(Ipv4Addr::LOCALHOST)))
        .await
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(2);
    while over_udp(server.address, &question("example.com."))
        .await
        .metadata
        .response_code
        != ResponseCode::ServFail
    {
        assert!(Instant::now() < deadline, "it still forwards to itself");
    }
}

#[tokio::test]
async fn a_taken_port_is_waited_for() {
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let config = Config {
        domain: "cluster.local".into(),
        listen: vec![address],
        health: None,
        upstreams: Vec::new(),
        server: ObjectKey::new("a", "b"),
        ranges: Vec::new(),
    };
    let (_changes, receiver) = mpsc::channel(1);
    let task = tokio::spawn(weft_dns::run(config, receiver));
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(taken);
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(address).await.unwrap();
    let mut buffer = [0; 512];
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        assert!(Instant::now() < deadline, "never answered");
        // Refused until the port is taken.
        let sent = client.send(&question(ONE).to_vec().unwrap()).await.is_ok();
        if sent
            && matches!(
                tokio::time::timeout(Duration::from_millis(100), client.recv(&mut buffer)).await,
                Ok(Ok(_))
            )
        {
            break;
        }
    }
    task.abort();
}
