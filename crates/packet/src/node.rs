//! The way between a node and the network: what comes in for services, and what goes out from them.

use crate::header;
use crate::transit::{self, Origin, Scratch};
use crate::{Maps, Packet, Reason, Verdict};

/// A packet arrives from another host: tcx ingress of an uplink, or of the tunnel.
///
/// What is for a service goes to a backend, what is a backend's reply to the client; everything else to the node's
/// stack, as it is.
#[inline(always)]
pub fn from_outside<P: Packet, M: Maps>(packet: &mut P, maps: &M, scratch: &mut Scratch) -> Verdict {
    pass(packet, maps, scratch, Origin::Outside)
}

/// A packet leaves for another host: tcx egress of an uplink, or of the tunnel.
///
/// Replies of the node's own processes get the service's address that the client has sent to. Services' addresses have no
/// place on the network: what goes to one although the hooks of sockets and pods have seen it ends here.
#[inline(always)]
pub fn to_outside<P: Packet, M: Maps>(packet: &mut P, maps: &M, scratch: &mut Scratch) -> Verdict {
    match pass(packet, maps, scratch, Origin::Node) {
        // Netfilter has nothing to refuse with behind the last of its hooks.
        Verdict::Refuse(reason) => Verdict::Drop(reason),
        verdict => verdict,
    }
}

#[inline(always)]
fn pass<P: Packet, M: Maps>(packet: &mut P, maps: &M, scratch: &mut Scratch, origin: Origin) -> Verdict {
    let verdict = look(packet, maps, scratch, origin).unwrap_or_else(Reason::end);
    maps.count(verdict.reason());
    verdict
}

#[inline(always)]
fn look<P: Packet, M: Maps>(
    packet: &mut P,
    maps: &M,
    scratch: &mut Scratch,
    origin: Origin,
) -> Result<Verdict, Reason> {
    let Ok(frame) = header::ethernet(packet) else {
        return Ok(Verdict::Pass(Reason::ToStack));
    };
    if packet.tagged() {
        return Ok(Verdict::Pass(Reason::ToStack));
    }
    let verdict = transit::walk(packet, maps, scratch, frame.kind, origin)?;
    Ok(verdict.unwrap_or(Verdict::Pass(Reason::ToStack)))
}

#[cfg(test)]
mod tests;
