//! Sockets that talk to services: real ones, through the hooks on the test's cgroup.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use weft_model::compile::Backend;
use weft_packet::Reason;

use super::world::{OneFrontend as _, backend, backend_at, run, tcp, udp};
use crate::bpf::{Config, Datapath, Error};

/// A server that answers each connection with its own address.
pub(super) fn serve_tcp(address: &str) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(address.to_string().as_bytes());
        }
    });
    address
}

/// A server that sends every datagram back with its own address before it.
fn serve_udp(address: &str) -> SocketAddr {
    let socket = UdpSocket::bind(address).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((n, client)) = socket.recv_from(&mut buffer) {
            let answer = [address.to_string().as_bytes(), b" ", &buffer[..n]].concat();
            socket.send_to(&answer, client).unwrap();
        }
    });
    address
}

pub(super) fn count(datapath: &Datapath, reason: Reason) -> u64 {
    datapath.counters().unwrap()[reason as usize].count
}

fn read(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn client(bind: &str) -> UdpSocket {
    let socket = UdpSocket::bind(bind).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

#[test]
fn tcp_reaches_a_backend_and_believes_it_is_the_service() {
    run(
        module_path!(),
        "tcp_reaches_a_backend_and_believes_it_is_the_service",
        |world| {
            world.own("10.1.0.1/32");
            world.own("fd00:1::1/128");
            let mut datapath = world.open();
            let (v4, v6) = (serve_tcp("10.1.0.1:0"), serve_tcp("[fd00:1::1]:0"));
            datapath.set_frontend(&tcp("10.96.0.1", 80), &[backend(v4)]).unwrap();
            datapath.set_frontend(&tcp("fd00:96::1", 80), &[backend(v6)]).unwrap();
            // The last is an IPv6 socket that names an IPv4 address.
            for (service, server) in [
                ("10.96.0.1:80", v4),
                ("[fd00:96::1]:80", v6),
                ("[::ffff:10.96.0.1]:80", v4),
            ] {
                let stream = TcpStream::connect(service).unwrap();
                assert_eq!(stream.peer_addr().unwrap().to_string(), service);
                assert_eq!(read(stream), server.to_string());
            }
            assert_eq!(count(&datapath, Reason::Translated), 3);
            // What is not a service is left alone.
            let stream = TcpStream::connect(v4).unwrap();
            assert_eq!(stream.peer_addr().unwrap(), v4);
            assert_eq!(count(&datapath, Reason::Translated), 3);
        },
    );
}

#[test]
fn udp_gets_its_answers_from_the_service() {
    run(module_path!(), "udp_gets_its_answers_from_the_service", |world| {
        world.own("10.1.0.1/32");
        world.own("fd00:1::1/128");
        let mut datapath = world.open();
        let (one, two, six) = (
            serve_udp("10.1.0.1:0"),
            serve_udp("10.1.0.1:0"),
            serve_udp("[fd00:1::1]:0"),
        );
        datapath.set_frontend(&udp("10.96.0.10", 53), &[backend(one)]).unwrap();
        datapath.set_frontend(&udp("10.96.0.11", 53), &[backend(two)]).unwrap();
        datapath.set_frontend(&udp("fd00:96::a", 53), &[backend(six)]).unwrap();
        let mut buffer = [0; 100];

        // Connected: as a resolver does it.
        for (bind, service, server) in [
            ("0.0.0.0:0", "10.96.0.10:53", one),
            ("[::]:0", "[fd00:96::a]:53", six),
            ("[::]:0", "[::ffff:10.96.0.10]:53", one),
        ] {
            let socket = client(bind);
            socket.connect(service).unwrap();
            assert_eq!(socket.peer_addr().unwrap().to_string(), service);
            for text in ["a", "b"] {
                socket.send(text.as_bytes()).unwrap();
                let (n, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(String::from_utf8_lossy(&buffer[..n]), format!("{server} {text}"));
                assert_eq!(from.to_string(), service);
            }
        }

        // Not connected: one socket, several services, answers in any order.
        let socket = client("[::]:0");
        let services = [
            ("[::ffff:10.96.0.10]:53", one),
            ("[::ffff:10.96.0.11]:53", two),
            ("[fd00:96::a]:53", six),
        ];
        for round in 0..3 {
            for (service, _) in &services {
                socket.send_to(format!("{round}").as_bytes(), service).unwrap();
            }
            let mut answers = HashMap::new();
            for _ in &services {
                let (n, from) = socket.recv_from(&mut buffer).unwrap();
                answers.insert(from.to_string(), String::from_utf8_lossy(&buffer[..n]).into_owned());
            }
            for (service, server) in &services {
                assert_eq!(answers[*service], format!("{server} {round}"));
            }
        }
        // What is not a service is left alone.
        let socket = client("[::]:0");
        socket.send_to(b"x", six).unwrap();
        assert_eq!(socket.recv_from(&mut buffer).unwrap().1, six);
    });
}

#[test]
fn a_service_without_endpoints_refuses() {
    run(module_path!(), "a_service_without_endpoints_refuses", |world| {
        let mut datapath = world.open();
        datapath.set_frontend(&tcp("10.96.0.1", 80), &[]).unwrap();
        datapath.set_frontend(&tcp("fd00:96::1", 80), &[]).unwrap();
        datapath.set_frontend(&udp("10.96.0.1", 53), &[]).unwrap();
        for service in ["10.96.0.1:80", "[fd00:96::1]:80", "[::ffff:10.96.0.1]:80"] {
            assert_eq!(
                TcpStream::connect(service).unwrap_err().kind(),
                ErrorKind::ConnectionRefused
            );
        }
        let socket = client("0.0.0.0:0");
        assert_eq!(
            socket.send_to(b"x", "10.96.0.1:53").unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
        assert_eq!(
            socket.connect("10.96.0.1:53").unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
        assert_eq!(count(&datapath, Reason::NoEndpoints), 5);
        // A port that the Service has not any more is refused as well, as long as the address is a Service's.
        datapath.remove_frontend(&tcp("10.96.0.1", 80)).unwrap();
        assert_eq!(
            TcpStream::connect("10.96.0.1:80").unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
        // Once forgotten it is an address like any other: here, one without a route.
        datapath.remove_frontend(&udp("10.96.0.1", 53)).unwrap();
        assert_eq!(
            TcpStream::connect("10.96.0.1:80").unwrap_err().kind(),
            ErrorKind::NetworkUnreachable
        );
    });
}

#[test]
fn connections_spread_over_the_backends_that_there_are() {
    run(
        module_path!(),
        "connections_spread_over_the_backends_that_there_are",
        |world| {
            world.own("10.1.0.1/32");
            let mut datapath = world.open();
            let servers: Vec<_> = (0..4).map(|_| serve_tcp("10.1.0.1:0")).collect();
            let spread = |n: usize| {
                let mut seen: HashMap<String, usize> = HashMap::new();
                for _ in 0..n {
                    *seen
                        .entry(read(TcpStream::connect("10.96.0.1:80").unwrap()))
                        .or_default() += 1;
                }
                seen
            };
            for members in [vec![0, 1, 2], vec![3], vec![2, 3, 0], vec![1, 2]] {
                let backends: Vec<_> = members.iter().map(|i| backend(servers[*i])).collect();
                datapath.set_frontend(&tcp("10.96.0.1", 80), &backends).unwrap();
                let seen = spread(60 * members.len());
                assert_eq!(seen.len(), members.len(), "{seen:?}");
                assert!(members.iter().all(|i| seen[&servers[*i].to_string()] > 20), "{seen:?}");
                let mut known = datapath.frontends()[&tcp("10.96.0.1", 80)].clone();
                known.sort();
                let mut wanted = backends.clone();
                wanted.sort();
                assert_eq!(known, wanted);
            }
        },
    );
}

#[test]
fn what_cannot_be_is_refused_whole() {
    run(module_path!(), "what_cannot_be_is_refused_whole", |world| {
        let config = Config {
            map_memory: 0,
            ..world.config()
        };
        let mut datapath = Datapath::open(config).unwrap();
        let frontend = tcp("10.96.0.1", 80);
        let mixed = datapath.set_frontend(&frontend, &[backend_at("fd00::1", 80)]);
        assert!(matches!(mixed, Err(Error::MixedFamilies { .. })));
        assert!(datapath.frontends().is_empty());

        let small = [backend_at("10.1.0.1", 80), backend_at("10.1.0.2", 80)];
        datapath.set_frontend(&frontend, &small).unwrap();
        let capacity = datapath.usage().iter().find(|u| u.map == "BACKENDS").unwrap().capacity as u32;
        let too_many: Vec<_> = (0..=capacity)
            .map(|n| Backend {
                ip: Ipv4Addr::from(0x0a02_0000 + n).into(),
                port: 80,
            })
            .collect();
        assert!(matches!(
            datapath.set_frontend(&frontend, &too_many),
            Err(Error::MapFull { .. })
        ));
        assert_eq!(datapath.frontends()[&frontend], small);
        let other = tcp("10.96.0.2", 80);
        assert!(matches!(
            datapath.set_frontend(&other, &too_many),
            Err(Error::MapFull { .. })
        ));
        assert_eq!(datapath.frontends().len(), 1);
        assert_eq!(datapath.usage().iter().find(|u| u.map == "BACKENDS").unwrap().used, 2);
    });
}

/// kubernetes#139628: a socket that stays connected to an endpoint that has gone sends into nothing for ever.
#[test]
fn a_udp_socket_whose_backend_has_gone_is_closed() {
    run(
        module_path!(),
        "a_udp_socket_whose_backend_has_gone_is_closed",
        |world| {
            world.own("10.1.0.1/32");
            let mut datapath = world.open();
            let servers = [serve_udp("10.1.0.1:0"), serve_udp("10.1.0.1:0")].map(backend);
            let frontend = udp("10.96.0.10", 53);
            for left in [&servers[1..], &[]] {
                datapath.set_frontend(&frontend, &servers[..1]).unwrap();
                datapath.take_released();
                let socket = client("0.0.0.0:0");
                socket.connect("10.96.0.10:53").unwrap();
                // One that speaks to the server itself, and is nobody's business.
                let other = client("0.0.0.0:0");
                other.connect((servers[0].ip, servers[0].port)).unwrap();
                let stale = datapath.stale_sockets().unwrap();
                assert_eq!(crate::net::sockets::close(&stale).unwrap(), 0);

                datapath.set_frontend(&frontend, left).unwrap();
                assert!(datapath.take_released());
                let stale = datapath.stale_sockets().unwrap();
                assert_eq!(crate::net::sockets::close(&stale).unwrap(), 1);
                let told = socket.recv(&mut [0; 10]).unwrap_err();
                assert_eq!(told.kind(), ErrorKind::ConnectionAborted);
                other.send(b"x").unwrap();
                other.recv(&mut [0; 100]).unwrap();
            }
            // What it takes to refuse packets is there once and for all.
            crate::net::refuse::ensure().unwrap();
            crate::net::refuse::ensure().unwrap();
        },
    );
}
