//! A pool whose spec has been checked. What is wrong with one is said by field, value and cause.

use std::net::IpAddr;

use ipnet::IpNet;

use super::spec::{BlockSize, Count, PoolSpec};
use crate::selector::{Labels, Selector, SelectorError};

/// The most addresses that one block can have, as a power of two.
const LARGEST_BLOCK: u8 = 16;
/// The most that a node may be told to keep free: more than any node has pods.
const MOST_KEPT: u32 = 65_536;

/// An IPPool that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its networks: no two overlap, each holds at least one block.
    pub cidrs: Vec<IpNet>,
    /// Prefix length of its blocks.
    pub block_size: BlockSize,
    /// Addresses of each family that a node keeps free.
    pub pre_allocate: u64,
    /// Addresses of each family that a node has at least.
    pub min_allocate: u64,
    /// Addresses beyond those that a node may keep.
    pub max_above_watermark: u64,
    /// Where its provider listens, if it has one.
    pub provider: Option<String>,
    node_selector: Selector,
    namespace_selector: Selector,
}

/// Why a pool cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("IPPool {pool}: {field}: {cause}")]
pub struct PoolError {
    /// Name of the pool.
    pub pool: String,
    /// Path of the field.
    pub field: String,
    /// What is wrong with it.
    pub cause: PoolProblem,
}

/// What is wrong with a field of a pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolProblem {
    /// A pool of nothing.
    #[error("is empty; name at least one network, such as 10.1.0.0/16")]
    Empty,
    /// Not a network.
    #[error("{0:?} is no network; write address/prefix, such as 10.1.0.0/16 or fd00:1::/64")]
    NotANetwork(String),
    /// An address of a host, with a prefix.
    #[error("{given} has bits set after its prefix; write {network}")]
    HostBits {
        /// What was written.
        given: IpNet,
        /// What may have been meant.
        network: IpNet,
    },
    /// Addresses that no pod can have.
    #[error("{cidr} holds {what} addresses, which pods cannot have")]
    Unusable {
        /// The network.
        cidr: IpNet,
        /// What kind of addresses.
        what: &'static str,
    },
    /// Two networks of one pool share addresses.
    #[error("{cidr} overlaps {other} of the same pool; leave one of them out")]
    Overlap {
        /// The network.
        cidr: IpNet,
        /// The one before it.
        other: IpNet,
    },
    /// A network smaller than what a node gets at a time.
    #[error("{cidr} is too small for one block of /{block}; raise spec.blockSize.{family} to {prefix} or more, or take a larger network", prefix = cidr.prefix_len())]
    SmallerThanBlock {
        /// The network.
        cidr: IpNet,
        /// Prefix length of a block.
        block: u8,
        /// `ipv4` or `ipv6`.
        family: &'static str,
    },
    /// A prefix length that the family does not have, or a block of too many addresses.
    #[error(
        "{block} is no size of a block; take a prefix length from {least} (65,536 addresses) to {most} (one address)"
    )]
    BlockSize {
        /// What was written.
        block: u8,
        /// Prefix length of the largest block.
        least: u8,
        /// Prefix length of a single address.
        most: u8,
    },
    /// More addresses than a node can use.
    #[error("{0} addresses for each node are too many; at most {MOST_KEPT}")]
    TooMany(u32),
    /// A selector that cannot be used.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// A provider without a usable address.
    #[error("{0:?} is no address of a provider; write http://host:port/path")]
    Url(String),
}

impl Pool {
    /// Checks a pool's spec. The first problem is returned.
    pub fn new(name: &str, spec: &PoolSpec) -> Result<Self, PoolError> {
        let wrong = |field: String, cause: PoolProblem| PoolError {
            pool: name.to_owned(),
            field,
            cause,
        };
        for (family, block, most) in [("ipv4", spec.block_size.ipv4, 32), ("ipv6", spec.block_size.ipv6, 128)] {
            let least = most - LARGEST_BLOCK;
            if !(least..=most).contains(&block) {
                let cause = PoolProblem::BlockSize { block, least, most };
                return Err(wrong(format!("spec.blockSize.{family}"), cause));
            }
        }
        let mut cidrs = vec![];
        for (index, text) in spec.cidrs.iter().enumerate() {
            let cidr = network(text, spec.block_size, &cidrs);
            cidrs.push(cidr.map_err(|cause| wrong(format!("spec.cidrs[{index}]"), cause))?);
        }
        if cidrs.is_empty() {
            return Err(wrong("spec.cidrs".into(), PoolProblem::Empty));
        }
        for (field, selector) in [
            ("nodeSelector", &spec.node_selector),
            ("namespaceSelector", &spec.namespace_selector),
        ] {
            let checked = selector.as_ref().map_or(Ok(()), Selector::validate);
            checked.map_err(|error| wrong(format!("spec.{field}"), error.into()))?;
        }
        for (field, count) in [
            ("preAllocate", spec.pre_allocate),
            ("minAllocate", spec.min_allocate),
            ("maxAboveWatermark", spec.max_above_watermark),
        ] {
            if count > MOST_KEPT {
                return Err(wrong(format!("spec.{field}"), PoolProblem::TooMany(count)));
            }
        }
        let provider = spec
            .provider
            .as_ref()
            .map(|provider| provider.http.clone().unwrap_or_default().url);
        if let Some(url) = provider.as_ref().filter(|url| !is_url(url)) {
            return Err(wrong("spec.provider.http.url".into(), PoolProblem::Url(url.clone())));
        }
        Ok(Self {
            name: name.to_owned(),
            cidrs,
            block_size: spec.block_size,
            pre_allocate: spec.pre_allocate.into(),
            min_allocate: spec.min_allocate.into(),
            max_above_watermark: spec.max_above_watermark.into(),
            provider,
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            namespace_selector: spec.namespace_selector.clone().unwrap_or_default(),
        })
    }

    /// Whether nodes with these labels may use it.
    pub fn serves_node(&self, labels: &Labels) -> bool {
        self.node_selector.matches(labels)
    }

    /// Whether pods of a namespace with these labels use it unasked. Without a selector it waits to be asked for.
    pub fn serves_namespace(&self, labels: &Labels) -> bool {
        !self.namespace_selector.is_empty() && self.namespace_selector.matches(labels)
    }

    /// Whether it has networks of this family.
    pub fn has_family(&self, ipv4: bool) -> bool {
        self.cidrs.iter().any(|cidr| cidr.addr().is_ipv4() == ipv4)
    }

    /// Whether this address is one of its own.
    pub fn contains(&self, ip: &IpAddr) -> bool {
        self.cidrs.iter().any(|cidr| cidr.contains(ip))
    }

    /// The block that holds this address, if it is one of the pool's.
    pub fn block_of(&self, ip: IpAddr) -> Option<IpNet> {
        let block = IpNet::new(ip, self.block_prefix(ip.is_ipv4())).ok()?.trunc();
        self.contains(&ip).then_some(block)
    }

    /// Whether this is exactly one block of the pool.
    pub fn is_block(&self, cidr: &IpNet) -> bool {
        self.block_of(cidr.addr()) == Some(*cidr)
    }

    /// Prefix length of a block of this family.
    pub fn block_prefix(&self, ipv4: bool) -> u8 {
        if ipv4 {
            self.block_size.ipv4
        } else {
            self.block_size.ipv6
        }
    }

    /// How many addresses it has.
    pub fn capacity(&self) -> Count {
        let mut count = Count::default();
        self.cidrs.iter().for_each(|cidr| count.add(cidr));
        count
    }
}

impl Count {
    /// Adds the addresses of a network.
    pub fn add(&mut self, cidr: &IpNet) {
        let of = if cidr.addr().is_ipv4() {
            &mut self.ipv4
        } else {
            &mut self.ipv6
        };
        *of = of.saturating_add(addresses(cidr)).min(i64::MAX as u64);
    }

    /// The number of one family.
    pub fn of(&self, ipv4: bool) -> u64 {
        if ipv4 { self.ipv4 } else { self.ipv6 }
    }
}

/// How many addresses a network has, all of which pods can be given: nothing in a routed network is a gateway or a
/// broadcast address. At most `i64::MAX`.
pub fn addresses(cidr: &IpNet) -> u64 {
    1u64.checked_shl(u32::from(cidr.max_prefix_len() - cidr.prefix_len()))
        .map_or(i64::MAX as u64, |count| count.min(i64::MAX as u64))
}

fn network(text: &str, block_size: BlockSize, before: &[IpNet]) -> Result<IpNet, PoolProblem> {
    let given: IpNet = text.parse().map_err(|_| PoolProblem::NotANetwork(text.to_owned()))?;
    let cidr = given.trunc();
    if given != cidr {
        return Err(PoolProblem::HostBits { given, network: cidr });
    }
    if let Some(what) = unusable(&cidr) {
        return Err(PoolProblem::Unusable { cidr, what });
    }
    let (family, block) = match cidr {
        IpNet::V4(_) => ("ipv4", block_size.ipv4),
        IpNet::V6(_) => ("ipv6", block_size.ipv6),
    };
    if cidr.prefix_len() > block {
        return Err(PoolProblem::SmallerThanBlock { cidr, block, family });
    }
    match before.iter().find(|other| overlap(other, &cidr)) {
        Some(other) => Err(PoolProblem::Overlap { cidr, other: *other }),
        None => Ok(cidr),
    }
}

/// Whether two networks share addresses: networks nest or are apart.
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

fn unusable(cidr: &IpNet) -> Option<&'static str> {
    const KINDS: [(&str, &str); 10] = [
        ("0.0.0.0/8", "unspecified"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    ];
    let hit = |kind: &str| kind.parse().is_ok_and(|kind: IpNet| overlap(&kind, cidr));
    KINDS.iter().find(|(kind, _)| hit(kind)).map(|(_, what)| *what)
}

/// A provider's address: what the host is, only asking it can tell.
fn is_url(url: &str) -> bool {
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    host.is_some_and(|host| !host.is_empty() && !host.starts_with('/') && !host.contains(char::is_whitespace))
}

#[cfg(test)]
mod tests {
    use super::super::spec::{HttpProvider, Provider};
    use super::*;
    use crate::selector::Requirement;

    fn spec(cidrs: &[&str]) -> PoolSpec {
        PoolSpec {
            cidrs: cidrs.iter().map(|cidr| (*cidr).into()).collect(),
            ..PoolSpec::default()
        }
    }

    fn refused(spec: &PoolSpec) -> String {
        Pool::new("apps", spec).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_with_networks_is_named_by_field_value_and_cause() {
        for (cidrs, message) in [
            (
                vec![],
                "IPPool apps: spec.cidrs: is empty; name at least one network, such as 10.1.0.0/16",
            ),
            (
                vec!["10.1.0.0"],
                r#"IPPool apps: spec.cidrs[0]: "10.1.0.0" is no network; write address/prefix, such as 10.1.0.0/16 or fd00:1::/64"#,
            ),
            (
                vec!["10.2.0.0/24", "10.1.0.5/24"],
                "IPPool apps: spec.cidrs[1]: 10.1.0.5/24 has bits set after its prefix; write 10.1.0.0/24",
            ),
            (
                vec!["10.0.0.0/8", "10.1.0.0/24"],
                "IPPool apps: spec.cidrs[1]: 10.1.0.0/24 overlaps 10.0.0.0/8 of the same pool; leave one of them out",
            ),
            (
                vec!["10.1.0.0/30"],
                "IPPool apps: spec.cidrs[0]: 10.1.0.0/30 is too small for one block of /28; raise spec.blockSize.ipv4 to 30 or more, or take a larger network",
            ),
            (
                vec!["fd00::/126"],
                "IPPool apps: spec.cidrs[0]: fd00::/126 is too small for one block of /124; raise spec.blockSize.ipv6 to 126 or more, or take a larger network",
            ),
            (
                vec!["127.0.0.0/8"],
                "IPPool apps: spec.cidrs[0]: 127.0.0.0/8 holds loopback addresses, which pods cannot have",
            ),
            (
                vec!["::/0"],
                "IPPool apps: spec.cidrs[0]: ::/0 holds unspecified addresses, which pods cannot have",
            ),
        ] {
            assert_eq!(refused(&spec(&cidrs)), message);
        }
    }

    #[test]
    fn a_block_of_too_many_addresses_is_refused() {
        for (ipv4, ipv6, message) in [
            (
                8,
                124,
                "IPPool apps: spec.blockSize.ipv4: 8 is no size of a block; take a prefix length from 16 (65,536 addresses) to 32 (one address)",
            ),
            (
                33,
                124,
                "IPPool apps: spec.blockSize.ipv4: 33 is no size of a block; take a prefix length from 16 (65,536 addresses) to 32 (one address)",
            ),
            (
                28,
                64,
                "IPPool apps: spec.blockSize.ipv6: 64 is no size of a block; take a prefix length from 112 (65,536 addresses) to 128 (one address)",
            ),
        ] {
            let spec = PoolSpec {
                block_size: BlockSize { ipv4, ipv6 },
                ..spec(&["10.1.0.0/16"])
            };
            assert_eq!(refused(&spec), message);
        }
    }

    #[test]
    fn selectors_numbers_and_providers_are_checked() {
        let requirement = Requirement {
            key: "zone".into(),
            operator: "Is".into(),
            values: vec![],
        };
        let selector = Some(Selector {
            match_expressions: vec![requirement],
            ..Selector::default()
        });
        let with = PoolSpec {
            node_selector: selector,
            ..spec(&["10.1.0.0/16"])
        };
        let message = "IPPool apps: spec.nodeSelector: matchExpressions[0].operator: \"Is\" is no operator: In, NotIn, Exists or DoesNotExist";
        assert_eq!(refused(&with), message);
        let with = PoolSpec {
            pre_allocate: 70_000,
            ..spec(&["10.1.0.0/16"])
        };
        let message = "IPPool apps: spec.preAllocate: 70000 addresses for each node are too many; at most 65536";
        assert_eq!(refused(&with), message);
        let provider = |url: &str| {
            Some(Provider {
                http: Some(HttpProvider { url: url.into() }),
            })
        };
        for url in ["", "ftp://a", "http://", "http:///x", "http://a b"] {
            let with = PoolSpec {
                provider: provider(url),
                ..spec(&["10.1.0.0/16"])
            };
            assert!(
                refused(&with).starts_with("IPPool apps: spec.provider.http.url: "),
                "{url}"
            );
        }
        let with = PoolSpec {
            provider: provider("http://[::1]:80/v1"),
            ..spec(&["10.1.0.0/16"])
        };
        assert_eq!(
            Pool::new("apps", &with).unwrap().provider.as_deref(),
            Some("http://[::1]:80/v1")
        );
    }

    #[test]
    fn a_pool_knows_its_blocks_and_how_many_addresses_it_has() {
        let pool = Pool::new("apps", &spec(&["10.1.0.0/24", "192.0.2.0/28", "fd00::/64"])).unwrap();
        assert_eq!(
            pool.capacity(),
            Count {
                ipv4: 272,
                ipv6: i64::MAX as u64
            }
        );
        let block = |ip: &str| pool.block_of(ip.parse().unwrap()).map(|block| block.to_string());
        assert_eq!(block("10.1.0.77").as_deref(), Some("10.1.0.64/28"));
        assert_eq!(block("fd00::1:2").as_deref(), Some("fd00::1:0/124"));
        assert_eq!(block("10.2.0.1"), None);
        assert!(pool.is_block(&"10.1.0.64/28".parse().unwrap()));
        assert!(!pool.is_block(&"10.1.0.64/29".parse().unwrap()));
        assert!(pool.serves_node(&Labels::new()) && !pool.serves_namespace(&Labels::new()));
    }

    #[test]
    fn a_spec_of_nothing_but_networks_has_the_defaults() {
        let read: PoolSpec = serde_json::from_str(r#"{"cidrs": ["10.1.0.0/24"], "blockSize": {"ipv4": 32}}"#).unwrap();
        assert_eq!(
            read,
            PoolSpec {
                block_size: BlockSize { ipv4: 32, ipv6: 124 },
                ..spec(&["10.1.0.0/24"])
            }
        );
    }
}
