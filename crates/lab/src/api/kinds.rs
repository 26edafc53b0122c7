//! What the server knows about a kind, and the table of built-in kinds.

use std::sync::Arc;

use serde_json::Value;

/// Where the replicas of a scalable kind are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// Such as `.spec.replicas`.
    pub spec: String,
    /// Such as `.status.replicas`.
    pub status: String,
    /// Such as `.status.selector`; a string there is the selector. Built-in kinds use `.spec.selector`.
    pub selector: Option<String>,
}

/// A served resource: one kind in one version.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// Such as `Pod`.
    pub kind: String,
    /// Such as `pods`.
    pub plural: String,
    /// Such as `pod`.
    pub singular: String,
    /// Such as `po`.
    pub short_names: Vec<String>,
    /// Lives in a namespace.
    pub namespaced: bool,
    /// Such as `all`.
    pub categories: Vec<String>,
    /// Has a `status` subresource: writes of the main resource leave `status` alone and the other way round.
    pub has_status: bool,
    /// Has a `scale` subresource.
    pub scale: Option<ScalePaths>,
    /// The group under which the objects are stored; differs from `group` only for views such as events.k8s.io.
    pub storage_group: String,
    /// The version in which the objects are stored.
    pub storage_version: String,
    /// Custom resources: this version's entry in the CRD's `spec.versions` (schema, columns, subresources).
    pub custom: Option<Arc<Value>>,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods` or `deployments.apps`, as in messages.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// The kind of a list of these.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// A custom resource's `openAPIV3Schema`.
    pub fn schema(&self) -> Option<&Value> {
        self.custom.as_deref()?.pointer("/schema/openAPIV3Schema")
    }
}

struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
    all: bool,
    status: bool,
    scale: bool,
}

const fn row(group: &'static str, kind: &'static str, plural: &'static str, short: &'static [&'static str]) -> Row {
    Row {
        group,
        version: "v1",
        kind,
        plural,
        short,
        namespaced: true,
        all: false,
        status: false,
        scale: false,
    }
}

impl Row {
    const fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }
    const fn all(mut self) -> Self {
        self.all = true;
        self
    }
    const fn status(mut self) -> Self {
        self.status = true;
        self
    }
    const fn scale(mut self) -> Self {
        self.scale = true;
        self
    }
}

const BUILT_IN: &[Row] = &[
    row("", "ConfigMap", "configmaps", &["cm"]),
    row("", "Endpoints", "endpoints", &["ep"]),
    row("", "Event", "events", &["ev"]),
    row("", "Namespace", "namespaces", &["ns"]).cluster().status(),
    row("", "Node", "nodes", &["no"]).cluster().status(),
    row("", "Pod", "pods", &["po"]).all().status(),
    row("", "Secret", "secrets", &[]),
    row("", "Service", "services", &["svc"]).all().status(),
    row("", "ServiceAccount", "serviceaccounts", &["sa"]),
    row(
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        &["crd", "crds"],
    )
    .cluster()
    .status(),
    row("apps", "ControllerRevision", "controllerrevisions", &[]),
    row("apps", "DaemonSet", "daemonsets", &["ds"]).all().status(),
    row("apps", "Deployment", "deployments", &["deploy"])
        .all()
        .status()
        .scale(),
    row("apps", "ReplicaSet", "replicasets", &["rs"]).all().status().scale(),
    row("apps", "StatefulSet", "statefulsets", &["sts"])
        .all()
        .status()
        .scale(),
    row("batch", "Job", "jobs", &[]).all().status(),
    row("coordination.k8s.io", "Lease", "leases", &[]),
    row("discovery.k8s.io", "EndpointSlice", "endpointslices", &[]),
    row("events.k8s.io", "Event", "events", &["ev"]),
    row("networking.k8s.io", "Ingress", "ingresses", &["ing"]).status(),
    row("networking.k8s.io", "IngressClass", "ingressclasses", &[]).cluster(),
    row("networking.k8s.io", "NetworkPolicy", "networkpolicies", &["netpol"]),
    row("networking.k8s.io", "ServiceCIDR", "servicecidrs", &[])
        .cluster()
        .status(),
];

/// The kinds that are always served.
pub fn built_in() -> Vec<Resource> {
    BUILT_IN.iter().map(resource).collect()
}

fn resource(row: &Row) -> Resource {
    let mut categories = Vec::new();
    if row.all {
        categories.push("all".to_owned());
    }
    if row.kind == "CustomResourceDefinition" {
        categories.push("api-extensions".to_owned());
    }
    let storage_group = if row.group == "events.k8s.io" { "" } else { row.group };
    Resource {
        group: row.group.to_owned(),
        version: row.version.to_owned(),
        kind: row.kind.to_owned(),
        plural: row.plural.to_owned(),
        singular: row.kind.to_lowercase(),
        short_names: row.short.iter().map(|s| (*s).to_owned()).collect(),
        namespaced: row.namespaced,
        categories,
        has_status: row.status,
        scale: row.scale.then(|| ScalePaths {
            spec: ".spec.replicas".to_owned(),
            status: ".status.replicas".to_owned(),
            selector: None,
        }),
        storage_group: storage_group.to_owned(),
        storage_version: row.version.to_owned(),
        custom: None,
    }
}
