//! Real packets from outside: a client, a node with a pod, and a second node, each in a network namespace.
//!
//! The node's namespace is the test's own. Programs and maps are the kernel's; what the agent would write to the maps is
//! written by hand, so that nothing but the programs is tested.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{Array, HashMap};
use aya::programs::SchedClassifier;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use weft_packet::layout::{NODE_ADDRESS, name};
use weft_packet::{Addr, BackendKey, Config, Frontend, MemberKey, Plain, Port, Reason, Service, Set, SockAddr};

use super::pods::Pod;
use super::sockets::count;
use super::world::{World, add_address, ip, run};
use crate::bpf::Datapath;
use crate::bpf::datapath::load;
use crate::bpf::sys::{Target, create_link};
use crate::bpf::table::Raw;

const TCP: u8 = 6;
const UDP: u8 = 17;
const WAIT: Duration = Duration::from_secs(30);

/// A host on a link to the node: `10.<number>.0.2` and `fd00:<number>::2`, the node has 1.
struct Host {
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    ips: [IpAddr; 2],
}

impl Host {
    fn new(number: u8, mtu: u32) -> Self {
        let (jobs, todo) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        let [v4, v6] = [format!("10.{number}.0.2"), format!("fd00:{number}::2")];
        let host = Self {
            jobs,
            ips: [v4.parse().unwrap(), v6.parse().unwrap()],
        };
        let netns = host.run(|| format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid()));
        ip(&format!(
            "link add up{number} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {netns}"
        ));
        ip(&format!("link set up{number} up"));
        host.run(move || {
            ip("link set lo up");
            ip("link set eth0 up");
            ip(&format!("addr add {v4}/24 dev eth0"));
            add_address(&format!("{v6}/128"), "eth0");
            ip(&format!("-6 route add fd00:{number}::/64 dev eth0"));
            ip(&format!("route add default via 10.{number}.0.1"));
            ip(&format!("-6 route add default via fd00:{number}::1"));
        });
        ip(&format!("addr add 10.{number}.0.1/24 dev up{number}"));
        add_address(&format!("fd00:{number}::1/128"), &format!("up{number}"));
        ip(&format!("-6 route add fd00:{number}::/64 dev up{number}"));
        host
    }

    /// Runs something on the host.
    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.jobs.send(Box::new(move || done.send(job()).unwrap())).unwrap();
        result.recv().expect("the job on the host failed, see above")
    }
}

/// A node whose uplinks carry the hooks.
struct Node {
    datapath: Datapath,
    ebpf: Ebpf,
    client: Host,
    other: Host,
    pod: Pod,
    _links: Vec<OwnedFd>,
    _nobody: Empty,
}

/// A cgroup without processes.
struct Empty(std::path::PathBuf);

impl Drop for Empty {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.0).unwrap();
    }
}

impl Node {
    /// The link to the other node has this MTU.
    fn new(world: &World, mtu: u32) -> Self {
        // The hosts are this process's threads: the socket hooks must not see them.
        let nobody = Empty(world.cgroup.join("nobody"));
        std::fs::create_dir(&nobody.0).unwrap();
        let config = crate::bpf::Config {
            cgroup: nobody.0.clone(),
            ..world.config()
        };
        let mut datapath = Datapath::open(config).unwrap();
        for family in ["ipv4", "ipv6"] {
            std::fs::write(format!("/proc/sys/net/{family}/conf/all/forwarding"), "1").unwrap();
        }
        let (client, other) = (Host::new(5, 1500), Host::new(6, mtu));
        let pod = Pod::new(1, &mut datapath);
        let mut ebpf = load(&world.config().pin_dir.join("maps"), &[]).unwrap();
        let mut links = vec![];
        for (program, hook) in [("from_outside", 46), ("to_outside", 47)] {
            let program: &mut SchedClassifier = ebpf.program_mut(program).unwrap().try_into().unwrap();
            program.load().unwrap();
            for uplink in ["up5", "up6"] {
                let ifindex = nix::net::if_::if_nametoindex(uplink).unwrap();
                links.push(create_link(program.fd().unwrap().as_fd(), Target::Interface(ifindex), hook).unwrap());
            }
        }
        let mut node = Self {
            datapath,
            ebpf,
            client,
            other,
            pod,
            _links: links,
            _nobody: nobody,
        };
        for own in ["10.5.0.1", "10.6.0.1", "fd00:5::1", "fd00:6::1"] {
            node.write(name::NODE_ADDRESSES, addr(own), NODE_ADDRESS);
        }
        let config = Config {
            netns: 0,
            v4: addr("10.6.0.1"),
            v6: addr("fd00:6::1"),
            tunnel: 0,
            first_port: 10000,
            ports: 20000,
        };
        let mut map: Array<_, Raw<Config>> = node.ebpf.map_mut(name::CONFIG).unwrap().try_into().unwrap();
        map.set(0, Raw(config), 0).unwrap();
        node
    }

    fn write<K: Plain, V: Plain>(&mut self, map: &str, key: K, value: V) {
        let mut map: HashMap<_, Raw<K>, Raw<V>> = self.ebpf.map_mut(map).unwrap().try_into().unwrap();
        map.insert(Raw(key), Raw(value), 0).unwrap();
    }

    fn remove_member(&mut self, set: u32, backend: &SockAddr) {
        let mut map: HashMap<_, Raw<MemberKey>, Raw<u32>> =
            self.ebpf.map_mut(name::MEMBERS).unwrap().try_into().unwrap();
        map.remove(&Raw(MemberKey::new(set, backend))).unwrap();
    }

    fn set(&mut self, set: u32, backends: &[SockAddr]) {
        for (slot, backend) in (0..).zip(backends) {
            self.write(name::BACKENDS, BackendKey { set, slot }, *backend);
            self.write(name::MEMBERS, MemberKey::new(set, backend), 1u32);
        }
        let count = backends.len() as u32;
        self.write(name::SETS, set, Set { count, flags: 0 });
    }

    /// Makes a node port lead to these backends, for TCP and UDP.
    fn node_port(&mut self, port: u16, set: u32, flags: u32, backends: &[SockAddr]) {
        let family = backends.first().map_or(addr("0.0.0.0"), |backend| backend.addr);
        self.frontend(family.unspecified(), port, set, flags, backends);
    }

    /// The same with any address.
    fn frontend(&mut self, address: Addr, port: u16, set: u32, flags: u32, backends: &[SockAddr]) {
        self.set(set, backends);
        let service = Service {
            inside: set,
            outside: set,
            affinity: 0,
            flags,
        };
        for protocol in [TCP, UDP] {
            let frontend = Frontend::new(address, Port::from_host(port), protocol);
            self.write(name::FRONTENDS, frontend, service);
        }
    }

    /// Waits until something has been counted once more.
    fn counted(&self, reason: Reason, before: u64) {
        let end = Instant::now() + WAIT;
        while count(&self.datapath, reason) == before {
            assert!(
                Instant::now() < end,
                "{reason:?} was not counted: {:?}",
                self.datapath.counters()
            );
            std::thread::yield_now();
        }
    }
}

fn addr(text: &str) -> Addr {
    Addr::from(text.parse::<IpAddr>().unwrap())
}

/// The node by the address that the client knows, of this family: 0 for IPv4, 1 for IPv6.
fn node_at(family: usize, port: u16) -> SocketAddr {
    let node: [IpAddr; 2] = ["10.5.0.1".parse().unwrap(), "fd00:5::1".parse().unwrap()];
    SocketAddr::new(node[family], port)
}

fn backend(ip: IpAddr, port: u16) -> SockAddr {
    SockAddr::new(ip.into(), Port::from_host(port))
}

/// Serves TCP, a connection after the other: sends what it gets back behind who it is from. And UDP.
fn serve(at: SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut data = stream.peer_addr().unwrap().ip().to_string().into_bytes();
            data.push(b' ');
            stream.read_to_end(&mut data).unwrap();
            stream.write_all(&data).unwrap();
        }
    });
    let socket = UdpSocket::bind(at).unwrap();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 9000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let answer = [from.ip().to_string().as_bytes(), b" ", &buffer[..length]].concat();
            socket.send_to(&answer, from).unwrap();
        }
    });
}

/// Whom a server saw that got so much by TCP, and gave it back.
fn tcp(to: SocketAddr, length: usize) -> IpAddr {
    let mut stream = TcpStream::connect_timeout(&to, WAIT).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let sent: Vec<u8> = (0..length).map(|i| i as u8).collect();
    stream.write_all(&sent).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut got = vec![];
    stream.read_to_end(&mut got).unwrap();
    let space = got.iter().position(|b| *b == b' ').unwrap();
    assert!(got[space + 1..] == sent, "other bytes came back");
    String::from_utf8_lossy(&got[..space]).parse().unwrap()
}

fn client(to: SocketAddr) -> UdpSocket {
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket.connect(to).unwrap();
    socket
}

/// The same by UDP. The socket is connected: it takes answers from nobody else.
fn udp(socket: &UdpSocket, length: usize) -> IpAddr {
    let sent: Vec<u8> = (0..length).map(|i| i as u8).collect();
    socket.send(&sent).unwrap();
    let mut got = vec![0; 9000];
    let length = socket.recv(&mut got).unwrap();
    got.truncate(length);
    let space = got.iter().position(|b| *b == b' ').unwrap();
    assert!(got[space + 1..] == sent, "other bytes came back");
    String::from_utf8_lossy(&got[..space]).parse().unwrap()
}

#[test]
fn node_ports_lead_to_pods_to_other_nodes_and_to_the_node_itself() {
    run(
        module_path!(),
        "node_ports_lead_to_pods_to_other_nodes_and_to_the_node_itself",
        |world| {
            let mut node = Node::new(world, 1500);
            for family in [0, 1] {
                let set = 10 * family as u32;
                let (pod, other) = ([node.pod.v4, node.pod.v6][family], node.other.ips[family]);
                let own: IpAddr = [["10.6.0.1", "fd00:6::1"][family]][0].parse().unwrap();
                let client = node.client.ips[family];
                node.pod.run(move || serve(SocketAddr::new(pod, 8080)));
                node.other.run(move || serve(SocketAddr::new(other, 8080)));
                serve(SocketAddr::new(own, 8080));
                node.node_port(30080, set, 0, &[backend(pod, 8080)]);
                node.node_port(30081, set + 1, Service::KEEP_SOURCE, &[backend(pod, 8080)]);
                node.node_port(30082, set + 2, 0, &[backend(other, 8080)]);
                node.node_port(30083, set + 3, 0, &[backend(own, 8080)]);
                for (port, seen) in [(30080, own), (30081, client), (30082, own), (30083, client)] {
                    let to = node_at(family, port);
                    let by = node
                        .client
                        .run(move || (tcp(to, 1 << 20), udp(&super::outside::client(to), 100)));
                    assert_eq!(by, (seen, seen), "{to}");
                }
                // Datagrams in fragments, there and back.
                for port in [30080, 30081, 30082, 30083] {
                    let to = node_at(family, port);
                    node.client.run(move || udp(&super::outside::client(to), 5000));
                }
            }
            assert!(count(&node.datapath, Reason::Forwarded) > 100);
        },
    );
}

#[test]
fn errors_come_back_to_who_asked() {
    run(module_path!(), "errors_come_back_to_who_asked", |world| {
        let mut node = Node::new(world, 1300);
        for family in [0, 1] {
            let set = 10 * family as u32;
            let (pod, other) = ([node.pod.v4, node.pod.v6][family], node.other.ips[family]);
            node.node_port(30080, set, 0, &[backend(pod, 9)]);
            node.node_port(30081, set + 1, 0, &[backend(other, 9)]);
            node.node_port(30082, set + 2, 0, &[backend(other, 8080)]);
            node.other.run(move || serve(SocketAddr::new(other, 8080)));
            // Nobody listens: "port unreachable" from the pod, from the other node.
            for port in [30080, 30081] {
                let to = node_at(family, port);
                let error = node.client.run(move || {
                    let socket = client(to);
                    socket.send(b"x").unwrap();
                    socket.recv(&mut [0; 10]).unwrap_err().kind()
                });
                assert_eq!(error, ErrorKind::ConnectionRefused, "{to}");
            }
            // Too big for the link to the other node: the client learns it, and what it sends then gets through.
            let to = node_at(family, 30082);
            let by = node.client.run(move || {
                let socket = client(to);
                socket.send(&[0; 1400]).unwrap();
                let end = Instant::now() + WAIT;
                // "Message too long", once the answer is there.
                while socket.send(&[0; 1400]).is_ok() {
                    assert!(Instant::now() < end, "nobody said that it was too big");
                }
                udp(&super::outside::client(to), 1200)
            });
            assert_eq!(by, ["10.6.0.1", "fd00:6::1"][family].parse::<IpAddr>().unwrap());
            // Its way ends at this node, which says so: as traceroute wants it.
            let reached = count(&node.datapath, Reason::TimeExceeded);
            node.client.run(move || {
                let socket = client(to);
                if to.is_ipv4() {
                    setsockopt(&socket, sockopt::Ipv4Ttl, &1).unwrap();
                } else {
                    setsockopt(&socket, sockopt::Ipv6Ttl, &1).unwrap();
                }
                socket.send(b"x").unwrap();
            });
            node.counted(Reason::TimeExceeded, reached);
        }
    });
}

#[test]
fn refusals_and_drops_are_counted_by_their_names() {
    run(
        module_path!(),
        "refusals_and_drops_are_counted_by_their_names",
        |world| {
            let mut node = Node::new(world, 1500);
            node.node_port(30080, 0, 0, &[]);
            node.node_port(30081, 1, Service::OUTSIDE_DROPS, &[]);
            for (port, reason) in [(30080, Reason::NoEndpoints), (30081, Reason::NoLocalEndpoints)] {
                let to = node_at(0, port);
                node.client.run(move || client(to).send(b"x").unwrap());
                node.counted(reason, 0);
            }
        },
    );
}

#[test]
fn who_is_refused_learns_it_at_once() {
    run(module_path!(), "who_is_refused_learns_it_at_once", |world| {
        let mut node = Node::new(world, 1500);
        crate::net::refuse::ensure().unwrap();
        // Addresses of load balancers, which no host has: the stack would say that there is no way to them.
        for (set, ip) in [(0, "203.0.113.9"), (1, "fd00:113::9")] {
            node.frontend(addr(ip), 80, set, 0, &[]);
            let to = SocketAddr::new(ip.parse().unwrap(), 80);
            let errors = node.client.run(move || {
                let socket = client(to);
                socket.send(b"x").unwrap();
                [
                    TcpStream::connect_timeout(&to, WAIT).unwrap_err().kind(),
                    socket.recv(&mut [0; 10]).unwrap_err().kind(),
                ]
            });
            assert_eq!(errors, [ErrorKind::ConnectionRefused; 2], "{to}");
        }
        assert!(count(&node.datapath, Reason::NoEndpoints) >= 4);
    });
}

#[test]
fn a_flow_of_udp_leaves_a_backend_that_has_gone_at_once() {
    run(
        module_path!(),
        "a_flow_of_udp_leaves_a_backend_that_has_gone_at_once",
        |world| {
            let mut node = Node::new(world, 1500);
            let (pod, other) = (node.pod.v4, node.other.ips[0]);
            node.pod.run(move || serve(SocketAddr::new(pod, 8080)));
            node.other.run(move || serve(SocketAddr::new(other, 8080)));
            node.node_port(30080, 0, Service::KEEP_SOURCE, &[backend(pod, 8080)]);
            let to = node_at(0, 30080);
            let socket = node.client.run(move || {
                let socket = client(to);
                udp(&socket, 10);
                socket
            });
            // Another backend is there, and the old one still is one: the flow stays. Then it leaves.
            node.node_port(30080, 0, 0, &[backend(other, 8080)]);
            let keeps = node.client.ips[0];
            let (socket, by) = node.client.run(move || {
                let by = udp(&socket, 10);
                (socket, by)
            });
            assert_eq!(by, keeps);
            node.remove_member(0, &backend(pod, 8080));
            let by = node.client.run(move || udp(&socket, 10));
            assert_eq!(by, "10.6.0.1".parse::<IpAddr>().unwrap());
        },
    );
}
