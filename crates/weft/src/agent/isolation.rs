//! What pods sent that they may not: the datapath ends it at their hooks and counts, here it gets the pods' names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};
use weft_cluster::PodEvent;
use weft_dataplane::bpf::{Drops, Reason};
use weft_model::cni::AttachmentId;

use super::attachments::Attachment;
use super::node::Node;

const PERIOD: Duration = Duration::from_secs(5);
/// How many pods the report names.
const NAMED: usize = 5;

/// What one pod sent that it may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offender {
    /// The pod, or the container where the runtime named no pod.
    pub(super) name: String,
    pub(super) drops: Vec<Drops>,
}

/// Looks for ever.
pub(super) async fn watch(node: Arc<Node>) {
    let mut witness = Witness::default();
    loop {
        witness.look(&node);
        tokio::time::sleep(PERIOD).await;
    }
}

/// Remembers what was told of whom: once for the first packet, and again for ten times as many.
#[derive(Default)]
pub(super) struct Witness {
    told: Option<HashMap<(AttachmentId, Reason), u64>>,
}

impl Witness {
    /// Looks once: notes for the report what was counted, and tells the pods. What an earlier agent found, that one
    /// has told.
    pub(super) fn look(&mut self, node: &Node) {
        let (counted, links) = {
            let datapath = node.datapath();
            (datapath.drops(), datapath.pods())
        };
        let counted = match counted {
            Ok(counted) => counted,
            Err(error) => return warn!("{error}; what pods send that they may not is ended, but not shown"),
        };
        let attachments: Vec<Attachment> = node.attachments().values().cloned().collect();
        let mut offenders = vec![];
        let mut now = HashMap::new();
        for attachment in attachments {
            let ifindex = attachment.link.ips.iter().find_map(|ip| Some(links.get(ip)?.ifindex));
            let drops = ifindex.and_then(|ifindex| counted.get(&ifindex)).into_iter().flatten();
            let drops: Vec<Drops> = drops.copied().filter(|drops| what(drops.reason).is_some()).collect();
            for Drops { reason, count } in &drops {
                let before = match &self.told {
                    None => *count,
                    Some(told) => told.get(&(attachment.id.clone(), *reason)).copied().unwrap_or_default(),
                };
                if count.checked_ilog10() > before.checked_ilog10() {
                    tell(node, &attachment, *reason, *count);
                }
                now.insert((attachment.id.clone(), *reason), *count);
            }
            if !drops.is_empty() {
                let name = name(&attachment);
                offenders.push(Offender { name, drops });
            }
        }
        self.told = Some(now);
        node.progress().offenders = offenders;
    }
}

fn name(attachment: &Attachment) -> String {
    match &attachment.pod {
        Some(pod) => format!("pod {pod}"),
        None => format!("container {}", attachment.id.container_id),
    }
}

fn tell(node: &Node, attachment: &Attachment, reason: Reason, count: u64) {
    let text = sentence(reason, count);
    warn!("{}: {text} dropped", name(attachment));
    let pod = attachment
        .pod
        .as_ref()
        .and_then(|key| node.objects().pod(key, None).cloned());
    let Some(pod) = pod else { return };
    let event = PodEvent {
        pod,
        reason: "TrafficNotItsOwn",
        action: "DropTraffic",
        note: format!(
            "{text} dropped on node {}: a pod may only speak for itself. See what in it sends them; \
             without the capability NET_RAW it cannot",
            node.name
        ),
    };
    if node.events.try_send(event.into()).is_err() {
        debug!("an event about a pod's traffic is dropped: too many wait to be written");
    }
}

fn sentence(reason: Reason, count: u64) -> String {
    let packets = if count == 1 { "packet" } else { "packets" };
    format!("{count} {packets} {}", what(reason).unwrap_or_default())
}

/// What is wrong with packets that ended for a reason; nothing, where an honest pod sends such by itself.
fn what(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::Spoofed => Some("with a source that is not its own"),
        Reason::ForeignMac => Some("with an Ethernet source that is not its own"),
        Reason::ForeignNeighbour => Some("of ARP or neighbour discovery that speak for others"),
        Reason::NotIp => Some("that are neither IP nor ARP"),
        Reason::Truncated => Some("that end before their headers do"),
        Reason::Malformed => Some("with headers that contradict each other"),
        _ => None,
    }
}

/// All offenders in one sentence, the worst first; `None` where there are none.
pub(super) fn summary(offenders: &[Offender]) -> Option<String> {
    let mut by_count: BTreeMap<(std::cmp::Reverse<u64>, &str), String> = BTreeMap::new();
    for Offender { name, drops } in offenders {
        let total = drops.iter().map(|drops| drops.count).sum();
        let text: Vec<String> = drops.iter().map(|drops| sentence(drops.reason, drops.count)).collect();
        by_count.insert((std::cmp::Reverse(total), name), format!("{name}: {}", text.join(", ")));
    }
    let more = match by_count.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let named: Vec<String> = by_count.into_values().take(NAMED).collect();
    (!named.is_empty()).then(|| format!("{}{more}", named.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offender(n: u64) -> Offender {
        let reason = Reason::Spoofed;
        Offender {
            name: format!("pod default/p{n}"),
            drops: vec![Drops { reason, count: n }],
        }
    }

    #[test]
    fn the_worst_are_named() {
        assert_eq!(summary(&[]), None);
        assert_eq!(
            summary(&[offender(1), offender(12)]).unwrap(),
            "pod default/p12: 12 packets with a source that is not its own; \
             pod default/p1: 1 packet with a source that is not its own"
        );
        let many: Vec<_> = (1..=20).map(offender).collect();
        let text = summary(&many).unwrap();
        assert!(
            text.starts_with("pod default/p20:") && text.ends_with("; and 15 more"),
            "{text}"
        );
    }
}
