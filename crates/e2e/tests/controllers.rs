//! Several controllers, of which one leads: who takes over when it is killed, and when it is told to end.

use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use crate::pools::{annotated, pool, ready};
use crate::support::{Background, Lab, eventually, test, weft_path};

pub(crate) fn tests() -> Vec<Trial> {
    vec![test("controllers::another_takes_over", another_takes_over)]
}

/// Who leads, in the Lease's words; the last two parts are the process and when it was started.
fn leader(lab: &Lab) -> String {
    let path = "jsonpath={.spec.holderIdentity}";
    lab.kubectl(&["get", "lease", "-n", "kube-system", "weft-controller", "-o", path])
        .stdout
}

fn another_takes_over() {
    let lab = Lab::own("leader", &["--no-demo", "--nodes", "1", "--ipam", "pools"]);
    let namespace = lab.namespace("leader");
    let kubeconfig = lab.dir().join("kubeconfig");
    let beside = Command::new(weft_path())
        .args(["controller", "--kubeconfig"])
        .arg(kubeconfig)
        .stderr(Stdio::null())
        .spawn();
    let _beside = Background(beside.unwrap());
    // Addresses that no node has in advance: the controller has to be there to give them.
    let works = |name: &str, cidr: &str| {
        pool(&lab, name, &format!("{{cidrs: [{cidr}]}}"));
        annotated(&namespace, name, &format!("weft.dev/ip-pool: {name}"), None);
        ready(&namespace, name);
    };
    works("first", "10.82.0.0/24");
    for (signal, name, cidr) in [("-KILL", "killed", "10.83.0.0/24"), ("-TERM", "ended", "10.84.0.0/24")] {
        let before = leader(&lab);
        let pid = before.rsplit('_').nth(1).unwrap();
        assert!(Command::new("kill").args([signal, pid]).status().unwrap().success());
        eventually(&format!("another leads than {before}"), || {
            let now = leader(&lab);
            !now.is_empty() && now != before
        });
        works(name, cidr);
    }
}
