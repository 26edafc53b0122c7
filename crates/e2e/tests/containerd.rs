//! `containerd` with its CRI plugin, on a lab's node: sandboxes as a kubelet asks for them, ports and limits included.

use std::collections::HashMap;
use std::process::Command;

use libtest_mimic::Trial;

use crate::cri::{Cri, DnsConfig, Linux, Metadata, PortMapping, SandboxConfig};
use crate::support::{Background, Lab, eventually, test, weft_path};

pub(crate) fn tests() -> Vec<Trial> {
    vec![test(
        "containerd::sandboxes_join_the_network",
        sandboxes_join_the_network,
    )]
}

/// Its configuration; everything that it stores is below the node's own `/run`.
const CONFIG: &str = r#"version = 2
root = "/run/ctrd/root"
state = "/run/ctrd/state"
[grpc]
  address = "/run/ctrd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "/run/ctrd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "weft.test/pause:1"
  restrict_oom_score_adj = true
  disable_cgroup = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"#;

/// Puts the plugin for `lo`, which containerd runs first, beside ours. Writes the configuration, and makes the image of the process that holds a sandbox: no registry is asked.
const PREPARE: &str = r#"set -e
mkdir -p /run/ctrd/image/layer && cd /run/ctrd/image
printf %s "$0" >../config.toml
ln -s /usr/lib/cni/loopback /opt/cni/bin/
echo 'int pause(void); int main(void) { for (;;) pause(); }' | cc -static -x c -o layer/pause -
tar -C layer -cf layer.tar pause
sum=$(sha256sum layer.tar | cut -d ' ' -f 1)
cat >config.json <<END
{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/pause"]},"rootfs":{"type":"layers","diff_ids":["sha256:$sum"]}}
END
echo '[{"Config":"config.json","RepoTags":["weft.test/pause:1"],"Layers":["layer.tar"]}]' >manifest.json
tar -cf ../pause.tar manifest.json config.json layer.tar"#;

fn sandbox(name: &str, ports: Vec<PortMapping>, annotations: &[(&str, &str)]) -> SandboxConfig {
    let pairs = annotations
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    SandboxConfig {
        metadata: Some(Metadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: "default".to_owned(),
        }),
        hostname: name.to_owned(),
        dns: Some(DnsConfig {
            servers: vec!["10.96.0.10".to_owned()],
            searches: vec!["svc.cluster.local".to_owned()],
        }),
        ports,
        annotations: pairs.collect::<HashMap<_, _>>(),
        linux: Some(Linux {}),
    }
}

fn sandboxes_join_the_network() {
    let lab = Lab::own("containerd", &["--nodes", "1"]);
    // The pods are the API's too: a runtime is told of them by a kubelet, which this test stands in for.
    for name in ["web", "other"] {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{schedulerName: nobody, containers: [{{name: main, image: weft.dev/lab}}]}}\n"
        );
        eventually("the pod is accepted", || {
            lab.kubectl_stdin(&["apply", "-f", "-"], &pod).ok
        });
    }
    lab.on_node("node-1", &["sh", "-c", PREPARE, CONFIG]).good();
    let enter = ["lab", "enter", "--name", lab.name(), "node-1", "--"];
    let daemon = Command::new(weft_path())
        .args(enter)
        .args([
            "sh",
            "-c",
            "exec containerd --config /run/ctrd/config.toml 2>/run/ctrd/log",
        ])
        .spawn();
    let _daemon = Background(daemon.unwrap());
    let ctr = |args: &[&str]| lab.on_node("node-1", &[&["ctr", "-a", "/run/ctrd/containerd.sock"], args].concat());
    eventually("containerd answers", || ctr(&["version"]).ok);
    ctr(&["-n", "k8s.io", "images", "import", "/run/ctrd/pause.tar"]).good();
    let socket = lab.dir().join("nodes/node-1/run/ctrd/containerd.sock");
    let mut cri = Cri::connect(&socket).unwrap();
    eventually("containerd has found the network", || cri.network_ready());

    let port = |host_port: i32, host_ip: &str| PortMapping {
        protocol: 0,
        container_port: 8080,
        host_port,
        host_ip: host_ip.to_owned(),
    };
    let web = cri.run(sandbox("web", vec![port(18093, "")], &[])).unwrap();
    let ips = cri.ips(&web);
    assert_eq!(ips.len(), 2, "{ips:?}");
    for ip in &ips {
        lab.on_node("node-1", &["ping", "-c", "1", "-W", "5", ip]).good();
    }
    let rules = lab
        .on_node("node-1", &["nft", "list", "table", "inet", "weft-hostport"])
        .good();
    assert!(rules.contains(&format!("tcp . 18093 : {} . 8080", ips[0])), "{rules}");
    // The second that wants the port is refused with the first one's name, and leaves nothing.
    let attachments = || {
        lab.on_node("node-1", &["sh", "-c", "ls /run/weft/attachments | wc -l"])
            .good()
    };
    let before = attachments();
    let refused = cri
        .run(sandbox("other", vec![port(18093, "127.0.0.1")], &[]))
        .unwrap_err();
    assert!(refused.message().contains("pod default/web has"), "{refused}");
    assert_eq!(attachments(), before);
    let other = cri.run(sandbox("other", vec![port(18094, "")], &[])).unwrap();
    cri.stop(&web);
    cri.stop(&web);
    cri.remove(&web);
    lab.on_node("node-1", &["ping", "-c", "1", "-W", "1", &ips[0]]).bad();
    cri.stop(&other);
    cri.remove(&other);
    lab.on_node("node-1", &["nft", "list", "table", "inet", "weft-hostport"])
        .bad();
}
