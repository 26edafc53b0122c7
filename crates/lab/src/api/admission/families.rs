//! Which address families a service has: from its policy, its families and its addresses, as far as each is given.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::api::status::FieldError;
use crate::families::Families as Cluster;

/// The families and policy of a service, and the addresses it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Families {
    pub(super) policy: &'static str,
    /// `IPv4` or `IPv6`, primary first.
    pub(super) families: Vec<&'static str>,
    /// The given addresses, in the order of `families`; may be shorter.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) headless: bool,
}

pub(super) fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

fn texts(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// The addresses as given in `clusterIP` and `clusterIPs`, which must not contradict each other.
fn given<'a>(spec: &'a Value, errors: &mut Vec<FieldError>) -> Vec<&'a str> {
    let single = spec["clusterIP"].as_str().unwrap_or_default();
    let all = texts(&spec["clusterIPs"]);
    match all.first() {
        None if single.is_empty() => Vec::new(),
        None => vec![single],
        Some(first) => {
            if !single.is_empty() && *first != single {
                let detail = "first value must match `clusterIP`";
                errors.push(FieldError::invalid("spec.clusterIPs[0]", &json!(all), detail));
            }
            all
        }
    }
}

/// Resolves what a service says about its families, in a cluster with these.
pub(super) fn resolve(spec: &Value, cluster: Cluster) -> Result<Families, Vec<FieldError>> {
    let mut errors = Vec::new();
    let given = given(spec, &mut errors);
    let headless = given.first() == Some(&"None");
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (i, text) in given.iter().enumerate().filter(|_| !headless) {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => {
                let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                errors.push(FieldError::invalid(
                    format!("spec.clusterIPs[{i}]"),
                    &json!(text),
                    detail,
                ));
            }
        }
    }
    // Whoever writes endpoints by hand may write both families, whatever the cluster has.
    let selectorless_headless = headless && selectorless(spec);
    let asked = texts(&spec["ipFamilies"]);
    let families: Vec<&'static str> = asked
        .iter()
        .enumerate()
        .filter_map(|(i, text)| match *text {
            family @ ("IPv4" | "IPv6") if !selectorless_headless && !cluster.pick("IPv4", "IPv6").contains(&family) => {
                let field = format!("spec.ipFamilies[{i}]");
                errors.push(FieldError::invalid(
                    field,
                    &json!(text),
                    "not configured on this cluster",
                ));
                None
            }
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => {
                let field = format!("spec.ipFamilies[{i}]");
                errors.push(FieldError::not_supported(field, &json!(text), &["IPv4", "IPv6"]));
                None
            }
        })
        .collect();
    let policy = policy(spec, headless, families.len().max(addresses.len()), &mut errors);
    check(&families, &addresses, policy, &mut errors);
    let dual = cluster == Cluster::Dual || selectorless_headless;
    if policy == "RequireDualStack" && !dual {
        let detail = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid("spec.ipFamilyPolicy", &json!(policy), detail));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let primary = families
        .first()
        .copied()
        .or(addresses.first().map(family))
        .unwrap_or(cluster.primary("IPv4", "IPv6"));
    let mut result = Families {
        policy,
        families: vec![primary],
        addresses,
        headless,
    };
    if policy != "SingleStack" && dual {
        result.families.push(other(primary));
    }
    Ok(result)
}

fn selectorless(spec: &Value) -> bool {
    spec["selector"].as_object().is_none_or(|selector| selector.is_empty())
}

fn policy(spec: &Value, headless: bool, several: usize, errors: &mut Vec<FieldError>) -> &'static str {
    match spec["ipFamilyPolicy"].as_str() {
        None if several > 1 || (headless && selectorless(spec) && several == 0) => "RequireDualStack",
        None => "SingleStack",
        Some("SingleStack") => "SingleStack",
        Some("PreferDualStack") => "PreferDualStack",
        Some("RequireDualStack") => "RequireDualStack",
        Some(other) => {
            let known = ["SingleStack", "PreferDualStack", "RequireDualStack"];
            errors.push(FieldError::not_supported("spec.ipFamilyPolicy", &json!(other), &known));
            "SingleStack"
        }
    }
}

fn check(families: &[&str], addresses: &[IpAddr], policy: &str, errors: &mut Vec<FieldError>) {
    for (i, (wanted, address)) in families.iter().zip(addresses).enumerate() {
        if family(address) != *wanted {
            let detail = format!("expected an {wanted} value as indicated by `ipFamilies[{i}]`");
            errors.push(FieldError::invalid(
                format!("spec.clusterIPs[{i}]"),
                &json!(address),
                &detail,
            ));
        }
    }
    if families.len() > 2 || addresses.len() > 2 {
        let detail = "may only hold up to 2 values";
        errors.push(FieldError::invalid("spec.clusterIPs", &json!(addresses), detail));
    }
    if let [first, second, ..] = families
        && first == second
    {
        errors.push(FieldError::duplicate("spec.ipFamilies[1]", &json!(second)));
    }
    if let [first, second, ..] = addresses
        && family(first) == family(second)
    {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid("spec.clusterIPs", &json!(addresses), detail));
    }
    if policy == "SingleStack" && families.len().max(addresses.len()) > 1 {
        let detail = "must be RequireDualStack or PreferDualStack when multiple 'ipFamilies' are specified";
        errors.push(FieldError::invalid("spec.ipFamilyPolicy", &json!(policy), detail));
    }
}
