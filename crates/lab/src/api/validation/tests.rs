//! Decoding and validation against what a real API server answers.

use serde_json::{Value, json};

use super::{decode, validate};
use crate::api::defaults;
use crate::api::kinds::{Resource, built_in};

fn resource(kind: &str) -> Resource {
    built_in()
        .into_iter()
        .find(|r| r.kind == kind)
        .expect("a built-in kind")
}

/// What the API server would say of a new object, after defaults.
fn create(kind: &str, mut object: Value) -> Vec<String> {
    let resource = resource(kind);
    if resource.namespaced {
        object["metadata"]["namespace"] = "default".into();
    }
    if object["metadata"]["name"].is_null() {
        object["metadata"]["name"] = "x".into();
    }
    defaults::apply(&resource, &mut object);
    assert_eq!(
        decode(&resource, &mut object),
        Ok(Vec::new()),
        "defaults fit the schema"
    );
    texts(validate(&resource, None, &object))
}

/// What it would say of a change.
fn update(kind: &str, old: Value, change: impl FnOnce(&mut Value)) -> Vec<String> {
    let resource = resource(kind);
    let mut old = old;
    old["metadata"] = json!({"name": "x", "namespace": "default"});
    defaults::apply(&resource, &mut old);
    let mut new = old.clone();
    change(&mut new);
    texts(validate(&resource, Some(&old), &new))
}

fn texts(errors: Vec<crate::api::status::FieldError>) -> Vec<String> {
    errors
        .into_iter()
        .map(|e| format!("{}: {}", e.field, e.message))
        .collect()
}

fn pod(spec: Value) -> Value {
    json!({"spec": spec})
}

fn deployment() -> Value {
    json!({"spec": {"selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[test]
fn unknown_fields_are_named_and_removed() {
    let mut object = json!({"metadata": {"name": "x", "colour": "red", "creationTimestamp": null},
        "spec": {"foo": 1, "containers": [{"name": "c", "imge": "i"}]}});
    assert_eq!(
        decode(&resource("Pod"), &mut object),
        Ok(vec![
            "unknown field \"metadata.colour\"".to_owned(),
            "unknown field \"spec.foo\"".to_owned(),
            "unknown field \"spec.containers[0].imge\"".to_owned()
        ])
    );
    assert_eq!(
        object,
        json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c"}]}})
    );
}

#[test]
fn wrong_types_are_named_as_go_does() {
    for (kind, object, want) in [
        (
            "Deployment",
            json!({"spec": {"replicas": "three"}}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "Pod",
            json!({"spec": "x"}),
            "json: cannot unmarshal string into Go struct field Pod.spec of type v1.PodSpec",
        ),
        (
            "Pod",
            json!({"spec": {"containers": {}}}),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            "Pod",
            json!({"metadata": {"labels": {"a": 1}}}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            "Pod",
            json!({"spec": {"containers": [{"ports": [{"containerPort": "80"}]}]}}),
            "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            "Pod",
            json!({"spec": {"hostNetwork": "yes"}}),
            "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool",
        ),
        (
            "Pod",
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}}),
            super::quantity::MESSAGE,
        ),
        (
            "Secret",
            json!({"data": {"a": "%"}}),
            "illegal base64 data at input byte 0",
        ),
    ] {
        let mut object = object;
        assert_eq!(decode(&resource(kind), &mut object), Err(want.to_owned()));
    }
}

#[test]
fn pods() {
    let good = json!({"name": "c", "image": "i"});
    for (spec, want) in [
        (json!({"containers": []}), "spec.containers: Required value"),
        (
            json!({"containers": [{"name": "c"}]}),
            "spec.containers[0].image: Required value",
        ),
        (
            json!({"containers": [{"name": "C_", "image": "i"}]}),
            "spec.containers[0].name: Invalid value: \"C_\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
        (
            json!({"containers": [good, good]}),
            "spec.containers[1].name: Duplicate value: \"c\"",
        ),
        (
            json!({"containers": [good], "restartPolicy": "Often"}),
            "spec.restartPolicy: Unsupported value: \"Often\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 70000}]}]}),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "ICMP"}]}]}),
            "spec.containers[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i", "livenessProbe": {}}]}),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            json!({"containers": [good], "volumes": [{"name": "v", "configMap": {}}]}),
            "spec.volumes[0].configMap.name: Required value",
        ),
        (
            json!({"containers": [good], "volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]}),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            json!({"containers": [good], "dnsPolicy": "None"}),
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
    ] {
        assert_eq!(create("Pod", pod(spec)), [want]);
    }
    assert_eq!(
        create("Pod", pod(json!({"containers": [good], "hostNetwork": true}))),
        Vec::<String>::new()
    );
}

#[test]
fn a_running_pod_changes_only_its_image() {
    let old = pod(json!({"containers": [{"name": "c", "image": "i"}], "nodeName": "node-1"}));
    assert_eq!(
        update("Pod", old.clone(), |p| p["spec"]["containers"][0]["image"] = "j".into()),
        Vec::<String>::new()
    );
    assert_eq!(
        update("Pod", old.clone(), |p| p["metadata"]["labels"] = json!({"a": "b"})),
        Vec::<String>::new()
    );
    for change in [
        (|p| p["spec"]["containers"][0]["command"] = json!(["x"])) as fn(&mut Value),
        |p| p["spec"]["nodeName"] = "node-2".into(),
        |p| p["spec"]["tolerations"] = json!([]),
    ] {
        let errors = update("Pod", old.clone(), change);
        assert!(
            errors.len() == 1 && errors[0].starts_with("spec: Forbidden: pod updates may not change fields"),
            "{errors:?}"
        );
    }
    let unbound = pod(json!({"containers": [{"name": "c", "image": "i"}]}));
    assert_eq!(
        update("Pod", unbound, |p| p["spec"]["nodeName"] = "node-2".into()),
        Vec::<String>::new()
    );
}

#[test]
fn names_and_labels() {
    let with = |metadata: Value| {
        create("ConfigMap", json!({"metadata": metadata}))
            .into_iter()
            .map(|e| e.split(": ").take(3).collect::<Vec<_>>().join(": "))
            .collect::<Vec<_>>()
    };
    assert_eq!(with(json!({"name": "X"})), ["metadata.name: Invalid value: \"X\""]);
    assert_eq!(
        with(json!({"labels": {"a b": "c"}})),
        ["metadata.labels: Invalid value: \"a b\""]
    );
    assert_eq!(
        with(json!({"labels": {"a": "c d"}})),
        ["metadata.labels: Invalid value: \"c d\""]
    );
    assert_eq!(with(json!({"generateName": "x-"})), Vec::<String>::new());
    assert_eq!(
        with(json!({"finalizers": ["mine"]})),
        ["metadata.finalizers: Invalid value: \"mine\""]
    );
    assert_eq!(
        create(
            "Service",
            json!({"metadata": {"name": "0a"}, "spec": {"ports": [{"port": 1}]}})
        )[0]
        .split(": ")
        .nth(3),
        Some(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
        )
    );
}

#[test]
fn services() {
    for (spec, want) in [
        (json!({}), "spec.ports: Required value"),
        (
            json!({"ports": [{"port": 0, "targetPort": 1}]}),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"ports": [{"port": 1, "name": "a"}, {"port": 2}]}),
            "spec.ports[1].name: Required value",
        ),
        (
            json!({"ports": [{"port": 1, "name": "a"}, {"port": 2, "name": "a"}]}),
            "spec.ports[1].name: Duplicate value: \"a\"",
        ),
        (
            json!({"ports": [{"port": 1, "protocol": "HTTP"}]}),
            "spec.ports[0].protocol: Unsupported value: \"HTTP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            json!({"type": "Internal", "ports": [{"port": 1}]}),
            "spec.type: Unsupported value: \"Internal\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ),
        (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
        (
            json!({"ports": [{"port": 1}], "clusterIPs": ["x"]}),
            "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            json!({"ports": [{"port": 1, "nodePort": 30000}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
    ] {
        assert_eq!(create("Service", json!({"spec": spec})), [want]);
    }
    assert_eq!(
        create("Service", json!({"spec": {"clusterIP": "None"}})),
        Vec::<String>::new()
    );
    assert_eq!(
        update(
            "Service",
            json!({"spec": {"ports": [{"port": 1}], "clusterIPs": ["10.96.0.5"]}}),
            |s| {
                s["spec"]["clusterIPs"] = json!(["10.96.0.6"]);
            }
        ),
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.6\"]: may not change once set"]
    );
}

#[test]
fn load_balancers() {
    let balancer = |spec: Value, rest: Value| {
        let mut object = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}]}});
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        for (key, value) in rest.as_object().unwrap() {
            object[key] = value.clone();
        }
        object
    };
    let status = |ingress: Value| json!({"status": {"loadBalancer": {"ingress": [ingress]}}});
    let ranges = |ranges: &str| json!({"metadata": {"annotations": {"service.beta.kubernetes.io/load-balancer-source-ranges": ranges}}});
    for good in [
        balancer(
            json!({"loadBalancerClass": "example.com/edge"}),
            status(json!({"ip": "192.0.2.1"})),
        ),
        balancer(json!({}), status(json!({"hostname": "a.example"}))),
        balancer(json!({}), status(json!({"ip": "2001:db8::1", "ipMode": "Proxy"}))),
        balancer(json!({}), ranges(" 10.0.0.0/8, 192.0.2.0/24 ")),
    ] {
        assert_eq!(create("Service", good), Vec::<String>::new());
    }
    for (object, want) in [
        (
            balancer(json!({"type": "ClusterIP"}), status(json!({"ip": "192.0.2.1"}))),
            "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is LoadBalancer",
        ),
        (
            balancer(json!({}), status(json!({"hostname": "a.example", "ipMode": "VIP"}))),
            "status.loadBalancer.ingress[0].ipMode: Forbidden: may not be specified when `ip` is not set",
        ),
        (
            balancer(json!({}), status(json!({"ip": "192.0.2.1", "ipMode": "Vip"}))),
            "status.loadBalancer.ingress[0].ipMode: Unsupported value: \"Vip\": supported values: \"Proxy\", \"VIP\"",
        ),
        (
            balancer(json!({}), status(json!({"ip": "192.0.2"}))),
            "status.loadBalancer.ingress[0].ip: Invalid value: \"192.0.2\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            balancer(json!({}), status(json!({"hostname": "192.0.2.1"}))),
            "status.loadBalancer.ingress[0].hostname: Invalid value: \"192.0.2.1\": must be a DNS name, not an IP address",
        ),
        (
            balancer(json!({"type": "NodePort", "loadBalancerClass": "a.b/c"}), json!({})),
            "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            balancer(json!({}), ranges("10.0.0.0/8,ten")),
            "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Invalid value: \"ten\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ),
        (
            balancer(json!({"type": "NodePort"}), ranges("10.0.0.0/8")),
            "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
    ] {
        assert_eq!(create("Service", object), [want]);
    }
    let old = balancer(
        json!({"loadBalancerClass": "a.b/c", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30100}),
        json!({}),
    );
    for (field, value, want) in [
        (
            "loadBalancerClass",
            json!("a.b/d"),
            "spec.loadBalancerClass: Invalid value: \"a.b/d\": may not change once set",
        ),
        (
            "healthCheckNodePort",
            json!(30101),
            "spec.healthCheckNodePort: Invalid value: 30101: cannot change healthCheckNodePort on loadBalancer service with externalTraffic=Local during update",
        ),
    ] {
        let changed = update("Service", old.clone(), |service| service["spec"][field] = value);
        assert_eq!(changed, [want]);
    }
}

#[test]
fn workloads() {
    assert_eq!(create("Deployment", deployment()), Vec::<String>::new());
    let broken = |change: fn(&mut Value)| {
        let mut object = deployment();
        change(&mut object);
        create("Deployment", object)
    };
    assert_eq!(
        broken(|d| d["spec"]["template"]["metadata"]["labels"]["app"] = "y".into()),
        ["spec.template.metadata.labels: Invalid value: {\"app\":\"y\"}: `selector` does not match template `labels`"]
    );
    assert_eq!(
        broken(|d| d["spec"]["replicas"] = json!(-1)),
        ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
    );
    assert_eq!(
        broken(|d| d["spec"]["template"]["spec"]["restartPolicy"] = "Never".into()),
        ["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""]
    );
    assert_eq!(
        broken(|d| d["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}})),
        ["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"]
    );
    assert_eq!(
        update("Deployment", deployment(), |d| {
            d["spec"]["selector"] = json!({"matchLabels": {"app": "y"}});
            d["spec"]["template"]["metadata"]["labels"]["app"] = "y".into();
        }),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"y\"}}: field is immutable"]
    );
    assert!(
        update("StatefulSet", deployment(), |s| s["spec"]["serviceName"] =
            "other".into())[0]
            .starts_with("spec: Forbidden: updates to statefulset spec")
    );
    let job = json!({"metadata": {"uid": "u"}, "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    assert_eq!(
        create("Job", job),
        ["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""]
    );
}

#[test]
fn endpoint_slices() {
    let slice = |addresses: Value| json!({"addressType": "IPv4", "endpoints": [{"addresses": addresses}], "ports": [{"port": 80}]});
    assert_eq!(
        create("EndpointSlice", slice(json!(["10.0.0.1"]))),
        Vec::<String>::new()
    );
    for (addresses, want) in [
        (
            json!(["10.0.0.256"]),
            "endpoints[0].addresses[0]: Invalid value: \"10.0.0.256\": must be a valid IPv4 address",
        ),
        (
            json!(["127.0.0.1"]),
            "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ),
        (
            json!([]),
            "endpoints[0].addresses: Required value: must contain at least 1 address",
        ),
    ] {
        assert_eq!(create("EndpointSlice", slice(addresses)), [want]);
    }
    assert_eq!(
        create("EndpointSlice", json!({"addressType": "IPX"})),
        ["addressType: Unsupported value: \"IPX\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""]
    );
}

#[test]
fn policies_and_ingresses() {
    let policy = |peer: Value| create("NetworkPolicy", json!({"spec": {"ingress": [{"from": [peer]}]}}));
    assert_eq!(
        policy(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}})),
        Vec::<String>::new()
    );
    assert_eq!(
        policy(json!({"ipBlock": {"cidr": "10.0.0.0"}})),
        [
            "spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
        ]
    );
    assert_eq!(
        policy(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})),
        [
            "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`"
        ]
    );
    assert_eq!(
        policy(json!({})),
        ["spec.ingress[0].from[0]: Required value: must specify a peer"]
    );
    let ingress = |path: Value| create("Ingress", json!({"spec": {"rules": [{"http": {"paths": [path]}}]}}));
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    assert_eq!(
        ingress(json!({"path": "/", "pathType": "Prefix", "backend": backend})),
        Vec::<String>::new()
    );
    assert_eq!(
        ingress(json!({"path": "a", "pathType": "Prefix", "backend": backend})),
        ["spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute path"]
    );
    assert_eq!(
        ingress(json!({"path": "/", "backend": backend})),
        ["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"]
    );
}

#[test]
fn configuration_and_nodes() {
    assert!(
        create("ConfigMap", json!({"data": {"a/b": "x"}}))[0]
            .starts_with("data[a/b]: Invalid value: \"a/b\": a valid config key")
    );
    assert_eq!(
        update(
            "ConfigMap",
            json!({"immutable": true, "data": {"a": "b"}}),
            |c| c["data"]["a"] = "c".into()
        ),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
    assert_eq!(
        create("Secret", json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}})),
        ["data[tls.key]: Required value"]
    );
    assert_eq!(
        update("Node", json!({"spec": {"podCIDRs": ["10.244.0.0/24"]}}), |n| n["spec"]
            ["podCIDRs"] =
            json!(["10.244.1.0/24"])),
        ["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"]
    );
}

#[test]
fn definitions() {
    let definition = |schema: Value| {
        create(
            "CustomResourceDefinition",
            json!({"metadata": {"name": "things.example.com"}, "spec": {"group": "example.com",
            "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}}),
        )
    };
    assert_eq!(definition(json!({"type": "object"})), Vec::<String>::new());
    assert_eq!(
        definition(json!({"type": "string"})),
        ["spec.versions[0].schema.openAPIV3Schema.type: Invalid value: \"string\": must be object at the root"]
    );
    assert_eq!(
        definition(json!({"type": "object", "properties": {"spec": {}}})),
        [
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields"
        ]
    );
}

#[test]
fn service_cidrs() {
    let cidrs = |cidrs: Value| create("ServiceCIDR", json!({"spec": {"cidrs": cidrs}}));
    assert_eq!(cidrs(json!(["10.96.0.0/16", "fd00:10:96::/112"])), Vec::<String>::new());
    for (given, said) in [
        (json!([]), "spec.cidrs: Required value: at least one CIDR required"),
        (
            json!(["10.96.0.7/16"]),
            "spec.cidrs[0]: Invalid value: \"10.96.0.7/16\": must not have bits set beyond the prefix length",
        ),
        (
            json!(["10.96.0.0/16", "10.97.0.0/16"]),
            "spec.cidrs[1]: Invalid value: \"10.97.0.0/16\": may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        ),
        (
            json!(["ten"]),
            "spec.cidrs[0]: Invalid value: \"ten\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ),
    ] {
        assert_eq!(cidrs(given), [said]);
    }
    let changed = |cidrs: Value| {
        let old = json!({"spec": {"cidrs": ["10.96.0.0/16"]}});
        update("ServiceCIDR", old, |object| object["spec"]["cidrs"] = cidrs)
    };
    assert_eq!(
        changed(json!(["10.96.0.0/16", "fd00:10:96::/112"])),
        Vec::<String>::new()
    );
    assert_eq!(
        changed(json!(["10.97.0.0/16"])),
        ["spec.cidrs: Invalid value: [\"10.97.0.0/16\"]: field is immutable"]
    );
}
