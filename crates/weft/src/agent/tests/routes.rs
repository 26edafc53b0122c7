//! Routes that somebody removes, addresses that change, nodes that claim the same: what the agent makes of it.

use std::future::Future;
use std::time::Instant;

use super::*;

fn peer(name: &str, ips: &[&str], ranges: &[&str]) -> Change {
    Change::Node(weft_model::Node {
        name: name.into(),
        internal_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        pod_cidrs: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        zone: None,
        leaving: false,
        labels: Default::default(),
    })
}

/// Waits until it is so.
async fn until<Fut: Future<Output = bool>>(what: &str, holds: impl Fn() -> Fut) {
    let start = Instant::now();
    while !holds().await {
        // Less than the agent waits to look without a reason.
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The node's route to a destination as `ip` prints it; nothing where there is none.
fn route(to: &str) -> String {
    let done = Process::new("ip").args(["route", "show", to]).output().unwrap();
    String::from_utf8(done.stdout).unwrap()
}

async fn until_route(to: &str, holds: impl Fn(&str) -> bool) {
    let found = || std::future::ready(holds(&route(to)));
    until(&format!("the route to {to} is {}", route(to)), found).await;
}

#[test]
fn what_somebody_removes_is_back() {
    on_a_node("removed", |place| async move {
        let changes = vec![
            local(&["10.244.0.0/23"]),
            peer("node-2", &["10.89.0.11"], &["10.244.2.0/23"]),
            peer("node-3", &["10.90.0.11"], &["10.244.4.0/23"]),
        ];
        ip("route add default via 10.89.0.1");
        let (node, _changes) = place.ready_with(changes).await;
        let sandbox = Sandbox::new();
        add(&node, "c1", &sandbox).await;
        let fixed = Sandbox::new();
        let mut narrow = request(Command::Add, "c2", Some(&fixed));
        narrow.mtu = Some(1300);
        assert_eq!(node.handle(narrow).await.error, None);
        let direct = |text: &str| text.contains("via 10.89.0.11 dev up0");
        let tunnelled = |text: &str| text.contains("dst 10.90.0.11") && text.contains("src 10.89.0.10");
        until_route("10.244.2.0/23", direct).await;
        until_route("10.244.4.0/23", tunnelled).await;
        for damage in [
            "route del 10.244.2.0/23",
            "route del 10.244.4.0/23",
            "link del weft-vxlan",
            "link set weft-vxlan down",
            "neighbor flush nud permanent",
            "route del 10.244.0.2/32",
            "rule del pref 87",
            // The routes through it go, too.
            "link set up0 down",
        ] {
            ip(damage);
            if damage.ends_with("up0 down") {
                ip("link set up0 up");
            }
            until_route("10.244.2.0/23", direct).await;
            until_route("10.244.4.0/23", tunnelled).await;
            until_route("10.244.0.2/32", |text| text.contains("src 10.89.0.10")).await;
            for neighbour in ["10.244.0.2", "10.90.0.11"] {
                until("the neighbour is gone", || async {
                    let shown = Process::new("ip")
                        .args(["neighbor", "show", neighbour])
                        .output()
                        .unwrap();
                    String::from_utf8_lossy(&shown.stdout).contains("PERMANENT")
                })
                .await;
            }
            until("there is no rule", || async {
                let done = Process::new("ip")
                    .args(["rule", "show", "pref", "87"])
                    .output()
                    .unwrap();
                !done.stdout.is_empty()
            })
            .await;
        }
        // Masquerading is looked at in its own time.
        let flushed = Process::new("nft").args(["flush", "ruleset"]).status().unwrap();
        assert!(flushed.success());
        until("the rules are gone", || async {
            let done = Process::new("nft")
                .args(["list", "table", "inet", "weft"])
                .output()
                .unwrap();
            String::from_utf8_lossy(&done.stdout).contains("saddr @pods4")
        })
        .await;
        // And the tunnel follows the uplink.
        ip("link set up0 mtu 1400");
        until("the tunnel has another MTU", || async {
            let link = node.rtnl.link("weft-vxlan").await.unwrap();
            link.is_some_and(|link| link.mtu == 1350)
        })
        .await;
        // And so do the pods, where nobody has said otherwise.
        until("the pod has another MTU", || async {
            sandbox.mtu("eth0").await == Some(1400)
        })
        .await;
        assert_eq!(fixed.mtu("eth0").await, Some(1300));
        let attachment = |id: &str| {
            node.attachments()
                .values()
                .find(|known| known.id.container_id == id)
                .cloned()
        };
        until("it is known", || async { attachment("c1").unwrap().link.mtu == 1400 }).await;
        let host = node
            .rtnl
            .link(&attachment("c1").unwrap().link.host_ifname)
            .await
            .unwrap();
        assert_eq!(host.unwrap().mtu, 1400);
    });
}

#[test]
fn a_node_that_gets_another_address_is_known_by_it_everywhere() {
    on_a_node("readdressed", |place| async move {
        let far = peer("node-3", &["10.90.0.11"], &["10.244.4.0/23"]);
        let (node, changes) = place.ready_with(vec![local(&["10.244.0.0/23"]), far]).await;
        let sandbox = Sandbox::new();
        add(&node, "c1", &sandbox).await;
        until_route("10.244.0.2/32", |text| text.contains("src 10.89.0.10")).await;
        // The last of a range takes the others of it along: the new one comes after.
        ip("address del 10.89.0.10/16 dev up0");
        ip("address add 10.89.0.20/16 dev up0");
        let moved = peer("node-1", &["10.89.0.20", "fd89::10"], &["10.244.0.0/23"]);
        changes.send(moved).await.unwrap();
        until_route("10.244.0.2/32", |text| text.contains("src 10.89.0.20")).await;
        until_route("10.244.4.0/23", |text| text.contains("src 10.89.0.20")).await;
        let mac = weft_dataplane::net::tunnel::mac("10.89.0.20".parse().unwrap());
        until("the tunnel has the old Ethernet address", || async {
            node.rtnl.link("weft-vxlan").await.unwrap().and_then(|link| link.mac) == Some(mac)
        })
        .await;
        // The other one moves onto this segment: no tunnel any more.
        changes
            .send(peer("node-3", &["10.89.0.13"], &["10.244.4.0/23"]))
            .await
            .unwrap();
        until_route("10.244.4.0/23", |text| text.contains("via 10.89.0.13 dev up0")).await;
        changes.send(Change::NodeGone("node-3".into())).await.unwrap();
        until_route("10.244.4.0/23", str::is_empty).await;
        until("the tunnel is still there", || async {
            node.rtnl.link("weft-vxlan").await.unwrap().is_none()
        })
        .await;
    });
}

#[test]
fn two_nodes_with_the_same_range_are_named_and_the_first_keeps_its_route() {
    on_a_node("overlap", |place| async move {
        let changes = vec![
            local(&["10.244.0.0/23"]),
            peer("node-3", &["10.89.0.13"], &["10.244.2.0/24"]),
            peer("node-2", &["10.89.0.12"], &["10.244.2.0/24"]),
        ];
        let (node, changes) = place.ready_with(changes).await;
        until_route("10.244.2.0/24", |text| text.contains("via 10.89.0.12")).await;
        assert_eq!(
            node.progress().overlaps,
            ["pod range 10.244.2.0/24 of node node-3 overlaps 10.244.2.0/24 of node node-2, which keeps its route"]
        );
        changes.send(Change::NodeGone("node-2".into())).await.unwrap();
        until_route("10.244.2.0/24", |text| text.contains("via 10.89.0.13")).await;
        until("the overlap is still told", || async {
            node.progress().overlaps.is_empty()
        })
        .await;
    });
}
