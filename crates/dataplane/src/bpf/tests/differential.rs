//! One walk, two places: on the same packet and the same maps, kernel and host give the same verdict, the same count
//! and the same packet.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr};

use aya::Ebpf;
use aya::maps::{HashMap as KernelMap, MapData, PerCpuHashMap};
use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use weft_packet::host::{HostMaps, HostPacket};
use weft_packet::layout::name;
use weft_packet::{Addr, Interface, Pod, Reason, Scratch, Verdict, pod};

use crate::bpf::datapath::{load, open_counters};
use crate::bpf::table::Raw;
use crate::bpf::tests::world::run;

/// Test runs come from the loopback interface: here it is a pod's veth.
pub(super) const LO: u32 = 1;
const CASES: u32 = 10_000;

const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// The Ethernet address of the pod behind an interface.
pub(super) fn mac(ifindex: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0, ifindex as u8]
}

fn pods() -> HashMap<Addr, Pod> {
    let pod = |ifindex: u32| Pod {
        ifindex,
        mac: mac(ifindex),
        host_mac: [4, 0, 0, 0, 0, ifindex as u8],
        limited: 0,
    };
    let list = [
        ("10.0.0.1", pod(LO)),
        ("fd00::1", pod(LO)),
        ("10.0.0.9", pod(9)),
        ("fd00::9", pod(9)),
        ("10.0.0.11", pod(11)),
    ];
    list.into_iter()
        .map(|(ip, pod)| (Addr::from(ip.parse::<IpAddr>().unwrap()), pod))
        .collect()
}

/// Addresses that the walk tells apart.
fn address4() -> impl Strategy<Value = [u8; 4]> {
    prop_oneof![
        4 => select(vec![[10, 0, 0, 1], [10, 0, 0, 9], [10, 0, 0, 11]]),
        1 => select(vec![[0, 0, 0, 0], [255; 4], [224, 0, 0, 1], [127, 0, 0, 1], [8, 8, 8, 8]]),
        1 => any::<[u8; 4]>(),
    ]
}

fn address6() -> impl Strategy<Value = [u8; 16]> {
    let known = [
        "fd00::1",
        "fd00::9",
        "fe80::ff:fe00:1",
        "fe80::1",
        "::",
        "ff02::1",
        "2001:db8::1",
        "::ffff:10.0.0.1",
        "::ffff:10.0.0.9",
    ];
    let known = known.map(|ip| ip.parse::<Ipv6Addr>().unwrap().octets()).to_vec();
    prop_oneof![
        4 => select(vec![known[0], known[1]]),
        3 => select(known),
        1 => any::<[u8; 16]>(),
    ]
}

fn ttl() -> impl Strategy<Value = u8> {
    prop_oneof![select(vec![0, 1, 2, 64, 255]), any::<u8>()]
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..max)
}

/// Checksums are arbitrary: what the walk does to them must not depend on their being right.
fn ipv4() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![6 => Just(0x45), 2 => 0x46u8..=0x4f, 1 => any::<u8>()];
    (
        first,
        any::<[u8; 7]>(),
        ttl(),
        any::<[u8; 3]>(),
        address4(),
        address4(),
        bytes(80),
    )
        .prop_map(|(first, middle, ttl, protocol_and_check, source, destination, rest)| {
            [
                &[first],
                &middle[..],
                &[ttl],
                &protocol_and_check,
                &source,
                &destination,
                &rest,
            ]
            .concat()
        })
}

fn ipv6() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![6 => Just(0x60), 1 => any::<u8>()];
    let next = prop_oneof![3 => select(vec![6, 17, 58, 44]), 1 => Just(0), 1 => any::<u8>()];
    (first, any::<[u8; 5]>(), next, ttl(), address6(), address6(), bytes(80)).prop_map(
        |(first, middle, next, hops, source, destination, rest)| {
            [&[first], &middle[..], &[next, hops], &source, &destination, &rest].concat()
        },
    )
}

/// Neighbour discovery, its relatives, and what is nearly one.
fn discovery() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![4 => select(vec![8u8, 16, 24, 32]), 1 => 0u8..40];
    let option = (select(vec![1u8, 2, 14]), hardware());
    (
        133u8..=138,
        length,
        address6(),
        address6(),
        address6(),
        option,
        any::<[u8; 8]>(),
    )
        .prop_map(|(kind, length, source, destination, target, (option, mac), more)| {
            let message = match length {
                // Where a router solicitation has its option.
                16 => [&[kind, 0, 0, 0, 0, 0, 0, 0, option, 1], &mac[..], &more].concat(),
                _ => [&[kind, 0, 0, 0, 0, 0, 0, 0], &target[..], &[option, 1], &mac, &more].concat(),
            };
            [
                &[0x60, 0, 0, 0, 0, length, 58, 255],
                &source[..],
                &destination,
                &message,
            ]
            .concat()
        })
}

/// The pod's Ethernet address, another's, or any.
fn hardware() -> impl Strategy<Value = [u8; 6]> {
    prop_oneof![8 => Just(mac(LO)), 1 => Just(mac(9)), 1 => any::<[u8; 6]>()]
}

fn arp() -> impl Strategy<Value = Vec<u8>> {
    let fixed = prop_oneof![9 => Just([0, 1, 8, 0, 6, 4]), 1 => any::<[u8; 6]>()];
    let operation = prop_oneof![9 => 1u8..3, 1 => any::<u8>()].prop_map(|operation| [0, operation]);
    (
        fixed,
        operation,
        hardware(),
        address4(),
        any::<[u8; 6]>(),
        address4(),
        bytes(20),
    )
        .prop_map(|(fixed, operation, mac, sender, nobody, target, rest)| {
            [&fixed, &operation[..], &mac, &sender, &nobody, &target, &rest].concat()
        })
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = |ethertype: u16| move |rest: Vec<u8>| (ethertype, rest);
    let inner = prop_oneof![
        8 => ipv4().prop_map(kind(0x0800)),
        8 => ipv6().prop_map(kind(0x86dd)),
        5 => discovery().prop_map(kind(0x86dd)),
        3 => arp().prop_map(kind(0x0806)),
        1 => (any::<u16>(), bytes(120)),
        1 => (select(vec![0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8]), bytes(120)),
    ];
    // Cut anywhere, one time in four.
    (
        any::<[u8; 6]>(),
        hardware(),
        inner,
        0usize..4,
        any::<prop::sample::Index>(),
    )
        .prop_map(|(to, from, (ethertype, rest), cut, at)| {
            let mut frame = [&to[..], &from, &ethertype.to_be_bytes(), &rest].concat();
            if cut == 0 {
                frame.truncate(at.index(frame.len() + 1));
            }
            // The kernel takes no test packet that ends with its Ethernet header.
            frame.resize(frame.len().max(15), 0);
            frame
        })
}

/// Whether the kernel takes a packet for a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    No,
}

/// Programs and their maps in the kernel.
pub(super) struct Kernel {
    pub(super) ebpf: Ebpf,
    counters: aya::maps::PerCpuArray<MapData, u64>,
}

impl Kernel {
    /// Loads these programs; what they count about the pod behind the loopback interface has a place.
    pub(super) fn load(maps: &std::path::Path, programs: &[&str]) -> Self {
        std::fs::create_dir(maps).unwrap();
        let mut ebpf = load(maps, &[]).unwrap();
        let mut macs: PerCpuHashMap<_, u32, Raw<Interface>> =
            ebpf.map_mut(name::INTERFACES).unwrap().try_into().unwrap();
        let own = vec![Raw(Interface::new(mac(LO))); aya::util::nr_cpus().unwrap()];
        macs.insert(LO, own.try_into().unwrap(), 0).unwrap();
        let counters = open_counters(&mut ebpf).unwrap();
        for program in programs {
            let program: &mut SchedClassifier = ebpf.program_mut(program).unwrap().try_into().unwrap();
            program.load().unwrap();
        }
        Self { ebpf, counters }
    }

    fn counts(&self) -> Vec<u64> {
        Reason::ALL
            .iter()
            .map(|r| self.counters.get(&(*r as u32), 0).unwrap().iter().sum())
            .collect()
    }

    /// What ended, counted for the pod.
    fn drops(&self) -> HashMap<(u32, Reason), u64> {
        let macs: PerCpuHashMap<_, u32, Raw<Interface>> = self.ebpf.map(name::INTERFACES).unwrap().try_into().unwrap();
        let cpus = macs.get(&LO, 0).unwrap();
        let count = |index: usize| cpus.iter().map(|Raw(interface)| interface.drops[index]).sum();
        let drops = Reason::DROPS.iter().enumerate();
        drops.map(|(index, reason)| ((LO, *reason), count(index))).collect()
    }

    /// Whether a program's answer, the packet after it and what it counts are those of the host, if the kernel takes the
    /// packet for a test.
    pub(super) fn agrees(
        &self,
        program: &str,
        frame: &[u8],
        verdict: Verdict,
        after: &[u8],
    ) -> Result<Taken, TestCaseError> {
        let before = self.counts();
        let Some((code, data)) = self.run(program, frame) else {
            return Ok(Taken::No);
        };
        let expected = match verdict {
            Verdict::Pass(_) | Verdict::Refuse(_) => TC_ACT_UNSPEC,
            Verdict::Deliver(..) | Verdict::Send(..) => TC_ACT_REDIRECT,
            Verdict::Drop(_) => TC_ACT_SHOT,
        };
        prop_assert_eq!(code, expected, "{}: {:?}", program, verdict);
        prop_assert_eq!(data, after, "{}: {:?}", program, verdict);
        let changed: Vec<_> = before
            .iter()
            .zip(self.counts())
            .zip(Reason::ALL)
            .filter(|((before, after), _)| *before != after)
            .map(|((before, after), reason)| (*reason, after - before))
            .collect();
        prop_assert_eq!(changed, [(verdict.reason(), 1)]);
        Ok(Taken::Yes)
    }

    /// The program's answer and the packet after it. Nothing where the kernel does not take the packet for a test.
    fn run(&self, program: &str, frame: &[u8]) -> Option<(u32, Vec<u8>)> {
        let mut out = vec![0; frame.len() + 64];
        let program: &SchedClassifier = self.ebpf.program(program).unwrap().try_into().unwrap();
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        match program.test_run(options) {
            Ok(result) => {
                out.truncate(result.data_size_out as usize);
                Some((result.return_value, out))
            }
            Err(ProgramError::SyscallError(e)) if e.io_error.kind() == ErrorKind::InvalidInput => None,
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn kernel_and_host_agree_on_random_packets() {
    run(module_path!(), "kernel_and_host_agree_on_random_packets", |world| {
        let mut kernel = Kernel::load(&world.bpffs.join("maps"), &["from_pod"]);
        let mut table: KernelMap<_, Raw<Addr>, Raw<Pod>> = kernel.ebpf.map_mut(name::PODS).unwrap().try_into().unwrap();
        for (addr, pod) in pods() {
            table.insert(Raw(addr), Raw(pod), 0).unwrap();
        }
        let maps = HostMaps {
            pods: pods(),
            macs: [(LO, mac(LO))].into(),
            ..HostMaps::default()
        };
        let mut runner = TestRunner::new(Config {
            cases: CASES,
            failure_persistence: None,
            ..Config::default()
        });
        runner
            .run(&frame(), |frame| {
                let mut packet = HostPacket {
                    ifindex: LO,
                    data: frame.clone(),
                    ..HostPacket::default()
                };
                let verdict = pod::from_pod(&mut packet, &maps, &mut Scratch::default());
                match kernel.agrees("from_pod", &frame, verdict, &packet.data)? {
                    Taken::Yes => {}
                    // It takes no IP packet that is shorter than its header.
                    Taken::No => prop_assert_eq!(verdict, Verdict::Drop(Reason::Truncated)),
                }
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{e}"));
        // The pod answers for what ended, but for what the kernel did not take.
        let expected = maps.drops.borrow();
        for (place, count) in kernel.drops() {
            let host = expected.get(&place).copied().unwrap_or_default();
            assert!(
                count == host || place.1 == Reason::Truncated && count < host,
                "{place:?}: {count}, {host}"
            );
        }
        // The packets were of every kind that the walk tells apart.
        let seen = maps.counters.borrow();
        for reason in Reason::ALL.iter().filter(|r| **r <= Reason::OnLink) {
            assert!(
                seen.get(reason).is_some_and(|n| *n > CASES as u64 / 200),
                "hardly any {reason:?}: {seen:?}"
            );
        }
    });
}
