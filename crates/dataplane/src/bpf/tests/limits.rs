//! What a pod may send in a time, whatever it does in its own namespace: here it has no queue at all.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::pods::{Pod, receiver};
use super::world::{World, run};
use crate::bpf::{Datapath, PodLink, Rate};

/// 100 kB/s, and 20 kB at once.
const RATE: Rate = Rate {
    bytes: 100_000,
    room: 200_000_000,
};
/// Of a datagram of 1,000 bytes, with its headers.
const FRAME: u64 = 1042;

fn limit(datapath: &mut Datapath, pod: &Pod, sends: Option<Rate>) {
    let link = PodLink {
        sends,
        ..datapath.pod(pod.v4).unwrap()
    };
    datapath.set_pod(pod.v4, link).unwrap();
    datapath.set_pod(pod.v6, link).unwrap();
    datapath.attach_pod(pod.ifindex).unwrap();
}

/// Sends 1,000 datagrams as fast as it can, and tells how many arrived, and in which time they were sent.
fn flood(from: &Pod, to: &Pod) -> (u64, Duration) {
    let address = to.v4;
    let socket = to.run(move || receiver(address));
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(8 << 20)).unwrap();
    let took = from.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let start = Instant::now();
        for _ in 0..1000 {
            socket.send_to(&[7; 1000], (address, 5000)).unwrap();
        }
        start.elapsed()
    });
    // What was let through has been delivered by the sender's own call, or by its processor a moment later.
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut arrived = 0;
    while socket.recv(&mut [0; 2000]).is_ok() {
        arrived += 1;
    }
    (arrived, took)
}

fn most(took: Duration) -> u64 {
    let saved = RATE.bytes * RATE.room / 1_000_000_000;
    let earned = RATE.bytes as f64 * (took + Duration::from_millis(1)).as_secs_f64();
    (saved + earned as u64) / FRAME + 1
}

fn two_pods(world: &World) -> (Datapath, Pod, Pod) {
    let mut datapath = world.open();
    let (one, two) = (Pod::new(1, &mut datapath), Pod::new(2, &mut datapath));
    (datapath, one, two)
}

#[test]
fn a_flood_gets_no_more_than_the_limit() {
    run(module_path!(), "a_flood_gets_no_more_than_the_limit", |world| {
        let (mut datapath, one, two) = two_pods(world);
        assert_eq!(flood(&one, &two).0, 1000);
        limit(&mut datapath, &one, Some(RATE));
        let (arrived, took) = flood(&one, &two);
        assert!((10..=most(took)).contains(&arrived), "{arrived} of {}", most(took));
        // The other one has none.
        assert_eq!(flood(&two, &one).0, 1000);
    });
}

#[test]
fn it_outlives_the_agent_and_goes_with_the_pod() {
    run(module_path!(), "it_outlives_the_agent_and_goes_with_the_pod", |world| {
        let (mut datapath, one, two) = two_pods(world);
        limit(&mut datapath, &one, Some(RATE));
        drop(datapath);
        let (arrived, took) = flood(&one, &two);
        assert!(arrived <= most(took), "{arrived}");
        let mut datapath = world.open();
        assert_eq!(datapath.pod(one.v6).unwrap().sends, Some(RATE));
        assert_eq!(datapath.first_missing(one.ifindex).unwrap(), None);
        let (arrived, took) = flood(&one, &two);
        assert!(arrived <= most(took), "{arrived}");
        // Whoever takes it off is found out, and it comes back in front of the other.
        std::fs::remove_file(world.bpffs.join(format!("weft/links/limit-{}", one.ifindex))).unwrap();
        assert_eq!(datapath.first_missing(one.ifindex).unwrap(), Some("limit_pod"));
        // The kernel lets go of the link that had the name in its own time.
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) = datapath.attach_pod(one.ifindex) {
            assert!(Instant::now() < deadline, "{error}");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(datapath.first_missing(one.ifindex).unwrap(), None);
        let (arrived, took) = flood(&one, &two);
        assert!(arrived <= most(took), "{arrived}");
        for ip in [one.v4, one.v6] {
            datapath.remove_pod(ip).unwrap();
        }
        datapath.detach_pod(one.ifindex).unwrap();
        assert_eq!(datapath.attached().unwrap(), [two.ifindex].into());
    });
}
