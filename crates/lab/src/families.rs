//! Which address families a cluster has, for everything in a lab that gives out addresses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The families of a cluster's nodes, pods and Services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// Both; IPv4 is the primary one, which an object has if nothing is said.
    #[default]
    Dual,
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
}

impl Families {
    /// What there is for each family in use, the primary one first.
    pub fn pick<T>(self, v4: T, v6: T) -> Vec<T> {
        match self {
            Self::Dual => vec![v4, v6],
            Self::Ipv4 => vec![v4],
            Self::Ipv6 => vec![v6],
        }
    }

    /// What there is for the primary family.
    pub fn primary<T>(self, v4: T, v6: T) -> T {
        match self {
            Self::Dual | Self::Ipv4 => v4,
            Self::Ipv6 => v6,
        }
    }

    /// Whether the cluster has addresses of this one's family.
    pub fn has(self, address: IpAddr) -> bool {
        self == Self::Dual || (self == Self::Ipv4) == address.is_ipv4()
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dual => "dual",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

impl FromStr for Families {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Dual, Self::Ipv4, Self::Ipv6]
            .into_iter()
            .find(|families| families.to_string() == text)
            .ok_or_else(|| format!("{text:?} is none of dual, ipv4, ipv6"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_written_and_read_alike() {
        for families in [Families::Dual, Families::Ipv4, Families::Ipv6] {
            assert_eq!(families.to_string().parse(), Ok(families));
            assert_eq!(serde_json::json!(families), families.to_string());
        }
        assert!("ipv5".parse::<Families>().is_err());
    }

    #[test]
    fn the_primary_one_comes_first() {
        assert_eq!(Families::Dual.pick(4, 6), [4, 6]);
        for families in [Families::Dual, Families::Ipv4, Families::Ipv6] {
            assert_eq!(families.pick(4, 6).first(), Some(&families.primary(4, 6)));
        }
        let (v4, v6) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        assert!(Families::Dual.has(v4) && Families::Dual.has(v6));
        assert!(Families::Ipv6.has(v6) && !Families::Ipv6.has(v4));
    }
}
