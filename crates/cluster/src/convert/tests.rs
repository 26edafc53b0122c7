//! Objects as an API server sends them, whole and broken.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn meta(labels: &BTreeMap<String, String>) -> Meta<'_> {
    static OBJECT: std::sync::LazyLock<ObjectMeta> = std::sync::LazyLock::new(ObjectMeta::default);
    Meta {
        key: ObjectKey::new("default", "web"),
        uid: "u1",
        labels: Some(labels),
        annotations: None,
        object: &OBJECT,
    }
}

#[test]
fn a_service_in_full() {
    let body = json!({
        "spec": {
            "type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
            "ports": [{"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080},
                      {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353}],
            "internalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
            "trafficDistribution": "PreferSameNode", "healthCheckNodePort": 32000,
            "loadBalancerSourceRanges": [" 192.0.2.7/24\t", "2001:db8::/32"]
        },
        "status": {"loadBalancer": {"ingress": [{"hostname": "lb.example"}, {"ip": "192.0.2.1"},
                                                {"ip": "2001:db8::1", "ipMode": "Proxy"}]}}
    });
    let labels = labels(&[("service.kubernetes.io/service-proxy-name", "other")]);
    let service = service(&meta(&labels), &body).unwrap().unwrap();
    assert_eq!(service.cluster_ips.len(), 2);
    assert_eq!(service.ports[0].node_port, Some(30080));
    assert_eq!(service.ports[1].protocol, Protocol::Udp);
    assert_eq!(service.internal_traffic_policy, TrafficPolicy::Local);
    assert_eq!(
        service.session_affinity,
        SessionAffinity::ClientIp(Duration::from_secs(10_800))
    );
    let balanced = |ip: &str, mode| LoadBalancerIp {
        ip: ip.parse().unwrap(),
        mode,
    };
    assert_eq!(
        service.load_balancer_ips,
        [
            balanced("192.0.2.1", IpMode::Vip),
            balanced("2001:db8::1", IpMode::Proxy)
        ]
    );
    let ranges: Vec<_> = service
        .load_balancer_source_ranges
        .iter()
        .map(IpNet::to_string)
        .collect();
    assert_eq!(ranges, ["192.0.2.0/24", "2001:db8::/32"]);
    assert_eq!(service.health_check_node_port, Some(32000));
    assert!(service.foreign);
}

#[test]
fn headless_services_and_names_have_no_address() {
    let none = labels(&[]);
    let headless = service(
        &meta(&none),
        &json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}),
    );
    let headless = headless.unwrap().unwrap();
    assert!(headless.headless && headless.cluster_ips.is_empty());
    let name = service(
        &meta(&none),
        &json!({"spec": {"type": "ExternalName", "externalName": "example.org"}}),
    );
    assert_eq!(name.unwrap().unwrap().external_name.as_deref(), Some("example.org"));
}

#[test]
fn a_bad_field_is_named_with_its_place() {
    let none = labels(&[]);
    let bad = |body| service(&meta(&none), &body).unwrap_err();
    let port = bad(json!({"spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}, {"port": 70000}]}}));
    assert_eq!(port.path, "spec.ports[1].port");
    assert_eq!(port.problem, "expected a port from 1 to 65535, found 70000");
    assert_eq!(
        bad(json!({"spec": {"clusterIPs": ["10.96.0.700"]}})).path,
        "spec.clusterIPs[0]"
    );
    assert_eq!(
        bad(json!({"spec": {"ports": [{"name": "x"}]}})).problem,
        "expected a port from 1 to 65535, found nothing"
    );
    assert_eq!(
        bad(json!({"spec": {"ports": "80"}})).problem,
        "expected a list, found \"80\""
    );
    let word = bad(json!({"spec": {"ports": [{"port": 1, "protocol": "ICMP"}]}}));
    assert_eq!(word.problem, "expected one of TCP, UDP, SCTP, found \"ICMP\"");
    // A range that cannot be read must not open the address to everybody: the version before stays in force.
    let range = bad(json!({"spec": {"loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.0/33"]}}));
    assert_eq!(range.path, "spec.loadBalancerSourceRanges[1]");
}

#[test]
fn a_slice_in_full_and_its_defaults() {
    let body = json!({
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.244.0.5"]},
            {"addresses": ["10.244.0.6"], "conditions": {"ready": false, "serving": true, "terminating": true},
             "nodeName": "n1", "zone": "z1", "hostname": "web-0",
             "hints": {"forNodes": [{"name": "n1"}], "forZones": [{"name": "z1"}]},
             "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-0"}}
        ]
    });
    let named = labels(&[("kubernetes.io/service-name", "web")]);
    let slice = endpoint_slice(&meta(&named), &body).unwrap().unwrap();
    assert!(slice.endpoints[0].ready && slice.endpoints[0].serving && !slice.endpoints[0].terminating);
    let second = &slice.endpoints[1];
    assert_eq!((second.ready, second.serving, second.terminating), (false, true, true));
    assert_eq!(second.for_nodes, ["n1"]);
    assert_eq!(second.pod, Some(ObjectKey::new("default", "web-0")));
}

#[test]
fn slices_of_names_and_of_nobody_are_ignored_and_a_bad_address_is_named() {
    let named = labels(&[("kubernetes.io/service-name", "web")]);
    let fqdn = json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.org"]}]});
    assert_eq!(endpoint_slice(&meta(&named), &fqdn), Ok(None));
    assert_eq!(
        endpoint_slice(&meta(&labels(&[])), &json!({"addressType": "IPv4"})),
        Ok(None)
    );
    let bad = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.1.9"]}]});
    let bad = endpoint_slice(&meta(&named), &bad).unwrap_err();
    assert_eq!(bad.path, "endpoints[1].addresses[0]");
    assert_eq!(bad.problem, "expected an IPv4 address, found \"10.0.0.1.9\"");
    let family = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1"]}]});
    assert_eq!(
        endpoint_slice(&meta(&named), &family).unwrap_err().problem,
        "expected an IPv4 address, found \"fd00::1\""
    );
}

#[test]
fn a_node_keeps_one_internal_address_of_each_family() {
    let body = json!({
        "spec": {"podCIDR": "10.244.0.0/23", "podCIDRs": ["10.244.0.0/23", "fd00:10:244::/64"]},
        "status": {"addresses": [
            {"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "10.89.0.10"},
            {"type": "InternalIP", "address": "10.89.0.99"}, {"type": "InternalIP", "address": "fd89::10"}]}
    });
    let zone = labels(&[("topology.kubernetes.io/zone", "z1")]);
    let full = node(&meta(&zone), &body).unwrap().unwrap();
    assert_eq!(
        full.internal_ips,
        ["10.89.0.10".parse::<IpAddr>().unwrap(), "fd89::10".parse().unwrap()]
    );
    assert_eq!((full.pod_cidrs.len(), full.zone.as_deref()), (2, Some("z1")));
    let bare = node(&meta(&zone), &json!({})).unwrap().unwrap();
    assert!(bare.pod_cidrs.is_empty() && bare.internal_ips.is_empty());
    assert!(!full.leaving && !bare.leaving);
    let tainted =
        json!({"spec": {"taints": [{"key": "x"}, {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}});
    assert!(node(&meta(&zone), &tainted).unwrap().unwrap().leaving);
    let deleted = ObjectMeta {
        deletion_timestamp: serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap(),
        ..ObjectMeta::default()
    };
    let mut going = meta(&zone);
    going.object = &deleted;
    assert!(node(&going, &json!({})).unwrap().unwrap().leaving);
    let bad = node(&meta(&zone), &json!({"spec": {"podCIDRs": ["10.244.0.0"]}})).unwrap_err();
    assert_eq!(bad.path, "spec.podCIDRs[0]");
}

#[test]
fn pods_are_on_the_network_from_binding_to_their_end() {
    let none = labels(&[]);
    assert_eq!(pod(&meta(&none), &json!({"spec": {}})), Ok(None));
    let running = json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.5"}]}});
    assert_eq!(pod(&meta(&none), &running).unwrap().unwrap().ips.len(), 1);
    let ended = json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Failed", "podIPs": [{"ip": "10.244.0.5"}]}});
    assert!(pod(&meta(&none), &ended).unwrap().unwrap().ips.is_empty());
}

#[test]
fn metadata_of_pods_and_namespaces_keeps_only_what_is_ours() {
    let annotations = labels(&[("weft.dev/ip-pool", "blue"), ("other.example/x", "y")]);
    // The kubelet knows a static pod by another UID than the API server knows its mirror.
    let mirror = labels(&[("kubernetes.io/config.mirror", "s1")]);
    let labels = labels(&[("team", "a")]);
    let mut meta = meta(&labels);
    meta.annotations = Some(&annotations);
    let pod = pod_meta(&meta);
    assert_eq!((pod.uid.as_str(), pod.object_uid.as_str()), ("u1", "u1"));
    assert_eq!(pod.annotations.len(), 1);
    let namespace = namespace(&meta);
    assert_eq!(namespace.labels["team"], "a");
    assert_eq!(namespace.annotations["weft.dev/ip-pool"], "blue");
    meta.annotations = Some(&mirror);
    assert_eq!(pod_meta(&meta).uid, "s1");
    assert_eq!(pod_meta(&meta).object_uid, "u1");
}
