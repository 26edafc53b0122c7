//! From a service and its pods to the writes, without a server.

use serde_json::json;

use super::*;
use plan::{Writes, slices};

fn service(change: Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "a", "uid": "s1", "labels": {"team": "x"}},
        "spec": {
            "clusterIP": "10.96.0.5", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        },
    });
    for (field, value) in change.as_object().into_iter().flatten() {
        service["spec"][field] = value.clone();
    }
    service
}

fn pod(n: usize) -> Value {
    json!({
        "metadata": {"name": format!("p{n}"), "namespace": "a", "uid": format!("u{n}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"ports": [{"name": "web", "containerPort": 8000 + n % 2}]}]},
        "status": {
            "phase": "Running", "podIP": format!("10.244.{}.{}", n / 250, n % 250 + 1),
            "podIPs": [{"ip": format!("10.244.{}.{}", n / 250, n % 250 + 1)}, {"ip": format!("fd00:10:244::{n:x}")}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn plan(service: &Value, pods: &[Value], existing: &[Value]) -> Writes {
    let objects = |values: &[Value]| values.iter().cloned().map(Object::new).collect::<Vec<_>>();
    let zones = HashMap::from([("n1".to_owned(), "z1".to_owned())]);
    let input = Input {
        service,
        pods: &objects(pods),
        zones: &zones,
    };
    slices(&input, &objects(existing))
}

/// What the server has after the writes.
fn applied(existing: &[Value], writes: &Writes) -> Vec<Value> {
    let gone = |slice: &Value| writes.delete.iter().any(|d| name(d) == name(slice));
    let updated = |slice: &Value| writes.update.iter().find(|u| name(u) == name(slice)).cloned();
    let kept = existing.iter().filter(|slice| !gone(slice));
    let mut after: Vec<Value> = kept
        .map(|slice| updated(slice).unwrap_or_else(|| slice.clone()))
        .collect();
    for new in &writes.create {
        let mut new = new.clone();
        new["metadata"]["name"] = format!("web-{}-{}", after.len(), writes.delete.len() + existing.len()).into();
        after.push(new);
    }
    after
}

fn count(writes: &Writes) -> (usize, usize, usize) {
    (writes.create.len(), writes.update.len(), writes.delete.len())
}

fn first_slice(service: &Value, pods: &[Value]) -> Value {
    let writes = plan(service, pods, &[]);
    assert_eq!(count(&writes), (1, 0, 0));
    writes.create[0].clone()
}

#[test]
fn one_ready_pod() {
    let slice = first_slice(&service(json!({})), &[pod(0)]);
    assert_eq!(slice["addressType"], "IPv4");
    assert_eq!(
        slice["ports"],
        json!([{"name": "http", "protocol": "TCP", "port": 8080}])
    );
    let endpoint = json!({
        "addresses": ["10.244.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false},
        "targetRef": {"kind": "Pod", "namespace": "a", "name": "p0", "uid": "u0"}, "nodeName": "n1", "zone": "z1",
    });
    assert_eq!(slice["endpoints"], json!([endpoint]));
    let labels = json!({
        "team": "x", "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    });
    assert_eq!(slice["metadata"]["labels"], labels);
    assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], "s1");
    let again = plan(&service(json!({})), &[pod(0)], &[slice]);
    assert_eq!(count(&again), (0, 0, 0));
}

#[test]
fn states_of_a_pod() {
    let state = |service: &Value, pod: Value| first_slice(service, &[pod])["endpoints"][0]["conditions"].clone();
    let plain = service(json!({}));
    let mut unready = pod(0);
    unready["status"]["conditions"][0]["status"] = "False".into();
    assert_eq!(
        state(&plain, unready.clone()),
        json!({"ready": false, "serving": false, "terminating": false})
    );
    let published = service(json!({"publishNotReadyAddresses": true}));
    assert_eq!(
        state(&published, unready),
        json!({"ready": true, "serving": false, "terminating": false})
    );
    let mut going = pod(0);
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert_eq!(
        state(&plain, going),
        json!({"ready": false, "serving": true, "terminating": true})
    );
    let mut finished = pod(0);
    finished["status"]["phase"] = "Succeeded".into();
    assert_eq!(first_slice(&plain, &[finished])["endpoints"], json!([]));
    let mut unaddressed = pod(0);
    unaddressed["status"] = json!({"phase": "Pending"});
    assert_eq!(first_slice(&plain, &[unaddressed])["endpoints"], json!([]));
}

#[test]
fn the_empty_slice_becomes_the_first_one() {
    let service = service(json!({}));
    let empty = applied(&[], &plan(&service, &[], &[]));
    assert_eq!(empty[0]["ports"], json!([]));
    assert_eq!(count(&plan(&service, &[], &empty)), (0, 0, 0));
    let writes = plan(&service, &[pod(0)], &empty);
    assert_eq!(count(&writes), (0, 1, 0));
    let full = applied(&empty, &writes);
    assert_eq!(full[0]["ports"][0]["port"], 8080);
    assert_eq!(count(&plan(&service, &[], &full)), (0, 1, 0));
}

#[test]
fn a_hundred_per_slice_and_few_writes() {
    let service = service(json!({}));
    let mut pods: Vec<Value> = (0..250).map(pod).collect();
    let mut slices = applied(&[], &plan(&service, &pods, &[]));
    let sizes = |slices: &[Value]| {
        let mut sizes: Vec<usize> = slices
            .iter()
            .map(|s| s["endpoints"].as_array().unwrap().len())
            .collect();
        sizes.sort();
        sizes
    };
    assert_eq!(sizes(&slices), [50, 100, 100]);
    pods.push(pod(250));
    let writes = plan(&service, &pods, &slices);
    assert_eq!(count(&writes), (0, 1, 0), "one more pod is one write");
    slices = applied(&slices, &writes);
    assert_eq!(sizes(&slices), [51, 100, 100]);
    pods[3]["status"]["conditions"][0]["status"] = "False".into();
    assert_eq!(count(&plan(&service, &pods, &slices)), (0, 1, 0));
    let gone: Vec<Value> = pods.split_off(51);
    assert!(!gone.is_empty());
    let writes = plan(&service, &pods, &slices);
    let after = applied(&slices, &writes);
    assert_eq!(
        after
            .iter()
            .map(|s| s["endpoints"].as_array().unwrap().len())
            .sum::<usize>(),
        51
    );
    assert_eq!(count(&plan(&service, &pods, &after)), (0, 0, 0));
}

#[test]
fn named_ports_group_pods() {
    let service = service(json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": "web"}]}));
    let writes = plan(&service, &[pod(0), pod(1), pod(2)], &[]);
    let mut by_port: Vec<(i64, usize)> = writes
        .create
        .iter()
        .map(|s| {
            (
                s["ports"][0]["port"].as_i64().unwrap(),
                s["endpoints"].as_array().unwrap().len(),
            )
        })
        .collect();
    by_port.sort();
    assert_eq!(by_port, [(8000, 2), (8001, 1)]);
    let mut nameless = pod(0);
    nameless["spec"]["containers"][0]["ports"] = json!([]);
    assert_eq!(
        first_slice(&service, &[nameless])["ports"],
        json!([]),
        "a name that the pod does not have is left out"
    );
}

#[test]
fn each_family_has_its_own_slices() {
    let both = service(json!({"ipFamilies": ["IPv4", "IPv6"]}));
    let writes = plan(&both, &[pod(1)], &[]);
    assert_eq!(count(&writes), (2, 0, 0));
    let addresses: Vec<&Value> = writes
        .create
        .iter()
        .map(|s| &s["endpoints"][0]["addresses"][0])
        .collect();
    assert_eq!(addresses, ["10.244.0.2", "fd00:10:244::1"]);
    let slices = applied(&[], &writes);
    let single = plan(&service(json!({})), &[pod(1)], &slices);
    assert_eq!(count(&single), (0, 0, 1));
    assert_eq!(single.delete[0]["addressType"], "IPv6");
}

#[test]
fn hostnames_and_headless() {
    let headless = service(json!({"clusterIP": "None", "ports": []}));
    let mut named = pod(0);
    named["spec"]["hostname"] = "web-0".into();
    named["spec"]["subdomain"] = "web".into();
    let slice = first_slice(&headless, &[named.clone()]);
    assert_eq!(slice["endpoints"][0]["hostname"], "web-0");
    assert_eq!(slice["ports"], json!([]));
    assert_eq!(slice["metadata"]["labels"]["service.kubernetes.io/headless"], "");
    named["spec"]["subdomain"] = "other".into();
    assert!(first_slice(&headless, &[named])["endpoints"][0]["hostname"].is_null());
}

#[test]
fn hints() {
    let hint = |wish: &str| {
        first_slice(&service(json!({"trafficDistribution": wish})), &[pod(0)])["endpoints"][0]["hints"].clone()
    };
    assert_eq!(hint("PreferClose"), json!({"forZones": [{"name": "z1"}]}));
    assert_eq!(hint("PreferSameZone"), json!({"forZones": [{"name": "z1"}]}));
    assert_eq!(
        hint("PreferSameNode"),
        json!({"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]})
    );
    assert_eq!(hint(""), Value::Null);
}

#[test]
fn labels_follow_the_service() {
    let mut service = service(json!({}));
    let slices = applied(&[], &plan(&service, &[pod(0)], &[]));
    service["metadata"]["labels"] = json!({"team": "y"});
    let writes = plan(&service, &[pod(0)], &slices);
    assert_eq!(count(&writes), (0, 1, 0));
    assert_eq!(writes.update[0]["metadata"]["labels"]["team"], "y");
}

#[test]
fn legacy_endpoints() {
    let service = service(json!({"ports": [{"port": 80, "targetPort": 8080}]}));
    let mut unready = pod(1);
    unready["status"]["conditions"][0]["status"] = "False".into();
    let pods = [Object::new(pod(0)), Object::new(unready)];
    let input = Input {
        service: &service,
        pods: &pods,
        zones: &HashMap::new(),
    };
    let endpoints = endpoints::of(&input);
    let subset = &endpoints["subsets"][0];
    assert_eq!(subset["addresses"][0]["ip"], "10.244.0.1");
    assert_eq!(subset["notReadyAddresses"][0]["ip"], "10.244.0.2");
    assert_eq!(subset["ports"], json!([{"protocol": "TCP", "port": 8080}]));
    assert_eq!(endpoints::changed(&endpoints, &endpoints), None);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    /// Whatever existed before, one round of writes shows exactly the pods, and a second round has nothing to do.
    #[test]
    fn one_round_is_enough(before in proptest::collection::btree_set(0..260usize, 0..260), after in proptest::collection::btree_set(0..260usize, 0..260)) {
        let service = service(json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": "web"}]}));
        let pods = |set: &std::collections::BTreeSet<usize>| set.iter().map(|n| pod(*n)).collect::<Vec<_>>();
        let first = applied(&[], &plan(&service, &pods(&before), &[]));
        let second = applied(&first, &plan(&service, &pods(&after), &first));
        let mut seen: Vec<&str> = second
            .iter()
            .flat_map(|slice| slice["endpoints"].as_array().unwrap())
            .map(|endpoint| endpoint["targetRef"]["uid"].as_str().unwrap())
            .collect();
        let total = seen.len();
        seen.sort();
        seen.dedup();
        proptest::prop_assert_eq!(seen.len(), total, "an endpoint twice");
        let mut wanted: Vec<String> = after.iter().map(|n| format!("u{n}")).collect();
        wanted.sort();
        proptest::prop_assert_eq!(seen, wanted);
        proptest::prop_assert!(second.iter().all(|slice| slice["endpoints"].as_array().unwrap().len() <= 100));
        proptest::prop_assert_eq!(count(&plan(&service, &pods(&after), &second)), (0, 0, 0));
    }
}
