//! Addresses and node ports for Services. Runs inside the critical section of the write, so no two services can get
//! the same; costs what the service at hand needs, not what the cluster has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::families::{self, Families};
use super::pool::{Owner, Pool};
use super::ports;
use crate::api::kinds::Resource;
use crate::api::status::{FieldError, Status};
use crate::api::store::View;
use crate::families::Families as Cluster;

const V4: [u8; 4] = [10, 96, 0, 0];
const V6: [u16; 8] = [0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0];
/// Addresses in each family's range.
const SIZE: u32 = 1 << 16;
/// The two ranges, as people write them.
const RANGE_V4: &str = "10.96.0.0/16";
const RANGE_V6: &str = "fd00:10:96::/112";

/// Well-known addresses, by their last part, and the only service that may have them.
const RESERVED: [(u32, &str, &str); 2] = [(1, "default", "kubernetes"), (10, "kube-system", "kube-dns")];

/// Gives addresses and ports to services.
#[derive(Debug, Default)]
pub(super) struct Services {
    families: Cluster,
    pools: Mutex<Option<Pools>>,
}

/// The ranges of a cluster with these families.
pub(in crate::api) fn ranges(families: Cluster) -> Vec<&'static str> {
    families.pick(RANGE_V4, RANGE_V6)
}

#[derive(Debug)]
struct Pools {
    families: Cluster,
    v4: Pool<IpAddr>,
    v6: Pool<IpAddr>,
    ports: Pool<u16>,
}

fn v4(n: u32) -> IpAddr {
    Ipv4Addr::from(u32::from_be_bytes(V4) + n).into()
}

fn v6(n: u32) -> IpAddr {
    Ipv6Addr::from(u128::from(Ipv6Addr::from(V6)) + u128::from(n)).into()
}

/// The address's number in its range.
fn number(address: IpAddr) -> Option<u32> {
    let n = match address {
        IpAddr::V4(address) => u32::from(address).checked_sub(u32::from_be_bytes(V4))?,
        IpAddr::V6(address) => u128::from(address)
            .checked_sub(u128::from(Ipv6Addr::from(V6)))?
            .try_into()
            .ok()?,
    };
    (n < SIZE).then_some(n)
}

/// Not for just any service: the range's ends, and what has a name.
fn is_special(address: IpAddr) -> bool {
    number(address).is_none_or(|n| n == 0 || n == SIZE - 1 || RESERVED.iter().any(|(reserved, ..)| *reserved == n))
}

impl Services {
    /// For a cluster with these families.
    pub(super) fn new(families: Cluster) -> Self {
        Self {
            families,
            pools: Mutex::default(),
        }
    }

    /// Completes a service, or says what it cannot have.
    pub(super) fn complete(
        &self,
        view: &View<'_>,
        resource: &Resource,
        old: Option<&Value>,
        new: &mut Value,
    ) -> Result<(), Status> {
        if !new["spec"].is_object() {
            return Ok(());
        }
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let pools = pools.get_or_insert_with(|| Pools::load(view, self.families));
        let text = |field: &str| new["metadata"][field].as_str().unwrap_or_default().to_owned();
        let owner = (text("namespace"), text("name"));
        if let Some(old) = old {
            keep(old, new);
        }
        let result = pools
            .addresses(view, &owner, old, new)
            .and_then(|()| pools.node_ports(view, &owner, new));
        result.map_err(|errors| Status::invalid(resource, &owner.1, &errors))
    }
}

/// What the update does not mention stays as it was; what the new type cannot have goes, if it was not asked for anew.
fn keep(old: &Value, new: &mut Value) {
    let external = |service: &Value| service["spec"]["type"] == "ExternalName";
    let (was, is) = (external(old), external(new));
    let Some(spec) = new["spec"].as_object_mut() else {
        return;
    };
    let before = &old["spec"];
    if !was && !is {
        if text(spec, "clusterIP").is_empty() && list(spec, "clusterIPs").is_empty() {
            copy(before, spec, "clusterIP");
            copy(before, spec, "clusterIPs");
        } else if list(spec, "clusterIPs").is_empty() && spec.get("clusterIP") == before.get("clusterIP") {
            copy(before, spec, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if spec.get(field).is_none_or(Value::is_null) {
                copy(before, spec, field);
            }
        }
        // Going back to one family gives up the second of what was there.
        if text(spec, "ipFamilyPolicy") == "SingleStack" && text_of(before, "ipFamilyPolicy") != "SingleStack" {
            for field in ["ipFamilies", "clusterIPs"] {
                if spec.get(field) == before.get(field)
                    && let Some(list) = spec.get_mut(field).and_then(Value::as_array_mut)
                {
                    list.truncate(1);
                }
            }
        }
    }
    ports::keep(before, spec);
    drop_foreign(before, spec);
}

/// Fields that the new type does not have go with the old type, if the update leaves them as they were.
fn drop_foreign(before: &Value, spec: &mut Map<String, Value>) {
    let kind = text(spec, "type").to_owned();
    let exposed = matches!(kind.as_str(), "NodePort" | "LoadBalancer") || !list(spec, "externalIPs").is_empty();
    let balanced = kind == "LoadBalancer";
    let inside = kind != "ExternalName";
    for (field, fits) in [
        ("externalTrafficPolicy", exposed),
        ("allocateLoadBalancerNodePorts", balanced),
        ("loadBalancerClass", balanced),
        ("internalTrafficPolicy", inside),
        ("clusterIP", inside),
        ("clusterIPs", inside),
        ("ipFamilies", inside),
        ("ipFamilyPolicy", inside),
    ] {
        if !fits && spec.get(field) == before.get(field) {
            spec.remove(field);
        }
    }
}

fn text<'a>(spec: &'a Map<String, Value>, field: &str) -> &'a str {
    spec.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn text_of<'a>(spec: &'a Value, field: &str) -> &'a str {
    spec[field].as_str().unwrap_or_default()
}

fn list<'a>(spec: &'a Map<String, Value>, field: &str) -> &'a [Value] {
    spec.get(field)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn copy(from: &Value, to: &mut Map<String, Value>, field: &str) {
    if let Some(value) = from.get(field) {
        to.insert(field.to_owned(), value.clone());
    }
}

/// Does the stored service have this address?
fn has_address(view: &View<'_>, owner: &Owner, address: IpAddr) -> bool {
    let service = view.get("", "services", &owner.0, &owner.1);
    service.is_some_and(|service| addresses(&service["spec"]).any(|has| has == address))
}

fn addresses(spec: &Value) -> impl Iterator<Item = IpAddr> {
    let all = spec["clusterIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .chain([&spec["clusterIP"]]);
    all.filter_map(|address| address.as_str()?.parse().ok())
}

impl Pools {
    /// Reads once what the stored services have.
    fn load(view: &View<'_>, families: Cluster) -> Self {
        let mut pools = Self {
            families,
            v4: Pool::new(SIZE, 256, v4),
            v6: Pool::new(SIZE, 256, v6),
            ports: ports::pool(),
        };
        for service in view.list("", "services", None) {
            let text = |field: &str| service["metadata"][field].as_str().unwrap_or_default().to_owned();
            let owner = (text("namespace"), text("name"));
            for address in addresses(&service["spec"]) {
                pools.of(address.is_ipv4()).note(address, &owner);
            }
            for port in ports::of(&service["spec"]) {
                pools.ports.note(port, &owner);
            }
        }
        pools
    }

    fn of(&mut self, is_v4: bool) -> &mut Pool<IpAddr> {
        if is_v4 { &mut self.v4 } else { &mut self.v6 }
    }

    fn addresses(
        &mut self,
        view: &View<'_>,
        owner: &Owner,
        old: Option<&Value>,
        new: &mut Value,
    ) -> Result<(), Vec<FieldError>> {
        let spec = &mut new["spec"];
        if spec["type"] == "ExternalName" {
            if let Some(spec) = spec.as_object_mut() {
                for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                    spec.remove(field);
                }
            }
            return Ok(());
        }
        let resolved = families::resolve(spec, self.families)?;
        let given: Vec<String> = if resolved.headless {
            vec!["None".to_owned()]
        } else {
            self.allocate(view, owner, &resolved)?
                .iter()
                .map(IpAddr::to_string)
                .collect()
        };
        let before = old.filter(|old| old["spec"]["type"] != "ExternalName");
        let before = before
            .and_then(|old| old["spec"]["clusterIP"].as_str())
            .filter(|ip| !ip.is_empty());
        if before.is_some_and(|before| before != given[0]) {
            let error = FieldError::invalid("spec.clusterIPs[0]", &json!(given), "may not change once set");
            return Err(vec![error]);
        }
        spec["clusterIP"] = given[0].clone().into();
        spec["clusterIPs"] = given.into();
        spec["ipFamilies"] = json!(resolved.families);
        spec["ipFamilyPolicy"] = resolved.policy.into();
        Ok(())
    }

    fn allocate(&mut self, view: &View<'_>, owner: &Owner, wish: &Families) -> Result<Vec<IpAddr>, Vec<FieldError>> {
        let has = |owner: &Owner, address| has_address(view, owner, address);
        let refuse = |address: &dyn std::fmt::Display, why: String| {
            let detail = format!("failed to allocate IP {address}: {why}");
            Err(vec![FieldError::invalid(
                "spec.clusterIPs",
                &json!(wish.addresses),
                &detail,
            )])
        };
        let mut result = Vec::new();
        for (i, family) in wish.families.iter().enumerate() {
            let is_v4 = *family == "IPv4";
            let Some(address) = wish.addresses.get(i).copied() else {
                let any = self.of(is_v4).take_any(owner, has, is_special);
                let Some(address) = any else {
                    return refuse(family, "range is full".to_owned());
                };
                result.push(address);
                continue;
            };
            let Some(n) = number(address).filter(|n| *n != 0 && (*n != SIZE - 1 || !is_v4)) else {
                let range = if is_v4 { RANGE_V4 } else { RANGE_V6 };
                let why =
                    format!("the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}");
                return refuse(&address, why);
            };
            let reserved = RESERVED.iter().find(|(reserved, ..)| *reserved == n);
            let allowed = reserved.is_none_or(|(_, namespace, name)| owner.0 == *namespace && owner.1 == *name);
            if !allowed || !self.of(is_v4).take(address, owner, has) {
                return refuse(&address, "provided IP is already allocated".to_owned());
            }
            result.push(address);
        }
        Ok(result)
    }

    fn node_ports(&mut self, view: &View<'_>, owner: &Owner, new: &mut Value) -> Result<(), Vec<FieldError>> {
        ports::complete(&mut self.ports, view, owner, &mut new["spec"])
    }
}
