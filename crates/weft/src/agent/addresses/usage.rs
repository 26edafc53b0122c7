//! Who uses the addresses that are all taken: what somebody who wants one has to know.

use std::collections::{BTreeMap, HashSet};

use weft_model::ipam::{IpamError, NoAddress, PoolsError};

use super::owner;
use crate::agent::node::Node;

/// So many namespaces are named, those with the most pods first.
const NAMED: usize = 3;

impl Node {
    /// Who has what a pod could not get; `None` where that is not the reason.
    pub(super) fn used_by(&self, error: &NoAddress) -> Option<String> {
        let owners: HashSet<String> = match error {
            NoAddress::Ranges(IpamError::Exhausted { cidr, .. }) => {
                self.ipam().users(cidr).map(str::to_owned).collect()
            }
            NoAddress::Pools(PoolsError::Exhausted { pool, .. }) => {
                let pools = self.pools();
                pools.book().users(pool).map(|user| user.owner.to_owned()).collect()
            }
            NoAddress::Ranges(IpamError::Taken { owner, .. })
            | NoAddress::Pools(PoolsError::Taken { owner, .. })
            | NoAddress::Overlap { other: owner, .. } => HashSet::from([owner.clone()]),
            _ => return None,
        };
        Some(self.describe(&owners))
    }

    fn describe(&self, owners: &HashSet<String>) -> String {
        let mut by_namespace: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for attachment in self
            .attachments()
            .values()
            .filter(|one| owners.contains(&owner(&one.id)))
        {
            let (namespace, name) = match &attachment.pod {
                Some(pod) => (format!("namespace {}", pod.namespace), pod.name.clone()),
                None => ("no pod".to_owned(), format!("container {}", attachment.id.container_id)),
            };
            by_namespace.entry(namespace).or_default().push(name);
        }
        let mut most: Vec<_> = by_namespace.into_iter().collect();
        // The same words for the same state: an event is told once.
        most.iter_mut().for_each(|(_, pods)| pods.sort_unstable());
        most.sort_by_key(|(_, pods)| std::cmp::Reverse(pods.len()));
        let rest = most.len().saturating_sub(NAMED);
        let mut parts: Vec<String> = most
            .iter()
            .take(NAMED)
            .map(|(namespace, pods)| line(namespace, pods))
            .collect();
        if rest > 0 {
            parts.push(format!("{rest} more namespaces"));
        }
        match parts.is_empty() {
            true => "nothing that runs on this node uses them".to_owned(),
            false => format!("in use here by {}", parts.join(", ")),
        }
    }
}

fn line(namespace: &str, pods: &[String]) -> String {
    match pods {
        [only] => format!("{namespace} ({only})"),
        [first, ..] => format!("{namespace} ({} pods, such as {first})", pods.len()),
        [] => namespace.to_owned(),
    }
}
