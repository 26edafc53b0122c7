//! The real binary against an agent that answers what the test says.
#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A directory of its own for each test, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weft-cni-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn config(&self, extra: Value) -> String {
        let mut config = json!({"cniVersion": "1.1.0", "name": "weft", "type": "weft-cni",
            "agentSocket": self.0.join("s"), "spoolDir": self.0.join("spool")});
        config
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        config.to_string()
    }

    /// Answers each of the next requests with one of these lines; returns the requests.
    fn agent(&self, answers: Vec<&'static str>) -> std::thread::JoinHandle<Vec<Value>> {
        let listener = UnixListener::bind(self.0.join("s")).unwrap();
        std::thread::spawn(move || {
            let serve = |answer: &str| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(stream.try_clone().unwrap())
                    .read_line(&mut line)
                    .unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                serde_json::from_str(&line).unwrap()
            };
            answers.into_iter().map(serve).collect()
        })
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn plugin(command: &str, env: &[(&str, &str)], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weft-cni"))
        .env_clear()
        .env("CNI_COMMAND", command)
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

const FULL: &[(&str, &str)] = &[
    ("CNI_CONTAINERID", "c1"),
    ("CNI_NETNS", "/run/netns/c1"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_PATH", "/opt/cni/bin"),
    ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web"),
];

fn answer(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn error(output: &Output) -> (u64, String) {
    assert!(!output.status.success());
    let body = answer(output);
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    (
        body["code"].as_u64().unwrap(),
        format!("{} - {}", text("msg"), text("details")),
    )
}

#[test]
fn version_needs_nothing() {
    let output = plugin("VERSION", &[], "");
    assert!(output.status.success());
    assert_eq!(
        answer(&output)["supportedVersions"],
        json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
    );
    assert_eq!(
        answer(&plugin("VERSION", &[], r#"{"cniVersion":"1.0.0"}"#))["cniVersion"],
        "1.0.0"
    );
    assert_eq!(error(&plugin("VERSION", &[], "{")).0, 6);
}

#[test]
fn add_hands_over_the_request_and_prints_the_result_in_its_version() {
    let dir = Dir::new("add");
    let line = concat!(
        r#"{"result":{"interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","mtu":1500,"sandbox":"/run/netns/c1"}],"#,
        r#""ips":[{"interface":0,"address":"10.244.0.2/32","gateway":"169.254.1.1"}],"#,
        r#""routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}]}}"#,
        "\n"
    );
    let agent = dir.agent(vec![line, line]);
    let new = plugin("ADD", FULL, &dir.config(json!({"mtu": 1400})));
    let old = plugin("ADD", FULL, &dir.config(json!({"cniVersion": "0.4.0"})));
    let requests = agent.join().unwrap();
    assert_eq!(requests[0]["command"], "ADD");
    assert_eq!(requests[0]["containerId"], "c1");
    assert_eq!(requests[0]["netns"], "/run/netns/c1");
    assert_eq!(requests[0]["mtu"], 1400);
    assert_eq!(requests[0]["args"][2], json!(["K8S_POD_NAME", "web"]));
    assert!(new.status.success() && old.status.success());
    assert_eq!(answer(&new)["cniVersion"], "1.1.0");
    assert_eq!(answer(&new)["interfaces"][0]["mtu"], 1500);
    assert_eq!(answer(&old)["ips"][0]["version"], "4");
    assert_eq!(answer(&old)["interfaces"][0]["mtu"], Value::Null);
}

#[test]
fn the_agents_error_is_printed_as_it_is() {
    let dir = Dir::new("error");
    let agent = dir.agent(vec![
        "{\"error\":{\"code\":11,\"msg\":\"node n1 has no pod CIDR\",\"details\":\"wait\"}}\n",
    ]);
    let output = plugin("ADD", FULL, &dir.config(json!({})));
    agent.join().unwrap();
    assert_eq!(error(&output), (11, "node n1 has no pod CIDR - wait".into()));
    assert_eq!(answer(&output)["cniVersion"], "1.1.0");
}

#[test]
fn add_waits_for_an_agent_that_is_starting() {
    let dir = Dir::new("late");
    let late = Path::new(&dir.0).join("s");
    let agent = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        let listener = UnixListener::bind(late).unwrap();
        // The first connection breaks off, as when the agent is killed over it.
        drop(listener.accept().unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        BufReader::new(stream.try_clone().unwrap())
            .read_line(&mut String::new())
            .unwrap();
        stream.write_all(b"{\"result\":{}}\n").unwrap();
    });
    let start = Instant::now();
    assert!(plugin("ADD", FULL, &dir.config(json!({}))).status.success());
    assert!(start.elapsed() >= Duration::from_millis(300));
    agent.join().unwrap();
}

#[test]
fn without_an_agent_add_asks_to_try_again_and_status_says_no() {
    let dir = Dir::new("away");
    let (code, text) = error(&plugin("ADD", FULL, &dir.config(json!({}))));
    assert_eq!(code, 11);
    assert!(text.contains("weft status"), "{text}");
    assert_eq!(
        error(&plugin("STATUS", &[("CNI_PATH", "/p")], &dir.config(json!({})))).0,
        50
    );
    let check = dir.config(json!({"prevResult": {"ips": []}}));
    assert_eq!(error(&plugin("CHECK", FULL, &check)).0, 11);
}

#[test]
fn without_an_agent_del_is_kept_and_succeeds() {
    let dir = Dir::new("spool");
    let without_netns: Vec<_> = FULL.iter().copied().filter(|(name, _)| *name != "CNI_NETNS").collect();
    for _ in 0..2 {
        let output = plugin("DEL", &without_netns, &dir.config(json!({})));
        assert!(output.status.success() && output.stdout.is_empty());
    }
    let kept: Vec<_> = std::fs::read_dir(dir.0.join("spool"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(kept, [dir.0.join("spool/c1@eth0.json")]);
    let request: Value = serde_json::from_slice(&std::fs::read(&kept[0]).unwrap()).unwrap();
    assert_eq!(
        (&request["command"], &request["containerId"]),
        (&json!("DEL"), &json!("c1"))
    );
    // Where it cannot be kept, the runtime must know.
    std::fs::write(dir.0.join("file"), "").unwrap();
    let (code, text) = error(&plugin(
        "DEL",
        FULL,
        &dir.config(json!({"spoolDir": dir.0.join("file")})),
    ));
    assert_eq!(code, 5);
    assert!(text.contains("cannot be written"), "{text}");
}

#[test]
fn malformed_input_is_named() {
    let dir = Dir::new("bad");
    assert_eq!(error(&plugin("ADD", FULL, "{ not json")).0, 6);
    let (code, text) = error(&plugin("ADD", FULL, &dir.config(json!({"cniVersion": "7.0.0"}))));
    assert_eq!(code, 1);
    assert!(text.contains("7.0.0") && text.contains("1.1.0"), "{text}");
    assert_eq!(error(&plugin("ADD", &[], &dir.config(json!({})))).0, 4);
    assert_eq!(error(&plugin("DANCE", FULL, &dir.config(json!({})))).0, 4);
    assert_eq!(error(&plugin("", FULL, &dir.config(json!({})))).0, 4);
}

/// As the specification's own skeleton has it: which variables each command cannot do without.
#[test]
fn each_command_names_the_variables_that_it_lacks() {
    let dir = Dir::new("env");
    let needed: [(&str, &[&str]); 5] = [
        ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]),
        ("GC", &["CNI_PATH"]),
        ("STATUS", &["CNI_PATH"]),
    ];
    for (command, needed) in needed {
        for lacking in needed {
            let env: Vec<_> = FULL.iter().copied().filter(|(name, _)| name != lacking).collect();
            let (code, text) = error(&plugin(command, &env, &dir.config(json!({}))));
            let expected = format!("required env variables [{lacking}] missing");
            assert!(code == 4 && text.starts_with(&expected), "{command}: {code} {text}");
        }
    }
    let (code, text) = error(&plugin("ADD", &FULL[4..], &dir.config(json!({}))));
    assert_eq!(code, 4);
    assert!(
        text.contains("[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH]"),
        "{text}"
    );
    for name in ["not/an/ifname", ".", "..", "sixteencharacter", "a:b", "a b"] {
        let env: Vec<_> = FULL[..2]
            .iter()
            .chain(&FULL[3..])
            .copied()
            .chain([("CNI_IFNAME", name)])
            .collect();
        assert_eq!(error(&plugin("ADD", &env, &dir.config(json!({})))).0, 4, "{name}");
    }
    let env: Vec<_> = FULL[1..]
        .iter()
        .copied()
        .chain([("CNI_CONTAINERID", "bad/id")])
        .collect();
    assert!(
        error(&plugin("DEL", &env, &dir.config(json!({}))))
            .1
            .contains("containerID")
    );
}

/// What each command asks of the version of the configuration, and of its content.
#[test]
fn each_command_needs_a_version_that_has_it_and_a_network_with_a_name() {
    let dir = Dir::new("version");
    let code = |command: &str, extra: Value| error(&plugin(command, FULL, &dir.config(extra))).0;
    for (command, version) in [
        ("ADD", "0.1.0"),
        ("ADD", "0.2.0"),
        ("DEL", "2.0.0"),
        ("CHECK", "0.3.1"),
        ("GC", "1.0.0"),
        ("STATUS", "1.0.0"),
    ] {
        assert_eq!(code(command, json!({"cniVersion": version})), 1, "{command} {version}");
    }
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        assert_eq!(code(command, json!({"name": ""})), 7, "{command}");
        assert_eq!(code(command, json!({"name": "a/b"})), 7, "{command}");
        assert_eq!(error(&plugin(command, FULL, "{")).0, 6, "{command}");
    }
    assert_eq!(code("CHECK", json!({})), 7);
    assert_eq!(code("ADD", json!({"ipam": {"type": "host-local"}})), 2);
    assert_eq!(code("ADD", json!({"runtimeConfig": {"portMappings": "all"}})), 7);
    assert_eq!(
        code("ADD", json!({"prevResult": {"ips": [{"address": "10.0.0.300/24"}]}})),
        7
    );
}

#[test]
fn behind_other_plugins_their_result_stays_and_ours_follows() {
    let dir = Dir::new("chain");
    let line = concat!(
        r#"{"result":{"interfaces":[{"name":"weft0"},{"name":"eth0","sandbox":"/run/netns/c1"}],"#,
        r#""ips":[{"interface":1,"address":"10.244.0.2/32"}],"routes":[]}}"#,
        "\n"
    );
    let previous = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "net0", "sandbox": "/run/netns/c1", "mtu": 9000, "socketPath": "/s", "pciID": "0000:04:00.5"}],
        "ips": [{"interface": 0, "address": "192.0.2.2/24", "gateway": "192.0.2.1"}],
        "routes": [{"dst": "198.51.100.0/24", "mtu": 1400, "advmss": 1360, "priority": 5, "table": 100, "scope": 253}],
        "dns": {"nameservers": ["192.0.2.53"], "search": ["a.local"]}
    });
    let agent = dir.agent(vec![line]);
    let whole = answer(&plugin("ADD", FULL, &dir.config(json!({"prevResult": previous}))));
    agent.join().unwrap();
    assert_eq!(whole["interfaces"][0], previous["interfaces"][0]);
    assert_eq!(whole["interfaces"][2]["name"], "eth0");
    assert_eq!(whole["ips"][0], previous["ips"][0]);
    assert_eq!(whole["ips"][1], json!({"interface": 2, "address": "10.244.0.2/32"}));
    assert_eq!(whole["routes"], previous["routes"]);
    assert_eq!(whole["dns"], previous["dns"]);
    let mut taken = previous;
    taken["interfaces"][0]["name"] = "eth0".into();
    let (code, text) = error(&plugin("ADD", FULL, &dir.config(json!({"prevResult": taken}))));
    assert_eq!(code, 7);
    assert!(text.contains("eth0") && text.contains("prevResult"), "{text}");
}

#[test]
fn what_the_runtime_adds_reaches_the_agent() {
    let dir = Dir::new("runtime");
    let agent = dir.agent(vec!["{\"result\":{}}\n"]);
    let runtime = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 1000000, "ingressBurst": 8000},
        "ips": ["10.1.0.9/24"], "mac": "02:00:00:00:00:09", "dns": {"servers": ["10.96.0.10"]},
        "ipRanges": [[{"subnet": "10.1.0.0/24"}]], "aliases": ["db"], "cgroupPath": "/a"
    });
    let output = plugin("ADD", FULL, &dir.config(json!({"runtimeConfig": runtime})));
    let request = &agent.join().unwrap()[0]["runtime"];
    assert_eq!(request["portMappings"][0]["hostPort"], 8080);
    assert_eq!(request["bandwidth"]["ingressRate"], 1000000);
    assert_eq!(request["ips"], json!(["10.1.0.9"]));
    assert_eq!(request["mac"], "02:00:00:00:00:09");
    assert_eq!(request["ipRanges"][0][0]["subnet"], "10.1.0.0/24");
    assert_eq!(answer(&output)["dns"]["nameservers"], json!(["10.96.0.10"]));
}

#[test]
fn it_starts_fast() {
    let best = (0..20)
        .map(|_| {
            let start = Instant::now();
            plugin("VERSION", &[], "");
            start.elapsed()
        })
        .min()
        .unwrap();
    // About a millisecond in release; the bound leaves room for a debug build on a busy machine.
    assert!(best < Duration::from_millis(50), "{best:?}");
}
