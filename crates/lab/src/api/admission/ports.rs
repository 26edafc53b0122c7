//! Node ports: 30000 to 32767, each number for one service, which may use it for TCP and UDP at once.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use super::pool::{Owner, Pool};
use crate::api::status::FieldError;
use crate::api::store::View;

const FIRST: u16 = 30_000;
const LAST: u16 = 32_767;

/// All node ports; the first 86 are given out last, as in Kubernetes.
pub(super) fn pool() -> Pool<u16> {
    Pool::new(u32::from(LAST - FIRST) + 1, 86, |n| {
        FIRST + u16::try_from(n).unwrap_or_default()
    })
}

/// The node ports that a service has.
pub(super) fn of(spec: &Value) -> impl Iterator<Item = u16> {
    let ports = spec["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| &port["nodePort"]);
    ports.chain([&spec["healthCheckNodePort"]]).filter_map(number)
}

fn number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|n| n.try_into().ok()).filter(|n| *n != 0)
}

fn needs_ports(spec: &Value) -> bool {
    match spec["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn may_have_ports(spec: &Value) -> bool {
    matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"))
}

fn needs_health_port(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

/// On update: a port that is still there keeps its node port, and a type without node ports gives them up.
pub(super) fn keep(before: &Value, spec: &mut Map<String, Value>) {
    let after = Value::Object(spec.clone());
    let key = |port: &Value| {
        (
            port["protocol"].as_str().unwrap_or("TCP").to_owned(),
            port["port"].as_u64(),
        )
    };
    let old = before["ports"].as_array().into_iter().flatten();
    let old: HashMap<_, u16> = old
        .filter_map(|port| Some((key(port), number(&port["nodePort"])?)))
        .collect();
    let mut asked: BTreeSet<u16> = of(&after).collect();
    let (had, may) = (may_have_ports(before), may_have_ports(&after));
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter(|_| had) {
        let (present, earlier) = (number(&port["nodePort"]), old.get(&key(port)).copied());
        let Some(fields) = port.as_object_mut() else { continue };
        if !may && present == earlier {
            fields.remove("nodePort");
        } else if let (true, None, Some(earlier)) = (needs_ports(&after), present, earlier)
            && asked.insert(earlier)
        {
            fields.insert("nodePort".into(), earlier.into());
        }
    }
    let health = "healthCheckNodePort";
    let unset = number(&after[health]).is_none();
    if needs_health_port(&after) && unset && needs_health_port(before) {
        spec.insert(health.into(), before[health].clone());
    } else if !needs_health_port(&after) && after[health] == before[health] {
        spec.remove(health);
    }
}

/// Gives node ports where they are needed, and checks those that are asked for.
pub(super) fn complete(
    pool: &mut Pool<u16>,
    view: &View<'_>,
    owner: &Owner,
    spec: &mut Value,
) -> Result<(), Vec<FieldError>> {
    let has = |owner: &Owner, port: u16| {
        let service = view.get("", "services", &owner.0, &owner.1);
        service.is_some_and(|service| of(&service["spec"]).any(|has| has == port))
    };
    let mut errors = Vec::new();
    let (needed, may) = (needs_ports(spec), may_have_ports(spec));
    let mut taken = BTreeSet::new();
    let mut by_port: HashMap<u64, u16> = HashMap::new();
    let wanted: BTreeSet<u16> = of(spec).collect();
    let kind = spec["type"].as_str().unwrap_or("ClusterIP").to_owned();
    let ports = spec["ports"].as_array_mut();
    let mut open = Vec::new();
    for (i, port) in ports.into_iter().flatten().enumerate() {
        let field = format!("spec.ports[{i}].nodePort");
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        let Some(asked) = port["nodePort"].as_u64().filter(|n| *n != 0) else {
            open.push((port, protocol));
            continue;
        };
        if !may {
            let detail = format!("may not be used when `type` is '{kind}'");
            errors.push(FieldError::forbidden(field, &detail));
            continue;
        }
        let valid = u16::try_from(asked).ok().filter(|n| (FIRST..=LAST).contains(n));
        let Some(valid) = valid else {
            let detail = format!("provided port is not in the valid range. The range of valid ports is {FIRST}-{LAST}");
            errors.push(FieldError::invalid(field, &json!(asked), &detail));
            continue;
        };
        if !taken.insert((protocol, valid)) {
            errors.push(FieldError::duplicate(field, &json!(valid)));
        } else if !pool.take(valid, owner, has) {
            errors.push(FieldError::invalid(
                field,
                &json!(valid),
                "provided port is already allocated",
            ));
        }
        if let Some(number) = port["port"].as_u64() {
            by_port.insert(number, valid);
        }
    }
    for (port, protocol) in open.into_iter().filter(|_| needed) {
        let number = port["port"].as_u64().unwrap_or_default();
        // The same port in another protocol gets the same node port.
        let same = by_port
            .get(&number)
            .copied()
            .filter(|n| !taken.contains(&(protocol.clone(), *n)));
        // What this very write has given out is not stored yet, so the pool cannot see it.
        let own = |n: u16| wanted.contains(&n) || taken.iter().any(|(_, t)| *t == n);
        let Some(given) = same.or_else(|| pool.take_any(owner, has, own)) else {
            errors.push(FieldError::invalid(
                "spec.ports",
                &json!(number),
                "no node port is left: range is full",
            ));
            break;
        };
        taken.insert((protocol, given));
        by_port.insert(number, given);
        port["nodePort"] = given.into();
    }
    if errors.is_empty() {
        errors.extend(health_port(pool, &has, owner, spec).err());
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// The port on which a load balancer asks nodes whether they have endpoints.
fn health_port(
    pool: &mut Pool<u16>,
    has: &impl Fn(&Owner, u16) -> bool,
    owner: &Owner,
    spec: &mut Value,
) -> Result<(), FieldError> {
    let field = "spec.healthCheckNodePort";
    let asked = number(&spec["healthCheckNodePort"]);
    let used: BTreeSet<u16> = of(&json!({ "ports": spec["ports"] })).collect();
    match (needs_health_port(spec), asked) {
        (false, None) => Ok(()),
        (false, Some(_)) => {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            Err(FieldError::invalid(field, &json!(asked), detail))
        }
        (true, None) => {
            let given = pool.take_any(owner, has, |n| used.contains(&n));
            let given = given.ok_or_else(|| FieldError::invalid(field, &json!(0), "range is full"))?;
            spec["healthCheckNodePort"] = given.into();
            Ok(())
        }
        (true, Some(port)) if !(FIRST..=LAST).contains(&port) => {
            let detail = format!("provided port is not in the valid range. The range of valid ports is {FIRST}-{LAST}");
            Err(FieldError::invalid(field, &json!(port), &detail))
        }
        (true, Some(port)) if used.contains(&port) || !pool.take(port, owner, has) => Err(FieldError::invalid(
            field,
            &json!(port),
            "provided port is already allocated",
        )),
        (true, Some(_)) => Ok(()),
    }
}
