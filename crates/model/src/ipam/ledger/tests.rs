//! What the controller says to pools and nodes, case by case, and that its work does not grow with the cluster.

use std::net::IpAddr;

use super::*;
use crate::ipam::spec::{BlockSize, HttpProvider, IpPool, PoolBlocks, PoolSpec, Provider, Request};

fn pool(name: &str, created: u32, cidrs: &[&str]) -> IpPool {
    let cidrs = cidrs.iter().map(|cidr| (*cidr).into()).collect();
    let spec = PoolSpec {
        cidrs,
        block_size: BlockSize { ipv4: 30, ipv6: 126 },
        ..PoolSpec::default()
    };
    IpPool {
        name: name.into(),
        version: 1,
        generation: 1,
        created: format!("{created:04}"),
        held: true,
        spec,
        ..IpPool::default()
    }
}

fn node(name: &str, ip: &str, cidrs: &[&str]) -> crate::Node {
    crate::Node {
        name: name.into(),
        internal_ips: vec![ip.parse().unwrap()],
        pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        zone: None,
        leaving: false,
        labels: Labels::from([("zone".to_owned(), "a".to_owned())]),
    }
}

/// A node's object that asks for so many IPv4 addresses of a pool.
fn asking(name: &str, version: u64, pool: &str, ipv4: u64) -> NodeAddresses {
    let mut object = NodeAddresses {
        node: name.into(),
        version,
        ..NodeAddresses::default()
    };
    object.status.requested = vec![Request {
        pool: pool.into(),
        ipv4,
        ipv6: 0,
    }];
    object
}

fn judged(ledger: &mut Ledger) {
    for name in ledger.take_dirty_pools() {
        ledger.judge(&name);
    }
}

/// Status, reason and message of a pool's condition `Ready`.
fn ready(ledger: &Ledger, name: &str) -> String {
    let (_, status, _) = ledger.pool_status(name).unwrap();
    let ready = status.conditions.iter().find(|of| of.type_ == "Ready").unwrap();
    format!("{} {}: {}", ready.status, ready.reason, ready.message)
}

/// Decides and writes; what the node was refused.
fn granted(ledger: &mut Ledger, name: &str) -> (Vec<String>, Vec<String>) {
    if let Some(Grant { at, spec }) = ledger.decide(name) {
        ledger.observe(NodeAddresses {
            version: at.version + 1,
            spec,
            ..at
        });
    }
    let object = ledger.object(name).unwrap();
    let refused = object
        .spec
        .refused
        .iter()
        .map(|refusal| refusal.message.clone())
        .collect();
    (object.blocks().map(|cidr| cidr.to_string()).collect(), refused)
}

#[test]
fn of_two_pools_that_overlap_the_younger_is_refused_until_the_older_has_gone() {
    let mut ledger = Ledger::default();
    ledger.pool(pool("a-young", 2, &["10.1.0.0/16"]));
    ledger.pool(pool("z-old", 1, &["10.1.7.0/24"]));
    judged(&mut ledger);
    assert_eq!(ready(&ledger, "z-old"), "True InForce: gives addresses");
    assert_eq!(
        ready(&ledger, "a-young"),
        "False Overlap: IPPool a-young: spec.cidrs: 10.1.0.0/16 overlaps 10.1.7.0/24 of IPPool z-old, which was there first; take other addresses"
    );
    ledger.pool_gone("z-old");
    judged(&mut ledger);
    assert_eq!(ready(&ledger, "a-young"), "True InForce: gives addresses");
}

#[test]
fn pools_keep_off_the_networks_of_services_nodes_and_their_ranges() {
    let mut ledger = Ledger::default();
    ledger.node(&node("n1", "10.89.0.11", &["10.244.0.0/24"]));
    let services = Foreign {
        of: "the network of ServiceCIDR kubernetes".into(),
        is_node: false,
    };
    ledger.set_foreign(
        "ServiceCIDR kubernetes".into(),
        vec![("10.96.0.0/16".parse().unwrap(), services)],
    );
    for (name, cidr, message) in [
        (
            "a",
            "10.96.4.0/24",
            "10.96.4.0/24 overlaps 10.96.0.0/16, the network of ServiceCIDR kubernetes",
        ),
        (
            "b",
            "10.89.0.0/24",
            "10.89.0.0/24 overlaps 10.89.0.11/32, the address of node n1",
        ),
        (
            "c",
            "10.244.0.0/16",
            "10.244.0.0/16 overlaps 10.244.0.0/24, spec.podCIDRs of node n1",
        ),
    ] {
        ledger.pool(pool(name, 1, &[cidr]));
        judged(&mut ledger);
        assert_eq!(
            ready(&ledger, name),
            format!("False Overlap: IPPool {name}: spec.cidrs: {message}; take other addresses")
        );
    }
    // A cloud gives pods addresses of the nodes' own network.
    let mut cloud = pool("cloud", 1, &["10.89.0.0/24"]);
    cloud.spec.provider = Some(Provider {
        http: Some(HttpProvider {
            url: "http://[::1]/".into(),
        }),
    });
    ledger.pool(cloud);
    judged(&mut ledger);
    assert_eq!(ready(&ledger, "cloud"), "True InForce: gives addresses");
    ledger.node_gone("n1");
    judged(&mut ledger);
    assert_eq!(ready(&ledger, "c"), "True InForce: gives addresses");
    assert!(ready(&ledger, "b").contains("10.89.0.0/24 of IPPool cloud, which was there first"));
}

#[test]
fn an_address_that_comes_to_be_inside_of_a_pool_is_not_given() {
    let mut ledger = Ledger::default();
    ledger.pool(pool("apps", 1, &["10.1.0.0/29"]));
    judged(&mut ledger);
    ledger.node(&node("n1", "10.1.0.2", &[]));
    ledger.observe(asking("n1", 1, "apps", 8));
    let (blocks, refused) = granted(&mut ledger, "n1");
    assert_eq!(blocks, ["10.1.0.4/30"]);
    let full = "IPPool apps is full: 4 of 8 IPv4 addresses are with one node (n1: 4); add a network to spec.cidrs, lower spec.preAllocate, or delete pods";
    assert_eq!(refused, [full]);
    assert_eq!(ready(&ledger, "apps"), format!("False Full: {full}"));
}

#[test]
fn an_edit_that_would_orphan_addresses_is_refused_and_the_earlier_spec_stays() {
    let mut ledger = Ledger::default();
    ledger.pool(pool("apps", 1, &["10.1.0.0/24"]));
    judged(&mut ledger);
    ledger.node(&node("n1", "192.0.2.1", &[]));
    ledger.observe(asking("n1", 1, "apps", 1));
    assert_eq!(granted(&mut ledger, "n1").0, ["10.1.0.0/30"]);
    let mut version = 1;
    let mut edit = |ledger: &mut Ledger, change: &dyn Fn(&mut PoolSpec)| {
        version += 1;
        let mut edited = IpPool {
            version,
            generation: version as i64,
            ..pool("apps", 1, &["10.1.0.0/24"])
        };
        change(&mut edited.spec);
        ledger.pool(edited);
        judged(ledger);
        ready(ledger, "apps")
    };
    let refused = edit(&mut ledger, &|spec| spec.cidrs = vec!["10.2.0.0/24".into()]);
    assert_eq!(
        refused,
        "True EditRefused: IPPool apps: spec.cidrs: node n1 has 10.1.0.0/30 of what was left out; the earlier spec stays in force. \
         To empty it, move its pods to another pool or delete this one"
    );
    let refused = edit(&mut ledger, &|spec| spec.block_size.ipv4 = 28);
    assert!(
        refused.contains("spec.blockSize: cannot change from 30 to 28 while node n1 has 10.1.0.0/30"),
        "{refused}"
    );
    let refused = edit(&mut ledger, &|spec| {
        spec.provider = Some(Provider {
            http: Some(HttpProvider { url: "http://a".into() }),
        })
    });
    assert!(
        refused.contains("spec.provider: cannot change while node n1 has 10.1.0.0/30"),
        "{refused}"
    );
    let (_, status, _) = ledger.pool_status("apps").unwrap();
    assert_eq!(status.in_force.unwrap().cidrs, ["10.1.0.0/24"]);
    assert_eq!(
        edit(&mut ledger, &|spec| spec.cidrs.push("10.2.0.0/24".into())),
        "True InForce: gives addresses"
    );
}

#[test]
fn who_may_not_have_of_a_pool_is_told_why() {
    let mut ledger = Ledger::default();
    let mut apps = pool("apps", 1, &["10.1.0.0/24"]);
    let labels = Labels::from([("zone".to_owned(), "b".to_owned())]);
    apps.spec.node_selector = Some(crate::selector::Selector {
        match_labels: labels,
        ..Default::default()
    });
    ledger.pool(apps);
    let deleted = IpPool {
        deleting: true,
        ..pool("gone", 1, &["10.2.0.0/24"])
    };
    ledger.pool(deleted);
    judged(&mut ledger);
    ledger.node(&node("n1", "192.0.2.1", &[]));
    let mut object = asking("n1", 1, "apps", 1);
    object.status.requested.extend(["gone", "none"].map(|pool| Request {
        pool: pool.into(),
        ipv4: 1,
        ipv6: 0,
    }));
    object.status.wanted = vec!["10.7.0.1".parse().unwrap()];
    ledger.observe(object);
    let (blocks, refused) = granted(&mut ledger, "n1");
    assert_eq!(blocks, [""; 0]);
    assert_eq!(
        refused,
        [
            "no IPPool in force has it; ask for an address of one (`kubectl get ippools`)",
            "IPPool apps is for other nodes: its spec.nodeSelector does not match this one's labels",
            "IPPool gone is being deleted; use another",
            "there is no IPPool none; create it"
        ]
    );
}

#[test]
fn who_waits_gets_what_another_gives_back() {
    let mut ledger = Ledger::default();
    ledger.pool(pool("apps", 1, &["10.1.0.0/30"]));
    judged(&mut ledger);
    for name in ["n1", "n2"] {
        ledger.node(&node(name, "192.0.2.1", &[]));
        ledger.observe(asking(name, 1, "apps", 1));
        granted(&mut ledger, name);
    }
    assert_eq!(ledger.object("n2").unwrap().blocks().count(), 0);
    ledger.take_dirty_nodes();
    let mut back = NodeAddresses {
        version: 9,
        ..ledger.object("n1").unwrap().clone()
    };
    back.status = Default::default();
    back.status.releasing = vec![PoolBlocks {
        pool: "apps".into(),
        cidrs: vec!["10.1.0.0/30".parse().unwrap()],
    }];
    ledger.observe(back);
    assert_eq!(granted(&mut ledger, "n1").0, [""; 0]);
    assert!(ledger.take_dirty_nodes().contains("n2"));
    assert_eq!(granted(&mut ledger, "n2"), (vec!["10.1.0.0/30".to_owned()], vec![]));
}

#[test]
fn a_deleted_pool_goes_once_its_provider_has_everything_back() {
    let mut ledger = Ledger::default();
    let mut cloud = pool("cloud", 1, &["10.9.0.0/24"]);
    cloud.spec.provider = Some(Provider {
        http: Some(HttpProvider {
            url: "http://[::1]/".into(),
        }),
    });
    ledger.pool(cloud.clone());
    judged(&mut ledger);
    ledger.node(&node("n1", "192.0.2.1", &[]));
    ledger.observe(asking("n1", 1, "cloud", 4));
    let block = "10.9.0.0/30".parse().unwrap();
    ledger.offer("cloud", "n1", block).unwrap();
    assert_eq!(granted(&mut ledger, "n1").0, ["10.9.0.0/30"]);
    ledger.pool(IpPool {
        version: 2,
        deleting: true,
        ..cloud
    });
    let mut back = NodeAddresses {
        version: 9,
        ..ledger.object("n1").unwrap().clone()
    };
    back.status = Default::default();
    back.status.releasing = vec![PoolBlocks {
        pool: "cloud".into(),
        cidrs: vec![block],
    }];
    ledger.observe(back);
    assert_eq!(granted(&mut ledger, "n1").0, [""; 0]);
    ledger.take_dirty_pools();
    let finalizer = |ledger: &Ledger| ledger.pool_status("cloud").unwrap().2;
    assert_eq!(finalizer(&ledger), None, "the provider still counts it as the node's");
    ledger.returned("cloud", "n1", block);
    assert_eq!(ledger.take_dirty_pools(), ["cloud"]);
    assert_eq!(finalizer(&ledger), Some(false));
}

#[test]
fn what_may_have_been_written_is_sent_again_as_it_was_and_nobody_else_gets_it() {
    let mut ledger = Ledger::default();
    ledger.pool(pool("apps", 1, &["10.1.0.0/30"]));
    judged(&mut ledger);
    for name in ["n1", "n2"] {
        ledger.node(&node(name, "192.0.2.1", &[]));
        ledger.observe(asking(name, 5, "apps", 1));
    }
    let sent = ledger.decide("n1").unwrap();
    assert_eq!(ledger.decide("n1"), Some(sent.clone()));
    // Its answer overtakes an older version of the object, which gives nothing back.
    ledger.observe(NodeAddresses {
        version: 7,
        spec: sent.spec,
        ..sent.at.clone()
    });
    ledger.observe(NodeAddresses { version: 6, ..sent.at });
    assert_eq!(ledger.object("n1").unwrap().version, 7);
    assert_eq!(granted(&mut ledger, "n2").0, [""; 0]);
}

/// Not a clock but the books are asked: what one change touches is that node, however many there are.
#[test]
fn five_thousand_nodes_and_a_hundred_thousand_blocks() {
    let mut ledger = Ledger::default();
    ledger.pool(pool("apps", 1, &["10.0.0.0/12"]));
    judged(&mut ledger);
    for number in 0..5_000u32 {
        let name = format!("n{number}");
        let ip = IpAddr::from(std::net::Ipv4Addr::from(0xc000_0000 + number)).to_string();
        ledger.node(&node(&name, &ip, &[]));
        ledger.observe(asking(&name, 1, "apps", 80));
        granted(&mut ledger, &name);
    }
    let (_, status, _) = ledger.pool_status("apps").unwrap();
    assert_eq!((status.allocated.ipv4, status.nodes), (400_000, 5_000));
    while !ledger.take_dirty_nodes().is_empty() {}
    let mut more = NodeAddresses {
        version: 9,
        ..ledger.object("n77").unwrap().clone()
    };
    more.status.requested[0].ipv4 = 84;
    ledger.observe(more);
    assert_eq!(ledger.take_dirty_nodes(), BTreeSet::from(["n77".to_owned()]));
    assert_eq!(granted(&mut ledger, "n77").0.len(), 21);
    assert_eq!(ledger.take_dirty_pools(), ["apps"]);
}
