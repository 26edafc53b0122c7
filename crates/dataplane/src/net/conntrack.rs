//! Connections that the kernel tracks and that have to be forgotten: a client that keeps sending datagrams from one
//! port would go on being led to where the node's port led before.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_bindings::conntrack::{Chained, IterableTupleAttrs, Nfgenmsg, OpGetDump};
use netlink_bindings::traits::NetlinkRequest as _;
use rtnetlink::sys::{Socket, protocols::NETLINK_NETFILTER};
use weft_model::Protocol;
use weft_model::hostport::{HostPort, HostPorts};

use super::nft::{IPV4, IPV6};
use super::{NetError, netlink};

/// linux/netlink.h.
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h: IPCTNL_MSG_CT_DELETE.
const DELETE: u16 = (1 << 8) | 2;
/// The same: CTA_TUPLE_ORIG, nested.
const TUPLE_ORIGINAL: u16 = 1 | (1 << 15);
/// The same: the kernel sorts out by protocol number.
const BY_PROTOCOL: u32 = 1 << 3;

/// Forgets what clients sent to these ports by UDP: what leads to these pods, and what led to the node itself.
/// Returns how many it were.
pub fn forget(ports: &HostPorts) -> Result<usize, NetError> {
    let udp = |v4: bool| move |port: &&HostPort| port.protocol == Protocol::Udp && port.ip.is_ipv4() == v4;
    let families = [true, false]
        .into_iter()
        .filter(|v4| ports.keys().any(|port| udp(*v4)(&port)));
    forget_flows(families, |flow| flow.is_of(ports))
}

/// Forgets the flows of UDP that are so, of these families (true: IPv4). Returns how many it were.
pub(super) fn forget_flows(
    families: impl IntoIterator<Item = bool>,
    is_stale: impl Fn(&Flow) -> bool,
) -> Result<usize, NetError> {
    let families = families.into_iter().map(|v4| if v4 { IPV4 } else { IPV6 });
    let counts = families.map(|family| forget_family(family, &is_stale));
    counts.sum::<io::Result<usize>>().map_err(|source| NetError::Kernel {
        what: "forget tracked flows of UDP".to_owned(),
        source,
    })
}

fn forget_family(family: u8, is_stale: impl Fn(&Flow) -> bool) -> io::Result<usize> {
    let socket = netlink::open(NETLINK_NETFILTER)?;
    let stale = list(&socket, family)?.into_iter().filter(is_stale);
    let mut count = 0;
    for flow in stale {
        count += usize::from(delete(&socket, family, &flow.raw)?);
    }
    Ok(count)
}

/// A tracked connection: who sent what where, and who answers.
pub(super) struct Flow {
    pub(super) to: SocketAddr,
    from: SocketAddr,
    pub(super) answer_from: SocketAddr,
    answer_to: SocketAddr,
    /// The first two as the kernel wrote them: by this it finds the entry.
    raw: Vec<u8>,
}

impl Flow {
    fn is_of(&self, ports: &HostPorts) -> bool {
        let untranslated = self.answer_from == self.to && self.answer_to == self.from;
        let hit = |(port, pod): (&HostPort, &SocketAddr)| {
            port.protocol == Protocol::Udp
                && port.port == self.to.port()
                && (port.ip.is_unspecified() || port.ip == self.to.ip())
                && (untranslated || *pod == self.answer_from)
        };
        ports.iter().any(hit)
    }
}

/// All of UDP.
fn list(socket: &Socket, family: u8) -> io::Result<Vec<Flow>> {
    let mut message = Chained::new(1);
    let header = Nfgenmsg {
        nfgen_family: family,
        ..Nfgenmsg::new()
    };
    let mut dump = message.request().op_get_dump(&header);
    let attributes = dump.encode().nested_filter().push_orig_flags(BY_PROTOCOL).end_nested();
    let protocol = attributes.nested_tuple_orig().nested_tuple_proto();
    drop(protocol.push_proto_num(Protocol::Udp.number()));
    drop(dump);
    socket.send(&message.finalize().into_chained().into_buf(), 0)?;
    let mut found = vec![];
    netlink::dump(socket, |body| found.extend(parse(body)))?;
    Ok(found)
}

fn parse(body: &[u8]) -> Option<Flow> {
    let (_, attributes) = OpGetDump::decode_reply(body);
    let there = attributes.get_tuple_orig().ok()?;
    let back = attributes.get_tuple_reply().ok()?;
    let (from, to) = ends(&there)?;
    let (answer_from, answer_to) = ends(&back)?;
    Some(Flow {
        to,
        from,
        answer_from,
        answer_to,
        raw: there.get_buf().to_vec(),
    })
}

fn ends(tuple: &IterableTupleAttrs<'_>) -> Option<(SocketAddr, SocketAddr)> {
    let (ips, ports) = (tuple.get_tuple_ip().ok()?, tuple.get_tuple_proto().ok()?);
    let v4 = || {
        Some((
            IpAddr::from(ips.get_ip_v4_src().ok()?),
            IpAddr::from(ips.get_ip_v4_dst().ok()?),
        ))
    };
    let v6 = || {
        Some((
            IpAddr::from(ips.get_ip_v6_src().ok()?),
            IpAddr::from(ips.get_ip_v6_dst().ok()?),
        ))
    };
    let (from, to) = v4().or_else(v6)?;
    Some((
        SocketAddr::new(from, ports.get_proto_src_port().ok()?),
        SocketAddr::new(to, ports.get_proto_dst_port().ok()?),
    ))
}

/// False where the entry has gone meanwhile.
fn delete(socket: &Socket, family: u8, tuple: &[u8]) -> io::Result<bool> {
    let mut message = vec![0; 4];
    message.extend(DELETE.to_ne_bytes());
    message.extend((REQUEST | ACKNOWLEDGE).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, 0, 0, 0]);
    message.extend((tuple.len() as u16 + 4).to_ne_bytes());
    message.extend(TUPLE_ORIGINAL.to_ne_bytes());
    message.extend(tuple);
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
    netlink::remove(socket, &message)
}
