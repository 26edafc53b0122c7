//! Pods on one node: real packets between network namespaces, through the hooks on their veths.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use weft_packet::Reason;

use super::sockets::count;
use super::world::{World, add_address, ip, run};
use crate::bpf::{Datapath, PodLink};

/// A network namespace with a veth to the test's own, held by a thread that runs what it is sent.
pub(super) struct Pod {
    pub(super) v4: IpAddr,
    pub(super) v6: IpAddr,
    veth: String,
    pub(super) ifindex: u32,
    jobs: Option<mpsc::Sender<Box<dyn FnOnce() + Send>>>,
    thread: Option<JoinHandle<()>>,
}

impl Pod {
    pub(super) fn new(n: u8, datapath: &mut Datapath) -> Self {
        let (jobs, todo) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        let (v4, v6, veth) = (format!("10.1.0.{n}"), format!("fd00:1::{n}"), format!("veth{n}"));
        let (mac, host_mac) = ([2, 0, 0, 0, 0, n], [4, 0, 0, 0, 0, n]);
        let text = |mac: [u8; 6]| mac.map(|b| format!("{b:02x}")).join(":");
        let mut pod = Self {
            v4: v4.parse().unwrap(),
            v6: v6.parse().unwrap(),
            veth: veth.clone(),
            ifindex: 0,
            jobs: Some(jobs),
            thread: Some(thread),
        };
        let netns = pod.run(|| format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid()));
        ip(&format!(
            "link add {veth} address {} type veth peer name eth0 address {} netns {netns}",
            text(host_mac),
            text(mac)
        ));
        ip(&format!("link set {veth} up"));
        ip(&format!("addr add fe80::1/64 dev {veth} nodad"));
        for (address, length) in [(&v4, 32), (&v6, 128)] {
            ip(&format!("route add {address}/{length} dev {veth}"));
            ip(&format!(
                "neigh replace {address} lladdr {} dev {veth} nud permanent",
                text(mac)
            ));
        }
        pod.run(move || {
            ip("link set lo up");
            ip("link set eth0 up");
            add_address(&format!("{v4}/32"), "eth0");
            add_address(&format!("{v6}/128"), "eth0");
            for gateway in ["169.254.1.1", "fe80::1"] {
                ip(&format!(
                    "neigh replace {gateway} lladdr {} dev eth0 nud permanent",
                    text(host_mac)
                ));
            }
            ip("route add default via 169.254.1.1 dev eth0 onlink");
            ip("-6 route add default via fe80::1 dev eth0 onlink");
        });
        pod.ifindex = nix::net::if_::if_nametoindex(veth.as_str()).unwrap();
        let link = PodLink {
            ifindex: pod.ifindex,
            mac,
            host_mac,
            limited: false,
            sends: None,
        };
        datapath.set_pod(pod.v4, link).unwrap();
        datapath.set_pod(pod.v6, link).unwrap();
        datapath.attach_pod(pod.ifindex).unwrap();
        pod
    }

    /// Runs something inside the pod.
    pub(super) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.jobs
            .as_ref()
            .unwrap()
            .send(Box::new(move || done.send(job()).unwrap()))
            .unwrap();
        result.recv().expect("the job inside the pod failed, see above")
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let _ = self.thread.take().unwrap().join();
    }
}

fn two_pods(world: &World) -> (Datapath, Pod, Pod) {
    let mut datapath = world.open();
    let (one, two) = (Pod::new(1, &mut datapath), Pod::new(2, &mut datapath));
    (datapath, one, two)
}

pub(super) fn receiver(address: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 5000)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

#[test]
fn neighbours_talk_past_the_stack() {
    run(module_path!(), "neighbours_talk_past_the_stack", |world| {
        let (datapath, one, two) = two_pods(world);
        // Forwarding is off in the node's namespace, so nothing but the hooks can carry this.
        for (from, to) in [(one.v4, two.v4), (one.v6, two.v6)] {
            let listener = two.run(move || TcpListener::bind((to, 80)).unwrap());
            let server = std::thread::spawn(move || {
                let (mut stream, client) = listener.accept().unwrap();
                let mut data = Vec::new();
                stream.read_to_end(&mut data).unwrap();
                (data.len(), client.ip())
            });
            one.run(move || {
                let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, 80), Duration::from_secs(20)).unwrap();
                stream.write_all(&vec![7; 1 << 20]).unwrap();
            });
            assert_eq!(server.join().unwrap(), (1 << 20, from));
        }
        assert!(count(&datapath, Reason::LocalPod) > 20);
        assert_eq!(count(&datapath, Reason::Spoofed), 0);
    });
}

#[test]
fn a_neighbour_is_one_router_away() {
    run(module_path!(), "a_neighbour_is_one_router_away", |world| {
        let (datapath, one, two) = two_pods(world);
        let to = two.v4;
        let socket = two.run(move || receiver(to));
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Ipv4RecvTtl, &true).unwrap();
        let send = |ttl: u32| {
            one.run(move || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_ttl(ttl).unwrap();
                socket.send_to(b"x", (to, 5000)).unwrap();
            });
        };
        send(64);
        let mut buffer = [0; 10];
        let mut space = nix::cmsg_space!(i32);
        let mut data = [std::io::IoSliceMut::new(&mut buffer)];
        let message = nix::sys::socket::recvmsg::<()>(
            std::os::fd::AsRawFd::as_raw_fd(&socket.as_fd()),
            &mut data,
            Some(&mut space),
            nix::sys::socket::MsgFlags::empty(),
        );
        let message = message.unwrap();
        let ttl = message.cmsgs().unwrap().find_map(|c| match c {
            nix::sys::socket::ControlMessageOwned::Ipv4Ttl(ttl) => Some(ttl),
            _ => None,
        });
        assert_eq!(ttl, Some(63));
        // What has no hop left goes to the node, which is where traceroute sees a router.
        send(1);
        assert_eq!(count(&datapath, Reason::Expiring), 1);
    });
}

#[test]
fn a_pod_cannot_speak_for_another() {
    run(module_path!(), "a_pod_cannot_speak_for_another", |world| {
        let (datapath, one, two) = two_pods(world);
        for (to, spoofed) in [(two.v4, "10.1.0.66/32"), (two.v6, "fd00:1::66/128")] {
            let socket = two.run(move || receiver(to));
            let send = |from: String| {
                one.run(move || {
                    UdpSocket::bind((from.parse::<IpAddr>().unwrap(), 0))
                        .unwrap()
                        .send_to(b"x", (to, 5000))
                        .unwrap()
                });
            };
            let own = if to.is_ipv4() { one.v4 } else { one.v6 };
            send(own.to_string());
            assert_eq!(socket.recv_from(&mut [0; 10]).unwrap().1.ip(), own);
            let dropped = count(&datapath, Reason::Spoofed);
            one.run(move || add_address(spoofed, "eth0"));
            send(spoofed.split('/').next().unwrap().to_owned());
            assert_eq!(count(&datapath, Reason::Spoofed), dropped + 1);
            socket.set_nonblocking(true).unwrap();
            assert!(socket.recv_from(&mut [0; 10]).is_err());
        }
    });
}

#[test]
fn node_and_pod_talk_through_the_stack() {
    run(module_path!(), "node_and_pod_talk_through_the_stack", |world| {
        world.own("10.9.0.1/32");
        let (datapath, one, _two) = two_pods(world);
        let to = one.v4;
        let socket = one.run(move || receiver(to));
        let node = UdpSocket::bind("10.9.0.1:0").unwrap();
        node.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        node.send_to(b"x", (to, 5000)).unwrap();
        let (_, from) = socket.recv_from(&mut [0; 10]).unwrap();
        assert_eq!(from, node.local_addr().unwrap());
        one.run(move || socket.send_to(b"y", from).unwrap());
        assert_eq!(node.recv_from(&mut [0; 10]).unwrap().1.ip(), to);
        assert!(count(&datapath, Reason::ToStack) >= 1);
    });
}

#[test]
fn hooks_stay_when_the_agent_goes_and_go_with_the_pod() {
    run(
        module_path!(),
        "hooks_stay_when_the_agent_goes_and_go_with_the_pod",
        |world| {
            let (datapath, one, two) = two_pods(world);
            let to = two.v4;
            let socket = two.run(move || receiver(to));
            let ping = || {
                one.run(move || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", (to, 5000)).unwrap());
                socket.recv_from(&mut [0; 10]).is_ok()
            };
            drop(datapath);
            assert!(ping());
            let mut datapath = world.open();
            assert_eq!(datapath.attached().unwrap(), [one.ifindex, two.ifindex].into());
            assert!(ping());
            // Attaching what is attached changes nothing.
            datapath.attach_pod(one.ifindex).unwrap();
            let before = count(&datapath, Reason::LocalPod);
            assert!(ping());
            assert_eq!(count(&datapath, Reason::LocalPod), before + 1);

            datapath.detach_pod(one.ifindex).unwrap();
            datapath.detach_pod(one.ifindex).unwrap();
            assert_eq!(datapath.attached().unwrap(), [two.ifindex].into());
            // An interface that goes takes its hooks with it; the next agent lets go of the pins.
            ip(&format!("link del {}", two.veth));
            drop(datapath);
            assert!(world.open().attached().unwrap().is_empty());
        },
    );
}
