//! What a node asks for, gives, keeps and gives back, case by case.

use super::super::spec::{BlockSize, PoolSpec, Refusal};
use super::*;

fn pool(name: &str, cidrs: &[&str], keep: [u32; 3]) -> Pool {
    let spec = PoolSpec {
        cidrs: cidrs.iter().map(|cidr| (*cidr).into()).collect(),
        block_size: BlockSize { ipv4: 30, ipv6: 126 },
        pre_allocate: keep[0],
        min_allocate: keep[1],
        max_above_watermark: keep[2],
        ..PoolSpec::default()
    };
    Pool::new(name, &spec).unwrap()
}

fn allocated(pool: &str, cidrs: &[&str]) -> NodeAddressesSpec {
    let cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
    NodeAddressesSpec {
        allocated: vec![PoolBlocks {
            pool: pool.into(),
            cidrs,
        }],
        refused: vec![],
    }
}

/// A node with these blocks of the pool `apps`.
fn node(keep: [u32; 3], blocks: &[&str]) -> NodePools {
    let mut node = NodePools::new();
    node.set_pool(pool("apps", &["10.1.0.0/24"], keep), None, true);
    node.set_allocated(&allocated("apps", blocks));
    node
}

fn give(node: &mut NodePools, owner: &str) -> Result<String, String> {
    let ips = node.allocate(owner, "apps").map_err(|error| error.to_string())?;
    Ok(ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "))
}

fn requested(node: &NodePools) -> u64 {
    node.status().requested.first().map_or(0, |request| request.ipv4)
}

fn releasing(node: &mut NodePools) -> Vec<String> {
    node.release_excess();
    node.status()
        .releasing
        .iter()
        .flat_map(|of| &of.cidrs)
        .map(IpNet::to_string)
        .collect()
}

#[test]
fn every_address_of_a_block_is_given_and_one_just_freed_last() {
    let mut node = node([0, 0, 0], &["10.1.0.4/30"]);
    let given: Vec<_> = ["a", "b", "c", "d"].map(|owner| give(&mut node, owner).unwrap()).into();
    assert_eq!(given, ["10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.7"]);
    node.free("a");
    node.free("c");
    assert_eq!(give(&mut node, "e").unwrap(), "10.1.0.4");
    assert_eq!(give(&mut node, "f").unwrap(), "10.1.0.6");
}

#[test]
fn both_families_or_none() {
    let mut node = NodePools::new();
    node.set_pool(pool("apps", &["10.1.0.0/24", "fd00::/64"], [0, 0, 0]), None, true);
    node.set_allocated(&allocated("apps", &["10.1.0.0/30"]));
    let error = give(&mut node, "a").unwrap_err();
    assert!(
        error.starts_with("IPPool apps has no free IPv6 address on this node: 0 of 0 are in use"),
        "{error}"
    );
    assert_eq!(node.users("apps").count(), 0);
    node.set_allocated(&allocated("apps", &["10.1.0.0/30", "fd00::4/126"]));
    assert_eq!(give(&mut node, "a").unwrap(), "10.1.0.0 fd00::4");
}

#[test]
fn demand_is_what_is_used_and_waited_for_and_the_buffer() {
    let mut node = node([2, 3, 0], &["10.1.0.0/30"]);
    assert_eq!(requested(&node), 3);
    for owner in ["a", "b", "c", "d"] {
        give(&mut node, owner).unwrap();
    }
    assert_eq!(requested(&node), 6);
    assert!(give(&mut node, "e").is_err() && give(&mut node, "e").is_err());
    assert_eq!(requested(&node), 7);
    node.free("e");
    node.free("a");
    assert_eq!(requested(&node), 5);
}

#[test]
fn what_the_controller_says_no_to_is_in_the_error() {
    let mut node = node([0, 0, 0], &[]);
    let mut spec = allocated("apps", &[]);
    spec.refused = vec![Refusal {
        pool: "apps".into(),
        message: "all of it is with other nodes; add a CIDR".into(),
    }];
    node.set_allocated(&spec);
    assert_eq!(
        give(&mut node, "a").unwrap_err(),
        "IPPool apps has no free IPv4 address on this node: 0 of 0 are in use; all of it is with other nodes; add a CIDR"
    );
    assert!(
        node.allocate("a", "other")
            .unwrap_err()
            .to_string()
            .starts_with("there is no IPPool other")
    );
}

#[test]
fn excess_goes_in_whole_free_blocks_and_is_never_given_again() {
    let mut node = node(
        [2, 0, 2],
        &["10.1.0.0/30", "10.1.0.4/30", "10.1.0.8/30", "10.1.0.12/30"],
    );
    give(&mut node, "a").unwrap();
    // Needed: one and two free; two more may stay. Sixteen less two blocks are eight, less three would be four.
    assert_eq!(releasing(&mut node), ["10.1.0.8/30", "10.1.0.12/30"]);
    for owner in 0..7 {
        give(&mut node, &owner.to_string()).unwrap();
    }
    assert!(give(&mut node, "z").is_err());
    // The controller takes them; then the node no longer names them.
    node.set_allocated(&allocated("apps", &["10.1.0.0/30", "10.1.0.4/30"]));
    assert_eq!(releasing(&mut node), [""; 0]);
}

#[test]
fn after_a_restart_what_was_being_given_back_is_not_given() {
    let mut before = node([0, 0, 0], &["10.1.0.0/30"]);
    before.release_excess();
    let mut after = NodePools::new();
    after.set_pool(pool("apps", &["10.1.0.0/24"], [0, 0, 0]), None, true);
    after.resume(&before.status());
    after.set_allocated(&allocated("apps", &["10.1.0.0/30"]));
    assert!(give(&mut after, "a").is_err());
    assert_eq!(releasing(&mut after), ["10.1.0.0/30"]);
}

#[test]
fn a_pool_that_is_closed_or_gone_drains() {
    let mut node = node([8, 8, 8], &["10.1.0.0/30", "10.1.0.4/30"]);
    give(&mut node, "a").unwrap();
    node.set_pool(
        pool("apps", &["10.1.0.0/24"], [8, 8, 8]),
        Some("it is being deleted; use another".into()),
        true,
    );
    assert_eq!(
        give(&mut node, "b").unwrap_err(),
        "IPPool apps gives no addresses: it is being deleted; use another"
    );
    assert_eq!(releasing(&mut node), ["10.1.0.4/30"]);
    assert_eq!(requested(&node), 0);
    node.free("a");
    node.remove_pool("apps");
    assert_eq!(releasing(&mut node), ["10.1.0.0/30", "10.1.0.4/30"]);
}

#[test]
fn a_block_that_vanishes_in_use_stays_reserved_and_is_wanted_again() {
    let mut node = node([0, 0, 0], &["10.1.0.0/30"]);
    give(&mut node, "a").unwrap();
    node.set_allocated(&NodeAddressesSpec::default());
    let lost: Vec<_> = node
        .lost()
        .map(|user| (user.ip.to_string(), user.owner.to_owned()))
        .collect();
    assert_eq!(lost, [("10.1.0.0".to_owned(), "a".to_owned())]);
    assert_eq!(node.status().wanted, ["10.1.0.0".parse::<IpAddr>().unwrap()]);
    node.set_allocated(&allocated("apps", &["10.1.0.0/30"]));
    assert_eq!((node.lost().count(), node.status().wanted.len()), (0, 0));
    assert_eq!(give(&mut node, "b").unwrap(), "10.1.0.1");
}

#[test]
fn a_fixed_address_is_asked_for_and_belongs_to_one_pod() {
    let mut node = node([0, 0, 0], &["10.1.0.0/30"]);
    let fixed = ["10.1.0.2".parse().unwrap()];
    assert_eq!(node.allocate_fixed("a", &fixed), Ok(()));
    assert_eq!(node.allocate_fixed("a", &fixed), Ok(()));
    assert_eq!(
        node.allocate_fixed("b", &fixed),
        Err(PoolsError::Taken {
            ip: fixed[0],
            owner: "a".into()
        })
    );
    let far: [IpAddr; 1] = ["10.1.0.9".parse().unwrap()];
    assert!(matches!(
        node.allocate_fixed("b", &far),
        Err(PoolsError::Elsewhere { .. })
    ));
    assert_eq!(node.status().wanted, far);
    node.set_allocated(&allocated("apps", &["10.1.0.0/30", "10.1.0.8/30"]));
    assert_eq!(releasing(&mut node), [""; 0]);
    assert_eq!(node.allocate_fixed("b", &far), Ok(()));
    assert_eq!(node.status().wanted.len(), 0);
    assert_eq!(node.free("b"), 1);
    assert_eq!(releasing(&mut node), ["10.1.0.8/30"]);
}

#[test]
fn reserved_addresses_count_whenever_their_block_comes() {
    let mut node = NodePools::new();
    let ip: IpAddr = "10.1.0.1".parse().unwrap();
    assert_eq!(node.reserve(ip, "a"), Ok(()));
    assert_eq!(node.reserve(ip, "b"), Err("a".into()));
    node.set_pool(pool("apps", &["10.1.0.0/24"], [0, 0, 0]), None, true);
    node.set_allocated(&allocated("apps", &["10.1.0.0/30"]));
    assert_eq!(
        node.status().used,
        [Used {
            pool: "apps".into(),
            used: 1,
            capacity: 4
        }]
    );
    let given: Vec<_> = ["b", "c", "d"].map(|owner| give(&mut node, owner).unwrap()).into();
    assert_eq!(given, ["10.1.0.0", "10.1.0.2", "10.1.0.3"]);
}
