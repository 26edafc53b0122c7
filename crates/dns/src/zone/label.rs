//! The label an endpoint goes by below its Service: its hostname, or its address with dashes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// An endpoint's label. An address label costs no heap memory, and most endpoints have one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Label {
    /// `172-0-0-2` or `5678-abcd--1`.
    Address(IpAddr),
    /// The endpoint's `hostname`, in lower case.
    Host(Arc<str>),
}

impl Label {
    /// The label of an endpoint. A hostname that could not be a DNS label is as good as none.
    pub(crate) fn of(hostname: Option<&str>, address: IpAddr) -> Self {
        match hostname {
            Some(host) if is_label(host) => Self::parse(&host.to_ascii_lowercase()),
            _ => Self::Address(address),
        }
    }

    /// Reads a label in lower case. A hostname that looks like an address label is that address label:
    /// in DNS they are one name.
    pub(crate) fn parse(text: &str) -> Self {
        let v4 = || text.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
        let v6 = || text.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6);
        match v4().or_else(v6).map(Self::Address) {
            Some(label) if label.to_string() == text => label,
            _ => Self::Host(text.into()),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V4(ip)) => f.write_str(&ip.to_string().replace('.', "-")),
            Self::Address(IpAddr::V6(ip)) => f.write_str(&ip.to_string().replace([':', '.'], "-")),
            Self::Host(host) => f.write_str(host),
        }
    }
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_dashes_and_come_back() {
        for (ip, text) in [
            ("172.0.0.2", "172-0-0-2"),
            ("5678:abcd::1", "5678-abcd--1"),
            ("::1", "--1"),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(Label::of(None, ip).to_string(), text);
            assert_eq!(Label::parse(text), Label::Address(ip));
        }
    }

    #[test]
    fn hostnames_win_unless_they_are_no_label() {
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(Label::of(Some("Web-0"), ip).to_string(), "web-0");
        for bad in ["", "a.b", "-a", "a-", "a_b", &"x".repeat(64)] {
            assert_eq!(Label::of(Some(bad), ip), Label::Address(ip), "{bad:?}");
        }
    }

    #[test]
    fn only_the_canonical_spelling_is_an_address() {
        assert!(matches!(Label::parse("10-0-0"), Label::Host(_)));
        assert!(matches!(Label::parse("0--1"), Label::Host(_)));
        assert_eq!(
            Label::of(Some("10-0-0-9"), "10.0.0.1".parse().unwrap()),
            Label::parse("10-0-0-9")
        );
    }
}
