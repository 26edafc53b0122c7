//! Addresses for pods: which ones an ADD gets, and giving them back.
//!
//! ```text
//! annotations, namespace, runtime --model::ipam::choice--> source
//!     the node's ranges  -> Ipam                                            (this file)
//!     a pool             -> NodePools, which waits for blocks where it must (pools.rs)
//!                              | demand             ^ blocks
//!                              v                    |
//!                           NodeAddresses of this node, answered by the controller (demand.rs)
//! ```
//!
//! Both books know every address in use, wherever it came from, so that none is given twice even where two sources
//! hold the same one. What is in use is on disk with the attachments, and is taken again before anything is given.

pub(super) mod demand;
mod pools;
mod report;
mod usage;

use std::net::IpAddr;

use tracing::warn;
use weft_model::Namespace;
use weft_model::cni::{AttachmentId, CniError, Request, code};
use weft_model::ipam::choice::{self, ChoiceError, Source, Wish};
use weft_model::ipam::{IpamError, NoAddress, PoolsError};

use super::attachments::Attachment;
use super::known::Known;
use super::node::Node;
use super::pods::{id_of, pod_of};

pub(super) use pools::Pools;
pub(super) use report::layer;

/// What somebody has to correct is an invalid configuration; the rest may be otherwise in a moment.
fn code_of(error: &NoAddress) -> u32 {
    match error {
        NoAddress::Choice(ChoiceError::NoSource) => code::TRY_AGAIN,
        NoAddress::Choice(_)
        | NoAddress::Ranges(IpamError::Special { .. } | IpamError::Overlap(_))
        | NoAddress::Pools(PoolsError::NoPool { .. } | PoolsError::Closed { .. }) => code::CONFIG,
        NoAddress::Ranges(_) | NoAddress::Pools(_) | NoAddress::Overlap { .. } => code::TRY_AGAIN,
    }
}

impl Node {
    /// Addresses for the pod of this ADD, at most one of each family: all of them or none. Waits for a while where
    /// the controller has to be asked.
    pub(super) async fn allocate(&self, request: &Request, known: Option<&Known>) -> Result<Vec<IpAddr>, CniError> {
        let owner = owner(&id_of(request));
        let given = match self.source(request, known)? {
            Ok(Source::Ranges) => self.take_of_ranges(&owner),
            Ok(Source::Pool(pool)) => self.take_of_pool(&owner, &pool).await,
            Ok(Source::Fixed(ips)) => self.take_fixed(&owner, &ips).await,
            Err(error) => Err(error.into()),
        };
        given.map_err(|error| {
            self.free(&id_of(request));
            let whose = pod_of(request).map_or_else(
                || format!("container {}", request.container_id),
                |pod| format!("pod {pod}"),
            );
            let details = match self.used_by(&error) {
                Some(users) => format!("{error}; {users}"),
                None => error.to_string(),
            };
            CniError::new(
                code_of(&error),
                format!("no address for {whose} on node {}", self.name),
                details,
            )
        })
    }

    fn source(&self, request: &Request, known: Option<&Known>) -> Result<Result<Source, ChoiceError>, CniError> {
        let (nothing, nowhere) = Default::default();
        let wish = Wish {
            annotations: known.map_or(&nothing, |known| &known.pod.annotations),
            namespace: known.map_or(&nowhere, |known: &Known| -> &Namespace { &known.namespace }),
            runtime: &request.wanted_ips()?,
            has_ranges: self.ipam().has_ranges(),
        };
        Ok(choice::choose(wish, self.pools().usable()))
    }

    fn take_of_ranges(&self, owner: &str) -> Result<Vec<IpAddr>, NoAddress> {
        let (mut ipam, mut pools) = (self.ipam(), self.pools());
        let ips = ipam.allocate(owner)?;
        for ip in &ips {
            pools
                .reserve(*ip, owner)
                .map_err(|other| NoAddress::Overlap { ip: *ip, other })?;
        }
        Ok(ips)
    }

    async fn take_of_pool(&self, owner: &str, pool: &str) -> Result<Vec<IpAddr>, NoAddress> {
        let ips = self.when_granted(|pools| pools.allocate(owner, pool)).await?;
        let mut ipam = self.ipam();
        for ip in &ips {
            ipam.reserve(*ip, owner)
                .map_err(|other| NoAddress::Overlap { ip: *ip, other })?;
        }
        Ok(ips)
    }

    /// Each from the node's ranges where one holds it, and from the pools where none does.
    async fn take_fixed(&self, owner: &str, ips: &[IpAddr]) -> Result<Vec<IpAddr>, NoAddress> {
        let (own, pooled): (Vec<IpAddr>, Vec<IpAddr>) = {
            let ipam = self.ipam();
            ips.iter().partition(|ip| ipam.covers(**ip))
        };
        if !pooled.is_empty() {
            self.when_granted(|pools| pools.allocate_fixed(owner, &pooled)).await?;
        }
        let (mut ipam, mut pools) = (self.ipam(), self.pools());
        for ip in own {
            ipam.allocate_fixed(owner, ip)?;
            pools
                .reserve(ip, owner)
                .map_err(|other| NoAddress::Overlap { ip, other })?;
        }
        for ip in pooled {
            ipam.reserve(ip, owner)
                .map_err(|other| NoAddress::Overlap { ip, other })?;
        }
        Ok(ips.to_vec())
    }

    /// Gives back whatever this attachment has; nothing is no error.
    pub(super) fn free(&self, id: &AttachmentId) {
        let owner = owner(id);
        self.ipam().release(&owner);
        if self.pools().free(&owner) > 0 {
            // Somebody may wait for just this one.
            self.granted.send_modify(|()| {});
            self.demand_changed();
        }
    }

    /// Takes again what an attachment had before the agent was started.
    pub(super) fn reserve(&self, attachment: &Attachment) {
        let owner = owner(&attachment.id);
        for ip in &attachment.link.ips {
            let ranges = self.ipam().reserve(*ip, &owner);
            let pools = self.pools().reserve(*ip, &owner);
            if let Err(other) = ranges.and(pools) {
                warn!("{ip} belongs to both {owner} and {other}; delete one of the pods");
            }
        }
    }
}

/// Who an address belongs to.
fn owner(id: &AttachmentId) -> String {
    format!("{}@{}", id.container_id, id.ifname)
}
