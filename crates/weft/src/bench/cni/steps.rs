//! Where the time of an ADD and of a DEL goes: what the agent asks of the kernel for one, each step by itself, without
//! plugin and agent.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context as _, Result};
use weft_dataplane::aside;
use weft_dataplane::bpf::{self, Datapath};
use weft_dataplane::net::{PodLink, name, pod};

use crate::bench::cgroup::Home;
use crate::bench::netns::Netns;
use crate::bench::weft::{self, NODE};

/// In the order in which they are taken.
pub(super) const STEPS: [&str; 5] = [
    "of ADD: the pair, its addresses and routes",
    "of ADD: the pod's entries and its hook",
    "of ADD: until the IPv6 address is in use",
    "of DEL: until the link has gone",
    "of DEL: the pod's entries, and the pin of its hook",
];

/// Takes every step so many times. Gives the milliseconds of each, in the order of [`STEPS`]. From then on this process
/// has a bpffs of its own.
pub(super) fn measure(times: u32) -> Result<[Vec<f64>; 5]> {
    weft::private_bpffs()?;
    let home = Home::enter()?;
    let node = Netns::new()?;
    node.ip(&format!("addr add {NODE}/32 dev lo"))?;
    let (datapath, _cgroup) = weft::datapath(&home)?;
    let sandbox = Netns::new()?;
    let link = link(&sandbox)?;
    node.run(|| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build();
        let runtime = runtime.context("cannot start the asynchronous runtime")?;
        runtime.block_on(async { aside::on_own_thread(take(link, datapath, times)).await })?
    })
}

fn link(sandbox: &Netns) -> Result<PodLink> {
    let (mac, host_mac) = name::macs("steps", "eth0");
    Ok(PodLink {
        netns: sandbox.path(),
        ifname: "eth0".into(),
        host_ifname: name::host_side("steps", "eth0"),
        mac,
        host_mac,
        ips: ["10.244.0.2".parse::<IpAddr>()?, "fd00:10:244::2".parse()?].into(),
        mtu: 1500,
        node_ips: vec![NODE.into()],
        limits: Default::default(),
    })
}

async fn take(link: PodLink, mut datapath: Datapath, times: u32) -> Result<[Vec<f64>; 5]> {
    let mut spent: [Vec<f64>; 5] = Default::default();
    for _ in 0..times {
        let mut last = Instant::now();
        let mut step = |which: usize| {
            spent[which].push(last.elapsed().as_secs_f64() * 1e3);
            last = Instant::now();
        };
        let connected = pod::connect(&link).await?;
        step(0);
        let ifindex = connected.index;
        let entry = bpf::PodLink {
            ifindex,
            mac: link.mac.0,
            host_mac: link.host_mac.0,
            limited: false,
            sends: None,
        };
        for ip in &link.ips {
            datapath.set_pod(*ip, entry)?;
        }
        datapath.attach_pod(ifindex)?;
        step(1);
        connected.ready().await?;
        step(2);
        pod::tear_down(&link.host_ifname).await?;
        step(3);
        for ip in &link.ips {
            datapath.remove_pod(*ip)?;
        }
        datapath.detach_pod(ifindex)?;
        step(4);
    }
    Ok(spent)
}
