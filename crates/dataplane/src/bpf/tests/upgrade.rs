//! An agent whose maps have another layout than those it finds: traffic goes on, and in the end nothing of the other
//! layout is left.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::pods::Pod;
use super::sockets::serve_tcp;
use super::world::{OneFrontend as _, World, backend, run, tcp};
use crate::bpf::{Datapath, PodLink};
use weft_model::compile::{Backend, Frontend};
use weft_packet::layout::Family;

/// What is pinned for maps.
fn pins(world: &World) -> BTreeSet<String> {
    let maps = std::fs::read_dir(world.config().pin_dir.join("maps")).unwrap();
    maps.map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Makes the maps of the running programs those of another layout: its version is in the names of their pins.
fn becomes_another(world: &World, version: &str) {
    let maps = world.config().pin_dir.join("maps");
    for pin in pins(world) {
        let (name, _) = pin.split_once('-').unwrap();
        std::fs::rename(maps.join(&pin), maps.join(format!("{name}-{version}"))).unwrap();
    }
}

/// Everything that a node wants.
struct Wanted {
    pods: Vec<(IpAddr, PodLink)>,
    frontend: Frontend,
    backends: Vec<Backend>,
}

/// One step of an agent.
type Step<'a> = Box<dyn Fn(&mut Datapath) + 'a>;

impl Wanted {
    fn of(datapath: &Datapath, frontend: Frontend, backends: Vec<Backend>) -> Self {
        let pods = datapath.pods().into_iter().collect();
        Self {
            pods,
            frontend,
            backends,
        }
    }

    /// What an agent does after its start, in its order; it may be killed after each step.
    fn steps(&self) -> Vec<Step<'_>> {
        let mut steps: Vec<Step<'_>> = vec![];
        for (ip, link) in &self.pods {
            steps.push(Box::new(|datapath| datapath.set_pod(*ip, *link).unwrap()));
        }
        for (_, link) in &self.pods {
            steps.push(Box::new(|datapath| datapath.attach_pod(link.ifindex).unwrap()));
        }
        steps.push(Box::new(|datapath| {
            datapath.set_frontend(&self.frontend, &self.backends).unwrap()
        }));
        steps.push(Box::new(|datapath| datapath.settle().unwrap()));
        steps
    }
}

/// Talks until it is told to stop, or the test fails, counting; any failure is a panic.
struct Traffic {
    stop: Arc<AtomicBool>,
    exchanges: Arc<AtomicU64>,
}

impl Traffic {
    fn new() -> Self {
        Self {
            stop: Arc::default(),
            exchanges: Arc::default(),
        }
    }

    fn job(&self, mut exchange: impl FnMut() + Send + 'static) -> impl FnOnce() + Send + 'static {
        let (stop, exchanges) = (self.stop.clone(), self.exchanges.clone());
        move || {
            while !stop.load(Relaxed) {
                exchange();
                exchanges.fetch_add(1, Relaxed);
                // There are only so many ports.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// Waits until it has gone well once more, from beginning to end.
    #[track_caller]
    fn goes_on(&self) {
        let from = self.exchanges.load(Relaxed);
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.exchanges.load(Relaxed) < from + 2 {
            assert!(Instant::now() < deadline, "the traffic has stopped");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Ends the traffic with the scope that holds it.
struct End<'a>([&'a Traffic; 2]);

impl Drop for End<'_> {
    fn drop(&mut self) {
        for traffic in self.0 {
            traffic.stop.store(true, Relaxed);
        }
    }
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(20)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// A server in a pod that sends back what it gets.
fn echo(pod: &Pod) -> SocketAddr {
    let to = SocketAddr::new(pod.v4, 7);
    let listener = pod.run(move || TcpListener::bind(to).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut byte = [0; 1];
                while stream.read(&mut byte).is_ok_and(|length| length == 1) {
                    let _ = stream.write_all(&byte);
                }
            });
        }
    });
    to
}

#[test]
fn traffic_goes_on_while_another_layout_takes_over() {
    run(
        module_path!(),
        "traffic_goes_on_while_another_layout_takes_over",
        |world| {
            world.own("10.2.0.1/32");
            let mut datapath = world.open();
            let [one, two] = [1, 2].map(|n| Pod::new(n, &mut datapath));
            let frontend = tcp("10.96.0.1", 80);
            let backends = vec![backend(serve_tcp("10.2.0.1:0"))];
            datapath.set_frontend(&frontend, &backends).unwrap();
            let wanted = Wanted::of(&datapath, frontend, backends);
            let ours = pins(world);
            let maps = Family::ALL.iter().map(|family| family.maps.len()).sum();
            assert_eq!(ours.len(), maps, "{ours:?}");

            // New connections to a service, and both a new and an old one between pods.
            let (to_service, between_pods) = (Traffic::new(), Traffic::new());
            let client = std::thread::spawn(to_service.job(|| {
                let mut stream = connect("10.96.0.1:80".parse().unwrap());
                assert_ne!(stream.read(&mut [0; 100]).unwrap(), 0);
            }));
            let server = echo(&two);
            let mut old = one.run(move || connect(server));
            let talk = between_pods.job(move || {
                for stream in [&mut old, &mut connect(server)] {
                    stream.write_all(b"x").unwrap();
                    stream.read_exact(&mut [0; 1]).unwrap();
                }
            });
            let mut datapath = std::thread::scope(|scope| {
                let end = End([&to_service, &between_pods]);
                let talking = scope.spawn(|| one.run(talk));
                let well = || [&to_service, &between_pods].map(Traffic::goes_on);
                well();
                let steps = wanted.steps();
                // Up and down again, and an agent dies after each of its steps.
                for died_after in 0..steps.len() {
                    drop(datapath);
                    becomes_another(world, if died_after % 2 == 0 { "0" } else { "999" });
                    let mut dying = world.open();
                    steps[..died_after].iter().for_each(|step| step(&mut dying));
                    well();
                    drop(dying);
                    datapath = world.open();
                    well();
                    steps.iter().for_each(|step| step(&mut datapath));
                    well();
                    assert_eq!(pins(world), ours, "what is left of the other layout");
                }
                drop(end);
                talking.join().expect("no connection between pods broke");
                datapath
            });
            client.join().expect("no connection to the service failed");
            // And it is our programs, with our maps, that are in charge.
            let frontends = datapath.frontends();
            datapath.remove_frontend(&wanted.frontend).unwrap();
            assert_eq!(frontends.len(), 1);
            let alone = TcpStream::connect_timeout(&"10.96.0.1:80".parse().unwrap(), Duration::from_millis(200));
            assert!(alone.is_err(), "the socket hooks look into other maps");
        },
    );
}

#[test]
fn what_did_not_change_is_kept() {
    run(module_path!(), "what_did_not_change_is_kept", |world| {
        let mut datapath = world.open();
        let _one = Pod::new(1, &mut datapath);
        datapath.set_frontend(&tcp("10.96.0.1", 80), &[]).unwrap();
        let (pods, frontends) = (datapath.pods(), datapath.frontends());
        drop(datapath);
        // Of the maps of pods alone; and what the very first version left, whose pins had no version in their names.
        let maps = world.config().pin_dir.join("maps");
        for pin in pins(world)
            .iter()
            .filter(|pin| pin.starts_with("PODS") || pin.starts_with("INTERFACES"))
        {
            let (name, _) = pin.split_once('-').unwrap();
            std::fs::rename(maps.join(pin), maps.join(name)).unwrap();
        }
        let mut datapath = world.open();
        assert_eq!(datapath.frontends(), frontends);
        assert!(datapath.pods().is_empty());
        for (ip, link) in &pods {
            datapath.set_pod(*ip, *link).unwrap();
            datapath.attach_pod(link.ifindex).unwrap();
        }
        datapath.settle().unwrap();
        assert!(pins(world).iter().all(|pin| pin.contains('-')));
        drop(datapath);
        let datapath = world.open();
        assert_eq!((datapath.pods(), datapath.frontends()), (pods, frontends));
    });
}
