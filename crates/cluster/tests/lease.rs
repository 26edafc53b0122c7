//! Candidates for one Lease, each with its own way to an API server: who leads, and who must have stopped before.
#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use weft_cluster::lease::Election;

/// The one Lease of an API server, and its version.
type Store = Arc<Mutex<(u64, Option<Value>)>>;

/// A way to the API server, which can be cut: from then on nothing is answered.
struct Way {
    port: u16,
    is_cut: Arc<AtomicBool>,
}

impl Way {
    async fn open(store: &Store) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let way = Self {
            port: listener.local_addr().unwrap().port(),
            is_cut: Arc::default(),
        };
        let (store, is_cut) = (store.clone(), way.is_cut.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (store, is_cut) = (store.clone(), is_cut.clone());
                let service = service_fn(move |request| serve(store.clone(), is_cut.clone(), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        way
    }

    async fn candidate(&self, identity: &str, has_ended: impl Fn(&str) -> bool + Send + 'static) -> Election {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://127.0.0.1:{}", self.port)}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(&path, text.to_string()).unwrap();
        let client = weft_cluster::connect(Some(&path)).await.unwrap();
        Election::new(&client, "kube-system", "weft-controller", identity, has_ended)
    }
}

async fn serve(
    store: Store,
    is_cut: Arc<AtomicBool>,
    request: Request<Incoming>,
) -> hyper::Result<Response<Full<Bytes>>> {
    let method = request.method().clone();
    let body = request.into_body().collect().await?.to_bytes();
    if is_cut.load(Ordering::Relaxed) {
        // Not even a refusal, until the test is over.
        return std::future::pending().await;
    }
    let (code, answer) = answer(&store, &method, serde_json::from_slice(&body).unwrap_or_default());
    let mut response = Response::new(Full::from(answer.to_string()));
    *response.status_mut() = code;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

fn answer(store: &Store, method: &Method, mut body: Value) -> (StatusCode, Value) {
    let refused = |code: StatusCode, reason: &str| {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code.as_u16()});
        (code, status)
    };
    let mut store = store.lock().unwrap();
    let (version, lease) = &mut *store;
    match (method, &lease) {
        (&Method::GET, Some(lease)) => return (StatusCode::OK, lease.clone()),
        (&Method::GET, None) => return refused(StatusCode::NOT_FOUND, "NotFound"),
        (&Method::POST, Some(_)) => return refused(StatusCode::CONFLICT, "AlreadyExists"),
        (&Method::PUT, Some(lease)) if body["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"] => {
            return refused(StatusCode::CONFLICT, "Conflict");
        }
        _ => {}
    }
    *version += 1;
    body["metadata"]["resourceVersion"] = version.to_string().into();
    *lease = Some(body.clone());
    (StatusCode::OK, body)
}

fn holder(store: &Store) -> String {
    let store = store.lock().unwrap();
    let lease = store.1.as_ref().unwrap();
    lease["spec"]["holderIdentity"].as_str().unwrap().to_owned()
}

fn nothing_is_known(_: &str) -> bool {
    false
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn of_many_that_race_one_leads_and_the_next_when_it_lets_go() {
    let store = Store::default();
    let way = Way::open(&store).await;
    let mut racing = FuturesUnordered::new();
    for number in 0..10 {
        let mut candidate = way.candidate(&format!("c{number}"), nothing_is_known).await;
        racing.push(async move {
            candidate.acquire(|error| panic!("{error}")).await;
            (format!("c{number}"), candidate)
        });
    }
    let mut led = vec![];
    for _ in 0..3 {
        let (name, mut leader) = tokio::time::timeout(LONG, racing.next()).await.unwrap().unwrap();
        assert_eq!(holder(&store), name);
        // Others ask meanwhile, and none of them gets it.
        for _ in 0..3 {
            let more = tokio::time::timeout(Duration::from_millis(100), racing.next()).await;
            assert!(more.is_err(), "two lead");
        }
        leader.release().await.unwrap();
        led.push(name);
    }
    led.dedup();
    assert_eq!(led.len(), 3, "{led:?}");
}

#[tokio::test]
async fn a_leader_that_is_cut_off_has_stopped_before_another_leads() {
    let store = Store::default();
    let (mine, others) = (Way::open(&store).await, Way::open(&store).await);
    let mut leader = mine.candidate("a", nothing_is_known).await;
    leader.acquire(|error| panic!("{error}")).await;
    let mut other = others.candidate("b", nothing_is_known).await;
    mine.is_cut.store(true, Ordering::Relaxed);
    let mut waiting = std::pin::pin!(other.acquire(|error| panic!("{error}")));
    let why = tokio::select! {
        why = leader.renew() => why,
        () = &mut waiting => panic!("another leads, and the one that was cut off goes on"),
    };
    assert!(why.starts_with("the Lease could not be renewed for 10 s"), "{why}");
    assert_eq!(holder(&store), "a");
    tokio::time::timeout(LONG, waiting).await.unwrap();
    assert_eq!(holder(&store), "b");
}

/// Of the two that wait, the one that knows that the leader has ended is done first.
#[tokio::test]
async fn who_knows_that_the_leader_has_ended_does_not_wait_for_its_lease_to_run_out() {
    let store = Store::default();
    let way = Way::open(&store).await;
    let mut leader = way.candidate("a", nothing_is_known).await;
    leader.acquire(|error| panic!("{error}")).await;
    drop(leader);
    let mut ignorant = way.candidate("b", nothing_is_known).await;
    let mut knowing = way.candidate("c", |holder| holder == "a").await;
    tokio::select! {
        () = ignorant.acquire(|error| panic!("{error}")) => panic!("the one that knows waited as long"),
        () = knowing.acquire(|error| panic!("{error}")) => {}
    }
    assert_eq!(holder(&store), "c");
    // Under its own identity there was one before: it has ended, too.
    let mut again = way.candidate("c", nothing_is_known).await;
    tokio::select! {
        () = ignorant.acquire(|error| panic!("{error}")) => panic!("the one that knows waited as long"),
        () = again.acquire(|error| panic!("{error}")) => {}
    }
}
