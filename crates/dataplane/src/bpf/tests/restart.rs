//! What an agent leaves behind, and the next one finds.

use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use weft_packet::Reason;

use super::sockets::{count, serve_tcp};
use super::world::{OneFrontend as _, backend, backend_at, run, tcp, udp};
use crate::bpf::{Config, Datapath, Error, PodLink};

#[test]
fn the_next_agent_finds_everything() {
    run(module_path!(), "the_next_agent_finds_everything", |world| {
        let pod = PodLink {
            ifindex: 7,
            mac: [2, 0, 0, 0, 0, 7],
            host_mac: [4, 0, 0, 0, 0, 7],
            limited: false,
            sends: None,
        };
        let mut first = world.open();
        first
            .set_frontend(
                &tcp("10.96.0.1", 80),
                &[backend_at("10.1.0.1", 8080), backend_at("10.1.0.2", 8080)],
            )
            .unwrap();
        first.set_frontend(&udp("fd00:96::1", 53), &[]).unwrap();
        first.set_pod("10.1.0.1".parse().unwrap(), pod).unwrap();
        first.set_pod("fd00:1::1".parse().unwrap(), pod).unwrap();
        let (frontends, pods, usage) = (first.frontends(), first.pods(), first.usage());
        assert_eq!((frontends.len(), pods.len()), (2, 2));
        drop(first);

        let mut second = world.open();
        assert_eq!(
            (second.frontends(), second.pods(), second.usage()),
            (frontends, pods, usage)
        );
        // Sets made now do not collide with those found.
        second
            .set_frontend(&tcp("10.96.0.3", 80), &[backend_at("10.1.0.3", 8080)])
            .unwrap();
        second.remove_pod("10.1.0.1".parse().unwrap()).unwrap();
        let frontends = second.frontends();
        assert_eq!(
            frontends[&tcp("10.96.0.1", 80)],
            [backend_at("10.1.0.1", 8080), backend_at("10.1.0.2", 8080)]
        );
        drop(second);
        let third = world.open();
        assert_eq!(third.frontends(), frontends);
        assert_eq!(third.pods().len(), 1);
    });
}

#[test]
fn no_connection_notices_agents_coming_and_going() {
    run(
        module_path!(),
        "no_connection_notices_agents_coming_and_going",
        |world| {
            world.own("10.1.0.1/32");
            let servers = [
                serve_tcp("10.1.0.1:0"),
                serve_tcp("10.1.0.1:0"),
                serve_tcp("10.1.0.1:0"),
            ]
            .map(backend);
            let frontend = tcp("10.96.0.1", 80);
            let mut datapath = world.open();
            datapath.set_frontend(&frontend, &servers).unwrap();

            let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
            let client = std::thread::spawn({
                let (stop, made) = (stop.clone(), made.clone());
                move || {
                    while !stop.load(Relaxed) {
                        let mut stream = TcpStream::connect("10.96.0.1:80").unwrap();
                        assert_eq!(stream.peer_addr().unwrap().to_string(), "10.96.0.1:80");
                        assert_ne!(stream.read(&mut [0; 100]).unwrap(), 0);
                        made.fetch_add(1, Relaxed);
                    }
                }
            });
            for round in 0..20 {
                drop(datapath);
                datapath = world.open();
                // And its endpoints change all the while.
                for n in 0..50 {
                    let start = (round + n) % 3;
                    let members: Vec<_> = (0..=n % 3).map(|i| servers[(start + i) % 3]).collect();
                    datapath.set_frontend(&frontend, &members).unwrap();
                }
            }
            stop.store(true, Relaxed);
            client.join().expect("no connection failed");
            let made = made.load(Relaxed);
            assert!(made > 100, "only {made} connections were made meanwhile");
            // One hook at a time: each connection was translated once.
            assert_eq!(count(&datapath, Reason::Translated), made);
        },
    );
}

#[test]
fn a_place_that_will_not_do_is_named() {
    run(module_path!(), "a_place_that_will_not_do_is_named", |world| {
        let elsewhere = tempfile::tempdir().unwrap();
        let pin_dir = elsewhere.path().join("weft");
        let no_bpffs = Datapath::open(Config {
            pin_dir,
            ..world.config()
        });
        assert!(matches!(no_bpffs, Err(Error::NoBpffs { .. })));
        let no_cgroup = Datapath::open(Config {
            cgroup: elsewhere.path().to_owned(),
            ..world.config()
        });
        assert!(matches!(no_cgroup, Err(Error::NoCgroup2 { .. })));
        assert!(matches!(
            world.open().attach_pod(4711),
            Err(Error::NoInterface { ifindex: 4711 })
        ));
    });
}
