//! The controllers together, against the real API server in this process and kubelets that only say what a kubelet says.

mod cluster;
mod hardship;
mod kubelet;
mod network;
mod nodes;
mod ownership;
mod rollout;
mod workloads;
