//! Whatever arrives from outside, or leaves: parsing it never fails, and what is no service's is not changed.
//! Run with `cargo +nightly fuzz run outside`.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use weft_packet::host::{HostMaps, HostPacket};
use weft_packet::layout::NODE_ADDRESS;
use weft_packet::{
    Addr, BackendKey, Config, Frontend, MemberKey, Pod, Port, Reason, Scratch, Service, Set, SockAddr, Verdict, node,
};

fn addr(text: &str) -> Addr {
    Addr::from(text.parse::<IpAddr>().unwrap())
}

/// A node with a pod, and a node port that leads there and to another node.
fn maps() -> HostMaps {
    let mut maps = HostMaps::default();
    for (set, [node, pod, other]) in
        (0..).zip([["10.9.0.1", "10.0.0.1", "10.0.1.1"], ["fd09::1", "fd00::1", "fd00:1::1"]])
    {
        maps.node_addresses.insert(addr(node), NODE_ADDRESS);
        let link = Pod { ifindex: 7, mac: [2, 0, 0, 0, 0, 7], host_mac: [4, 0, 0, 0, 0, 7], limited: 0 };
        maps.pods.insert(addr(pod), link);
        for (slot, backend) in (0..).zip([pod, other]) {
            let backend = SockAddr::new(addr(backend), Port::from_host(80));
            maps.backends.insert(BackendKey { set, slot }, backend);
            maps.members.insert(MemberKey::new(set, &backend));
        }
        maps.sets.insert(set, Set { count: 2, flags: 0 });
        let service = Service { inside: set, outside: set, affinity: 0, flags: 0 };
        for protocol in [6, 17, 132] {
            let frontend = Frontend::new(addr(node).unspecified(), Port::from_host(0x3030), protocol);
            maps.frontends.insert(frontend, service);
        }
    }
    maps.config = Some(Config {
        netns: 0,
        v4: addr("10.9.0.1"),
        v6: addr("fd09::1"),
        tunnel: 0,
        first_port: 10000,
        ports: 100,
    });
    maps
}

fuzz_target!(|data: &[u8]| {
    let maps = maps();
    // Several packets, so that one meets the flow of another: each is preceded by its length.
    let mut rest = data;
    while let Some((length, more)) = rest.split_first() {
        let (packet, more) = more.split_at(usize::from(*length).min(more.len()));
        rest = more;
        let mut packet = HostPacket {
            ifindex: 2,
            data: packet.to_vec(),
            routes: [(addr("10.0.1.1"), (3, 100)), (addr("fd00:1::1"), (3, 1280))].into(),
            ..HostPacket::default()
        };
        let before = packet.data.clone();
        let scratch = &mut Scratch::default();
        let verdict = match length % 2 {
            0 => node::from_outside(&mut packet, &maps, scratch),
            _ => node::to_outside(&mut packet, &maps, scratch),
        };
        match verdict {
            Verdict::Pass(Reason::ToStack) | Verdict::Refuse(_) => assert_eq!(packet.data, before),
            Verdict::Send(Reason::TooBig | Reason::TimeExceeded, _) => {}
            Verdict::Deliver(Reason::TooBig | Reason::TimeExceeded, _) => {}
            _ => assert_eq!(packet.data.len(), before.len()),
        }
    }
});
