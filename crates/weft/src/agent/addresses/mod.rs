//! Addresses for pods: which ones an ADD gets, and giving them back.

use std::net::IpAddr;

use tracing::warn;
use weft_model::cni::{AttachmentId, CniError, Request, code};

use crate::agent::attachments::Attachment;
use crate::agent::known::Known;
use crate::agent::node::Node;
use crate::agent::pods::id_of;

impl Node {
    /// Addresses for the pod of this ADD, one for each family in use: all of them or none.
    pub(in crate::agent) async fn allocate(
        &self,
        request: &Request,
        _known: Option<&Known>,
    ) -> Result<Vec<IpAddr>, CniError> {
        let mut ipam = self.ipam();
        ipam.allocate(&owner(&id_of(request))).map_err(|error| {
            CniError::new(
                code::TRY_AGAIN,
                format!("no address for the pod on node {}", self.name),
                error.to_string(),
            )
        })
    }

    /// Gives back whatever this attachment has; nothing is no error.
    pub(in crate::agent) fn free(&self, id: &AttachmentId) {
        self.ipam().release(&owner(id));
    }

    /// Takes again what an attachment had before the agent was started.
    pub(in crate::agent) fn reserve(&self, attachment: &Attachment) {
        let owner = owner(&attachment.id);
        for ip in &attachment.link.ips {
            if let Err(other) = self.ipam().reserve(*ip, &owner) {
                warn!("{ip} belongs to both {owner} and {other}; delete one of the pods");
            }
        }
    }
}

/// Who an address belongs to.
fn owner(id: &AttachmentId) -> String {
    format!("{}@{}", id.container_id, id.ifname)
}
