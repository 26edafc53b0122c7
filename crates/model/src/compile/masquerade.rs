//! What leaves the cluster with the node's address, because nobody outside has a route back to a pod.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::ranges;
use crate::State;

/// Whose traffic gets the node's address, and on the way to where it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masquerade {
    /// Where this node's pods are.
    pub pods: Vec<IpNet>,
    /// Where a pod's own address stays: the pods and the nodes of the cluster, what is link-local, and what the
    /// operator says.
    pub cluster: Vec<IpNet>,
}

/// Link-local addresses (RFC 3927, RFC 4291): whoever answers there is on the segment and decides by itself what to
/// do about a pod's address. So do kube-proxy's ip-masq-agent and others.
const LINK_LOCAL: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)),
];

/// Pods keep their addresses within the cluster and on the way to `excluded`.
pub fn masquerade(state: &State, excluded: &[IpNet]) -> Masquerade {
    let local = state.node(state.local_node());
    let of_nodes = state.nodes().flat_map(|node| {
        let addresses = node.internal_ips.iter().map(|ip| IpNet::from(*ip));
        ranges(state, node).chain(addresses)
    });
    Masquerade {
        pods: local.into_iter().flat_map(|node| ranges(state, node)).collect(),
        cluster: of_nodes.chain(LINK_LOCAL).chain(excluded.iter().copied()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::node;
    use crate::{Change, Node};

    #[test]
    fn pods_keep_their_address_within_the_cluster_and_where_they_are_told_to() {
        let mut state = State::new("n1");
        for (name, ip, range) in [
            ("n1", "10.89.0.10", "10.244.0.0/23"),
            ("n2", "10.89.0.11", "10.244.2.0/23"),
        ] {
            state.apply(Change::Node(Node {
                internal_ips: vec![ip.parse().unwrap()],
                pod_cidrs: vec![range.parse().unwrap()],
                ..node(name)
            }));
        }
        let found = masquerade(&state, &["192.168.0.0/16".parse().unwrap()]);
        let text = |nets: &[IpNet]| nets.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(text(&found.pods), "10.244.0.0/23");
        assert_eq!(
            text(&found.cluster),
            "10.244.0.0/23 10.89.0.10/32 10.244.2.0/23 10.89.0.11/32 169.254.0.0/16 fe80::/10 192.168.0.0/16"
        );
    }
}
