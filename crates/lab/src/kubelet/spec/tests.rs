//! What a specification says for given pods.

use serde_json::{Value, json};

use super::*;

fn spec(pod: Value, container: Value, binds: Vec<Bind>) -> Value {
    let pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": pod})).unwrap();
    let container: Container = serde_json::from_value(container).unwrap();
    let sandbox = Sandbox {
        id: "s".into(),
        netns: Some("/run/netns/s".into()),
        uts: Some("/x/uts".into()),
        ipc: None,
        shm: None,
        network: None,
        ips: Vec::new(),
    };
    let image = Image {
        entrypoint: vec!["/app".into()],
        cmd: vec!["-v".into()],
        layers: vec!["l".into()],
        ..Image::default()
    };
    let plan = Plan {
        pod: &pod,
        args: command_line(&container, &image, str::to_owned).unwrap(),
        container: &container,
        image: &image,
        sandbox: &sandbox,
        rootfs: Path::new("/nowhere"),
        cgroup: "/kubepods/podu/c".into(),
        env: vec!["A=b".into()],
        binds,
    };
    serde_json::to_value(build(&plan).unwrap()).unwrap()
}

#[test]
fn defaults() {
    let spec = spec(
        json!({"containers": []}),
        json!({"name": "c", "workingDir": "/w"}),
        vec![],
    );
    assert_eq!(spec["process"]["args"], json!(["/app", "-v"]));
    assert_eq!(spec["process"]["cwd"], "/w");
    assert_eq!(spec["process"]["env"], json!(["A=b", "HOME=/"]));
    assert_eq!(spec["linux"]["cgroupsPath"], "/kubepods/podu/c");
    let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
    let paths: Vec<_> = namespaces
        .iter()
        .map(|n| (n["type"].as_str().unwrap(), n["path"].as_str()))
        .collect();
    assert_eq!(
        paths,
        [
            ("mount", None),
            ("pid", None),
            ("cgroup", None),
            ("network", Some("/run/netns/s")),
            ("uts", Some("/x/uts"))
        ]
    );
    assert!(spec["linux"]["resources"].is_null() && spec["hostname"].is_null());
    assert!(
        spec["linux"]["maskedPaths"]
            .as_array()
            .unwrap()
            .contains(&json!("/proc/kcore"))
    );
}

#[test]
fn privileged_and_host() {
    let container = json!({"name": "c", "command": ["sh"], "args": ["-c", "x"], "securityContext": {"privileged": true, "readOnlyRootFilesystem": true}});
    let spec = spec(json!({"containers": [], "hostPID": true}), container, vec![]);
    assert_eq!(spec["process"]["args"], json!(["sh", "-c", "x"]));
    assert!(spec["linux"]["maskedPaths"].is_null());
    assert_eq!(spec["root"]["readonly"], true);
    let kinds: Vec<_> = spec["linux"]["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["type"].clone())
        .collect();
    assert_eq!(kinds, ["mount", "network", "uts"]);
}

#[test]
fn binds_replace_and_nest() {
    let at = |destination: &str| Bind {
        source: "/src".into(),
        destination: destination.into(),
        read_only: true,
        propagation: "rprivate",
    };
    let spec = spec(
        json!({"containers": []}),
        json!({"name": "c"}),
        vec![at("/a/b"), at("/a"), at("/dev/shm")],
    );
    let mounts = spec["mounts"].as_array().unwrap();
    let places: Vec<_> = mounts
        .iter()
        .map(|mount| mount["destination"].as_str().unwrap())
        .collect();
    let at = |place: &str| places.iter().position(|other| *other == place).unwrap();
    assert!(at("/a") < at("/a/b"));
    assert_eq!(places.iter().filter(|place| **place == "/dev/shm").count(), 1);
    assert_eq!(mounts[at("/a")]["options"], json!(["rbind", "rprivate", "ro"]));
}

#[test]
fn arguments_alone_keep_the_entrypoint() {
    let container: Container = serde_json::from_value(json!({"name": "c", "args": ["--port", "$(P)"]})).unwrap();
    let image = Image {
        entrypoint: vec!["/app".into()],
        cmd: vec!["-v".into()],
        layers: vec!["l".into()],
        ..Image::default()
    };
    let line = command_line(&container, &image, |text| text.replace("$(P)", "80")).unwrap();
    assert_eq!(line, ["/app", "--port", "80"]);
    let bare: Container = serde_json::from_value(json!({"name": "c"})).unwrap();
    let nothing = Image {
        layers: vec!["l".into()],
        ..Image::default()
    };
    assert_eq!(
        command_line(&bare, &nothing, str::to_owned).unwrap_err(),
        "no command specified"
    );
}
