//! The store's promises: versions, histories, and survival.

use serde_json::{Value, json};

use super::*;

fn key(name: &str) -> Key {
    Key {
        group: String::new(),
        plural: "pods".into(),
        namespace: "default".into(),
        name: name.into(),
    }
}

fn pods() -> ResourceKey {
    (String::new(), "pods".to_owned())
}

fn pod(name: &str, note: u32) -> Value {
    json!({"kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "note": note})
}

fn put(store: &Store, name: &str, note: u32) -> u64 {
    store
        .write(false, |txn| Ok(txn.put(key(name), pod(name, note)).version))
        .unwrap()
}

#[test]
fn an_unchanged_object_keeps_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db")).unwrap();
    let first = put(&store, "a", 1);
    assert_eq!(put(&store, "a", 1), first);
    assert_eq!(put(&store, "a", 2), first + 1);
    assert_eq!(store.get(&key("a")).unwrap().value["metadata"]["resourceVersion"], "2");
}

#[test]
fn a_failed_or_dry_write_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db")).unwrap();
    let failed: Result<(), Status> = store.write(false, |txn| {
        txn.put(key("a"), pod("a", 1));
        Err(Status::bad_request("no"))
    });
    assert!(failed.is_err());
    store.write(true, |txn| Ok(txn.put(key("a"), pod("a", 1)))).unwrap();
    assert!(store.get(&key("a")).is_none());
    assert_eq!(store.read().version(), 0);
}

#[test]
fn everything_survives_a_restart_and_watches_can_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let last = {
        let store = Store::open(&path).unwrap();
        put(&store, "a", 1);
        put(&store, "b", 1);
        store
            .write(false, |txn| Ok(txn.remove(key("a")).map(|o| o.version)))
            .unwrap()
            .unwrap()
    };
    let store = Store::open(&path).unwrap();
    assert_eq!(store.read().version(), last);
    assert!(store.get(&key("a")).is_none());
    assert_eq!(store.get(&key("b")).unwrap().value["note"], 1);
    assert!(store.history(&pods()).follow(last).is_ok());
    assert_eq!(
        store.history(&pods()).follow(last - 1).unwrap_err(),
        Expired { oldest: last }
    );
    assert_eq!(put(&store, "c", 1), last + 1);
}

#[tokio::test]
async fn a_follower_sees_each_change_once_and_learns_that_it_is_late() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db")).unwrap();
    let mut follower = store.history(&pods()).follow(0).unwrap();
    let mut late = store.history(&pods()).follow(0).unwrap();
    put(&store, "a", 1);
    follower.changed().await;
    assert_eq!(follower.take().unwrap().len(), 1);
    put(&store, "a", 2);
    store.write(false, |txn| Ok(txn.remove(key("a")))).unwrap();
    follower.changed().await;
    let changes = follower.take().unwrap();
    assert_eq!(changes.iter().map(|c| c.deleted).collect::<Vec<_>>(), [false, true]);
    assert_eq!(changes[1].object.value["metadata"]["resourceVersion"], "3");
    let many = store.write(false, |txn| {
        for n in 0..5000 {
            txn.put(key(&format!("p{n}")), pod("p", n));
        }
        Ok(())
    });
    assert!(many.is_ok());
    assert!(late.take().is_err());
}
