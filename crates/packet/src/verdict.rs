//! What happens to a packet, and why: the words that counters, traces and people use.

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on into the node's own network stack.
    Pass(Reason),
    /// It is delivered to the pod behind this interface (host side of its veth), past the node's stack.
    Deliver(Reason, u32),
    /// It ends here.
    Drop(Reason),
}

impl Verdict {
    /// Why.
    #[inline(always)]
    pub const fn reason(self) -> Reason {
        match self {
            Verdict::Pass(reason) | Verdict::Deliver(reason, _) | Verdict::Drop(reason) => reason,
        }
    }
}

macro_rules! reasons {
    ($($number:literal $variant:ident $name:literal $text:literal,)+) => {
        /// Why a packet or a socket call went the way it went. The number is its index in the counters.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $(#[doc = $text] $variant = $number,)+
        }

        impl Reason {
            /// Every reason; each stands at the index that is its number.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];

            /// A short name, for metrics and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)+ }
            }

            /// A sentence for people.
            pub const fn text(self) -> &'static str {
                match self { $(Reason::$variant => $text,)+ }
            }
        }
    };
}

reasons! {
    0 LocalPod "local_pod" "delivered straight to a pod on this node",
    1 ToStack "to_stack" "not for a pod on this node: left to the node's routes",
    2 Neighbour "neighbour" "ARP, or IPv6 traffic that stays on the link",
    3 Expiring "expiring" "its TTL or hop limit ends here: left to the node's stack, which answers the sender",
    4 Options "options" "IPv4 options or IPv6 hop-by-hop options: left to the node's stack, which knows them",
    5 Truncated "truncated" "dropped: ends before its headers do",
    6 Malformed "malformed" "dropped: its headers contradict each other",
    7 NotIp "not_ip" "dropped: neither IPv4, IPv6 nor ARP",
    8 Spoofed "spoofed" "dropped: its source is not an address of the pod that sent it",
    9 ForeignMac "foreign_mac" "dropped: its Ethernet source is not that of the pod that sent it",
    10 ForeignNeighbour "foreign_neighbour" "dropped: ARP or neighbour discovery that speaks for another, or for a router",
    11 OnLink "on_link" "dropped: multicast, broadcast or link-local traffic, which no router forwards",
    12 Translated "translated" "a socket's service address became a backend's",
    13 NoEndpoints "no_endpoints" "refused: the service has no endpoints",
    14 BackendMissing "backend_missing" "refused: the service changed under the lookup several times in a row",
    15 PeerLost "peer_lost" "no room to note which service a backend stands for: replies show the backend's address",
    16 Limited "limited" "for a pod on this node that receives at a limited rate: left to the node's stack, which keeps to it",
}

impl Reason {
    /// The first of the reasons for which a packet ends; the others follow it.
    const FIRST_DROP: usize = Reason::Truncated as usize;

    /// Every reason for which a packet ends, in the order in which they are counted for each pod.
    pub const DROPS: [Reason; 7] = [
        Reason::Truncated,
        Reason::Malformed,
        Reason::NotIp,
        Reason::Spoofed,
        Reason::ForeignMac,
        Reason::ForeignNeighbour,
        Reason::OnLink,
    ];

    /// Its place in [`Reason::DROPS`], if a packet ends for it.
    #[inline(always)]
    pub const fn drop_index(self) -> Option<usize> {
        let index = (self as usize).wrapping_sub(Self::FIRST_DROP);
        if index < Self::DROPS.len() { Some(index) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn every_reason_stands_at_its_number_under_its_own_name() {
        let names: HashSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
        }
    }
    #[test]
    fn drops_stand_together() {
        let drops: Vec<_> = Reason::ALL
            .iter()
            .filter(|r| r.text().starts_with("dropped"))
            .copied()
            .collect();
        assert_eq!(drops, Reason::DROPS);
        for (i, reason) in Reason::DROPS.iter().enumerate() {
            assert_eq!(reason.drop_index(), Some(i));
        }
        assert_eq!(Reason::Options.drop_index().or(Reason::Translated.drop_index()), None);
    }
}
