//! A connection to the kernel's rtnetlink, in the words that Weft needs.

use std::net::IpAddr;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};
use tokio::sync::Mutex;

use super::{Mac, NetError};

/// A connection to the rtnetlink of one network namespace.
#[derive(Clone, Debug)]
pub struct Rtnl {
    pub(super) handle: Handle,
    /// A socket lists one thing at a time; the kernel refuses a second list meanwhile (EBUSY).
    pub(super) listing: Arc<Mutex<()>>,
}

/// A link as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address, where it has one.
    pub mac: Option<Mac>,
    /// Its MTU.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// One end of a veth pair.
    pub veth: bool,
}

impl Rtnl {
    /// Connects to the namespace of the calling thread; needs a tokio runtime, which drives the connection.
    pub fn connect() -> Result<Self, NetError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| NetError::Netlink(error.to_string()))?;
        tokio::spawn(connection);
        Ok(Self {
            handle,
            listing: Arc::default(),
        })
    }

    /// The link of this index; `None` where there is none.
    pub async fn link_at(&self, index: u32) -> Result<Option<Link>, NetError> {
        let request = self.handle.link().get().match_index(index).execute();
        self.first(request, format!("look up link {index}")).await
    }

    /// One link; `None` where there is none of this name.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetError> {
        let request = self.handle.link().get().match_name(name.to_owned()).execute();
        self.first(request, format!("look up link {name}")).await
    }

    async fn first(
        &self,
        found: impl Stream<Item = Result<LinkMessage, rtnetlink::Error>>,
        what: String,
    ) -> Result<Option<Link>, NetError> {
        match found.try_collect::<Vec<_>>().await.map_err(NetError::kernel(what)) {
            Ok(found) => Ok(found.into_iter().next().map(parse_link)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every link of the namespace.
    pub async fn links(&self) -> Result<Vec<Link>, NetError> {
        let _alone = self.listing.lock().await;
        let all = self.handle.link().get();
        let found: Vec<_> = all
            // Half of what the kernel says are counters.
            .set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats])
            .execute()
            .try_collect()
            .await
            .map_err(NetError::kernel("list links"))?;
        Ok(found.into_iter().map(parse_link).collect())
    }

    /// Brings a link up.
    pub async fn set_up(&self, index: u32) -> Result<(), NetError> {
        let message = LinkMessageBuilder::<LinkUnspec>::default().index(index).up().build();
        let what = format!("bring up link {index}");
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(NetError::kernel(what))
    }

    /// Removes a link, and its other end with it. False where there was none.
    pub async fn remove_link(&self, name: &str) -> Result<bool, NetError> {
        Ok(super::pod::tear_down(name).await?.is_some())
    }

    /// Addresses of one link, or of all.
    pub async fn addresses(&self, index: Option<u32>) -> Result<Vec<(u32, IpNet)>, NetError> {
        let _alone = self.listing.lock().await;
        let mut request = self.handle.address().get();
        if let Some(index) = index {
            request = request.set_link_index_filter(index);
        }
        let found: Vec<_> = request
            .execute()
            .try_collect()
            .await
            .map_err(NetError::kernel("list addresses"))?;
        let parse = |message: netlink_packet_route::address::AddressMessage| {
            // Of a point-to-point link, `Address` is the other side; `Local` is ours where both are there.
            let local = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            });
            let any = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            });
            Some((
                message.header.index,
                IpNet::new(local.or(any)?, message.header.prefix_len).ok()?,
            ))
        };
        Ok(found.into_iter().filter_map(parse).collect())
    }

    /// Notes for ever which Ethernet address an address on a link has.
    pub(crate) async fn put_neighbour(&self, index: u32, ip: IpAddr, mac: Mac) -> Result<(), NetError> {
        let request = self
            .handle
            .neighbours()
            .add(index, ip)
            .link_layer_address(&mac.0)
            .replace();
        request
            .execute()
            .await
            .map_err(NetError::kernel(format!("add neighbour {ip} on link {index}")))
    }

    /// The neighbours that stay, of all links.
    pub(crate) async fn permanent_neighbours(&self) -> Result<Vec<(u32, IpAddr, Mac)>, NetError> {
        let _alone = self.listing.lock().await;
        let listed = self.handle.neighbours().get().execute().try_collect::<Vec<_>>().await;
        let listed = listed.map_err(NetError::kernel("list neighbours"))?;
        let parse = |message: NeighbourMessage| {
            let (mut ip, mut mac) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::V4(*v4)),
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::V6(*v6)),
                    NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
                    _ => {}
                }
            }
            Some((message.header.ifindex, ip?, mac?))
        };
        let permanent = |message: &NeighbourMessage| message.header.state == NeighbourState::Permanent;
        Ok(listed.into_iter().filter(permanent).filter_map(parse).collect())
    }

    /// Forgets the Ethernet address of an address on a link.
    pub(crate) async fn remove_neighbour(&self, index: u32, ip: IpAddr) -> Result<(), NetError> {
        let message = self.handle.neighbours().add(index, ip).message_mut().clone();
        let what = format!("remove neighbour {ip} on link {index}");
        let removed = self.handle.neighbours().del(message).execute().await;
        match removed.map_err(NetError::kernel(what)) {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }
}

pub(super) fn parse_link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        veth: false,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(Mac),
            LinkAttribute::LinkInfo(infos) => {
                link.veth = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    link
}
