//! The texts, as the real tools and people take them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;
use crate::service::{IpMode, LoadBalancerIp};
use crate::testing::{endpoint, node, service as a_service, slice};
use crate::{Change, ServiceType, SessionAffinity, State, TrafficPolicy, compile};

/// A Service of every kind of address, with two endpoints, one of them on this node.
fn everything(ipv6: bool) -> (Service, Forwarding, Here) {
    let (cluster, external, balanced, near, far) = match ipv6 {
        false => ("10.96.0.5", "192.0.2.9", "203.0.113.1", "10.244.0.1", "10.244.2.1"),
        true => ("fd00::5", "2001:db8::9", "2001:db8::1", "fd01::1", "fd02::1"),
    };
    let mut service = a_service("a", cluster);
    service.type_ = ServiceType::LoadBalancer;
    service.external_ips = vec![external.parse().unwrap()];
    service.load_balancer_ips = vec![LoadBalancerIp {
        ip: balanced.parse().unwrap(),
        mode: IpMode::Vip,
    }];
    service.load_balancer_source_ranges = ["198.51.100.0/24", "2001:db8:1::/64"]
        .map(|range| range.parse().unwrap())
        .to_vec();
    service.ports[0].node_port = Some(30080);
    service.external_traffic_policy = TrafficPolicy::Local;
    service.session_affinity = SessionAffinity::ClientIp(std::time::Duration::from_secs(10_800));
    let mut near = endpoint(near);
    near.node_name = Some("n1".into());
    let here = Here {
        addresses: vec!["10.89.0.11".parse().unwrap(), "fd89::b".parse().unwrap()],
        pods: vec!["10.244.0.0/23".parse().unwrap(), "fd01::/64".parse().unwrap()],
    };
    let forwarding = compiled(&service, vec![near, endpoint(far)]);
    (service, forwarding, here)
}

fn compiled(service: &Service, endpoints: Vec<crate::Endpoint>) -> Forwarding {
    let mut state = State::new("n1");
    state.apply(Change::Node(node("n1")));
    state.apply(Change::Service(service.clone()));
    state.apply(Change::EndpointSlice(slice("s", "a", endpoints)));
    compile::service(&state, &service.key)
}

/// Whether the real tool, in a network namespace of its own, takes this text for what it would install.
fn accepted(tool: &[&str], text: &str) {
    let mut command = Command::new("unshare");
    command
        .arg("--net")
        .args(tool)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{tool:?}: {}\n{text}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_real_tools_take_every_text() {
    for ipv6 in [false, true] {
        let (service, forwarding, here) = everything(ipv6);
        let empty = compiled(&service, vec![]);
        let restore = if ipv6 { "ip6tables-restore" } else { "iptables-restore" };
        for forwarding in [&forwarding, &empty] {
            accepted(
                &[restore, "--test"],
                &iptables(&service, forwarding, ipv6, &here).unwrap(),
            );
            accepted(
                &["nft", "-c", "-f", "-"],
                &nftables(&service, forwarding, ipv6, &here).unwrap(),
            );
        }
        assert_eq!(iptables(&service, &forwarding, !ipv6, &here), None);
    }
}

#[test]
fn one_in_two_and_then_the_rest() {
    let service = a_service("a", "10.96.0.5");
    let forwarding = compiled(
        &service,
        vec![endpoint("10.244.0.1"), endpoint("10.244.0.2"), endpoint("10.244.0.3")],
    );
    let text = iptables(&service, &forwarding, false, &Here::default()).unwrap();
    let choices: Vec<&str> = text.lines().filter(|line| line.contains(" -> ")).collect();
    assert_eq!(choices.len(), 3);
    assert!(choices[0].contains("--probability 0.3333333333"), "{text}");
    assert!(choices[1].contains("--probability 0.5000000000"), "{text}");
    assert!(!choices[2].contains("probability"), "{text}");
    let text = nftables(&service, &forwarding, false, &Here::default()).unwrap();
    assert!(text.contains("numgen random mod 3 vmap { 0 : goto endpoint-"), "{text}");
}

/// The name is a hash of `default/kubernetes:https` and `tcp`: the same in every cluster.
#[test]
fn chains_are_called_as_kube_proxy_calls_them() {
    assert_eq!(
        name::chain("SVC", "default/kubernetes:https", "tcp"),
        "KUBE-SVC-NPX46M4PTMTKRN6Y"
    );
    assert_eq!(
        name::chain("SVC", "kube-system/kube-dns:dns", "udp"),
        "KUBE-SVC-TCOU7JCQXEZGVUNU"
    );
}

#[test]
fn virtual_servers_of_every_address() {
    let (service, forwarding, here) = everything(false);
    let text = ipvs(&service, &forwarding, false, &here).unwrap();
    assert_eq!(text.matches("-A -t ").count(), 4);
    assert!(
        text.contains("-A -t 10.89.0.11:30080 -s rr -p 10800\n-a -t 10.89.0.11:30080 -r 10.244.0.1:8080 -m -w 1\n"),
        "{text}"
    );
    assert!(
        !text.contains("-a -t 10.89.0.11:30080 -r 10.244.2.1:8080"),
        "the policy is Local: {text}"
    );
}

#[test]
fn why_an_endpoint_is_out() {
    let service = a_service("a", "10.96.0.5");
    let mut going = endpoint("10.244.0.2");
    (going.ready, going.terminating) = (false, true);
    let mut unready = endpoint("10.244.0.3");
    (unready.ready, unready.serving) = (false, false);
    let endpoints = vec![endpoint("10.244.0.1"), going, unready];
    let forwarding = compiled(&service, endpoints.clone());
    let verdicts = verdicts(&forwarding, &service.ports[0], &[slice("s", "a", endpoints)], "n1");
    let told: Vec<(bool, &str)> = verdicts
        .iter()
        .map(|v| (!v.chosen.is_empty(), v.why.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (true, "ready"),
            (false, "terminating, and there are others"),
            (false, "not ready")
        ]
    );
}
