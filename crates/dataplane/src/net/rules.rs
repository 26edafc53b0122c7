//! The routing rule for what this node forwards: `87: not from all iif lo lookup 87 proto 87`.
//!
//! What a pod sends to a node behind a tunnel has to go inside of it, because the network between the nodes knows no
//! pod and may drop it. What the node itself sends there must not: the tunnel's own packets are among it.

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::IpVersion;

use super::route::FORWARD_TABLE;
use super::{NetError, ROUTE_PROTOCOL, Rtnl, sysctl};

/// After the local table (0), before the main one (32766).
const PRIORITY: u32 = 87;

/// Puts the rule in place for both families, or takes it away.
pub(super) async fn ensure(rtnl: &Rtnl, wanted: bool) -> Result<(), NetError> {
    let families = [
        (IpVersion::V4, AddressFamily::Inet),
        (IpVersion::V6, AddressFamily::Inet6),
    ];
    let ipv6 = sysctl::has_ipv6();
    for (version, family) in families
        .into_iter()
        .filter(|(version, _)| ipv6 || *version == IpVersion::V4)
    {
        let ours = list(rtnl, version).await?;
        match (wanted, ours.is_empty()) {
            (true, true) => add(rtnl, family).await?,
            (false, false) => {
                for rule in ours {
                    let removed = rtnl.handle.rule().del(rule).execute().await;
                    removed.map_err(NetError::kernel("remove the rule for forwarded packets"))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

async fn list(rtnl: &Rtnl, version: IpVersion) -> Result<Vec<RuleMessage>, NetError> {
    let _alone = rtnl.listing.lock().await;
    let rules: Vec<RuleMessage> = rtnl
        .handle
        .rule()
        .get(version)
        .execute()
        .try_collect()
        .await
        .map_err(NetError::kernel("list routing rules"))?;
    let ours = RuleAttribute::Protocol(ROUTE_PROTOCOL);
    Ok(rules
        .into_iter()
        .filter(|rule| rule.attributes.contains(&ours))
        .collect())
}

async fn add(rtnl: &Rtnl, family: AddressFamily) -> Result<(), NetError> {
    let mut request = rtnl.handle.rule().add();
    let rule = request.message_mut();
    rule.header.family = family;
    rule.header.table = FORWARD_TABLE;
    rule.header.action = RuleAction::ToTable;
    rule.header.flags = RuleFlags::Invert;
    rule.attributes = vec![
        RuleAttribute::Iifname("lo".into()),
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::Protocol(ROUTE_PROTOCOL),
    ];
    let added = request.execute().await;
    added.map_err(NetError::kernel("add the rule for forwarded packets"))
}
