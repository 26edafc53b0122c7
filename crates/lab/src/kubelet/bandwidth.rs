//! Limits of a pod's traffic, from its annotations, as the `bandwidth` capability wants them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::quantity::milli;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// What runtimes pass for a burst: the annotations know none.
const BURST: u32 = u32::MAX;

/// An annotation that is no rate.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("reading pod bandwidth annotations: {annotation}: {value:?} {problem}")]
pub struct Invalid {
    annotation: &'static str,
    value: String,
    problem: &'static str,
}

/// The capability's value; `None` without annotations.
pub(super) fn of(annotations: Option<&BTreeMap<String, String>>) -> Result<Option<Value>, Invalid> {
    let (ingress, egress) = (rate(annotations, INGRESS)?, rate(annotations, EGRESS)?);
    let mut limits = serde_json::Map::new();
    for (rate, names) in [
        (ingress, ["ingressRate", "ingressBurst"]),
        (egress, ["egressRate", "egressBurst"]),
    ] {
        if let Some(rate) = rate {
            limits.insert(names[0].to_owned(), json!(rate));
            limits.insert(names[1].to_owned(), json!(BURST));
        }
    }
    Ok((!limits.is_empty()).then_some(Value::Object(limits)))
}

/// In bits per second. The bounds are those of Kubernetes (pkg/util/bandwidth).
fn rate(annotations: Option<&BTreeMap<String, String>>, annotation: &'static str) -> Result<Option<u64>, Invalid> {
    let Some(value) = annotations.and_then(|all| all.get(annotation)) else {
        return Ok(None);
    };
    let invalid = |problem| Invalid {
        annotation,
        value: value.clone(),
        problem,
    };
    let milli = milli(value).ok_or_else(|| invalid("is no quantity such as 10M"))?;
    let bits = milli / 1000;
    match u64::try_from(bits) {
        Ok(bits) if (1_000..=1_000_000_000_000_000).contains(&bits) => Ok(Some(bits)),
        Ok(bits) if bits > 1_000 => Err(invalid("is unreasonably large (> 1Pbit)")),
        _ => Err(invalid("is unreasonably small (< 1kbit)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Value>, String> {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        of(Some(&pairs.collect())).map_err(|error| error.to_string())
    }

    #[test]
    fn rates_are_quantities_of_bits() {
        assert_eq!(of(None), Ok(None));
        assert_eq!(read(&[("other", "1")]), Ok(None));
        assert_eq!(
            read(&[(INGRESS, "10M"), (EGRESS, "1Gi")]).unwrap().unwrap(),
            json!({"ingressRate": 10_000_000, "ingressBurst": 4_294_967_295_u32,
                   "egressRate": 1_073_741_824, "egressBurst": 4_294_967_295_u32})
        );
        assert_eq!(read(&[(EGRESS, "1k")]).unwrap().unwrap()["egressRate"], 1_000);
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for (value, problem) in [
            ("fast", "no quantity"),
            ("10MB", "no quantity"),
            ("", "no quantity"),
            ("999", "unreasonably small"),
            ("-10M", "unreasonably small"),
            ("2P", "unreasonably large"),
        ] {
            let error = read(&[(INGRESS, value)]).unwrap_err();
            assert!(error.contains(problem) && error.contains(INGRESS), "{error}");
        }
    }
}
