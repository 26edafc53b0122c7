//! The forms that names, labels and addresses have, each with the API server's words for what is wrong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

/// What is wrong, if anything.
pub(super) type Problem = Option<String>;

fn too_long(text: &str, limit: usize) -> Problem {
    (text.len() > limit).then(|| format!("must be no more than {limit} bytes"))
}

/// Text of lower-case letters, digits and inner hyphens.
fn is_label(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// Text of letters, digits and inner `-`, `_` and `.`.
fn is_qualified(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A DNS label, as names of namespaces and containers are.
pub(super) fn dns_label(text: &str) -> Problem {
    too_long(text, LABEL_MAX).or_else(|| {
        (!is_label(text)).then(|| {
            format!(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{LABEL}')"
            )
        })
    })
}

/// A DNS label that starts with a letter, as names of Services are.
pub(super) fn dns1035_label(text: &str) -> Problem {
    too_long(text, LABEL_MAX).or_else(|| {
        (!is_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase())).then(|| {
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')".to_owned()
        })
    })
}

/// A DNS name, as names of most objects are.
pub(super) fn dns_subdomain(text: &str) -> Problem {
    too_long(text, SUBDOMAIN_MAX).or_else(|| {
        (!text.split('.').all(is_label)).then(|| {
            format!(
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{LABEL}(\\.{LABEL})*')"
            )
        })
    })
}

/// A DNS name whose first label may be `*`.
pub(super) fn wildcard_subdomain(text: &str) -> Problem {
    match text.strip_prefix("*.") {
        Some(rest) => dns_subdomain(rest).map(|_| {
            format!(
                "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.{LABEL}(\\.{LABEL})*')"
            )
        }),
        None => dns_subdomain(text),
    }
}

/// A key of labels, annotations and the like: a name with an optional DNS name and `/` before it.
pub(super) fn qualified_name(text: &str) -> Problem {
    let rule = format!(
        "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{QUALIFIED}')"
    );
    let (prefix, name) = text
        .split_once('/')
        .map_or((None, text), |(prefix, name)| (Some(prefix), name));
    if name.contains('/') {
        return Some(format!(
            "a qualified name {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        ));
    }
    match prefix {
        Some("") => return Some("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            if let Some(problem) = dns_subdomain(prefix) {
                return Some(format!("prefix part {problem}"));
            }
        }
        None => {}
    }
    if name.is_empty() {
        return Some("name part must be non-empty".to_owned());
    }
    too_long(name, LABEL_MAX)
        .map(|problem| format!("name part {problem}"))
        .or_else(|| (!is_qualified(name)).then(|| format!("name part {rule}")))
}

/// The value of a label.
pub(super) fn label_value(text: &str) -> Problem {
    too_long(text, LABEL_MAX).or_else(|| {
        (!text.is_empty() && !is_qualified(text)).then(|| {
            format!(
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '({QUALIFIED})?')"
            )
        })
    })
}

/// The name of a port of a container.
pub(super) fn port_name(text: &str) -> Problem {
    let problem = if text.len() > 15 {
        "must be no more than 15 characters"
    } else if !text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        || text.is_empty()
    {
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    } else if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        "must contain at least one letter (a-z)"
    } else if text.contains("--") {
        "must not contain consecutive hyphens"
    } else if text.starts_with('-') || text.ends_with('-') {
        "must not begin or end with a hyphen"
    } else {
        return None;
    };
    Some(problem.to_owned())
}

/// The name of an environment variable.
pub(super) fn env_name(text: &str) -> Problem {
    (!text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=')).then(|| {
        "a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()
    })
}

/// A key of a ConfigMap or Secret.
pub(super) fn config_key(text: &str) -> Problem {
    let plain = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    match text {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ if text.len() > SUBDOMAIN_MAX => too_long(text, SUBDOMAIN_MAX),
        _ if text.is_empty() || !plain => Some(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')".to_owned(),
        ),
        _ => None,
    }
}

/// An address of either family.
pub(super) fn ip(text: &str) -> Problem {
    text.parse::<IpAddr>()
        .err()
        .map(|_| "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned())
}

/// An IPv4 address.
pub(super) fn ipv4(text: &str) -> Problem {
    text.parse::<Ipv4Addr>()
        .err()
        .map(|_| "must be a valid IPv4 address".to_owned())
}

/// An IPv6 address.
pub(super) fn ipv6(text: &str) -> Problem {
    text.parse::<Ipv6Addr>()
        .err()
        .map(|_| "must be a valid IPv6 address".to_owned())
}

/// A network such as `10.9.8.0/24`.
pub(super) fn cidr(text: &str) -> Problem {
    text.parse::<ipnet::IpNet>()
        .err()
        .map(|_| "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned())
}

/// An address that can be an endpoint: not unspecified, loopback or link-local.
pub(super) fn endpoint_ip(text: &str) -> Problem {
    let problem = match text.parse::<IpAddr>().ok()? {
        ip if ip.is_unspecified() => "may not be unspecified (0.0.0.0 or ::)",
        ip if ip.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        IpAddr::V4(ip) if ip.is_link_local() => "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
        }
        IpAddr::V4(ip) if ip.octets().starts_with(&[224, 0, 0]) => {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        }
        IpAddr::V6(ip) if ip.segments()[0] & 0xff0f == 0xff02 => {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        }
        _ => return None,
    };
    Some(problem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "a-b", "0", &"a".repeat(63)] {
            assert_eq!(dns_label(good), None, "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"a".repeat(64)] {
            assert!(dns_label(bad).is_some(), "{bad}");
        }
        assert_eq!(dns_subdomain("a.b-c.d"), None);
        assert!(dns_subdomain("a..b").is_some());
        assert!(dns1035_label("0a").is_some());
        assert_eq!(wildcard_subdomain("*.a.b"), None);
        assert!(wildcard_subdomain("a.*.b").is_some());
    }

    #[test]
    fn labels() {
        for good in ["a", "A_b.c", "example.com/a", "a/b"] {
            assert_eq!(qualified_name(good), None, "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "A/b", "a b", "-a"] {
            assert!(qualified_name(bad).is_some(), "{bad}");
        }
        assert_eq!(label_value(""), None);
        assert!(label_value("a b").is_some());
        assert!(label_value(&"a".repeat(64)).is_some());
    }

    #[test]
    fn ports_keys_and_variables() {
        assert_eq!(port_name("http-2"), None);
        for bad in ["", "80", "a--b", "-a", "a-", "HTTP", "a-very-long-name-x"] {
            assert!(port_name(bad).is_some(), "{bad}");
        }
        assert_eq!(config_key("a.b_c-D"), None);
        for bad in ["", ".", "..", "..a", "a/b", "a b"] {
            assert!(config_key(bad).is_some(), "{bad}");
        }
        assert_eq!(env_name("my.var-1"), None);
        assert!(env_name("a=b").is_some());
    }

    #[test]
    fn addresses() {
        assert_eq!(ip("10.0.0.1"), None);
        assert_eq!(ip("fd00::1"), None);
        for bad in ["", "10.0.0", "10.0.0.256", "a"] {
            assert!(ip(bad).is_some(), "{bad}");
        }
        assert!(cidr("10.0.0.0").is_some());
        assert_eq!(cidr("10.0.0.0/8"), None);
        for bad in [
            "0.0.0.0",
            "127.0.0.1",
            "::1",
            "fe80::1",
            "169.254.0.1",
            "224.0.0.5",
            "ff02::5",
        ] {
            assert!(endpoint_ip(bad).is_some(), "{bad}");
        }
        assert_eq!(endpoint_ip("10.0.0.1"), None);
    }
}
