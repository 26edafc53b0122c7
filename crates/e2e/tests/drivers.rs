//! Real runtimes drive the plugin, each on a lab's node with the configuration that its agent installed: `cnitool`, and
//! chains with the reference plugins. `podman` and `containerd` have files of their own.

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::{Lab, Said, eventually, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("drivers::cnitool", cnitool),
        test(
            "drivers::chain_with_limits_and_settings",
            chain_with_limits_and_settings,
        ),
        test("drivers::chain_with_ports", chain_with_ports),
    ]
}

/// A network as `cnitool` is told about it.
struct Tool<'a> {
    lab: &'a Lab,
    /// Folder of configurations.
    folder: &'a str,
    network: &'a str,
    container: &'a str,
    /// `CAP_ARGS`: what a runtime passes by capabilities.
    capabilities: &'a str,
}

impl Tool<'_> {
    /// A namespace for the container, on the node.
    fn make_netns(&self) {
        self.lab
            .on_node("node-1", &["ip", "netns", "add", self.container])
            .good();
    }

    fn run(&self, command: &str) -> Said {
        let path = format!("/run/netns/{}", self.container);
        let settings = [
            "CNI_PATH=/opt/cni/bin:/usr/lib/cni".to_owned(),
            format!("NETCONFPATH={}", self.folder),
            format!("CNI_CONTAINERID={}", self.container),
            format!("CAP_ARGS={}", self.capabilities),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let command = [&["env"], &settings[..], &["cnitool", command, self.network, &path]].concat();
        self.lab.on_node("node-1", &command)
    }

    fn inside(&self, command: &[&str]) -> Said {
        let enter = ["ip", "netns", "exec", self.container];
        self.lab.on_node("node-1", &[&enter, command].concat())
    }

    /// How many attachments the agent has.
    fn attachments(&self) -> usize {
        let listed = self.lab.on_node("node-1", &["ls", "/run/weft/attachments"]).good();
        listed.lines().filter(|line| line.contains(self.container)).count()
    }
}

/// The pod's addresses in a result.
fn ips(result: &str) -> Vec<String> {
    let result: Value = serde_json::from_str(result).unwrap();
    let ips = result["ips"].as_array().unwrap();
    let plain = |ip: &Value| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
    ips.iter().map(plain).collect()
}

fn cnitool() {
    let lab = Lab::own("cnitool", &["--nodes", "1"]);
    let tool = Tool {
        lab: &lab,
        folder: "/etc/cni/net.d",
        network: "weft",
        container: "by-hand",
        capabilities: r#"{"portMappings":[{"hostPort":18090,"containerPort":8080,"protocol":"tcp"}]}"#,
    };
    tool.make_netns();
    tool.run("status").good();
    let result = tool.run("add").good();
    // The newest version that both speak.
    assert!(result.contains(r#""cniVersion": "1.1.0""#), "{result}");
    let ips = ips(&result);
    assert_eq!(ips.len(), 2, "{result}");
    for ip in &ips {
        lab.on_node("node-1", &["ping", "-c", "1", "-W", "5", ip]).good();
    }
    tool.inside(&["ping", "-c", "1", "-W", "5", "169.254.1.1"]).bad();
    let rules = lab
        .on_node("node-1", &["nft", "list", "table", "inet", "weft-hostport"])
        .good();
    assert!(rules.contains(&format!("tcp . 18090 : {} . 8080", ips[0])), "{rules}");
    tool.run("check").good();
    tool.inside(&["ip", "route", "del", "default"]).good();
    let complaint = tool.run("check").bad();
    assert!(complaint.contains("lost its default route"), "{complaint}");
    tool.run("del").good();
    tool.run("del").good();
    assert_eq!(tool.attachments(), 0);
    let left = tool.inside(&["ip", "-br", "link"]).good();
    assert!(!left.contains("eth0"), "{left}");
    // Its GC disconnects all that it knows of. Then it asks for everything else to go without saying what is in use,
    // which on a node with other runtimes would be their pods.
    tool.run("add").good();
    let refused = tool.run("gc").bad();
    assert!(refused.contains("cni.dev/valid-attachments"), "{refused}");
    assert_eq!(tool.attachments(), 0);
    the_labs_runtime_does_so_too(&tool);
}

/// When it starts, it says what is in use; while it runs, it asks how the network is, and the node says the same.
fn the_labs_runtime_does_so_too(tool: &Tool<'_>) {
    let lab = tool.lab;
    let namespace = lab.namespace("collected");
    namespace.pod("stays", None);
    tool.run("add").good();
    lab.kill("kubelet", Some("node-1"));
    eventually("what no pod has is collected", || tool.attachments() == 0);
    let ip = namespace.field("pod/stays", ".status.podIP");
    lab.on_node("node-1", &["ping", "-c", "1", "-W", "5", &ip]).good();
    let sick = r#"printf '#!/bin/sh\necho "{\\"code\\":51,\\"msg\\":\\"no way out\\"}"; exit 1' > /opt/cni/bin/sick
        chmod +x /opt/cni/bin/sick
        echo '{"cniVersion":"1.1.0","name":"sick","plugins":[{"type":"sick"}]}' > /etc/cni/net.d/00-sick.conflist"#;
    lab.on_node("node-1", &["sh", "-c", sick]).good();
    let ready = |field: &str| {
        let path = format!("jsonpath={{.status.conditions[?(@.type==\"Ready\")].{field}}}");
        lab.kubectl(&["get", "node", "node-1", "-o", &path]).stdout
    };
    eventually("the node says what the plugin says", || {
        ready("status") == "False" && ready("message").contains("failed (STATUS): no way out (code 51)")
    });
    lab.on_node("node-1", &["rm", "/etc/cni/net.d/00-sick.conflist"]).good();
    eventually("the node is ready again", || ready("status") == "True");
}

/// Writes a chain of Weft and these plugins into a folder of the node.
fn chain(lab: &Lab, plugins: &str) -> &'static str {
    let config = format!(
        r#"{{"cniVersion":"1.0.0","name":"chain","plugins":[{{"type":"weft-cni","agentSocket":"/run/weft/cni.sock",
            "spoolDir":"/run/weft/cni-spool"}},{plugins}]}}"#
    );
    let script = r#"mkdir -p /run/chain && printf %s "$0" > /run/chain/20-chain.conflist"#;
    lab.on_node("node-1", &["sh", "-c", script, &config]).good();
    "/run/chain"
}

fn chain_with_limits_and_settings() {
    let lab = Lab::own("chain", &["--nodes", "1"]);
    let folder = chain(
        &lab,
        r#"{"type":"bandwidth","capabilities":{"bandwidth":true}},{"type":"tuning","mtu":1400}"#,
    );
    let tool = Tool {
        lab: &lab,
        folder,
        network: "chain",
        container: "limited",
        capabilities: r#"{"bandwidth":{"ingressRate":8000000,"ingressBurst":800000,
            "egressRate":8000000,"egressBurst":800000}}"#,
    };
    tool.make_netns();
    let result = tool.run("add").good();
    // Ours first, then what the others added.
    let interfaces = serde_json::from_str::<Value>(&result).unwrap()["interfaces"].clone();
    assert_eq!(interfaces.as_array().unwrap().len(), 3, "{result}");
    assert!(tool.inside(&["ip", "link", "show", "eth0"]).good().contains("mtu 1400"));
    let limits = lab.on_node("node-1", &["tc", "qdisc"]).good();
    assert_eq!(limits.matches("tbf").count(), 2, "{limits}");
    for ip in ips(&result) {
        lab.on_node("node-1", &["ping", "-c", "1", "-W", "5", &ip]).good();
    }
    // What later plugins changed is none of CHECK's business.
    tool.run("check").good();
    tool.run("status").good();
    tool.run("del").good();
    assert_eq!(tool.attachments(), 0);
    tool.run("add").good();
    tool.run("gc").good();
    tool.run("del").good();
    let links = lab.on_node("node-1", &["ip", "-br", "link"]).good();
    assert!(!links.contains("bwp"), "{links}");
}

/// Without CHECK: `portmap` of Debian 12 looks for IPv4's rules in IPv6's chain, and so refuses any dual-stack result.
fn chain_with_ports() {
    let lab = Lab::own("ports", &["--nodes", "1"]);
    let folder = chain(
        &lab,
        r#"{"type":"portmap","capabilities":{"portMappings":true},"snat":true}"#,
    );
    let tool = Tool {
        lab: &lab,
        folder,
        network: "chain",
        container: "mapped",
        capabilities: r#"{"portMappings":[{"hostPort":18091,"containerPort":8080,"protocol":"tcp"}]}"#,
    };
    tool.make_netns();
    let result = tool.run("add").good();
    let rules = lab.on_node("node-1", &["iptables-save", "-t", "nat"]).good();
    let wanted = format!("--dport 18091 -j DNAT --to-destination {}:8080", ips(&result)[0]);
    assert!(rules.contains(&wanted), "{rules}");
    // The configuration does not declare the capability for Weft, which therefore leaves ports alone.
    lab.on_node("node-1", &["nft", "list", "table", "inet", "weft-hostport"])
        .bad();
    tool.run("del").good();
    let rules = lab.on_node("node-1", &["iptables-save", "-t", "nat"]).good();
    assert!(!rules.contains("18091"), "{rules}");
}
