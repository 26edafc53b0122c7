//! Clusters with one address family only, and what a cluster with both tells about both.

use std::net::IpAddr;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::{Lab, eventually, test, weft};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("families::ipv6_alone", ipv6_alone),
        test("families::ipv4_alone", ipv4_alone),
        test("families::both_are_told", both_are_told),
    ]
}

fn ipv6_alone() {
    let lab = Lab::own("v6", &["--ip-family", "ipv6", "--nodes", "2"]);
    only_one_family(&lab, |ip| ip.is_ipv6());
    let namespace = lab.namespace("v6");
    namespace.pod("a", Some("node-1"));
    let resolv = namespace.exec("a", &["cat", "/etc/resolv.conf"]).good();
    assert!(resolv.contains("nameserver fd00:10:96::a\n"), "{resolv}");
    let api = namespace.exec("a", &["printenv", "KUBERNETES_PORT"]).good();
    assert_eq!(api.trim(), "tcp://[fd00:10:96::1]:443");

    let service = |fields: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{{fields}, selector: {{app: a}}, ports: [{{port: 80}}]}}\n"
        )
    };
    for (fields, complaint) in [
        (
            "ipFamilies: [IPv4]",
            "spec.ipFamilies[0]: Invalid value: \"IPv4\": not configured on this cluster",
        ),
        (
            "ipFamilyPolicy: RequireDualStack",
            "this cluster is not configured for dual-stack services",
        ),
    ] {
        let said = namespace.kubectl_stdin(&["apply", "-f", "-"], &service(fields)).bad();
        assert!(said.contains(complaint), "{said}");
    }
    namespace.apply(&service("ipFamilyPolicy: PreferDualStack"));
    assert_eq!(namespace.field("service/s", ".spec.ipFamilies"), "[\"IPv6\"]");
}

fn ipv4_alone() {
    let lab = Lab::own("v4", &["--ip-family", "ipv4", "--nodes", "2"]);
    only_one_family(&lab, |ip| ip.is_ipv4());
}

/// Every address of nodes, pods and Services is of the family; and all of it works.
fn only_one_family(lab: &Lab, expected: fn(&IpAddr) -> bool) {
    let said = weft(&["lab", "check", "--name", lab.name(), "-o", "json"]).good();
    let checks: Value = serde_json::from_str(&said).unwrap();
    assert!(
        checks.as_array().unwrap().iter().all(|check| check["ok"] == true),
        "{said}"
    );
    eventually("status is healthy", || weft(&["status", "--lab", lab.name()]).ok);
    for (kind, path) in [
        ("nodes", "{.items[*].status.addresses[?(@.type=='InternalIP')].address}"),
        ("nodes", "{range .items[*].spec.podCIDRs[*]}{@}{' '}{end}"),
        ("pods", "{.items[*].status.podIPs[*].ip}"),
        ("pods", "{.items[*].status.hostIPs[*].ip}"),
        ("services", "{.items[*].spec.clusterIPs[*]}"),
        ("endpointslices", "{.items[*].endpoints[*].addresses[*]}"),
    ] {
        let said = lab
            .kubectl(&["get", kind, "-A", "-o", &format!("jsonpath={path}")])
            .good();
        assert!(!said.trim().is_empty(), "{kind} {path}");
        for word in said.split_whitespace() {
            let ip = word.split('/').next().unwrap().parse().unwrap();
            assert!(expected(&ip), "{kind} {path}: {said}");
        }
    }
}

fn both_are_told() {
    let lab = Lab::shared();
    let namespace = lab.namespace("both");
    namespace.pod("a", Some("node-1"));
    for path in [".status.podIPs[*].ip", ".status.hostIPs[*].ip"] {
        let said = namespace.field("pod/a", path);
        let ips: Vec<IpAddr> = said.split_whitespace().map(|ip| ip.parse().unwrap()).collect();
        assert!(matches!(&ips[..], [IpAddr::V4(_), IpAddr::V6(_)]), "{path}: {said}");
    }
}
