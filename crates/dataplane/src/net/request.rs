//! What is asked of rtnetlink for a pod's link, each as one request.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteHeader, RouteMessage};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::Mac;
use super::batch::Request;
use super::route::{Route, address, message};

/// One end of a veth pair to be made.
pub(super) struct End<'a> {
    pub(super) name: &'a str,
    pub(super) mac: Mac,
}

/// Makes a veth pair: one end here, the other in the namespace behind the file descriptor.
pub(super) fn veth(here: &End<'_>, there: &End<'_>, netns: i32, mtu: u32) -> Request {
    // The kernel makes a queue for each processor, which costs time, and which nothing uses: a veth hands a packet over
    // without queueing it.
    let queues = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];
    let mut peer = LinkMessageBuilder::<LinkUnspec>::default()
        .name(there.name)
        .address(there.mac.0.to_vec())
        .mtu(mtu)
        .setns_by_fd(netns)
        .build();
    peer.attributes.extend(queues.clone());
    let mut message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .name(here.name)
        .address(here.mac.0.to_vec())
        .mtu(mtu)
        .build();
    message.attributes.extend(queues);
    Request {
        what: format!("make the veth pair {} - {}", here.name, there.name),
        message: RouteNetlinkMessage::NewLink(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

/// Tells what a link is like. `RTM_NEWLINK` is the answer.
pub(super) fn look_up(name: &str) -> Request {
    let mut message = named(name);
    // Half of what the kernel says are counters.
    let without = vec![LinkExtentMask::SkipStats];
    message.attributes.push(LinkAttribute::ExtMask(without));
    Request {
        what: format!("look up link {name}"),
        message: RouteNetlinkMessage::GetLink(message),
        flags: 0,
    }
}

/// Says which link-local IPv6 address a link gets by itself when it comes up.
pub(super) fn link_local(name: &str, mode: In6AddrGenMode) -> Request {
    let what = format!("choose {mode:?} for the link-local address of {name}");
    let mode = AfSpecInet6::AddrGenMode(mode);
    let mut message = named(name);
    let families = vec![AfSpecUnspec::Inet6(vec![mode])];
    message.attributes.push(LinkAttribute::AfSpecUnspec(families));
    Request {
        what,
        message: RouteNetlinkMessage::SetLink(message),
        flags: 0,
    }
}

/// Brings a link up.
pub(super) fn up(name: &str) -> Request {
    let message = LinkMessageBuilder::<LinkUnspec>::default().name(name).up().build();
    Request {
        what: format!("bring up link {name}"),
        message: RouteNetlinkMessage::SetLink(message),
        flags: 0,
    }
}

/// Gives a link another MTU.
pub(super) fn mtu(name: &str, mtu: u32) -> Request {
    let message = LinkMessageBuilder::<LinkUnspec>::default().name(name).mtu(mtu).build();
    Request {
        what: format!("give {name} the MTU {mtu}"),
        message: RouteNetlinkMessage::SetLink(message),
        flags: 0,
    }
}

/// Removes a link, and its other end with it. `RTM_DELLINK` tells that both have gone, before the kernel is done.
pub(super) fn remove(name: &str) -> Request {
    Request {
        what: format!("remove {name}"),
        message: RouteNetlinkMessage::DelLink(named(name)),
        flags: NLM_F_ECHO,
    }
}

fn named(name: &str) -> LinkMessage {
    LinkMessageBuilder::<LinkUnspec>::default().name(name).build()
}

/// Gives a link an address that is usable at once: no duplicate address detection.
pub(super) fn own_address(index: u32, ip: IpAddr) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.prefix_len = IpNet::from(ip).prefix_len();
    message.header.index = index;
    if ip.is_ipv6() {
        message.header.flags |= AddressHeaderFlags::Nodad;
    }
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    Request {
        what: format!("add address {ip} to link {index}"),
        message: RouteNetlinkMessage::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

/// Notes for ever which Ethernet address an address on a link has.
pub(super) fn neighbour(index: u32, ip: IpAddr, mac: Mac) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    let destination = match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    };
    message.attributes = vec![
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
    ];
    Request {
        what: format!("add neighbour {ip} on link {index}"),
        message: RouteNetlinkMessage::NewNeighbour(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

/// Adds a route of ours, or replaces the one to the same destination.
pub(super) fn route(route: &Route) -> Request {
    Request {
        what: match route.via {
            Some(via) => format!("add the route to {} via {via}", route.to),
            None => format!("add the route to {}", route.to),
        },
        message: RouteNetlinkMessage::NewRoute(message(route)),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

/// Adds a route of ours, unless there is one to the same destination.
pub(super) fn first_route(to: &Route) -> Request {
    Request {
        flags: NLM_F_CREATE | NLM_F_EXCL,
        ..route(to)
    }
}

/// Adds a route of ours to a routing table of any number.
pub(super) fn route_in(table: u32, to: &Route) -> Request {
    let mut request = route(to);
    if let RouteNetlinkMessage::NewRoute(message) = &mut request.message {
        message.header.table = RouteHeader::RT_TABLE_UNSPEC;
        message.attributes.push(RouteAttribute::Table(table));
    }
    request
}

/// Has what comes from an address looked up in a routing table first.
pub(super) fn rule(from: IpAddr, table: u32) -> Request {
    let mut message = RuleMessage::default();
    message.header.family = family(from);
    message.header.src_len = IpNet::from(from).prefix_len();
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![RuleAttribute::Source(from), RuleAttribute::Table(table)];
    Request {
        what: format!("add the rule for what comes from {from}"),
        message: RouteNetlinkMessage::NewRule(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

/// Tells what the kernel does with a packet to an address: `RTM_NEWROUTE`, of kind local where it is its own.
pub(super) fn way_to(ip: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(ip);
    message.header.destination_prefix_length = IpNet::from(ip).prefix_len();
    message.attributes = vec![RouteAttribute::Destination(address(ip))];
    Request {
        what: format!("find the route to {ip}"),
        message: RouteNetlinkMessage::GetRoute(message),
        flags: 0,
    }
}

/// As [`way_to`], but tells the route as it stands in the table.
pub(super) fn route_to(ip: IpAddr) -> Request {
    let mut request = way_to(ip);
    if let RouteNetlinkMessage::GetRoute(message) = &mut request.message {
        message.header.flags |= RouteFlags::FibMatch;
    }
    request
}

/// Lists the routes of a family. To be asked alone: a connection lists one thing at a time.
pub(super) fn routes(of: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(of);
    Request {
        what: "list routes".into(),
        message: RouteNetlinkMessage::GetRoute(message),
        flags: NLM_F_DUMP,
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
