//! Whatever a pod sends: parsing it never fails, and only its own packets to a neighbour are changed.
//! Run with `cargo +nightly fuzz run from_pod`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_packet::host::{HostMaps, HostPacket};
use weft_packet::{Addr, Pod, Scratch, Verdict, pod};

fuzz_target!(|data: &[u8]| {
    let mut maps = HostMaps::default();
    for n in 1..3u8 {
        let pod = Pod { ifindex: n.into(), mac: [2, 0, 0, 0, 0, n], host_mac: [4, 0, 0, 0, 0, n], limited: 0 };
        maps.pods.insert(Addr::from_v4_bytes([10, 0, 0, n]), pod);
        maps.pods.insert(Addr::from(core::net::IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)])), pod);
    }
    let mut packet = HostPacket { ifindex: 1, data: data.to_vec(), ..HostPacket::default() };
    let verdict = pod::from_pod(&mut packet, &maps, &mut Scratch::default());
    assert_eq!(packet.data.len(), data.len());
    if !matches!(verdict, Verdict::Deliver(..)) {
        assert_eq!(packet.data, data);
    }
});
