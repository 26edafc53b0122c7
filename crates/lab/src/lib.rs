//! A real multi-node cluster on one machine: a small Kubernetes API, controllers, kubelets and the
//! namespaces they live in. The network in it is Weft itself, run by the same commands as in production;
//! nothing here knows how a packet travels.

pub mod api;
pub mod ask;
pub mod batch;
pub mod client;
pub mod controllers;
pub mod events;
pub mod families;
pub mod hold;
pub mod kubelet;
pub mod load;
pub mod serve;
pub mod streaming;
pub mod up;
