//! A pod that sends what it may not is named, and told.

use weft_cluster::AgentEvent;
use weft_model::PodMeta;

use super::*;
use crate::agent::isolation::{self, Witness};

fn inside(sandbox: &Sandbox, command: &str) {
    let path = sandbox.path();
    let status = Process::new("nsenter")
        .arg(format!("--net={path}"))
        .args(command.split(' '))
        .output();
    let output = status.unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_pod_that_speaks_for_another_is_named_and_told_now_and_then() {
    on_a_node("offender", |place| async move {
        let mut node = Node::open("node-1", &place.dir, place.datapath()).unwrap();
        let (events, mut told) = mpsc::channel(16);
        node.events = events;
        let node = Arc::new(node);
        let (_changes, receiver) = {
            let (sender, receiver) = mpsc::channel(16);
            for change in [local(&["10.244.0.0/23"]), Change::Synced] {
                sender.send(change).await.unwrap();
            }
            (sender, receiver)
        };
        tokio::spawn(cluster::follow(node.clone(), receiver));
        let (pods, receiver) = mpsc::channel(1);
        tokio::spawn(known::follow(node.clone(), receiver));
        let key = ObjectKey::new("default", "c1");
        pods.send(Change::PodMeta(PodMeta {
            key: key.clone(),
            uid: "u1".into(),
            object_uid: "u1".into(),
            annotations: Default::default(),
        }))
        .await
        .unwrap();
        let sandbox = Sandbox::new();
        add(&node, "c1", &sandbox).await;
        while node.objects().pod(&key, None).is_none() {
            tokio::task::yield_now().await;
        }
        let mut witness = Witness::default();
        witness.look(&node);
        assert_eq!(isolation::summary(&node.progress().offenders), None);

        inside(&sandbox, "ip address add 192.0.2.1/32 dev eth0");
        let spoof = |count: u32| {
            // Nobody answers; ping says so by its status.
            let ping = format!("ping -q -I 192.0.2.1 -i 0.002 -W 0.1 -c {count} 10.89.0.10");
            let path = sandbox.path();
            Process::new("nsenter")
                .arg(format!("--net={path}"))
                .args(ping.split(' '))
                .output()
                .unwrap();
        };
        let mut said = async |total: u32| {
            let expected = format!("{total} packet");
            let wait = async {
                loop {
                    witness.look(&node);
                    let text = isolation::summary(&node.progress().offenders).unwrap_or_default();
                    if text.contains(&expected) {
                        return text;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap()
        };
        spoof(1);
        assert_eq!(
            said(1).await,
            "pod default/c1: 1 packet with a source that is not its own"
        );
        let AgentEvent::Pod(event) = told.try_recv().unwrap() else {
            panic!("an event about a pod")
        };
        assert!(
            event.pod.key == key && event.note.starts_with("1 packet with a source"),
            "{event:?}"
        );
        // Not for each one more, but for ten times as many.
        spoof(2);
        said(3).await;
        assert!(told.try_recv().is_err());
        spoof(9);
        said(12).await;
        let again = told.try_recv();
        assert!(
            matches!(&again, Ok(AgentEvent::Pod(event)) if event.note.starts_with("1")),
            "{again:?}"
        );
        // The next agent finds them counted, and has nothing new to tell.
        Witness::default().look(&node);
        assert!(told.try_recv().is_err());
        assert_eq!(node.handle(request(Command::Del, "c1", None)).await.error, None);
        witness.look(&node);
        assert_eq!(isolation::summary(&node.progress().offenders), None);
    });
}
