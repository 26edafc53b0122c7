//! Finds what nobody gave back: attachments whose namespace or pod has gone without a DEL, and links without an
//! attachment. A runtime that crashed leaves such things, and so would a bug of ours; a node must not run out of
//! addresses by them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;
use weft_dataplane::net::{Namespace, NetError, name};
use weft_model::cni::AttachmentId;

use super::attachments::Attachment;
use super::node::Node;

const PERIOD: Duration = Duration::from_secs(10);

/// Something that should not be there any more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Leak {
    /// The pod's namespace has gone, and its link with it.
    NamespaceGone(AttachmentId),
    /// The API server had the pod and has it no more, and no process is left in its namespace.
    PodGone(AttachmentId),
    /// A link that belongs to no attachment.
    Link(String),
}

/// Looks for ever.
pub(super) async fn watch(node: Arc<Node>) {
    let mut collector = Collector::default();
    loop {
        tokio::time::sleep(PERIOD).await;
        collector.sweep(&node).await;
    }
}

/// Remembers since when each suspect has been one: an ADD or DEL under way looks the same for a moment.
#[derive(Default)]
pub(super) struct Collector {
    suspects: HashMap<Leak, Instant>,
}

impl Collector {
    /// Looks once, and collects what has been suspect for long enough.
    pub(super) async fn sweep(&mut self, node: &Node) {
        let found = match find(node).await {
            Ok(found) => found,
            Err(error) => return warn!("cannot look for what pods have left behind: {error}; trying again"),
        };
        self.suspects.retain(|leak, _| found.contains(leak));
        for leak in found {
            let since = *self.suspects.entry(leak.clone()).or_insert_with(Instant::now);
            if since.elapsed() >= node.leak_grace {
                self.suspects.remove(&leak);
                collect(node, leak).await;
            }
        }
    }
}

async fn find(node: &Node) -> Result<HashSet<Leak>, NetError> {
    // Attachments first: one that is added meanwhile has its link, and one that is removed is no suspect next time.
    let attachments: Vec<Attachment> = node.attachments().values().cloned().collect();
    let links: HashSet<String> = node.rtnl.links().await?.into_iter().map(|link| link.name).collect();
    let mut found = HashSet::new();
    for attachment in &attachments {
        if !links.contains(&attachment.link.host_ifname) {
            found.insert(Leak::NamespaceGone(attachment.id.clone()));
        } else if pod_has_gone(node, attachment) && is_empty(attachment).await {
            found.insert(Leak::PodGone(attachment.id.clone()));
        }
    }
    let known: HashSet<&str> = attachments.iter().map(|one| one.link.host_ifname.as_str()).collect();
    let strange = links
        .iter()
        .filter(|link| name::is_host_side(link) && !known.contains(link.as_str()));
    found.extend(strange.cloned().map(Leak::Link));
    Ok(found)
}

/// Only a pod that the API server once had can have gone from it.
fn pod_has_gone(node: &Node, attachment: &Attachment) -> bool {
    let (Some(key), Some(uid)) = (&attachment.pod, &attachment.uid) else {
        return false;
    };
    let objects = node.objects();
    objects.synced() && node.api.is_fresh() && objects.pod(key, Some(uid)).is_none()
}

/// A namespace without a path has no way in; whoever is still inside has nobody to ask for it.
async fn is_empty(attachment: &Attachment) -> bool {
    let netns = attachment.link.netns.clone();
    let look = move || match Namespace::open_if_there(&netns) {
        Ok(Some(namespace)) => namespace.has_processes().map(|has| !has),
        Ok(None) => Ok(true),
        Err(error) => Err(error),
    };
    match tokio::task::spawn_blocking(look).await {
        Ok(Ok(empty)) => empty,
        Ok(Err(error)) => {
            warn!("{error}; the pod keeps its addresses");
            false
        }
        Err(_) => false,
    }
}

async fn collect(node: &Node, leak: Leak) {
    let (what, done) = match leak {
        Leak::NamespaceGone(id) => (
            format!("container {} has gone without a DEL", id.container_id),
            node.del(&id)
                .await
                .map_err(|error| format!("{}: {}", error.msg, error.details)),
        ),
        Leak::PodGone(id) => (
            format!(
                "the pod of container {} has been deleted without a DEL, and nothing runs in it",
                id.container_id
            ),
            node.del(&id)
                .await
                .map_err(|error| format!("{}: {}", error.msg, error.details)),
        ),
        Leak::Link(link) => (
            format!("link {link} belongs to no pod"),
            node.rtnl
                .remove_link(&link)
                .await
                .map(drop)
                .map_err(|error| error.to_string()),
        ),
    };
    match done {
        Ok(()) => {
            warn!("{what}: collected");
            node.progress().leaks += 1;
        }
        Err(why) => warn!("{what}, and cannot be collected: {why}; trying again"),
    }
}
