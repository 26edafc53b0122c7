//! Admission against a store that is an index.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Admission, Operation};
use crate::api::kinds::{Resource, built_in};
use crate::api::status::Status;
use crate::api::store::{Index, Key, Object, View};

#[derive(Default)]
struct World {
    index: Index,
    admission: Admission,
}

fn resource(kind: &str) -> Resource {
    built_in()
        .into_iter()
        .find(|r| r.kind == kind && r.group.is_empty())
        .unwrap()
}

fn key(object: &Value, plural: &str) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    Key {
        group: String::new(),
        plural: plural.to_owned(),
        namespace: text("namespace"),
        name: text("name"),
    }
}

impl World {
    fn admit(&self, kind: &str, object: &mut Value) -> Result<(), Status> {
        let resource = resource(kind);
        let old = self.index.get(&key(object, &resource.plural)).cloned();
        let operation = if old.is_some() {
            Operation::Update
        } else {
            Operation::Create
        };
        let view = View::new(&self.index);
        self.admission
            .on_write(&view, operation, &resource, old.as_ref().map(|o| &o.value), object)
    }

    fn write(&mut self, kind: &str, mut object: Value) -> Result<Value, String> {
        self.admit(kind, &mut object).map_err(|status| status.message)?;
        let stored = Object {
            value: object.clone(),
            json: Vec::new().into(),
            version: 1,
        };
        self.index
            .insert(key(&object, &resource(kind).plural), Arc::new(stored));
        Ok(object)
    }

    fn service(&mut self, name: &str, spec: Value) -> Result<Value, String> {
        self.write("Service", service(name, spec))
    }
}

fn service(name: &str, spec: Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"type": "ClusterIP", "selector": {"app": "x"}, "ports": [{"port": 80, "protocol": "TCP"}]},
    });
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    service
}

#[test]
fn a_plain_service_gets_one_ipv4_address() {
    let mut world = World::default();
    let spec = world.service("web", json!({})).unwrap()["spec"].clone();
    let address = spec["clusterIP"].as_str().unwrap();
    assert!(address.starts_with("10.96."), "{address}");
    assert_eq!(spec["clusterIPs"], json!([address]));
    assert_eq!(
        (&spec["ipFamilies"], &spec["ipFamilyPolicy"]),
        (&json!(["IPv4"]), &json!("SingleStack"))
    );
}

#[test]
fn what_is_asked_for_is_given_or_refused_in_known_words() {
    let mut world = World::default();
    world.service("a", json!({"clusterIP": "10.96.0.77"})).unwrap();
    let refuse = |world: &mut World, spec: Value| world.service("b", spec).unwrap_err();
    assert_eq!(
        refuse(&mut world, json!({"clusterIP": "10.96.0.77"})),
        "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.77\"]: failed to allocate IP 10.96.0.77: \
         provided IP is already allocated"
    );
    assert_eq!(
        refuse(&mut world, json!({"clusterIP": "10.97.0.1"})),
        "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.97.0.1\"]: failed to allocate IP 10.97.0.1: the \
         provided IP (10.97.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/16"
    );
    assert!(refuse(&mut world, json!({"clusterIP": "10.96.0.10"})).contains("already allocated"));
    assert!(refuse(&mut world, json!({"clusterIP": "ten"})).contains("must be a valid IP address"));
    world
        .service("kube-system/kube-dns", json!({"clusterIP": "10.96.0.10"}))
        .unwrap();
    world
        .service("default/kubernetes", json!({"clusterIP": "10.96.0.1"}))
        .unwrap();
}

#[test]
fn families() {
    let mut world = World::default();
    let mut get = |name: &str, spec: Value| world.service(name, spec).map(|service| service["spec"].clone());
    let both = get("both", json!({"ipFamilyPolicy": "PreferDualStack"})).unwrap();
    assert_eq!(both["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert!(both["clusterIPs"][1].as_str().unwrap().starts_with("fd00:10:96::"));
    let six = get("six", json!({"ipFamilies": ["IPv6"]})).unwrap();
    assert_eq!(six["clusterIPs"].as_array().unwrap().len(), 1);
    assert!(six["clusterIP"].as_str().unwrap().starts_with("fd00:10:96::"));
    let turned = get(
        "turned",
        json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}),
    )
    .unwrap();
    assert_eq!(turned["ipFamilies"], json!(["IPv6", "IPv4"]));
    let headless = get("headless", json!({"clusterIP": "None"})).unwrap();
    assert_eq!(
        (&headless["clusterIPs"], &headless["ipFamilies"]),
        (&json!(["None"]), &json!(["IPv4"]))
    );
    let free = get("free", json!({"clusterIP": "None", "selector": null})).unwrap();
    assert_eq!(free["ipFamilyPolicy"], "RequireDualStack");
    let name = get("name", json!({"type": "ExternalName", "externalName": "x.example"})).unwrap();
    assert!(name["clusterIP"].is_null() && name["ipFamilies"].is_null());
    let error = get(
        "x",
        json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}),
    )
    .unwrap_err();
    assert!(
        error.contains("spec.ipFamilyPolicy: Invalid value: \"SingleStack\""),
        "{error}"
    );
    let error = get("x", json!({"clusterIP": "10.96.3.3", "ipFamilies": ["IPv6"]})).unwrap_err();
    assert!(
        error.contains("expected an IPv6 value as indicated by `ipFamilies[0]`"),
        "{error}"
    );
}

#[test]
fn a_cluster_of_one_family_gives_that() {
    let mut world = World {
        admission: Admission::new(crate::families::Families::Ipv6),
        ..World::default()
    };
    let mut get = |name: &str, spec: Value| world.service(name, spec).map(|service| service["spec"].clone());
    for (name, spec) in [
        ("any", json!({})),
        ("prefers", json!({"ipFamilyPolicy": "PreferDualStack"})),
    ] {
        let spec = get(name, spec).unwrap();
        assert_eq!(spec["ipFamilies"], json!(["IPv6"]), "{name}");
        assert!(spec["clusterIP"].as_str().unwrap().starts_with("fd00:10:96::"));
    }
    let error = get("x", json!({"ipFamilies": ["IPv4"]})).unwrap_err();
    assert!(
        error.contains("spec.ipFamilies[0]: Invalid value: \"IPv4\": not configured on this cluster"),
        "{error}"
    );
    let error = get("x", json!({"ipFamilyPolicy": "RequireDualStack"})).unwrap_err();
    assert!(
        error.contains("this cluster is not configured for dual-stack services"),
        "{error}"
    );
    let free = get("free", json!({"clusterIP": "None", "selector": null})).unwrap();
    assert_eq!(free["ipFamilies"], json!(["IPv6", "IPv4"]));
}

#[test]
fn an_update_keeps_what_it_does_not_mention() {
    let mut world = World::default();
    let first = world.service("web", json!({"type": "NodePort"})).unwrap();
    let again = world
        .service(
            "web",
            json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 443}]}),
        )
        .unwrap();
    assert_eq!(again["spec"]["clusterIPs"], first["spec"]["clusterIPs"]);
    assert_eq!(
        again["spec"]["ports"][0]["nodePort"],
        first["spec"]["ports"][0]["nodePort"]
    );
    assert!(again["spec"]["ports"][1]["nodePort"].is_u64());
    let dual = world
        .service("web", json!({"type": "NodePort", "ipFamilyPolicy": "RequireDualStack"}))
        .unwrap();
    assert_eq!(dual["spec"]["clusterIPs"].as_array().unwrap().len(), 2);
    assert_eq!(dual["spec"]["clusterIP"], first["spec"]["clusterIP"]);
    let mut single = dual.clone();
    single["spec"]["ipFamilyPolicy"] = "SingleStack".into();
    let single = world.write("Service", single).unwrap();
    assert_eq!(single["spec"]["clusterIPs"], first["spec"]["clusterIPs"]);
    let mut plain = single.clone();
    plain["spec"]["type"] = "ClusterIP".into();
    let plain = world.write("Service", plain).unwrap();
    assert!(plain["spec"]["ports"][0]["nodePort"].is_null());
    let error = world.service("web", json!({"clusterIP": "10.96.9.9"})).unwrap_err();
    assert!(error.contains("may not change once set"), "{error}");
    let outside = world
        .service("web", json!({"type": "ExternalName", "externalName": "x.example"}))
        .unwrap();
    assert!(outside["spec"]["clusterIP"].is_null());
    assert!(world.service("web", json!({})).unwrap()["spec"]["clusterIP"].is_string());
}

#[test]
fn another_type_drops_what_it_cannot_have() {
    let mut world = World::default();
    let mut service = world
        .service(
            "web",
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true}),
        )
        .unwrap();
    service["spec"]["type"] = "ClusterIP".into();
    let mut plain = world.write("Service", service).unwrap();
    for field in ["externalTrafficPolicy", "allocateLoadBalancerNodePorts"] {
        assert!(plain["spec"][field].is_null(), "{field}");
    }
    plain["spec"]["type"] = "ExternalName".into();
    plain["spec"]["externalName"] = "x.example".into();
    let outside = world.write("Service", plain).unwrap();
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert!(outside["spec"][field].is_null(), "{field}");
    }
}

#[test]
fn node_ports() {
    let mut world = World::default();
    let ports = |ports: Value| json!({"type": "NodePort", "ports": ports});
    world
        .service("a", ports(json!([{"port": 80, "nodePort": 30080}])))
        .unwrap();
    let error = world
        .service("b", ports(json!([{"port": 80, "nodePort": 30080}])))
        .unwrap_err();
    let expected =
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated";
    assert_eq!(error, expected);
    let error = world
        .service("b", ports(json!([{"port": 80, "nodePort": 80}])))
        .unwrap_err();
    assert!(error.contains("The range of valid ports is 30000-32767"), "{error}");
    let error = world
        .service("b", json!({"ports": [{"port": 80, "nodePort": 30081}]}))
        .unwrap_err();
    assert!(error.contains("may not be used when `type` is 'ClusterIP'"), "{error}");
    let both = json!([{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}, {"port": 54}]);
    let dns = world.service("dns", ports(both)).unwrap();
    let given = |i: usize| dns["spec"]["ports"][i]["nodePort"].as_u64().unwrap();
    assert_eq!(given(0), given(1));
    assert_ne!(given(0), given(2));
    let balanced = world
        .service("lb", json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}))
        .unwrap();
    assert!(balanced["spec"]["healthCheckNodePort"].is_u64());
    let bare = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false});
    assert!(world.service("bare", bare).unwrap()["spec"]["ports"][0]["nodePort"].is_null());
}

#[test]
fn ten_thousand_services_are_no_effort() {
    let mut world = World::default();
    let start = std::time::Instant::now();
    for i in 0..10_000 {
        world.service(&format!("s{i}"), json!({})).unwrap();
    }
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}

#[derive(Clone, Debug)]
enum Act {
    Write {
        name: u8,
        spec: u8,
        ip: Option<u8>,
        port: Option<u8>,
        lost: bool,
    },
    Delete(u8),
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    let write = (
        0..12u8,
        0..6u8,
        prop::option::of(0..6u8),
        prop::option::of(0..6u8),
        prop::bool::weighted(0.2),
    );
    prop_oneof![
        6 => write.prop_map(|(name, spec, ip, port, lost)| Act::Write { name, spec, ip, port, lost }),
        2 => (0..12u8).prop_map(Act::Delete),
        1 => Just(Act::Restart),
    ]
}

proptest! {
    /// Whatever is written, lost on the way, deleted or restarted: no address and no port belongs to two services.
    #[test]
    fn nothing_is_given_twice(acts in prop::collection::vec(act(), 1..120)) {
        let mut world = World::default();
        for act in acts {
            match act {
                Act::Restart => world.admission = Admission::default(),
                Act::Delete(name) => drop(world.index.remove(&key(&service(&format!("s{name}"), json!({})), "services"))),
                Act::Write { name, spec, ip, port, lost } => {
                    let mut wish = match spec {
                        0 => json!({}),
                        1 => json!({"ipFamilyPolicy": "RequireDualStack"}),
                        2 => json!({"clusterIP": "None"}),
                        3 => json!({"type": "ExternalName"}),
                        4 => json!({"type": "NodePort"}),
                        _ => json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}),
                    };
                    if let Some(ip) = ip.filter(|_| spec != 2) {
                        wish["clusterIP"] = format!("10.96.0.{}", 20 + ip).into();
                    }
                    if let Some(port) = port.filter(|_| spec > 3) {
                        wish["ports"] = json!([{"port": 80, "nodePort": 30_000 + u16::from(port)}, {"port": 81}]);
                    }
                    let mut object = service(&format!("s{name}"), wish);
                    if lost {
                        // Admitted, but never stored: a later stage refused it.
                        let _ = world.admit("Service", &mut object);
                    } else {
                        let _ = world.write("Service", object);
                    }
                }
            }
            let mut seen: BTreeMap<String, String> = BTreeMap::new();
            for service in world.index.list("", "services", None).map(|object| &object.value) {
                let name = service["metadata"]["name"].as_str().unwrap();
                let ips = service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let ports: HashSet<u16> = super::ports::of(&service["spec"]).collect();
                let things = ips.filter(|ip| *ip != "None").map(str::to_owned).chain(ports.iter().map(u16::to_string));
                for thing in things {
                    let other = seen.insert(thing.clone(), name.to_owned());
                    prop_assert!(other.is_none(), "{thing} belongs to {name} and {other:?}");
                }
            }
        }
    }
}

#[test]
fn a_pod_gets_its_account_token_and_patience() {
    let mut world = World::default();
    let pod = |spec: Value| json!({"kind": "Pod", "metadata": {"name": "p", "namespace": "default"}, "spec": spec});
    let mut plain = pod(json!({"containers": [{"name": "c"}]}));
    world.admit("Pod", &mut plain).unwrap();
    let spec = &plain["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("default"), &json!("default"))
    );
    let volume = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-") && volume.len() == 21, "{volume}");
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], volume);
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    let mut stranger = pod(json!({"serviceAccountName": "who", "containers": []}));
    let error = world.admit("Pod", &mut stranger).unwrap_err();
    assert_eq!(error.code, 403);
    assert_eq!(
        error.message,
        "pods \"p\" is forbidden: error looking up service account default/who: serviceaccount \"who\" not found"
    );
    let account = json!({"metadata": {"name": "who", "namespace": "default"}, "automountServiceAccountToken": false});
    world.write("ServiceAccount", account).unwrap();
    world.admit("Pod", &mut stranger).unwrap();
    assert!(stranger["spec"]["volumes"].is_null());
    let mut settled = pod(json!({"tolerations": [{"operator": "Exists"}], "containers": []}));
    world.admit("Pod", &mut settled).unwrap();
    assert_eq!(settled["spec"]["tolerations"].as_array().unwrap().len(), 1);
}

#[test]
fn nodes_and_namespaces() {
    let world = World::default();
    let mut node = json!({"metadata": {"name": "n"}});
    world.admit("Node", &mut node).unwrap();
    assert_eq!(node["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    let mut ready = json!({"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    world.admit("Node", &mut ready).unwrap();
    assert!(ready["spec"]["taints"].is_null());
    let mut namespace = json!({"metadata": {"name": "kube-system"}});
    let view = View::new(&world.index);
    let refused = world
        .admission
        .on_write(&view, Operation::Delete, &resource("Namespace"), None, &mut namespace)
        .unwrap_err();
    assert_eq!(
        refused.message,
        "namespaces \"kube-system\" is forbidden: this namespace may not be deleted"
    );
}
