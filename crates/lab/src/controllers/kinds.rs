//! The resources that controllers work with.

use crate::client::Res;

pub(crate) static CONFIG_MAPS: Res = Res::new("", "v1", "configmaps");
pub(crate) static CONTROLLER_REVISIONS: Res = Res::new("apps", "v1", "controllerrevisions");
pub(crate) static CRDS: Res = Res::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
pub(crate) static DAEMON_SETS: Res = Res::new("apps", "v1", "daemonsets");
pub(crate) static DEPLOYMENTS: Res = Res::new("apps", "v1", "deployments");
pub(crate) static ENDPOINTS: Res = Res::new("", "v1", "endpoints");
pub(crate) static ENDPOINT_SLICES: Res = Res::new("discovery.k8s.io", "v1", "endpointslices");
pub(crate) static JOBS: Res = Res::new("batch", "v1", "jobs");
pub(crate) static LEASES: Res = Res::new("coordination.k8s.io", "v1", "leases");
pub(crate) static NAMESPACES: Res = Res::new("", "v1", "namespaces");
pub(crate) static NODES: Res = Res::new("", "v1", "nodes");
pub(crate) static PODS: Res = Res::new("", "v1", "pods");
pub(crate) static REPLICA_SETS: Res = Res::new("apps", "v1", "replicasets");
pub(crate) static SERVICES: Res = Res::new("", "v1", "services");
pub(crate) static SERVICE_ACCOUNTS: Res = Res::new("", "v1", "serviceaccounts");
pub(crate) static STATEFUL_SETS: Res = Res::new("apps", "v1", "statefulsets");
