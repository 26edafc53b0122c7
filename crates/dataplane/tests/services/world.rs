//! What the agent of the world's node does, and what is served and asked there.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use weft_dataplane::net::NetError;
use weft_dataplane::net::services::{self, Services};
use weft_model::compile::{Backend, Choice, Frontend, FrontendKind, Rule, SetKey, Source, Step, Target, WhenEmpty};
use weft_model::{ObjectKey, Protocol};

use crate::support::world::World;
use crate::support::{Netns, ip};

/// How long an answer may take where one is wanted.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long none has to come where none is wanted.
const SILENCE: Duration = Duration::from_millis(300);

impl World {
    /// Pods `a` and `b` serve on port 8080, and packets to services find their way to the node.
    pub(crate) fn with_servers() -> Self {
        let world = Self::new();
        world.outside.run(|| {
            for range in ["10.96.0.0/16", "203.0.113.0/24"] {
                ip(&format!("route add {range} via 10.89.0.10"));
            }
            for range in ["fd00:10:96::/112", "2001:db8::/64"] {
                ip(&format!("route add {range} via fd89::10"));
            }
        });
        world.node.run(|| {
            ip("route add default via 10.89.0.99");
            ip("route add default via fd89::99");
        });
        serve(&world.a, "a");
        serve(&world.b, "b");
        world
    }

    /// A new agent of the node makes the table so.
    pub(crate) fn agent(&self, services: &[Service]) -> Services {
        let all: Vec<Vec<Step>> = services.iter().map(Service::steps).collect();
        self.node.run(move || {
            let mut services = Services::open().unwrap();
            let service_cidrs = ["10.96.0.0/16", "fd00:10:96::/112"].map(|net| net.parse().unwrap());
            let pods = ["10.244.0.0/16", "fd00:10:244::/56"].map(|net| net.parse().unwrap());
            services.set_ranges(&service_cidrs, &pods).unwrap();
            for result in services.replace(&all) {
                result.unwrap();
            }
            services
        })
    }

    /// Takes a change in.
    pub(crate) fn apply(&self, mut services: Services, steps: Vec<Step>) -> (Services, Result<(), NetError>) {
        self.node.run(move || {
            let result = services.apply(&steps);
            (services, result)
        })
    }

    /// How many packets were refused for which reason.
    pub(crate) fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.node.run(|| services::refusals().unwrap()).into_iter().collect()
    }
}

/// Answers on port 8080, over TCP and UDP, with its name and the client's address, until the test ends.
fn serve(netns: &Netns, name: &'static str) {
    let (ready, listening) = std::sync::mpsc::channel();
    let also = ready.clone();
    netns.spawn(move || {
        let listener = TcpListener::bind("[::]:8080").unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming() {
            std::thread::spawn(move || answer(&mut stream.unwrap(), name));
        }
    });
    netns.spawn(move || {
        let socket = UdpSocket::bind("[::]:8080").unwrap();
        also.send(()).unwrap();
        let mut said = vec![0; 1 << 16];
        while let Ok((length, from)) = socket.recv_from(&mut said) {
            let answer = format!("{name} {} {length}", from.ip().to_canonical());
            drop(socket.send_to(answer.as_bytes(), from));
        }
    });
    listening.recv().unwrap();
    listening.recv().unwrap();
}

fn answer(stream: &mut TcpStream, name: &str) {
    let Ok(peer) = stream.peer_addr() else { return };
    let mut said = [0; 1];
    while let Ok(1) = stream.read(&mut said) {
        if writeln!(stream, "{name} {}", peer.ip().to_canonical()).is_err() {
            return;
        }
    }
}

/// Asks by TCP who answers, and as whom it sees the client.
pub(crate) fn ask(from: &Netns, at: &str) -> Result<String, ErrorKind> {
    let at: SocketAddr = at.parse().unwrap();
    let ask = move || -> io::Result<String> { ask_again(&mut connect(at)?) };
    from.run(move || ask().map_err(|error| error.kind()))
}

/// Connects, if that is possible at all.
pub(crate) fn connect(at: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&at, PATIENCE)
}

/// Asks over a connection that is there.
pub(crate) fn ask_again(stream: &mut TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"?")?;
    let mut said = String::new();
    let mut byte = [0; 1];
    while stream.read(&mut byte)? == 1 && byte != *b"\n" {
        said.push(byte[0].into());
    }
    Ok(said)
}

/// Asks by UDP, with so many bytes, from a new socket.
pub(crate) fn ask_udp(from: &Netns, at: &str, length: usize) -> Result<String, ErrorKind> {
    let at: SocketAddr = at.parse().unwrap();
    from.run(move || {
        let socket = UdpSocket::bind(if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        say(&socket, at, length)
    })
}

/// Says so much over a socket, and returns the answer.
pub(crate) fn say(socket: &UdpSocket, at: SocketAddr, length: usize) -> Result<String, ErrorKind> {
    let ask = || -> io::Result<String> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(at)?;
        socket.send(&vec![b'?'; length])?;
        let mut said = [0; 100];
        let length = socket.recv(&mut said)?;
        Ok(String::from_utf8_lossy(&said[..length]).into_owned())
    };
    ask().map_err(|error| error.kind())
}

/// True where a connection gets no answer at all.
pub(crate) fn silent(from: &Netns, at: &str) -> bool {
    let at: SocketAddr = at.parse().unwrap();
    from.run(move || {
        let error = TcpStream::connect_timeout(&at, SILENCE).unwrap_err();
        error.kind() == ErrorKind::TimedOut
    })
}

/// A Service of one port, 80, in one family.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    /// Addresses, and what they are; port 80, or the number of the node port.
    pub(crate) at: Vec<(&'static str, FrontendKind)>,
    pub(crate) all: Vec<&'static str>,
    /// Endpoints of this node, where the external policy is Local.
    pub(crate) local: Option<Vec<&'static str>>,
    pub(crate) affinity: Option<Duration>,
    pub(crate) source_ranges: Option<Vec<&'static str>>,
}

impl Service {
    /// With a cluster address.
    pub(crate) fn new(name: &'static str, cluster_ip: &'static str, backends: &[&'static str]) -> Self {
        Self {
            name,
            protocol: Protocol::Tcp,
            at: vec![(cluster_ip, FrontendKind::ClusterIp)],
            all: backends.to_vec(),
            local: None,
            affinity: None,
            source_ranges: None,
        }
    }

    pub(crate) fn key(&self, choice: Choice) -> SetKey {
        SetKey {
            service: Arc::new(ObjectKey::new("default", self.name)),
            port: 80,
            protocol: self.protocol,
            ipv6: self.at[0].0.contains(':'),
            choice,
        }
    }

    /// The endpoints alone.
    pub(crate) fn sets(&self) -> Vec<Step> {
        let backend = |ip: &&str| Backend {
            ip: ip.parse().unwrap(),
            port: 8080,
        };
        let set = |choice, ips: &[&str]| Step::Set(self.key(choice), ips.iter().map(backend).collect());
        let local = self.local.iter().map(|ips| set(Choice::Local, ips));
        std::iter::once(set(Choice::Cluster, &self.all)).chain(local).collect()
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        let target = |choice, when_empty, source| Target {
            set: self.key(choice),
            when_empty,
            source,
        };
        let all = |source| target(Choice::Cluster, WhenEmpty::Refuse, source);
        let put = |(ip, kind): &(&str, FrontendKind)| {
            let (ip, port) = match kind {
                FrontendKind::NodePort if self.at[0].0.contains(':') => ("::", ip.parse().unwrap()),
                FrontendKind::NodePort => ("0.0.0.0", ip.parse().unwrap()),
                _ => (*ip, 80),
            };
            let rule = Rule {
                inside: all(Source::Keep),
                outside: match self.local.is_some() && *kind != FrontendKind::ClusterIp {
                    true => target(Choice::Local, WhenEmpty::Drop, Source::Keep),
                    false => all(Source::Masquerade),
                },
                affinity: self.affinity,
                source_ranges: match (kind, &self.source_ranges) {
                    (FrontendKind::LoadBalancer, Some(nets)) => {
                        Some(nets.iter().map(|net| net.parse().unwrap()).collect())
                    }
                    _ => None,
                },
                kind: *kind,
            };
            let ip: IpAddr = ip.parse().unwrap();
            let protocol = self.protocol;
            Step::Put(Frontend { ip, port, protocol }, rule)
        };
        self.sets().into_iter().chain(self.at.iter().map(put)).collect()
    }

    /// What takes it away again.
    pub(crate) fn gone(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = self
            .steps()
            .into_iter()
            .map(|step| match step {
                Step::Put(frontend, _) => Step::Remove(frontend),
                Step::Set(key, _) => Step::Forget(key),
                other => other,
            })
            .collect();
        steps.sort_by_key(|step| matches!(step, Step::Forget(_)));
        steps
    }
}
