//! Who sent a packet: the pod behind an interface, its addresses and its Ethernet address.

use crate::{Addr, Maps, Reason};

/// Who a frame says to come from, and which interface it did come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    /// Interface index of the host side of the pod's veth.
    pub(crate) ifindex: u32,
    /// Ethernet source of the frame.
    pub(crate) mac: [u8; 6],
}

impl Sender {
    /// Whether the frame bears the pod's own Ethernet address. For what has no address of its own; [`Sender::owns`]
    /// says it too.
    #[inline(always)]
    pub(crate) fn is_genuine<M: Maps>(&self, maps: &M) -> Result<(), Reason> {
        match maps.mac(self.ifindex) {
            Some(mac) if mac == self.mac => Ok(()),
            _ => Err(Reason::ForeignMac),
        }
    }

    /// Whether the pod has this address, and the frame the pod's Ethernet address. Its link-local address is the one
    /// that follows from that.
    #[inline(always)]
    pub(crate) fn owns<M: Maps>(&self, maps: &M, address: &Addr) -> Result<(), Reason> {
        if address.is_link_local_v6() {
            self.is_genuine(maps)?;
            return match *address == Addr::link_local_of(self.mac) {
                true => Ok(()),
                false => Err(Reason::Spoofed),
            };
        }
        match maps.pod(address) {
            Some(pod) if pod.ifindex != self.ifindex => Err(Reason::Spoofed),
            Some(pod) if pod.mac != self.mac => Err(Reason::ForeignMac),
            Some(_) => Ok(()),
            None => Err(Reason::Spoofed),
        }
    }
}
