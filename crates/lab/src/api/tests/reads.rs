//! Gets, lists, watches and discovery.

use std::collections::BTreeMap;

use http::Request;
use http_body_util::BodyExt as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::super::store::Key;
use super::{Fixture, MAPS, PODS, map, pod};
use crate::client::{Body, full};

/// The events of a watch that ends after a second.
async fn events(api: &Fixture, uri: &str, accept: &str) -> Vec<Value> {
    let request = Request::get(format!("{uri}&timeoutSeconds=1"))
        .header("accept", accept)
        .body(full(""))
        .unwrap();
    let bytes = (api.handler)(request)
        .await
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    serde_json::Deserializer::from_slice(&bytes)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap()
}

#[tokio::test]
async fn a_watch_tells_what_happens_and_what_leaves_its_selector() {
    let api = Fixture::new();
    api.post(PODS, pod("a")).await;
    let (_, list) = api.get(PODS).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let uri = format!("{PODS}?watch=1&labelSelector=app%3Da&timeoutSeconds=1&resourceVersion={version}");
    let request = Request::get(uri).body(full("")).unwrap();
    let body = (api.handler)(request).await.into_body();
    api.post(PODS, pod("b")).await;
    api.patch(
        &format!("{PODS}/a"),
        "merge-patch+json",
        json!({"metadata": {"annotations": {"x": "y"}}}),
    )
    .await;
    api.patch(
        &format!("{PODS}/a"),
        "merge-patch+json",
        json!({"metadata": {"labels": {"app": "z"}}}),
    )
    .await;
    let bytes = body.collect().await.unwrap().to_bytes();
    let events: Vec<Value> = serde_json::Deserializer::from_slice(&bytes)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|e| (e["type"].as_str().unwrap(), &e["object"]["metadata"]["labels"]["app"]))
        .collect();
    assert_eq!(told, [("MODIFIED", &json!("a")), ("DELETED", &json!("a"))]);
    assert_eq!(
        events[1]["object"]["metadata"]["resourceVersion"],
        api.server.store.read().version().to_string()
    );
}

#[tokio::test]
async fn a_list_comes_in_pages() {
    let api = Fixture::new();
    for n in 0..5 {
        api.post(MAPS, map(&format!("m{n}"))).await;
    }
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let (code, page) = api.get(&format!("{MAPS}?limit=2&continue={token}")).await;
        assert_eq!(code, 200);
        let items = page["items"].as_array().unwrap();
        names.extend(
            items
                .iter()
                .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()),
        );
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4"]);
}

#[tokio::test]
async fn a_watch_can_begin_as_a_list() {
    let api = Fixture::new();
    api.post(MAPS, map("m")).await;
    let uri =
        format!("{MAPS}?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan");
    let told = events(&api, &uri, "application/json").await;
    let kinds: Vec<_> = told.iter().map(|event| event["type"].as_str().unwrap()).collect();
    // The end of the list, and the end of the watch.
    assert_eq!(kinds, ["ADDED", "BOOKMARK", "BOOKMARK"]);
    assert_eq!(
        told[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
}

#[tokio::test]
async fn what_is_forgotten_is_gone() {
    let api = Fixture::new();
    let many = api.server.store.write(false, |txn| {
        for n in 0..4200 {
            let value = json!({"metadata": {"name": format!("p{n}"), "namespace": "default"}});
            txn.put(Key::of("", "pods", &value), value);
        }
        Ok(())
    });
    assert!(many.is_ok());
    let (code, status) = api.get(&format!("{PODS}?watch=1&resourceVersion=20")).await;
    assert_eq!((code.as_u16(), status["reason"].as_str()), (410, Some("Expired")));
    let (code, _) = api.get(&format!("{PODS}?watch=1&resourceVersion=99999")).await;
    assert_eq!(code, 410);
    let (code, status) = api.get(&format!("{PODS}?resourceVersion=99999")).await;
    assert_eq!((code.as_u16(), status["reason"].as_str()), (504, Some("Timeout")));
}

#[tokio::test]
async fn tables_and_metadata() {
    let api = Fixture::new();
    api.post(PODS, pod("p")).await;
    let get = async |accept: &str| {
        let request = Request::get(PODS).header("accept", accept).body(full("")).unwrap();
        let bytes = (api.handler)(request)
            .await
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes();
        serde_json::from_slice::<Value>(&bytes).unwrap()
    };
    let table = get("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "p");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let metadata = get("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await;
    assert_eq!(metadata["kind"], "PartialObjectMetadataList");
    assert!(metadata["items"][0].get("spec").is_none());
    let uri = format!("{PODS}?watch=1");
    let told = events(&api, &uri, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    assert_eq!(told[0]["object"]["rows"][0]["cells"][0], "p");
}

#[tokio::test]
async fn selectors_narrow() {
    let api = Fixture::new();
    for name in ["a", "b", "c"] {
        api.post(PODS, pod(name)).await;
    }
    let names = async |query: &str| {
        let (code, list) = api.get(&format!("/api/v1/pods?{query}")).await;
        assert_eq!(code, 200, "{list}");
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned())
            .collect::<String>()
    };
    assert_eq!(names("labelSelector=app%20in%20(a,c)").await, "ac");
    assert_eq!(names("fieldSelector=metadata.name!=b").await, "ac");
    assert_eq!(names("fieldSelector=spec.nodeName=").await, "abc");
    assert_eq!(api.get("/api/v1/pods?fieldSelector=spec.foo=1").await.0, 400);
    assert_eq!(api.get("/api/v1/pods?labelSelector=a%20b").await.0, 400);
}

#[tokio::test]
async fn both_discoveries_agree() {
    let api = Fixture::new();
    let (_, plain) = api.get("/apis/apps/v1").await;
    let scale = plain["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["name"] == "deployments/scale")
        .unwrap();
    assert_eq!(
        (scale["group"].as_str(), scale["kind"].as_str()),
        (Some("autoscaling"), Some("Scale"))
    );
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let request = Request::get("/apis").header("accept", accept).body(full("")).unwrap();
    let bytes = (api.handler)(request)
        .await
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    let list: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(list["kind"], "APIGroupDiscoveryList");
    let apps = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|g| g["metadata"]["name"] == "apps")
        .unwrap();
    let resources = apps["versions"][0]["resources"].as_array().unwrap();
    let main = plain["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|r| !r["name"].as_str().unwrap().contains('/'));
    assert_eq!(resources.len(), main.count());
    assert_eq!(api.get("/healthz").await.0, 200);
    assert_eq!(api.get("/version").await.1["major"], "1");
}

#[tokio::test]
async fn events_show_in_both_groups() {
    let api = Fixture::new();
    let regarding = json!({"kind": "Pod", "namespace": "default", "name": "p"});
    let event = json!({"metadata": {"name": "e"}, "regarding": regarding, "reason": "Because", "note": "hello", "type": "Normal",
        "action": "Do", "reportingController": "x.io/y", "reportingInstance": "y-1", "eventTime": "2026-01-01T00:00:00.000000Z"});
    let (code, made) = api
        .post("/apis/events.k8s.io/v1/namespaces/default/events", event)
        .await;
    assert_eq!(code, 201, "{made}");
    assert_eq!((made["note"].as_str(), made.get("message")), (Some("hello"), None));
    let (_, core) = api
        .get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name=p")
        .await;
    assert_eq!(core["items"][0]["message"], "hello");
    assert_eq!(core["items"][0]["involvedObject"]["name"], "p");
}

/// Reads a watch until it tells of an object of this name.
async fn until(mut body: Body, name: &str) -> Vec<Value> {
    let mut bytes = Vec::new();
    loop {
        let frame = body.frame().await.unwrap().unwrap();
        bytes.extend_from_slice(frame.data_ref().unwrap());
        let events: Vec<Value> = serde_json::Deserializer::from_slice(&bytes)
            .into_iter()
            .map_while(Result::ok)
            .collect();
        if events.iter().any(|event| event["object"]["metadata"]["name"] == name) {
            return events;
        }
    }
}

#[tokio::test]
async fn a_watch_replayed_is_the_list() {
    let api = Fixture::new();
    let seed: u64 = rand::random();
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let (_, empty) = api.get(MAPS).await;
    let version = empty["metadata"]["resourceVersion"].as_str().unwrap();
    let uri = format!("{MAPS}?watch=1&labelSelector=x%3Don&resourceVersion={version}");
    let body = (api.handler)(Request::get(uri).body(full("")).unwrap())
        .await
        .into_body();
    for _ in 0..200 {
        let name = format!("m{}", rng.random_range(0..4));
        let labels = json!({"x": if rng.random() { "on" } else { "off" }, "n": rng.random_range(0..9).to_string()});
        let path = format!("{MAPS}/{name}");
        let _ = match rng.random_range(0..4) {
            0 => api.delete(&path, Value::Null).await,
            1 => {
                api.post(MAPS, json!({"metadata": {"name": name, "labels": labels}}))
                    .await
            }
            _ => {
                api.patch(&path, "merge-patch+json", json!({"metadata": {"labels": labels}}))
                    .await
            }
        };
    }
    api.post(MAPS, json!({"metadata": {"name": "last", "labels": {"x": "on"}}}))
        .await;

    let (mut known, mut reached) = (BTreeMap::new(), 0_u64);
    for event in until(body, "last").await {
        let metadata = &event["object"]["metadata"];
        let name = metadata["name"].as_str().unwrap().to_owned();
        let version = metadata["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(version > reached, "seed {seed}: {event} after {reached}");
        reached = version;
        let before = match event["type"].as_str().unwrap() {
            "DELETED" => known.remove(&name).is_some(),
            _ => known.insert(name, event["object"].clone()).is_some(),
        };
        assert_eq!(before, event["type"] != "ADDED", "seed {seed}: {event}");
    }
    let (_, list) = api.get(&format!("{MAPS}?labelSelector=x%3Don")).await;
    let listed = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["metadata"]["name"].as_str().unwrap().to_owned(), item.clone()));
    assert_eq!(known, listed.collect(), "seed {seed}");
}

#[tokio::test]
async fn the_network_of_services_is_told_as_a_real_server_tells_it() {
    let api = Fixture::new();
    let path = "/apis/networking.k8s.io/v1/servicecidrs/kubernetes";
    let (code, object) = api.get(path).await;
    assert_eq!(code, 200);
    assert_eq!(object["spec"]["cidrs"], json!(["10.96.0.0/16", "fd00:10:96::/112"]));
    let ready = &object["status"]["conditions"][0];
    assert_eq!((&ready["type"], &ready["status"]), (&json!("Ready"), &json!("True")));
    // A server that starts again leaves it as it is.
    api.server.bootstrap().unwrap();
    assert_eq!(api.get(path).await.1["metadata"], object["metadata"]);
}
