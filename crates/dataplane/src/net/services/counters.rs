//! Why packets to services got no answer, and how many.

use std::ffi::CStr;

use super::names::TABLE;
use crate::net::NetError;
use crate::net::nft;

/// A reason, which has a counter of its own in the table.
#[derive(Debug)]
pub(super) struct Reason {
    pub(super) name: &'static CStr,
    text: &'static str,
}

pub(super) const NO_ENDPOINT: Reason = Reason {
    name: c"refused-no-endpoint",
    text: "refused: the service has no endpoint",
};
pub(super) const NO_PORT: Reason = Reason {
    name: c"refused-no-port",
    text: "refused: the service has no such port",
};
pub(super) const SILENT: Reason = Reason {
    name: c"dropped-no-local-endpoint",
    text: "dropped: no endpoint that the traffic policy allows here",
};
pub(super) const NOT_ALLOWED: Reason = Reason {
    name: c"dropped-source-range",
    text: "dropped: not in loadBalancerSourceRanges",
};
pub(super) const UNALLOCATED: Reason = Reason {
    name: c"dropped-unallocated",
    text: "dropped: no service has the address",
};
pub(super) const INVALID: Reason = Reason {
    name: c"dropped-invalid",
    text: "dropped: part of no connection that the kernel knows",
};

/// All of them.
pub(super) const REASONS: [&Reason; 6] = [&NO_ENDPOINT, &NO_PORT, &SILENT, &NOT_ALLOWED, &UNALLOCATED, &INVALID];

/// How many packets ended for which reason since the table is there; reasons that had none are left out.
pub fn refusals() -> Result<Vec<(&'static str, u64)>, NetError> {
    let counted = nft::counters(TABLE).map_err(|source| NetError::Kernel {
        what: "read the counters of the nftables rules for services".to_owned(),
        source,
    })?;
    let of = |reason: &&Reason| {
        let found = counted
            .iter()
            .find(|(name, _)| name.as_bytes() == reason.name.to_bytes());
        found
            .filter(|(_, packets)| *packets > 0)
            .map(|(_, packets)| (reason.text, *packets))
    };
    Ok(REASONS.iter().filter_map(of).collect())
}
