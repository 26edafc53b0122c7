//! Nodes on network segments of their own, with a router between that knows nothing of pods.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use weft_dataplane::net::tunnel::{Config, Here};
use weft_dataplane::net::{PodLink, Rtnl, name, pod, routes, sysctl};
use weft_model::compile::Routes;

use super::Netns;

/// Runs commands of `ip` in a namespace, one a line.
pub(crate) fn ip(netns: &Netns, commands: &str) {
    let commands = commands.to_owned();
    netns.run(move || {
        for command in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let done = Command::new("ip").args(command.split_whitespace()).output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success(), "ip {command}: {said}");
        }
    });
}

/// A router; it drops what does not come from where it would send to, as careful networks do.
pub(crate) fn router() -> Netns {
    let router = Netns::new();
    router.run(|| {
        sysctl::enable_forwarding().unwrap();
        for switch in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"] {
            sysctl::set(switch, "1").unwrap();
        }
    });
    router
}

/// A node on segment `number` of the router: `10.<number>.0.2` and `fd<number>::2`, with its default route.
pub(crate) fn node(router: &Netns, number: u8, mtu: u32) -> Netns {
    let node = Netns::new();
    node.run(|| {
        sysctl::enable_forwarding().unwrap();
        // As most distributions have it.
        sysctl::set("ipv4/conf/default/rp_filter", "1").unwrap();
    });
    let path = node.path();
    ip(
        router,
        &format!(
            "link add seg{number} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}
             address add 10.{number}.0.1/24 dev seg{number}
             address add fd{number}::1/64 dev seg{number} nodad
             link set seg{number} up",
            path.display()
        ),
    );
    ip(
        &node,
        &format!(
            "link set lo up
             address add 10.{number}.0.2/24 dev eth0
             address add fd{number}::2/64 dev eth0 nodad
             link set eth0 up
             route add default via 10.{number}.0.1
             -6 route add default via fd{number}::1"
        ),
    );
    node
}

/// The addresses of the node on this segment.
pub(crate) fn ips(number: u8) -> [IpAddr; 2] {
    [format!("10.{number}.0.2"), format!("fd{number}::2")].map(|ip| ip.parse().unwrap())
}

/// What the node on this segment knows about itself; peers know it by its first address.
pub(crate) fn here(node_ips: &[IpAddr], mtu: u32) -> Here {
    Here {
        mtu,
        node_ips: node_ips.to_vec(),
        local_ips: node_ips.to_vec(),
        ..Here::default()
    }
}

/// Puts these routes in force, and nothing else.
pub(crate) fn set_routes(node: &Netns, config: Config, here: &Here, wanted: &Routes) {
    let (here, wanted) = (here.clone(), wanted.clone());
    node.block_on(move || async move {
        let rtnl = Rtnl::connect().unwrap();
        let (failed, _) = routes::reconcile(&rtnl, &config, &here, &wanted).await.unwrap();
        assert!(failed.is_empty(), "{failed:?}");
        let (_, steps) = routes::reconcile(&rtnl, &config, &here, &wanted).await.unwrap();
        assert_eq!(steps, 0, "the second time there is nothing to do");
    });
}

/// A pod on a node.
pub(crate) fn add_pod(node: &Netns, id: &str, ips: &[&str], node_ips: &[IpAddr], mtu: u32) -> Netns {
    let pod = Netns::new();
    let (mac, host_mac) = name::macs(id, "eth0");
    let link = PodLink {
        netns: pod.path(),
        ifname: "eth0".into(),
        host_ifname: name::host_side(id, "eth0"),
        mac,
        host_mac,
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        mtu,
        node_ips: node_ips.to_vec(),
        limits: Default::default(),
    };
    node.block_on(move || async move { pod::set_up(&link).await.unwrap() });
    pod
}

/// Serves one connection at this address and takes all that comes; returns who came, and how many bytes.
pub(crate) fn serve(netns: &Netns, at: &str) -> std::thread::JoinHandle<(IpAddr, usize)> {
    let (ready, listening) = std::sync::mpsc::channel();
    let at: IpAddr = at.parse().unwrap();
    let server = netns.spawn(move || {
        let listener = TcpListener::bind((at, 7777)).unwrap();
        ready.send(()).unwrap();
        let (mut stream, peer) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut taken = vec![];
        stream.read_to_end(&mut taken).unwrap();
        stream.write_all(b"done").unwrap();
        (peer.ip(), taken.len())
    });
    listening.recv().unwrap();
    server
}

/// Sends this many bytes from one namespace to the other by TCP, has them confirmed, and returns who the server saw.
pub(crate) fn send(from: &Netns, to: &Netns, at: &str, bytes: usize) -> String {
    let server = serve(to, at);
    let address = (at.parse::<IpAddr>().unwrap(), 7777).into();
    from.run(move || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(20)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(&vec![7; bytes]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "done");
    });
    let (peer, taken) = server.join().unwrap();
    assert_eq!(taken, bytes);
    peer.to_string()
}

/// What `ping` with this many bytes of ICMP payload, which nobody may fragment, says; one that is answered in the end.
pub(crate) fn ping(from: &Netns, to: &str, payload: u32) -> (bool, String) {
    let to = to.to_owned();
    from.run(move || {
        let size = payload.to_string();
        let done = Command::new("ping")
            .args(["-n", "-M", "do", "-c", "3", "-i", "0.2", "-W", "5", "-s", &size, &to])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        (done.status.success(), text)
    })
}

/// Two routers with a link of this MTU between them; segment 81 is to be the first one's, 82 the second one's.
pub(crate) fn routers_with_link_between(mtu: u32) -> (Netns, Netns) {
    let (first, second) = (router(), router());
    let path = second.path();
    ip(
        &first,
        &format!(
            "link add mid mtu {mtu} type veth peer name mid mtu {mtu} netns {}
             address add 10.99.0.1/24 dev mid
             address add fd99::1/64 dev mid nodad
             link set mid up",
            path.display()
        ),
    );
    ip(
        &second,
        "address add 10.99.0.2/24 dev mid
         address add fd99::2/64 dev mid nodad
         link set mid up
         route add 10.81.0.0/24 via 10.99.0.1
         -6 route add fd81::/64 via fd99::1",
    );
    ip(
        &first,
        "route add 10.82.0.0/24 via 10.99.0.2
         -6 route add fd82::/64 via fd99::2",
    );
    (first, second)
}
