//! What kube-proxy left, in the real kernel, by the tools that it uses: found, and taken away without anybody else's.
//! Needs root.
#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

#[allow(dead_code, reason = "each test binary uses a part")]
mod support;

use std::io::Write as _;
use std::process::{Command, Stdio};

use support::{Netns, ip};
use weft_dataplane::net::{Rtnl, kube_proxy};

/// As kube-proxy's iptables mode writes them, beside a user's own and the kubelet's.
const IPTABLES: &str = "\
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]
:KUBE-SEP-ZP3FB6NMPNCO4VBJ - [0:0]
:KUBE-SEP-YIL6JZP7A3QYXJU2 - [0:0]
:MINE - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A PREROUTING -j MINE
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m comment --comment \"kube-system/kube-dns:dns cluster IP\" -m udp --dport 53 -j KUBE-SVC-TCOU7JCQXEZGVUNU
-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-TCOU7JCQXEZGVUNU -m comment --comment \"kube-system/kube-dns:dns -> 10.244.0.2:53\" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-ZP3FB6NMPNCO4VBJ
-A KUBE-SVC-TCOU7JCQXEZGVUNU -m comment --comment \"kube-system/kube-dns:dns -> 10.244.0.3:53\" -j KUBE-SEP-YIL6JZP7A3QYXJU2
-A KUBE-SEP-ZP3FB6NMPNCO4VBJ -s 10.244.0.2/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-ZP3FB6NMPNCO4VBJ -p udp -m udp -j DNAT --to-destination 10.244.0.2:53
-A KUBE-SEP-YIL6JZP7A3QYXJU2 -s 10.244.0.3/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-YIL6JZP7A3QYXJU2 -p udp -m udp -j DNAT --to-destination 10.244.0.3:53
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
COMMIT
*filter
:KUBE-FORWARD - [0:0]
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -s 192.0.2.1/32 -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -m nfacct --nfacct-name none -j DROP
COMMIT
";

fn run(tool: &str, args: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new(tool);
    let child = command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.success(), said)
}

/// Finds and removes everything; says what it was.
async fn migrate() -> Vec<String> {
    let rtnl = Rtnl::connect().unwrap();
    let found = kube_proxy::find(&rtnl).await.unwrap();
    for part in &found {
        kube_proxy::remove(&rtnl, part).await.unwrap();
    }
    assert!(kube_proxy::find(&rtnl).await.unwrap().is_empty());
    found.into_iter().map(|part| part.what).collect()
}

#[test]
fn chains_of_both_variants_of_iptables_go() {
    // nfacct is a module of its own that kube-proxy counts with where it is there.
    let rules = IPTABLES.replace(" -m nfacct --nfacct-name none", "");
    let (before, found, after) = Netns::new().block_on(|| async move {
        let mut before = vec![];
        for variant in ["iptables-legacy", "iptables-nft"] {
            let (written, said) = run(&format!("{variant}-restore"), &["--noflush"], &rules);
            // This kernel may lack the older variant.
            if written {
                before.push(variant);
            } else {
                assert!(variant == "iptables-legacy", "{said}");
            }
        }
        let found = migrate().await;
        let after: Vec<String> = before
            .iter()
            .map(|variant| run(&format!("{variant}-save"), &[], "").1)
            .collect();
        (before, found, after)
    });
    assert_eq!(
        found,
        before
            .iter()
            .map(|variant| format!("{variant}: 8 chains and 4 rules"))
            .collect::<Vec<_>>()
    );
    for left in after {
        for kept in [
            ":KUBE-KUBELET-CANARY",
            "-A PREROUTING -j MINE",
            "-A INPUT -j KUBE-FIREWALL",
            "-A FORWARD -s 192.0.2.1/32 -j DROP",
        ] {
            assert!(left.contains(kept), "{kept} has gone: {left}");
        }
        assert!(
            !left.contains("KUBE-S") && !left.contains("KUBE-FORWARD") && !left.contains("KUBE-POST"),
            "{left}"
        );
    }
}

#[test]
fn the_table_of_the_nftables_mode_and_the_link_of_the_ipvs_mode_go() {
    let (found, tables) = Netns::new().block_on(|| async {
        for family in ["ip", "ip6", "inet"] {
            let (written, said) = run(
                "nft",
                &["-f", "-"],
                &format!("table {family} kube-proxy {{ chain services {{ }}\n }}"),
            );
            assert!(written, "{said}");
        }
        // The kernel's dummy may be missing: any link by that name is kube-proxy's.
        ip("link add kube-ipvs0 type veth peer name other");
        let found = migrate().await;
        (found, run("nft", &["list", "tables"], "").1)
    });
    assert_eq!(
        found,
        [
            "nftables: table ip kube-proxy",
            "nftables: table ip6 kube-proxy",
            "ipvs: link kube-ipvs0 with the services' addresses",
        ]
    );
    assert_eq!(tables, "table inet kube-proxy\n");
}
