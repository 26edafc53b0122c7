//! Rules of the routes, on plain values.

use super::*;
use crate::Change;
use crate::ipam::{NodeAddresses, PoolBlocks};
use crate::testing::node;

fn peer(name: &str, ips: &[&str], ranges: &[&str]) -> Node {
    Node {
        internal_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        pod_cidrs: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        ..node(name)
    }
}

fn underlay(routing: Routing) -> Underlay {
    let networks = [
        ("10.89.0.0/24", true),
        ("10.89.0.64/26", false),
        ("fd89::/64", true),
        ("0.0.0.0/0", false),
        ("::/0", true),
    ];
    Underlay {
        routing,
        networks: networks.map(|(net, on_link)| (net.parse().unwrap(), on_link)).into(),
    }
}

/// A cluster of `n1`, whose view it is, and others.
fn table(routing: Routing, others: &[Node]) -> (State, RouteTable) {
    let mut state = State::new("n1");
    state.apply(Change::Node(peer(
        "n1",
        &["10.89.0.10", "fd89::10"],
        &["10.244.0.0/24", "fd00::/64"],
    )));
    for other in others {
        state.apply(Change::Node(other.clone()));
    }
    let mut table = RouteTable::default();
    table.set_underlay(&state, underlay(routing));
    (state, table)
}

fn text(table: &RouteTable) -> Vec<String> {
    table.wanted().iter().map(|(to, hop)| format!("{to} {hop:?}")).collect()
}

const OWN: [&str; 2] = ["10.244.0.0/24 Unreachable", "fd00::/64 Unreachable"];

#[test]
fn the_same_segment_is_direct_and_the_rest_is_tunnelled() {
    let near = peer("n2", &["10.89.0.11", "fd89::11"], &["10.244.2.0/24", "fd00:2::/64"]);
    let far = peer("n3", &["10.90.0.11", "fd90::11"], &["10.244.3.0/24", "fd00:3::/64"]);
    let (state, table) = table(Routing::Auto, &[near, far]);
    assert_eq!(
        text(&table),
        [
            "10.90.0.11/32 PodsTunnel(10.90.0.11)",
            OWN[0],
            "10.244.2.0/24 Via(10.89.0.11)",
            "10.244.3.0/24 Tunnel(10.90.0.11)",
            OWN[1],
            "fd00:2::/64 Via(fd89::11)",
            "fd00:3::/64 Tunnel(10.90.0.11)",
            "fd90::11/128 PodsTunnel(10.90.0.11)",
        ]
    );
    let reach = table.reach(&state);
    assert_eq!((reach.direct, reach.tunnelled, reach.lost.len()), (1, 1, 0));
    assert_eq!(reach.why.unwrap(), "10.90.0.11 of n3 is not on this node's segment");
}

#[test]
fn the_kernels_most_specific_way_decides() {
    // In the segment's range, but behind a router; and no router that answers for everybody counts as a segment.
    let (_, table) = table(
        Routing::Auto,
        &[
            peer("n2", &["10.89.0.70"], &["10.244.2.0/24"]),
            peer("n3", &["fd77::1"], &["fd00:3::/64"]),
        ],
    );
    let text = text(&table);
    assert!(text.contains(&"10.244.2.0/24 Tunnel(10.89.0.70)".into()), "{text:?}");
    assert!(text.contains(&"fd00:3::/64 Tunnel(fd77::1)".into()), "{text:?}");
}

#[test]
fn the_flag_decides_for_all() {
    let near = peer("n2", &["10.89.0.11"], &["10.244.2.0/24"]);
    let far = peer("n3", &["10.90.0.11"], &["10.244.3.0/24"]);
    let (state, always) = table(Routing::Tunnel, &[near.clone(), far.clone()]);
    assert_eq!(always.reach(&state).tunnelled, 2);
    assert_eq!(always.reach(&state).why.unwrap(), "as --routing says");
    let (state, never) = table(Routing::Direct, &[near, far]);
    assert_eq!(never.reach(&state).direct, 2);
    assert!(!text(&never).iter().any(|line| line.contains("Tunnel")));
}

#[test]
fn a_family_without_an_address_goes_by_tunnel_or_is_said_to_be_lost() {
    let v4_only = peer("n2", &["10.89.0.11"], &["10.244.2.0/24", "fd00:2::/64"]);
    let none = peer("n3", &[], &["10.244.3.0/24"]);
    let (state, auto) = table(Routing::Auto, &[v4_only.clone(), none]);
    assert!(text(&auto).contains(&"fd00:2::/64 Tunnel(10.89.0.11)".into()));
    let reach = auto.reach(&state);
    assert_eq!((reach.direct, reach.tunnelled), (0, 1));
    assert!(reach.lost[0].contains("n3 has no InternalIP"), "{reach:?}");
    let (state, direct) = table(Routing::Direct, &[v4_only]);
    assert!(direct.reach(&state).lost[0].contains("tunnels are off"));
    // And where this node cannot speak to the other's first address at all.
    let (mut state, mut table) = table(Routing::Auto, &[peer("n2", &["fd77::2"], &["10.244.2.0/24"])]);
    assert_eq!(table.reach(&state).tunnelled, 1);
    state.apply(Change::Node(peer("n1", &["10.89.0.10"], &[])));
    let steps = table.update(&state, ["n1".to_owned()]);
    assert!(
        steps.contains(&Step::Remove("10.244.2.0/24".parse().unwrap())),
        "{steps:?}"
    );
    assert!(table.reach(&state).lost[0].contains("n1 has no InternalIP of that family"));
}

#[test]
fn the_first_by_name_keeps_a_range_that_two_nodes_claim() {
    let same = peer("n3", &["10.89.0.13"], &["10.244.2.0/24"]);
    let inside = peer("n2", &["10.89.0.12"], &["10.244.2.0/25", "10.244.9.0/24"]);
    let (mut state, mut table) = table(Routing::Auto, &[inside, same]);
    assert_eq!(
        text(&table)[1..3],
        ["10.244.2.0/25 Via(10.89.0.12)", "10.244.9.0/24 Via(10.89.0.12)"]
    );
    let said: Vec<_> = table.overlaps().map(Overlap::to_string).collect();
    assert_eq!(
        said,
        ["pod range 10.244.2.0/24 of node n3 overlaps 10.244.2.0/25 of node n2, which keeps its route"]
    );
    // When the first lets go, the other has it.
    state.apply(Change::NodeGone("n2".into()));
    let steps = table.update(&state, ["n2".to_owned()]);
    assert!(steps.contains(&Step::Put(
        "10.244.2.0/24".parse().unwrap(),
        NextHop::Via("10.89.0.13".parse().unwrap())
    )));
    assert_eq!(table.overlaps().count(), 0);
}

#[test]
fn the_same_underlay_again_is_no_work() {
    let (state, mut table) = table(Routing::Auto, &[peer("n2", &["10.89.0.11"], &["10.244.2.0/24"])]);
    assert!(table.set_underlay(&state, underlay(Routing::Auto)).is_empty());
    let mut moved = underlay(Routing::Auto);
    moved.networks.remove(0);
    let steps = table.set_underlay(&state, moved);
    let hop = NextHop::Tunnel("10.89.0.11".parse().unwrap());
    assert!(steps.contains(&Step::Put("10.244.2.0/24".parse().unwrap(), hop)));
}

#[test]
fn blocks_from_pools_are_routed_like_ranges() {
    let blocks = |node: &str, cidrs: &[&str]| {
        let mut addresses = NodeAddresses {
            node: node.into(),
            ..NodeAddresses::default()
        };
        addresses.spec.allocated = vec![PoolBlocks {
            pool: "apps".into(),
            cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        }];
        Change::NodeAddresses(addresses)
    };
    let (mut state, mut table) = table(Routing::Auto, &[peer("n2", &["10.89.0.11"], &[])]);
    assert_eq!(table.reach(&state).direct, 0);
    state.apply(blocks("n2", &["10.7.0.16/28", "10.7.0.99/32"]));
    state.apply(blocks("n1", &["10.7.0.0/28", "10.7.0.98/32"]));
    table.update(&state, ["n1".to_owned(), "n2".to_owned()]);
    assert_eq!(
        text(&table)[..3],
        [
            "10.7.0.0/28 Unreachable",
            "10.7.0.16/28 Via(10.89.0.11)",
            "10.7.0.99/32 Via(10.89.0.11)"
        ]
    );
    // A single address of this node is its pod's route alone.
    assert!(!text(&table).iter().any(|line| line.contains("10.7.0.98")));
    assert_eq!(table.reach(&state).direct, 1);
}
