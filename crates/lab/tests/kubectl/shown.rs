//! What people read in kubectl: explanations, tables, descriptions, and what is wrong with their manifests.

use super::{Server, WEB};

/// The cells of each line, runs of two or more spaces between them.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table
        .lines()
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect()
}

#[test]
fn every_kind_explains_itself() {
    let server = Server::start();
    let pod = server.kubectl(&["explain", "pods"]);
    assert!(
        pod.contains("KIND:       Pod") && pod.contains("Pod is a collection of containers"),
        "{pod}"
    );
    let containers = server.kubectl(&["explain", "pods.spec.containers", "--recursive"]);
    assert!(containers.contains("FIELD: containers <[]Container>"), "{containers}");
    assert!(
        containers.contains("readinessProbe\t<Probe>") && containers.contains("containerPort\t<integer> -required-")
    );
    let surge = server.kubectl(&["explain", "deploy.spec.strategy.rollingUpdate.maxSurge"]);
    assert!(surge.contains("FIELD: maxSurge <IntOrString>"), "{surge}");
    for kind in server.kubectl(&["api-resources", "--verbs=list", "-o", "name"]).lines() {
        assert!(
            server
                .kubectl(&["explain", kind.split('.').next().unwrap_or(kind)])
                .contains("DESCRIPTION:"),
            "{kind}"
        );
    }
    let missing = server.fails(&["explain", "pods.spec.none"], "");
    assert_eq!(missing.trim(), "error: field \"none\" does not exist");
}

const OBJECTS: &str = r#"
{apiVersion: v1, kind: Node, metadata: {name: node-1, labels: {node-role.kubernetes.io/worker: ""}}, spec: {unschedulable: true},
 status: {conditions: [{type: Ready, status: "True"}], addresses: [{type: InternalIP, address: 10.89.0.11}],
  nodeInfo: {kubeletVersion: v1.33.0, osImage: Debian, kernelVersion: "6.18", containerRuntimeVersion: crun://1.8, architecture: amd64,
   operatingSystem: linux, bootID: a, machineID: b, systemUUID: c, kubeProxyVersion: ""}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {app: p}}, spec: {containers: [{name: a, image: "i:1", ports: [{containerPort: 80}]}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: svc}, spec: {type: NodePort, selector: {app: p}, ports: [{port: 80, nodePort: 30080}]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: "1", b: "2"}}
---
{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: hello}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db}, spec: {serviceName: db, replicas: 2, selector: {matchLabels: {app: db}},
 template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, image: "i:1", resources: {limits: {cpu: 0.5, memory: 1Gi}}}]}}}}
---
{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: ds}, spec: {selector: {matchLabels: {app: ds}},
 template: {metadata: {labels: {app: ds}}, spec: {containers: [{name: c, image: "i:1"}]}}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: job}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: "i:1"}]}}}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: np}, spec: {podSelector: {matchLabels: {app: p}},
 ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 80}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: ing}, spec: {ingressClassName: weft, rules: [{host: a.example,
 http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: svc, port: {number: 80}}}}]}}]}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: weft}, spec: {controller: weft.dev/edge}}
---
{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: l}, spec: {holderIdentity: me}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: es, labels: {kubernetes.io/service-name: svc}}, addressType: IPv4,
 endpoints: [{addresses: [10.244.0.9], conditions: {ready: true}}], ports: [{port: 80}]}
---
{apiVersion: v1, kind: Event, metadata: {name: e}, involvedObject: {apiVersion: v1, kind: Pod, name: p, namespace: default}, type: Warning,
 reason: Failed, message: no such image, count: 3, source: {component: kubelet, host: node-1}}
"#;

#[test]
fn tables_have_the_columns_that_people_know() {
    let server = Server::start();
    server.feed(&["apply", "-f", "-"], OBJECTS);
    server.feed(&["apply", "-f", "-"], WEB);
    for (args, header, row) in [
        (
            "nodes -o wide",
            "NAME STATUS ROLES AGE VERSION INTERNAL-IP EXTERNAL-IP OS-IMAGE KERNEL-VERSION CONTAINER-RUNTIME",
            "node-1 Ready,SchedulingDisabled worker * v1.33.0 10.89.0.11 <none> Debian 6.18 crun://1.8",
        ),
        (
            "pod p -o wide",
            "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES",
            "p 0/1 Pending 0 * <none> <none> <none> <none>",
        ),
        (
            "svc svc -o wide",
            "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR",
            "svc NodePort * <none> 80:30080/TCP * app=p",
        ),
        ("cm c", "NAME DATA AGE", "c 2 *"),
        ("secret s", "NAME TYPE DATA AGE", "s Opaque 1 *"),
        ("sts -o wide", "NAME READY AGE CONTAINERS IMAGES", "db 0/2 * c i:1"),
        (
            "ds",
            "NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE SELECTOR AGE",
            "ds 0 0 0 0 0 <none> *",
        ),
        ("jobs", "NAME STATUS COMPLETIONS DURATION AGE", "job Running 0/1 *"),
        ("netpol", "NAME POD-SELECTOR AGE", "np app=p *"),
        ("ing", "NAME CLASS HOSTS ADDRESS PORTS AGE", "ing weft a.example 80 *"),
        (
            "ingressclass",
            "NAME CONTROLLER PARAMETERS AGE",
            "weft weft.dev/edge <none> *",
        ),
        ("lease l", "NAME HOLDER AGE", "l me *"),
        (
            "endpointslice es",
            "NAME ADDRESSTYPE PORTS ENDPOINTS AGE",
            "es IPv4 80 10.244.0.9 *",
        ),
        (
            "deploy -o wide",
            "NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR",
            "web 0/2 0 0 * web weft.dev/lab app=web",
        ),
        ("ns default", "NAME STATUS AGE", "default Active *"),
        (
            "events",
            "LAST SEEN TYPE REASON OBJECT MESSAGE",
            "<unknown> Warning Failed pod/p no such image",
        ),
    ] {
        let mut command = vec!["get"];
        command.extend(args.split(' '));
        let table = server.kubectl(&command);
        let rows = rows(&table);
        assert_eq!(rows[0].join(" "), header, "{args}");
        let want: Vec<&str> = row.split(' ').collect();
        let found = rows[1].join(" ");
        let found: Vec<&str> = found.split(' ').collect();
        let same = want.len() == found.len()
            && want
                .iter()
                .zip(&found)
                .all(|(want, found)| *want == "*" || want == found);
        assert!(same, "{args}: {table}");
    }
    let all = server.kubectl(&["get", "all"]);
    for name in [
        "pod/p",
        "service/svc",
        "deployment.apps/web",
        "statefulset.apps/db",
        "daemonset.apps/ds",
        "job.batch/job",
    ] {
        assert!(all.contains(name), "{name}: {all}");
    }
}

#[test]
fn descriptions_are_whole() {
    let server = Server::start();
    server.feed(&["apply", "-f", "-"], OBJECTS);
    for (object, parts) in [
        (
            "node/node-1",
            &[
                "Roles:              worker",
                "Unschedulable:      true",
                "InternalIP:  10.89.0.11",
            ][..],
        ),
        (
            "pod/p",
            &["QoS Class:                   BestEffort", "op=Exists for 300s"],
        ),
        (
            "svc/svc",
            &[
                "NodePort:                 <unset>  30080/TCP",
                "Endpoints:                10.244.0.9:80",
            ],
        ),
        ("sts/db", &["cpu:     500m", "Replicas:           2 desired | 0 total"]),
        ("ds/ds", &["Node-Selector:  <none>"]),
        ("job/job", &["Parallelism:      1", "batch.kubernetes.io/job-name=job"]),
        (
            "netpol/np",
            &["CIDR: 10.0.0.0/8", "To Port: 80/TCP", "Policy Types: Ingress"],
        ),
        ("ing/ing", &["/   svc:80 (10.244.0.9:80)"]),
        ("ingressclass/weft", &["Controller:   weft.dev/edge"]),
        ("cm/c", &["a:\n----\n1"]),
        ("secret/s", &["a:  5 bytes"]),
        ("lease/l", &["Holder Identity:  me"]),
        ("endpointslice/es", &["AddressType:  IPv4", "<unset>  80    TCP"]),
        ("ns/default", &["Status:       Active"]),
    ] {
        let described = server.kubectl(&["describe", object]);
        for part in parts {
            assert!(described.contains(part), "{object}: {part:?} is not in\n{described}");
        }
    }
    // A description shows the events of this very pod, known by its uid.
    let uid = server.kubectl(&["get", "pod", "p", "-o", "jsonpath={.metadata.uid}"]);
    let event = format!(
        "{{apiVersion: v1, kind: Event, metadata: {{name: u}}, type: Warning, reason: Failed, message: no such image, involvedObject: {{apiVersion: v1, kind: Pod, name: p, namespace: default, uid: {uid}}}}}"
    );
    server.feed(&["create", "-f", "-"], &event);
    let described = server.kubectl(&["describe", "pod", "p"]);
    assert!(described.contains("Warning  Failed"), "{described}");
    let events = server.kubectl(&["events", "--for", "pod/p"]);
    assert!(events.contains("no such image"), "{events}");
}

#[test]
fn a_bad_manifest_is_told_what_is_wrong_with_it() {
    let server = Server::start();
    for (manifest, want) in [
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: c}]}}",
            "The Pod \"x\" is invalid: spec.containers[0].image: Required value",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: c, image: i}], volumes: [{name: v, nfss: {}}]}}",
            "strict decoding error: unknown field \"spec.volumes[0].nfss\"",
        ),
        (
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {replicas: three}}",
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x}, addressType: IPv4, endpoints: [{addresses: [10.0.0.300]}]}",
            "The EndpointSlice \"x\" is invalid: endpoints[0].addresses[0]: Invalid value: \"10.0.0.300\": must be a valid IPv4 address",
        ),
        (
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: X_y}}",
            "metadata.name: Invalid value: \"X_y\": a lowercase RFC 1123 subdomain must consist of",
        ),
    ] {
        let said = server.fails(&["apply", "-f", "-"], manifest);
        assert!(said.contains(want), "{want:?} is not in {said}");
    }
    let warned = server.feed(
        &["apply", "--validate=warn", "-f", "-"],
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, datas: {}}",
    );
    assert!(
        warned.contains("Warning: unknown field \"datas\"") && warned.contains("configmap/x created"),
        "{warned}"
    );
}

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: things, kind: Thing}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    - {name: Mode, type: string, jsonPath: .spec.mode, priority: 1}
    schema:
      openAPIV3Schema:
        type: object
        description: A thing of ours.
        properties:
          spec:
            type: object
            required: [size]
            x-kubernetes-validations: [{rule: self.size > 0}]
            properties:
              size: {type: integer, minimum: 1, description: How large.}
              mode: {type: string, enum: [a, b], default: a}
";

#[test]
fn custom_kinds_look_like_built_in_ones() {
    let server = Server::start();
    let made = server.feed(&["apply", "-f", "-"], DEFINITION);
    assert!(made.contains("CEL rules are not evaluated"), "{made}");
    let explained = server.kubectl(&["explain", "things.spec.size"]);
    assert!(explained.contains("How large."), "{explained}");
    let thing =
        |spec: &str| format!("{{apiVersion: example.com/v1, kind: Thing, metadata: {{name: t}}, spec: {spec}}}");
    for (spec, want) in [
        (
            "{size: 0}",
            "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
        ),
        ("{size: x}", "spec.size in body must be of type integer: \"string\""),
        (
            "{mode: c}",
            "spec.mode: Unsupported value: \"c\": supported values: \"a\", \"b\"",
        ),
        (
            "{size: 1, typo: 1}",
            "strict decoding error: unknown field \"spec.typo\"",
        ),
    ] {
        let said = server.fails(&["apply", "-f", "-"], &thing(spec));
        assert!(said.contains(want), "{want:?} is not in {said}");
    }
    server.feed(&["apply", "-f", "-"], &thing("{size: 3}"));
    let table = server.kubectl(&["get", "things", "-o", "wide"]);
    assert_eq!(rows(&table), [["NAME", "SIZE", "MODE"], ["t", "3", "a"]]);
}
