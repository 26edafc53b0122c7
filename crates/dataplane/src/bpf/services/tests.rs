//! Services in real maps: how many writes a change takes, and agents that die in the middle of one.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use weft_model::compile::{Backend, Frontend, FrontendKind, Rule, Step};
use weft_packet::Set;

use super::tables::Writes;
use super::{Services, key_of};
use crate::bpf::datapath::load;
use crate::bpf::tests::world::{World, backend_at, rule, run, set_of, steps, tcp, udp};
use crate::bpf::{Config, Datapath};

fn open(world: &World) -> Services {
    let maps = world.bpffs.join("maps");
    let _ = std::fs::create_dir(&maps);
    Services::open(&mut load(&maps, &[]).unwrap()).unwrap()
}

fn accept(services: &mut Services, steps: &[Step]) {
    let plan = services.plan(steps).unwrap();
    services.accept(plan);
}

fn apply(services: &mut Services, steps: &[Step]) {
    accept(services, steps);
    services.flush().unwrap();
}

fn backends(from: u32, to: u32) -> Vec<Backend> {
    let backend = |n: u32| Backend {
        ip: IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)),
        port: 80,
    };
    (from..to).map(backend).collect()
}

impl Writes {
    fn len(&self) -> usize {
        let mut all = usize::MAX;
        self.cut(&mut all);
        usize::MAX - all
    }

    /// The first so many writes, in their order.
    fn cut(&self, left: &mut usize) -> Self {
        fn take<T: Clone>(of: &[T], left: &mut usize) -> Vec<T> {
            let some = &of[..of.len().min(*left)];
            *left -= some.len();
            some.to_vec()
        }
        Self {
            appended: take(&self.appended, left),
            members: take(&self.members, left),
            tables: take(&self.tables, left),
            ranges: take(&self.ranges, left),
            grown: take(&self.grown, left),
            replaced: take(&self.replaced, left),
            shrunk: take(&self.shrunk, left),
            frontends: take(&self.frontends, left),
            gone_frontends: take(&self.gone_frontends, left),
            gone_sets: take(&self.gone_sets, left),
            gone_tables: take(&self.gone_tables, left),
            gone_backends: take(&self.gone_backends, left),
            gone_members: take(&self.gone_members, left),
            gone_ranges: take(&self.gone_ranges, left),
        }
    }
}

/// A Service with everything: an affinity, a balancer's address with ranges, many frontends.
fn everything(backends: Vec<Backend>, ranges: &[&str]) -> Vec<Step> {
    let balancer = Rule {
        affinity: Some(Duration::from_secs(10)),
        source_ranges: Some(ranges.iter().map(|net| net.parse().unwrap()).collect()),
        ..rule(&tcp("10.96.0.1", 80), FrontendKind::LoadBalancer)
    };
    let mut all = steps(&tcp("10.96.0.1", 80), FrontendKind::ClusterIp, &backends);
    all.push(Step::Put(tcp("192.0.2.1", 80), balancer));
    all
}

fn gone() -> Vec<Step> {
    let cluster = tcp("10.96.0.1", 80);
    vec![
        Step::Remove(cluster),
        Step::Remove(tcp("192.0.2.1", 80)),
        Step::Forget(set_of(&cluster)),
    ]
}

/// Everything that the maps hold, as far as it can be compared: the numbers of sets are not always the same.
fn contents(services: &Services) -> Vec<usize> {
    let tables = &services.tables;
    vec![
        tables.frontends.entries().unwrap().len(),
        tables.sets.entries().unwrap().len(),
        tables.backends.entries().unwrap().len(),
        tables.members.entries().unwrap().len(),
        tables.maglev.entries().unwrap().len(),
        services
            .ranges
            .scopes()
            .iter()
            .flat_map(|scope| services.ranges.of(*scope))
            .count(),
    ]
}

/// An agent dies after any of its writes: the next one finds what works, goes on, and leaves nothing behind.
#[test]
fn a_change_that_was_cut_short_is_continued() {
    run(module_path!(), "a_change_that_was_cut_short_is_continued", |world| {
        let frontend = tcp("10.96.0.1", 80);
        let changes = [
            (
                everything(backends(0, 3), &["10.0.0.0/8"]),
                everything(backends(1, 7), &["10.0.0.0/9", "fd00::/8"]),
            ),
            (
                everything(backends(0, 7), &["10.0.0.0/8"]),
                everything(backends(5, 8), &["10.0.0.0/8"]),
            ),
            (
                everything(backends(0, 4), &[]),
                everything(backends(4, 8), &["10.0.0.0/8"]),
            ),
            (
                everything(backends(0, 4), &["10.0.0.0/8"]),
                everything(vec![], &["10.0.0.0/8"]),
            ),
            (
                steps(&frontend, FrontendKind::ClusterIp, &backends(0, 4)),
                everything(backends(0, 2), &[]),
            ),
            (everything(backends(0, 4), &["10.0.0.0/8"]), gone()),
        ];
        for (before, after) in &changes {
            let mut died_after = 0;
            loop {
                let mut services = open(world);
                apply(&mut services, before);
                accept(&mut services, after);
                let writes = services.writes.len();
                let mut left = died_after;
                services
                    .writes
                    .cut(&mut left)
                    .run(&mut services.tables, &mut services.ranges)
                    .unwrap();
                drop(services);

                let mut next = open(world);
                for (_, found) in next.all() {
                    let known = |b| [before, after].iter().any(|steps| backends_of(steps).contains(b));
                    assert!(found.iter().all(known));
                    assert!(!found.is_empty() || backends_of(after).is_empty());
                }
                let wanted: Vec<Step> = after
                    .iter()
                    .filter(|step| !matches!(step, Step::Forget(_)))
                    .cloned()
                    .collect();
                apply(&mut next, &wanted);
                let frontends = after.iter().filter_map(|step| match step {
                    Step::Put(frontend, _) => Some(*frontend),
                    _ => None,
                });
                next.retain(&frontends.collect()).unwrap();
                for (_, mut found) in next.all() {
                    found.sort();
                    assert_eq!(found, backends_of(after));
                }
                let continued = contents(&next);
                apply(&mut next, &gone());
                assert_eq!(contents(&next), [0; 6], "left behind, died after {died_after}");
                apply(&mut next, &wanted);
                assert_eq!(continued, contents(&next), "died after {died_after} of {writes}");
                apply(&mut next, &gone());
                if died_after == writes {
                    break;
                }
                died_after += 1;
            }
            assert!(died_after > 3, "nothing was cut short");
        }
    });
}

fn backends_of(steps: &[Step]) -> Vec<Backend> {
    let set = steps.iter().find_map(|step| match step {
        Step::Set(_, backends) => Some(backends.clone()),
        _ => None,
    });
    set.unwrap_or_default()
}

/// One endpoint among ten and among a hundred thousand takes the same few writes, with any number of frontends.
#[test]
fn a_change_takes_as_many_writes_as_it_has_differences() {
    run(
        module_path!(),
        "a_change_takes_as_many_writes_as_it_has_differences",
        |world| {
            let mut datapath = Datapath::open(world.config()).unwrap();
            let mut apply = |steps: &[Step]| {
                let before = datapath.service_writes();
                datapath.apply_service(steps).unwrap();
                datapath.service_writes() - before
            };
            let mut costs = vec![];
            for count in [10, 100_000] {
                let frontend = tcp("10.96.0.1", 80);
                let set = |backends| [Step::Set(set_of(&frontend), backends)];
                apply(&steps(&frontend, FrontendKind::ClusterIp, &backends(0, count)));
                for port in 1000..1010 {
                    apply(&[Step::Put(
                        tcp("192.0.2.1", port),
                        rule(&frontend, FrontendKind::ClusterIp),
                    )]);
                }
                let mut fewer = backends(0, count);
                fewer.remove(4);
                costs.push([
                    apply(&set(backends(0, count + 1))),
                    apply(&set(backends(0, count))),
                    apply(&set(fewer)),
                    apply(&set(backends(0, count))),
                    apply(&set(backends(0, count))),
                ]);
            }
            // A slot and the size; the size and the slot; the last one moves as well; and nothing.
            assert_eq!(costs, [[2, 2, 3, 2, 0]; 2]);
        },
    );
}

/// A balancer's set has a table as well, one of UDP its members: one write more for each.
#[test]
fn what_a_set_is_used_for_decides_what_is_written() {
    run(
        module_path!(),
        "what_a_set_is_used_for_decides_what_is_written",
        |world| {
            let mut services = open(world);
            let flags = |services: &Services, frontend: &Frontend| {
                let service = services.tables.frontends.get(key_of(frontend)).unwrap().unwrap();
                services.tables.sets.get(service.inside).unwrap().unwrap().flags
            };
            let (cluster, balancer, dns) = (tcp("10.96.0.1", 80), tcp("192.0.2.1", 80), udp("10.96.0.10", 53));
            apply(
                &mut services,
                &steps(&cluster, FrontendKind::ClusterIp, &backends(0, 3)),
            );
            apply(
                &mut services,
                &steps(&balancer, FrontendKind::LoadBalancer, &backends(0, 3)),
            );
            apply(&mut services, &steps(&dns, FrontendKind::ClusterIp, &backends(0, 3)));
            assert_eq!(flags(&services, &cluster), 0);
            assert_eq!(flags(&services, &balancer), Set::MAGLEV);
            assert_eq!(flags(&services, &dns), Set::MEMBERS);
            // An address of the Service's own, and one that may be anybody's.
            assert_eq!(contents(&services)[0], 3 + 2);
            // A second frontend makes more of the set that is there; one endpoint leaves nothing to choose.
            let balanced = Rule {
                affinity: Some(Duration::from_secs(1)),
                ..rule(&cluster, FrontendKind::NodePort)
            };
            apply(&mut services, &[Step::Put(tcp("0.0.0.0", 30080), balanced)]);
            assert_eq!(flags(&services, &cluster), Set::MAGLEV | Set::MEMBERS);
            assert_eq!(contents(&services)[3..5], [6, 2]);
            apply(&mut services, &[Step::Set(set_of(&cluster), backends(0, 1))]);
            assert_eq!(flags(&services, &cluster), Set::MEMBERS);
            assert_eq!(contents(&services)[3..5], [4, 1]);
        },
    );
}

/// Maps that get full are replaced by larger ones, which hold the same, and which the programs look into.
#[test]
fn maps_grow_before_they_are_full() {
    run(module_path!(), "maps_grow_before_they_are_full", |world| {
        let mut datapath = Datapath::open(world.config()).unwrap();
        let usage = |datapath: &Datapath| datapath.usage().into_iter().find(|u| u.map == "BACKENDS").unwrap();
        let small = usage(&datapath).capacity;
        let most = (small * 4 / 5) as u32;
        let (old, new) = (tcp("10.96.0.1", 80), tcp("10.96.0.2", 80));
        datapath
            .apply_service(&steps(&old, FrontendKind::ClusterIp, &backends(0, most)))
            .unwrap();
        assert_eq!(usage(&datapath).capacity, small);
        let local = [backend_at("127.0.0.1", 1)];
        datapath
            .apply_service(&steps(&new, FrontendKind::ClusterIp, &local))
            .unwrap();
        assert_eq!(
            (usage(&datapath).used, usage(&datapath).capacity),
            (most as usize + 1, small * 2)
        );
        let refused = std::net::TcpStream::connect("10.96.0.2:80").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let before = datapath.frontends();
        drop(datapath);

        // One that died while it filled a larger map left one that is no good.
        let pins = world.config().pin_dir.join("maps");
        let pin = std::fs::read_dir(&pins).unwrap().map(|pin| pin.unwrap().path());
        let pin = pin
            .into_iter()
            .find(|pin| pin.to_string_lossy().contains("BACKENDS"))
            .unwrap();
        drop(load(&pins, &[("BACKENDS", 1 << 20)]).unwrap());
        assert!(
            pin.with_file_name(format!("{}-larger", pin.file_name().unwrap().display()))
                .exists()
        );
        let mut datapath = Datapath::open(world.config()).unwrap();
        assert_eq!(
            std::fs::read_dir(&pins)
                .unwrap()
                .filter(|pin| format!("{pin:?}").contains("-larger"))
                .count(),
            0
        );
        assert_eq!(usage(&datapath).capacity, small * 2);
        assert_eq!(datapath.frontends(), before);
        // Where the memory is not there, what does not fit is refused, and the rest goes on.
        let mut poor = Datapath::open(Config {
            map_memory: 0,
            ..world.config()
        })
        .unwrap();
        let room = (small * 2) as u32;
        poor.apply_service(&steps(
            &tcp("10.96.0.3", 80),
            FrontendKind::ClusterIp,
            &backends(0, room),
        ))
        .unwrap_err();
        assert_eq!(poor.frontends(), before);
        datapath
            .apply_service(&steps(&new, FrontendKind::ClusterIp, &[]))
            .unwrap();
    });
}
