//! What happens to a packet, and why: the words that counters, traces and people use.

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on into the node's own network stack.
    Pass(Reason),
    /// It is delivered to the pod behind this interface (host side of its veth), past the node's stack.
    Deliver(Reason, u32),
    /// It leaves by this interface, past the node's stack; its route there says to whom.
    Send(Reason, u32),
    /// It ends here, and its sender is told at once: by a reset, or "port unreachable".
    Refuse(Reason),
    /// It ends here.
    Drop(Reason),
}

impl Verdict {
    /// Why.
    #[inline(always)]
    pub const fn reason(self) -> Reason {
        match self {
            Verdict::Pass(reason)
            | Verdict::Deliver(reason, _)
            | Verdict::Send(reason, _)
            | Verdict::Refuse(reason)
            | Verdict::Drop(reason) => reason,
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
    12 UnallocatedServiceAddress "unallocated_service_address" "dropped: for an address from the range of services' addresses that no service has",
    13 NoLocalEndpoints "no_local_endpoints" "dropped: the service has no endpoints where its traffic policy asks for them",
    14 SourceRange "source_range" "dropped: its source is not in the service's load-balancer source ranges",
    15 NoPort "no_port" "dropped: no port was free to masquerade the connection with",
    16 NoRoute "no_route" "dropped: no route leads to where the service's packet has to go",
    17 Untranslated "untranslated" "dropped: on its way out to a service address that nothing has translated",
    18 ServiceTooBig "service_too_big" "dropped: too big for the way to the backend; its sender cannot be told",
    19 SctpPort "sctp_port" "dropped: SCTP to a target port or from a source port that would have to change",
    20 Translated "translated" "a socket's service address became a backend's",
    21 NoEndpoints "no_endpoints" "refused: the service has no endpoints",
    22 BackendMissing "backend_missing" "refused: the service changed under the lookup several times in a row",
    23 UnknownServicePort "unknown_service_port" "refused: the service has no such port",
    24 PeerLost "peer_lost" "no room to note which service a backend stands for: replies show the backend's address",
    25 Limited "limited" "for a pod on this node that receives at a limited rate: left to the node's stack, which keeps to it",
    26 Forwarded "forwarded" "a packet of a service: rewritten, on its way to or from a backend",
    27 ServiceToStack "service_to_stack" "a packet of a service: rewritten, to or from a process of this node",
    28 TooBig "too_big" "too big for the way to the backend: its sender has been told",
    29 TimeExceeded "time_exceeded" "its TTL or hop limit ends on the way to a backend: its sender has been told",
}

impl Reason {
    /// The first of the reasons for which a packet ends; the others follow it.
    const FIRST_DROP: usize = Reason::Truncated as usize;

    /// Every reason for which a packet ends, in the order in which they are counted for each pod.
    pub const DROPS: [Reason; 15] = [
        Reason::Truncated,
        Reason::Malformed,
        Reason::NotIp,
        Reason::Spoofed,
        Reason::ForeignMac,
        Reason::ForeignNeighbour,
        Reason::OnLink,
        Reason::UnallocatedServiceAddress,
        Reason::NoLocalEndpoints,
        Reason::SourceRange,
        Reason::NoPort,
        Reason::NoRoute,
        Reason::Untranslated,
        Reason::ServiceTooBig,
        Reason::SctpPort,
    ];

    /// What becomes of a packet that cannot go on.
    #[inline(always)]
    pub const fn end(self) -> Verdict {
        match self {
            Reason::NoEndpoints | Reason::BackendMissing | Reason::UnknownServicePort => Verdict::Refuse(self),
            _ => Verdict::Drop(self),
        }
    }

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
    fn refusals_are_those_that_say_so() {
        for reason in Reason::ALL.iter().filter(|r| r.text().starts_with("refused")) {
            assert_eq!(reason.end(), Verdict::Refuse(*reason));
        }
        for reason in Reason::DROPS {
            assert_eq!(reason.end(), Verdict::Drop(reason));
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
