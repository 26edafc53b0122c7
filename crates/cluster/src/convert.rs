//! From one Kubernetes object to the words of `model`. What is malformed is named by object and field, and never
//! touches another object.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use weft_model::service::ServiceCidr;
use weft_model::{
    Endpoint, EndpointPort, EndpointSlice, IpMode, LoadBalancerIp, Namespace, Node, ObjectKey, Pod, PodMeta, Protocol,
    Service, ServicePort, ServiceType, SessionAffinity, TrafficPolicy,
};

use crate::field::{BadField, Field};

/// An object that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Kind and name.
    pub object: String,
    /// Path of the field.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.field, self.problem)
    }
}

impl Malformed {
    pub(crate) fn new(object: &str, bad: BadField) -> Self {
        Self {
            object: object.to_owned(),
            field: bad.path,
            problem: bad.problem,
        }
    }
}

/// Labels and name of an object, which every conversion needs.
pub(crate) struct Meta<'a> {
    pub(crate) key: ObjectKey,
    pub(crate) uid: &'a str,
    pub(crate) labels: Option<&'a BTreeMap<String, String>>,
    pub(crate) annotations: Option<&'a BTreeMap<String, String>>,
    pub(crate) object: &'a ObjectMeta,
}

impl Meta<'_> {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels?
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations?.get(name).map(String::as_str)
    }

    fn our_annotations(&self) -> BTreeMap<String, String> {
        let all = self.annotations.into_iter().flatten();
        let ours = all.filter(|(name, _)| name.starts_with(OURS));
        ours.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

const PROTOCOLS: [(&str, Protocol); 3] = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];

pub(crate) fn service(meta: &Meta<'_>, body: &Value) -> Result<Option<Service>, BadField> {
    let spec = Field::root(body).get("spec");
    let type_ = spec.get("type").word(
        ServiceType::ClusterIp,
        &[
            ("ClusterIP", ServiceType::ClusterIp),
            ("NodePort", ServiceType::NodePort),
            ("LoadBalancer", ServiceType::LoadBalancer),
            ("ExternalName", ServiceType::ExternalName),
        ],
    )?;
    let headless = spec.get("clusterIP").text()? == Some("None");
    let policies = [("Cluster", TrafficPolicy::Cluster), ("Local", TrafficPolicy::Local)];
    Ok(Some(Service {
        key: meta.key.clone(),
        type_,
        cluster_ips: if headless || type_ == ServiceType::ExternalName {
            vec![]
        } else {
            cluster_ips(&spec)?
        },
        headless,
        external_ips: addresses(&spec.get("externalIPs"))?,
        load_balancer_ips: load_balancer_ips(body)?,
        load_balancer_source_ranges: spec
            .get("loadBalancerSourceRanges")
            .list()?
            .iter()
            .map(source_range)
            .collect::<Result<_, _>>()?,
        health_check_node_port: spec.get("healthCheckNodePort").port()?,
        external_name: spec.get("externalName").owned()?,
        ports: spec
            .get("ports")
            .list()?
            .iter()
            .map(service_port)
            .collect::<Result<_, _>>()?,
        internal_traffic_policy: spec
            .get("internalTrafficPolicy")
            .word(TrafficPolicy::Cluster, &policies)?,
        external_traffic_policy: spec
            .get("externalTrafficPolicy")
            .word(TrafficPolicy::Cluster, &policies)?,
        session_affinity: affinity(&spec)?,
        publish_not_ready: spec.get("publishNotReadyAddresses").flag()?.unwrap_or(false),
        traffic_distribution: spec.get("trafficDistribution").owned()?,
        foreign: meta.label("service.kubernetes.io/service-proxy-name").is_some(),
    }))
}

/// `clusterIPs`, or `clusterIP` where an old server sends only that.
fn cluster_ips(spec: &Field<'_>) -> Result<Vec<IpAddr>, BadField> {
    let all = addresses(&spec.get("clusterIPs"))?;
    let single = spec.get("clusterIP");
    match single.text()? {
        Some(text) if all.is_empty() && !text.is_empty() => Ok(vec![address(&single)?]),
        _ => Ok(all),
    }
}

/// A load balancer that is known by name alone has no address to answer at.
fn load_balancer_ips(body: &Value) -> Result<Vec<LoadBalancerIp>, BadField> {
    let ingress = Field::root(body).get("status").get("loadBalancer").get("ingress");
    let mut found = vec![];
    for entry in ingress.list()? {
        if entry.get("ip").text()?.is_some_and(|ip| !ip.is_empty()) {
            found.push(LoadBalancerIp {
                ip: address(&entry.get("ip"))?,
                mode: entry
                    .get("ipMode")
                    .word(IpMode::Vip, &[("VIP", IpMode::Vip), ("Proxy", IpMode::Proxy)])?,
            });
        }
    }
    Ok(found)
}

/// The API takes spaces around a range, and addresses in place of their network.
fn source_range(field: &Field<'_>) -> Result<IpNet, BadField> {
    Ok(field.parse_trimmed::<IpNet>("a range such as 192.0.2.0/24")?.trunc())
}

fn service_port(port: &Field<'_>) -> Result<ServicePort, BadField> {
    Ok(ServicePort {
        name: port.get("name").owned()?.unwrap_or_default(),
        protocol: port.get("protocol").word(Protocol::Tcp, &PROTOCOLS)?,
        port: port.get("port").required_port()?,
        node_port: port.get("nodePort").port()?,
    })
}

fn affinity(spec: &Field<'_>) -> Result<SessionAffinity, BadField> {
    let client_ip = spec
        .get("sessionAffinity")
        .word(false, &[("None", false), ("ClientIP", true)])?;
    let seconds = spec
        .get("sessionAffinityConfig")
        .get("clientIP")
        .get("timeoutSeconds")
        .seconds()?;
    Ok(match client_ip {
        true => SessionAffinity::ClientIp(Duration::from_secs(seconds.unwrap_or(10_800))),
        false => SessionAffinity::None,
    })
}

/// Slices of names, and slices that belong to no Service, are nobody's backends.
pub(crate) fn endpoint_slice(meta: &Meta<'_>, body: &Value) -> Result<Option<EndpointSlice>, BadField> {
    let root = Field::root(body);
    let Some(service) = meta.label("kubernetes.io/service-name") else {
        return Ok(None);
    };
    let families = [("IPv4", Some(true)), ("IPv6", Some(false)), ("FQDN", None)];
    let Some(v4) = root.get("addressType").word(Some(true), &families)? else {
        return Ok(None);
    };
    Ok(Some(EndpointSlice {
        key: meta.key.clone(),
        service: service.to_owned(),
        ports: root
            .get("ports")
            .list()?
            .iter()
            .map(endpoint_port)
            .collect::<Result<_, _>>()?,
        endpoints: root
            .get("endpoints")
            .list()?
            .iter()
            .map(|e| endpoint(e, v4))
            .collect::<Result<_, _>>()?,
    }))
}

fn endpoint_port(port: &Field<'_>) -> Result<EndpointPort, BadField> {
    Ok(EndpointPort {
        name: port.get("name").owned()?.unwrap_or_default(),
        protocol: port.get("protocol").word(Protocol::Tcp, &PROTOCOLS)?,
        port: port.get("port").port()?,
    })
}

fn endpoint(endpoint: &Field<'_>, v4: bool) -> Result<Endpoint, BadField> {
    let conditions = endpoint.get("conditions");
    let ready = conditions.get("ready").flag()?.unwrap_or(true);
    let target = endpoint.get("targetRef");
    let target_name = (target.get("namespace").owned()?, target.get("name").owned()?);
    let pod = match (target.get("kind").text()?, target_name) {
        (Some("Pod"), (Some(namespace), Some(name))) => Some(ObjectKey { namespace, name }),
        _ => None,
    };
    let family = |field: &Field<'_>| match v4 {
        true => field.parse("an IPv4 address").map(IpAddr::V4),
        false => field.parse("an IPv6 address").map(IpAddr::V6),
    };
    let names = |list: Field<'_>| -> Result<Vec<String>, BadField> {
        let names: Result<Vec<_>, _> = list.list()?.iter().map(|hint| hint.get("name").owned()).collect();
        Ok(names?.into_iter().flatten().collect())
    };
    Ok(Endpoint {
        addresses: endpoint
            .get("addresses")
            .list()?
            .iter()
            .map(family)
            .collect::<Result<_, _>>()?,
        ready,
        serving: conditions.get("serving").flag()?.unwrap_or(ready),
        terminating: conditions.get("terminating").flag()?.unwrap_or(false),
        hostname: endpoint.get("hostname").owned()?,
        node_name: endpoint.get("nodeName").owned()?,
        zone: endpoint.get("zone").owned()?,
        for_nodes: names(endpoint.get("hints").get("forNodes"))?,
        for_zones: names(endpoint.get("hints").get("forZones"))?,
        pod,
    })
}

/// A range of Services' addresses.
pub(crate) fn service_cidr(meta: &Meta<'_>, body: &Value) -> Result<ServiceCidr, BadField> {
    let cidrs = Field::root(body).get("spec").get("cidrs").list()?;
    Ok(ServiceCidr {
        name: meta.key.name.clone(),
        cidrs: cidrs
            .iter()
            .map(|cidr| cidr.parse("a range such as 10.96.0.0/16"))
            .collect::<Result<_, _>>()?,
    })
}

/// The taint by which the autoscaler says that it is about to remove a node.
const SCALED_AWAY: &str = "ToBeDeletedByClusterAutoscaler";

pub(crate) fn node(meta: &Meta<'_>, body: &Value) -> Result<Option<Node>, BadField> {
    let root = Field::root(body);
    let mut internal_ips: Vec<IpAddr> = vec![];
    for entry in root.get("status").get("addresses").list()? {
        if entry.get("type").text()? == Some("InternalIP") {
            let ip = address(&entry.get("address"))?;
            if !internal_ips.iter().any(|known| known.is_ipv4() == ip.is_ipv4()) {
                internal_ips.push(ip);
            }
        }
    }
    let spec = root.get("spec");
    let range = |field: &Field<'_>| field.parse("a range such as 10.244.0.0/24");
    let mut pod_cidrs = spec
        .get("podCIDRs")
        .list()?
        .iter()
        .map(range)
        .collect::<Result<Vec<_>, _>>()?;
    if pod_cidrs.is_empty() && spec.get("podCIDR").text()?.is_some_and(|text| !text.is_empty()) {
        pod_cidrs.push(range(&spec.get("podCIDR"))?);
    }
    let tainted = |taint: &Field<'_>| taint.get("key").text().is_ok_and(|key| key == Some(SCALED_AWAY));
    let leaving = meta.object.deletion_timestamp.is_some() || spec.get("taints").list()?.iter().any(tainted);
    Ok(Some(Node {
        name: meta.key.name.clone(),
        internal_ips,
        pod_cidrs,
        zone: meta.label("topology.kubernetes.io/zone").map(str::to_owned),
        leaving,
        labels: meta.labels.cloned().unwrap_or_default(),
    }))
}

/// A pod without a node is not on the network yet, and one that has ended has given its addresses back.
pub(crate) fn pod(meta: &Meta<'_>, body: &Value) -> Result<Option<Pod>, BadField> {
    let root = Field::root(body);
    let Some(node_name) = root.get("spec").get("nodeName").owned()? else {
        return Ok(None);
    };
    let status = root.get("status");
    let ended = matches!(status.get("phase").text()?, Some("Succeeded" | "Failed"));
    let mut ips = vec![];
    if !ended {
        for entry in status.get("podIPs").list()? {
            ips.push(address(&entry.get("ip"))?);
        }
    }
    Ok(Some(Pod {
        key: meta.key.clone(),
        uid: meta.uid.to_owned(),
        node_name,
        ips,
        host_network: root.get("spec").get("hostNetwork").flag()?.unwrap_or(false),
    }))
}

/// The annotation by which the API server's copy of a static pod names the original.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Annotations that concern the network begin with this; nothing else is kept.
const OURS: &str = "weft.dev/";

/// A pod of this node, of which only the metadata was asked for.
pub(crate) fn pod_meta(meta: &Meta<'_>) -> PodMeta {
    PodMeta {
        key: meta.key.clone(),
        uid: meta.annotation(MIRROR).unwrap_or(meta.uid).to_owned(),
        object_uid: meta.uid.to_owned(),
        annotations: meta.our_annotations(),
    }
}

/// A namespace, of which only the metadata was asked for.
pub(crate) fn namespace(meta: &Meta<'_>) -> Namespace {
    Namespace {
        name: meta.key.name.clone(),
        labels: meta.labels.cloned().unwrap_or_default(),
        annotations: meta.our_annotations(),
    }
}

fn address(field: &Field<'_>) -> Result<IpAddr, BadField> {
    field.parse("an IP address")
}

fn addresses(list: &Field<'_>) -> Result<Vec<IpAddr>, BadField> {
    list.list()?.iter().map(address).collect()
}

#[cfg(test)]
mod tests;
