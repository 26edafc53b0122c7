//! A node with two pods, and a machine outside of it.

use weft_dataplane::net::{PodLink, name, pod, sysctl};

use super::{Netns, ip};

pub(crate) const NODE: [&str; 2] = ["10.89.0.10", "fd89::10"];
pub(crate) const OUTSIDE: [&str; 2] = ["10.89.0.99", "fd89::99"];
pub(crate) const A: [&str; 2] = ["10.244.0.2", "fd00:10:244::2"];
pub(crate) const B: [&str; 2] = ["10.244.0.3", "fd00:10:244::3"];

pub(crate) struct World {
    pub(crate) node: Netns,
    pub(crate) a: Netns,
    pub(crate) b: Netns,
    pub(crate) outside: Netns,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self {
            node: Netns::new(),
            a: Netns::new(),
            b: Netns::new(),
            outside: Netns::new(),
        };
        let other_end = world.outside.path();
        world.node.run(move || {
            ip("link set lo up");
            ip(&format!(
                "link add eth0 type veth peer name eth0 netns {}",
                other_end.display()
            ));
            ip("address add 10.89.0.10/16 dev eth0");
            ip("address add fd89::10/64 dev eth0 nodad");
            ip("link set eth0 up");
            sysctl::enable_forwarding().unwrap();
        });
        world.outside.run(|| {
            ip("address add 10.89.0.99/16 dev eth0");
            ip("address add fd89::99/64 dev eth0 nodad");
            ip("link set eth0 up");
        });
        let links = [link("a", &world.a, A), link("b", &world.b, B)];
        world.node.block_on(|| async move {
            for link in &links {
                pod::set_up(link).await.unwrap();
            }
        });
        world
    }

    /// Runs `nft` on the node.
    pub(crate) fn nft(&self, args: &str) -> String {
        let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
        let done = self
            .node
            .run(|| std::process::Command::new("nft").args(args).output().unwrap());
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }
}

fn link(id: &str, netns: &Netns, ips: [&str; 2]) -> PodLink {
    let (mac, host_mac) = name::macs(id, "eth0");
    PodLink {
        netns: netns.path(),
        ifname: "eth0".into(),
        host_ifname: name::host_side(id, "eth0"),
        mac,
        host_mac,
        ips: ips.map(|ip| ip.parse().unwrap()).to_vec(),
        mtu: 1500,
        node_ips: NODE.map(|ip| ip.parse().unwrap()).to_vec(),
        limits: Default::default(),
    }
}
