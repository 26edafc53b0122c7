//! `podman` with its CNI backend, on a lab's node: it finds the network, and a container of it is a neighbour like any.

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::{Lab, OwnLab, Said, eventually, test, weft_path};

pub(crate) fn tests() -> Vec<Trial> {
    vec![test("podman::containers_join_the_network", containers_join_the_network)]
}

/// A file system for containers, since there is no registry: the machine's own, with a writable layer. And what podman
/// is told so that it stores nothing elsewhere.
const PREPARE: &str = r#"set -e
mkdir -p /run/podman-test/upper /run/podman-test/work /run/podman-test/rootfs
mount -t overlay overlay -o lowerdir=/,upperdir=/run/podman-test/upper,workdir=/run/podman-test/work /run/podman-test/rootfs
cat >/run/podman-test/containers.conf <<END
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
END"#;

struct Podman(OwnLab);

impl Podman {
    fn run(&self, args: &[&str]) -> Said {
        let settings = ["env", "CONTAINERS_CONF=/run/podman-test/containers.conf", "podman"];
        let places = [
            "--root=/run/podman-test/root",
            "--runroot=/run/podman-test/run",
            "--tmpdir=/run/podman-test/tmp",
            "--storage-driver=vfs",
            "--cgroup-manager=cgroupfs",
            "--events-backend=none",
            "--runtime=crun",
        ];
        self.0.on_node("node-1", &[&settings, &places[..], args].concat())
    }

    /// Starts the test server in a container.
    fn serve(&self, name: &str, more: &[&str]) -> String {
        let weft = weft_path();
        // The limits that podman would set by itself need a capability that a machine for tests may not have.
        let run = [
            "run",
            "--detach",
            "--name",
            name,
            "--network=weft",
            "--cgroups=disabled",
        ];
        let limits = [
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1024:1024",
            "--log-driver=none",
        ];
        let command = [
            "--rootfs",
            "/run/podman-test/rootfs",
            weft.to_str().unwrap(),
            "lab",
            "serve",
        ];
        self.run(&[&run, &limits[..], more, &command].concat()).good();
        let said = self
            .run(&["inspect", name, "--format", "{{json .NetworkSettings.Networks.weft}}"])
            .good();
        let network: Value = serde_json::from_str(&said).unwrap();
        network["IPAddress"].as_str().unwrap().to_owned()
    }
}

fn containers_join_the_network() {
    let podman = Podman(Lab::own("podman", &["--nodes", "1"]));
    let lab = &podman.0;
    lab.on_node("node-1", &["sh", "-c", PREPARE]).good();
    let networks = podman.run(&["network", "ls"]).good();
    let ours = networks.lines().find(|line| line.contains(" weft "));
    assert!(ours.is_some_and(|line| line.ends_with("weft-cni")), "{networks}");
    let network = podman.run(&["network", "inspect", "weft"]).good();
    assert!(network.contains(r#""driver": "weft-cni""#), "{network}");

    let ip = podman.serve("web", &["--publish=18092:8080"]);
    for url in [format!("http://{ip}:8080/"), "http://127.0.0.1:18092/".to_owned()] {
        eventually("the container answers", || {
            lab.ask_from_node("node-1", &["http", &url]).ok
        });
    }
    let other = podman.serve("other", &[]);
    assert_ne!(ip, other);
    let weft = weft_path();
    let url = format!("http://{ip}:8080/");
    let ask = ["exec", "other", weft.to_str().unwrap(), "lab", "ask", "http", &url];
    let answer = podman.run(&ask).good();
    assert!(answer.contains(&other), "{answer}");

    podman.run(&["rm", "--force", "--time=0", "web", "other"]).good();
    let left = lab
        .on_node(
            "node-1",
            &["sh", "-c", "grep -l netns-.*- /run/weft/attachments/* || true"],
        )
        .good();
    assert_eq!(left, "");
    lab.on_node("node-1", &["nft", "list", "table", "inet", "weft-hostport"])
        .bad();
    lab.on_node("node-1", &["umount", "/run/podman-test/rootfs"]).good();
}
