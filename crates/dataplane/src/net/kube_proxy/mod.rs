//! What kube-proxy left in the kernel, in whichever of its modes it ran, and how that goes without anybody else's.
//!
//! Established connections stay: the kernel's conntrack has their addresses, and needs no rule any more.

mod iptables;

use std::ffi::CStr;

use super::nft::{self, Batch, IPV4, IPV6};
use super::{NetError, Rtnl};

/// The table of the nftables mode, in each family.
const TABLE: &CStr = c"kube-proxy";
/// Where the ipvs mode keeps the services' addresses, so that the node takes packets to them.
const IPVS_LINK: &str = "kube-ipvs0";

/// Something of kube-proxy's.
#[derive(Debug)]
pub struct Found {
    /// In a few words, for people.
    pub what: String,
    how: How,
}

#[derive(Debug)]
enum How {
    /// A variant of iptables, and what its restore is to do.
    Iptables(&'static str, String),
    /// A table of nftables, by its family.
    Table(u8),
    /// The link of the ipvs mode.
    Link,
}

/// Looks for all of it.
pub async fn find(rtnl: &Rtnl) -> Result<Vec<Found>, NetError> {
    let mut found = iptables::find()?;
    for (family, name) in [(IPV4, "ip"), (IPV6, "ip6")] {
        if nft::has_table(family, TABLE).map_err(cannot_look)? {
            found.push(Found {
                what: format!("nftables: table {name} kube-proxy"),
                how: How::Table(family),
            });
        }
    }
    if rtnl.link(IPVS_LINK).await?.is_some() {
        found.push(Found {
            what: format!("ipvs: link {IPVS_LINK} with the services' addresses"),
            how: How::Link,
        });
    }
    Ok(found)
}

/// Takes it away.
pub async fn remove(rtnl: &Rtnl, found: &Found) -> Result<(), NetError> {
    match &found.how {
        How::Iptables(variant, script) => iptables::remove(variant, script),
        How::Table(family) => {
            let mut batch = Batch::new();
            batch.header.nfgen_family = *family;
            batch.remove_table(TABLE);
            batch.commit("remove the table of kube-proxy")
        }
        How::Link => rtnl.remove_link(IPVS_LINK).await.map(drop),
    }
}

fn cannot_look(source: std::io::Error) -> NetError {
    NetError::Kernel {
        what: "look for the nftables table of kube-proxy".to_owned(),
        source,
    }
}
