//! What a watch says, in the order it said it. The whole contract between `cluster` and everyone downstream.

use crate::ipam::{IpPool, NodeAddresses};
use crate::service::ServiceCidr;
use crate::{EndpointSlice, Namespace, Node, ObjectKey, Pod, PodMeta, Service};

/// One change to what the cluster wants.
///
/// After a (re)list the sender emits every current object and a removal for each that has gone, then
/// `Synced` once every kind has been listed for the first time. Consumers only ever apply deltas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A Service appeared or changed.
    Service(Service),
    /// A Service has gone.
    ServiceGone(ObjectKey),
    /// An EndpointSlice appeared or changed.
    EndpointSlice(EndpointSlice),
    /// An EndpointSlice has gone.
    EndpointSliceGone(ObjectKey),
    /// A Node appeared or changed.
    Node(Node),
    /// A Node has gone.
    NodeGone(String),
    /// A Pod appeared or changed.
    Pod(Pod),
    /// A Pod has gone.
    PodGone(ObjectKey),
    /// An IPPool appeared or changed.
    Pool(Box<IpPool>),
    /// An IPPool has gone.
    PoolGone(String),
    /// A NodeAddresses appeared or changed.
    NodeAddresses(NodeAddresses),
    /// A NodeAddresses has gone.
    NodeAddressesGone(String),
    /// The metadata of a pod of this node appeared or changed.
    PodMeta(PodMeta),
    /// A pod of this node has gone.
    PodMetaGone(ObjectKey),
    /// A Namespace appeared or changed.
    Namespace(Namespace),
    /// A Namespace has gone.
    NamespaceGone(String),
    /// A ServiceCIDR appeared or changed.
    ServiceCidr(ServiceCidr),
    /// A ServiceCIDR has gone.
    ServiceCidrGone(String),
    /// Every watched kind has been listed once: what is known now is the whole.
    Synced,
}
