//! What one pod contributes to a service: its addresses, state and resolved ports.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::super::object::{deleting, int, list, name, namespace, text, uid};
use super::super::pods;
use super::Input;

/// An address family, as slices name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// The families of a service, the primary one first.
    pub(super) fn of(service: &Value) -> Vec<Self> {
        let families = list(service, "/spec/ipFamilies").iter();
        let families: Vec<Self> = families
            .filter_map(|family| match family.as_str() {
                Some("IPv4") => Some(Family::V4),
                Some("IPv6") => Some(Family::V6),
                _ => None,
            })
            .collect();
        if families.is_empty() {
            vec![Family::V4]
        } else {
            families
        }
    }
}

/// The pod's address in a family.
pub(super) fn address(pod: &Value, family: Family) -> Option<IpAddr> {
    let all = list(pod, "/status/podIPs").iter().map(|ip| text(ip, "/ip"));
    let first = text(pod, "/status/podIP");
    let mut parsed = all.chain([first]).filter_map(|ip| ip.parse::<IpAddr>().ok());
    parsed.find(|ip| ip.is_ipv4() == (family == Family::V4))
}

/// Does the pod belong into the service's slices at all? A finished one does not; one on its way out still does.
pub(super) fn belongs(pod: &Value) -> bool {
    !pods::is_finished(pod)
}

/// The pod as an endpoint.
pub(super) fn endpoint(input: &Input<'_>, pod: &Value, address: IpAddr) -> Value {
    let service = input.service;
    let (serving, terminating) = (pods::is_ready(pod), deleting(pod));
    let published = service["spec"]["publishNotReadyAddresses"] == true;
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": {
            "ready": published || (serving && !terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "targetRef": {"kind": "Pod", "namespace": namespace(pod), "name": name(pod), "uid": uid(pod)},
    });
    let node = text(pod, "/spec/nodeName");
    if !node.is_empty() {
        endpoint["nodeName"] = node.into();
        if let Some(zone) = input.zones.get(node) {
            endpoint["zone"] = zone.as_str().into();
        }
    }
    if let Some(hostname) = hostname(service, pod) {
        endpoint["hostname"] = hostname.into();
    }
    endpoint
}

/// A pod has a name of its own below a service that is its subdomain.
pub(super) fn hostname<'a>(service: &Value, pod: &'a Value) -> Option<&'a str> {
    let hostname = pod["spec"]["hostname"]
        .as_str()
        .filter(|hostname| !hostname.is_empty())?;
    (text(pod, "/spec/subdomain") == name(service)).then_some(hostname)
}

/// The service's ports as this pod has them. A named target that the pod does not have is left out.
pub(super) fn ports(service: &Value, pod: &Value) -> Vec<Value> {
    list(service, "/spec/ports")
        .iter()
        .filter_map(|port| {
            let mut resolved = Map::new();
            resolved.insert("name".into(), port["name"].as_str().unwrap_or_default().into());
            resolved.insert("protocol".into(), protocol(port).into());
            resolved.insert("port".into(), target(port, pod)?.into());
            if let Some(app) = port["appProtocol"].as_str() {
                resolved.insert("appProtocol".into(), app.into());
            }
            Some(Value::Object(resolved))
        })
        .collect()
}

fn protocol(port: &Value) -> &str {
    port["protocol"].as_str().unwrap_or("TCP")
}

fn target(port: &Value, pod: &Value) -> Option<i64> {
    let wanted = match &port["targetPort"] {
        Value::String(wanted) => wanted,
        Value::Number(number) if number.as_i64() != Some(0) => return number.as_i64(),
        _ => return int(port, "/port"),
    };
    let sidecars = list(pod, "/spec/initContainers").iter();
    let sidecars = sidecars.filter(|container| container["restartPolicy"] == "Always");
    let mut all = list(pod, "/spec/containers")
        .iter()
        .chain(sidecars)
        .flat_map(|c| list(c, "/ports"));
    let found = all.find(|p| p["name"] == **wanted && protocol(p) == protocol(port))?;
    int(found, "/containerPort")
}
