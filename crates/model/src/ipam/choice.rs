//! Which source a pod's addresses come from: what its annotations say, what the runtime asks for, and which of the
//! pools is meant for its namespace.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::pool::Pool;
use super::spec::DEFAULT_POOL;
use crate::Namespace;

/// Annotation of a pod or a namespace: the IPPool that addresses are to come from.
pub const POOL_ANNOTATION: &str = "weft.dev/ip-pool";
/// Annotation of a pod: exactly these addresses, at most one of each family, separated by commas.
pub const IP_ANNOTATION: &str = "weft.dev/ip";

/// Where a pod's addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// These, wherever they belong.
    Fixed(Vec<IpAddr>),
    /// One of each family of the pool.
    Pool(String),
    /// One of each of the node's own ranges.
    Ranges,
}

/// What decides a pod's source. A pod that the API server does not have has no annotations and no namespace.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The pod's annotations.
    pub annotations: &'a BTreeMap<String, String>,
    /// Its namespace.
    pub namespace: &'a Namespace,
    /// The addresses that the runtime asks for (`CNI_ARGS` IP, capability `ips`).
    pub runtime: &'a [IpAddr],
    /// Whether the node has ranges of its own.
    pub has_ranges: bool,
}

/// Why there is no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// Not an address, or one that no pod can have.
    #[error(
        "annotation {IP_ANNOTATION}: {value:?} is no address of a pod; write one of each family at most, such as \"10.1.0.9\" or \"10.1.0.9,fd00::9\""
    )]
    NotAnAddress {
        /// What was written.
        value: String,
    },
    /// Two addresses of one family.
    #[error("{first} and {second} are of one family; a pod has at most one address of each, so leave one out")]
    TwoOfAFamily {
        /// The one.
        first: IpAddr,
        /// The other.
        second: IpAddr,
    },
    /// An empty name, or one that no object can have.
    #[error(
        "annotation {POOL_ANNOTATION} of {of}: {value:?} is no name of an IPPool; name one (`kubectl get ippools`), or remove the annotation"
    )]
    NotAPool {
        /// `the pod`, or the namespace.
        of: String,
        /// What was written.
        value: String,
    },
    /// Nothing gives this pod addresses.
    #[error(
        "the node has no pod CIDR, no IPPool selects the pod's namespace, and there is no IPPool {DEFAULT_POOL}; create one, or let a controller assign spec.podCIDRs (kube-controller-manager: --allocate-node-cidrs=true)"
    )]
    NoSource,
}

/// Chooses: fixed addresses, then the pod's annotation, its namespace's, the first pool by name that selects the
/// namespace, the node's own ranges, the pool `default`. `pools` are those that this node may use, by name.
pub fn choose<'a>(wish: Wish<'_>, pools: impl IntoIterator<Item = &'a Pool>) -> Result<Source, ChoiceError> {
    let fixed = match (wish.runtime, wish.annotations.get(IP_ANNOTATION)) {
        ([], None) => None,
        ([], Some(text)) => Some(addresses(text)?),
        (asked, _) => Some(asked.to_vec()),
    };
    if let Some(fixed) = fixed {
        return one_of_a_family(fixed).map(Source::Fixed);
    }
    let of_namespace = format!("namespace {}", wish.namespace.name);
    for (of, annotations) in [
        ("the pod", wish.annotations),
        (of_namespace.as_str(), &wish.namespace.annotations),
    ] {
        if let Some(name) = annotations.get(POOL_ANNOTATION) {
            return pool_name(name, of).map(Source::Pool);
        }
    }
    let mut default = None;
    for pool in pools {
        if pool.serves_namespace(&wish.namespace.labels) {
            return Ok(Source::Pool(pool.name.clone()));
        }
        if pool.name == DEFAULT_POOL {
            default = Some(Source::Pool(pool.name.clone()));
        }
    }
    match (wish.has_ranges, default) {
        (true, _) => Ok(Source::Ranges),
        (false, Some(default)) => Ok(default),
        (false, None) => Err(ChoiceError::NoSource),
    }
}

fn addresses(text: &str) -> Result<Vec<IpAddr>, ChoiceError> {
    let usable = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast();
    let parse = |part: &str| part.trim().parse().ok().filter(usable);
    text.split(',')
        .map(|part| parse(part).ok_or_else(|| ChoiceError::NotAnAddress { value: text.to_owned() }))
        .collect()
}

fn one_of_a_family(ips: Vec<IpAddr>) -> Result<Vec<IpAddr>, ChoiceError> {
    for (index, first) in ips.iter().enumerate() {
        let same = |other: &&IpAddr| other.is_ipv4() == first.is_ipv4();
        if let Some(second) = ips[index + 1..].iter().find(same) {
            let (first, second) = (*first, *second);
            return Err(ChoiceError::TwoOfAFamily { first, second });
        }
    }
    Ok(ips)
}

/// A DNS subdomain, as the names of cluster-scoped objects are.
fn pool_name(name: &str, of: &str) -> Result<String, ChoiceError> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    if !name.is_empty() && name.len() <= 253 && name.bytes().all(inner) {
        return Ok(name.to_owned());
    }
    Err(ChoiceError::NotAPool {
        of: of.to_owned(),
        value: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::spec::PoolSpec;
    use super::*;
    use crate::selector::Selector;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect()
    }

    fn pool(name: &str, namespaces: &[(&str, &str)]) -> Pool {
        let selector = Selector {
            match_labels: map(namespaces),
            ..Selector::default()
        };
        let spec = PoolSpec {
            cidrs: vec!["10.1.0.0/24".into()],
            namespace_selector: Some(selector),
            ..PoolSpec::default()
        };
        Pool::new(name, &spec).unwrap()
    }

    struct Case {
        pod: BTreeMap<String, String>,
        namespace: Namespace,
        runtime: Vec<IpAddr>,
        has_ranges: bool,
        pools: Vec<Pool>,
    }

    impl Case {
        fn new(pod: &[(&str, &str)], namespace: &[(&str, &str)]) -> Self {
            let namespace = Namespace {
                name: "team".into(),
                labels: map(&[("team", "a")]),
                annotations: map(namespace),
            };
            Self {
                pod: map(pod),
                namespace,
                runtime: vec![],
                has_ranges: true,
                pools: vec![pool("default", &[])],
            }
        }

        fn chosen(&self) -> String {
            let wish = Wish {
                annotations: &self.pod,
                namespace: &self.namespace,
                runtime: &self.runtime,
                has_ranges: self.has_ranges,
            };
            match choose(wish, &self.pools) {
                Ok(Source::Pool(name)) => name,
                Ok(Source::Ranges) => "ranges".into(),
                Ok(Source::Fixed(ips)) => ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "),
                Err(error) => error.to_string(),
            }
        }
    }

    #[test]
    fn the_nearer_word_wins() {
        let (blue, green) = ([(POOL_ANNOTATION, "blue")], [(POOL_ANNOTATION, "green")]);
        let mut case = Case::new(&[(IP_ANNOTATION, "10.1.0.9, fd00::9"), blue[0]], &green);
        case.runtime = vec!["10.1.0.7".parse().unwrap()];
        assert_eq!(case.chosen(), "10.1.0.7");
        case.runtime.clear();
        assert_eq!(case.chosen(), "10.1.0.9 fd00::9");
        let mut case = Case::new(&blue, &green);
        assert_eq!(case.chosen(), "blue");
        case.pod.clear();
        assert_eq!(case.chosen(), "green");
        case.namespace.annotations.clear();
        case.pools = vec![pool("a", &[]), pool("b", &[("team", "a")]), pool("c", &[("team", "a")])];
        assert_eq!(case.chosen(), "b");
        case.namespace.labels.clear();
        assert_eq!(case.chosen(), "ranges");
        case.has_ranges = false;
        assert!(
            case.chosen().starts_with("the node has no pod CIDR"),
            "{}",
            case.chosen()
        );
        case.pools.push(pool("default", &[]));
        assert_eq!(case.chosen(), "default");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_annotation_and_value() {
        for value in [
            "",
            "10.1.0.300",
            "10.1.0.9/24",
            "10.1.0.9,",
            "0.0.0.0",
            "127.0.0.1",
            "ff02::1",
            "nine",
        ] {
            let said = Case::new(&[(IP_ANNOTATION, value)], &[]).chosen();
            assert!(
                said.starts_with(&format!("annotation weft.dev/ip: {value:?} is no address")),
                "{said}"
            );
        }
        let said = Case::new(&[(IP_ANNOTATION, "10.1.0.9,10.1.0.8")], &[]).chosen();
        assert!(said.starts_with("10.1.0.9 and 10.1.0.8 are of one family"), "{said}");
        let said = Case::new(&[(POOL_ANNOTATION, "")], &[]).chosen();
        assert!(
            said.starts_with("annotation weft.dev/ip-pool of the pod: \"\" is no name"),
            "{said}"
        );
        let said = Case::new(&[], &[(POOL_ANNOTATION, "A pool")]).chosen();
        assert!(said.contains("of namespace team: \"A pool\" is no name"), "{said}");
    }
}
