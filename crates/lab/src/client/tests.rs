//! The client against a server that is a closure.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use http::Response;
use serde_json::json;

use super::*;

fn pod(name: &str, version: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"namespace": "a", "name": name, "resourceVersion": version}})
}

/// Answers the nth request with the nth body; a body of one number is an error of that code.
fn scripted(answers: Vec<String>) -> (Client, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (log, count) = (seen.clone(), AtomicUsize::new(0));
    let handler: Handler = Arc::new(move |request| {
        log.lock().unwrap().push(request.uri().to_string());
        let Some(answer) = answers.get(count.fetch_add(1, Ordering::SeqCst)).cloned() else {
            return std::future::pending().boxed();
        };
        let (code, body) = match answer.parse::<u16>() {
            Ok(code) => (code, json!({"reason": "Because", "message": "no"}).to_string()),
            Err(_) => (200, answer),
        };
        async move { Response::builder().status(code).body(full(body)).unwrap() }.boxed()
    });
    (Client::local(handler), seen)
}

fn line(kind: &str, object: Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn list(version: &str, items: &[Value]) -> String {
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}).to_string()
}

#[tokio::test]
async fn informer_relists_after_410_and_reports_what_went_missing() {
    let gone = line("ERROR", json!({"kind": "Status", "code": 410, "message": "too old"}));
    let (client, seen) = scripted(vec![
        list("5", &[pod("x", "4"), pod("y", "5")]),
        line("MODIFIED", pod("x", "6")) + &gone,
        list("9", &[pod("x", "6"), pod("z", "8")]),
        line("DELETED", pod("z", "10")),
    ]);
    let mut events = client.informer(Res::new("", "v1", "pods"), "", ListOptions::fields("spec.nodeName=n"));
    let mut said = Vec::new();
    for _ in 0..7 {
        said.push(match events.recv().await.unwrap() {
            Event::Applied(object) => format!("+{}{}", meta(&object, "name"), meta(&object, "resourceVersion")),
            Event::Deleted(object) => format!("-{}", meta(&object, "name")),
            Event::Synced => "synced".to_owned(),
        });
    }
    assert_eq!(said, ["+x4", "+y5", "synced", "+x6", "+z8", "-y", "-z"]);
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0], "/api/v1/pods?fieldSelector=spec.nodeName%3Dn");
    assert!(
        seen[1].ends_with("watch=true&allowWatchBookmarks=true&resourceVersion=5"),
        "{}",
        seen[1]
    );
}

#[tokio::test]
async fn errors_carry_the_servers_words() {
    let (client, _) = scripted(vec!["404".to_owned()]);
    let error = client
        .get(&Res::new("apps", "v1", "deployments"), "a", "web")
        .await
        .unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.to_string(), "no");
}

#[test]
fn paths() {
    let pods = Res::new("", "v1", "pods");
    assert_eq!(
        pods.path("a", Some("x"), Some("status")),
        "/api/v1/namespaces/a/pods/x/status"
    );
    assert_eq!(
        Res::new("apps", "v1", "deployments").path("", None, None),
        "/apis/apps/v1/deployments"
    );
}
