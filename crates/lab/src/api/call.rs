//! A request on a resource, taken apart.

use std::sync::Arc;

use super::accept::Accept;
use super::kinds::Resource;
use super::query::Query;
use super::registry::Registry;
use super::status::Status;
use super::store::{Key, ResourceKey};

/// Who sends a request.
#[derive(Clone, Debug)]
pub struct User {
    /// Such as `system:serviceaccount:default:default`.
    pub name: String,
    /// Such as `system:masters`.
    pub groups: Vec<String>,
}

impl User {
    /// Who comes over the unix socket, in process, or with the lab's own credentials.
    pub fn admin() -> Self {
        Self {
            name: "admin".to_owned(),
            groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
        }
    }
}

/// What a path under a group version points at.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The resource.
    pub(super) resource: Arc<Resource>,
    /// The namespace in the path; absent for cluster-scoped resources and lists over all namespaces.
    pub(super) namespace: Option<String>,
    /// The name; absent for collections.
    pub(super) name: Option<String>,
    /// Such as `status`; empty for the object itself.
    pub(super) subresource: String,
    /// What follows a proxy subresource.
    pub(super) rest: String,
}

impl Target {
    /// Resolves the path segments after `/api/v1` or `/apis/<group>/<version>`.
    pub(super) fn resolve(registry: &Registry, group: &str, version: &str, segments: &[&str]) -> Result<Self, Status> {
        let (namespace, segments) = match segments {
            ["namespaces", namespace, plural, rest @ ..]
                if !(group.is_empty() && matches!(*plural, "status" | "finalize") && rest.is_empty()) =>
            {
                (Some((*namespace).to_owned()), &segments[2..])
            }
            _ => (None, segments),
        };
        let [plural, rest @ ..] = segments else {
            return Err(Status::no_such_path());
        };
        let resource = registry
            .find(group, version, plural)
            .ok_or_else(Status::no_such_path)?
            .clone();
        if resource.namespaced && namespace.is_none() && !rest.is_empty() || !resource.namespaced && namespace.is_some()
        {
            return Err(Status::no_such_path());
        }
        let name = rest.first().map(|name| (*name).to_owned());
        let subresource = rest.get(1).map(|sub| (*sub).to_owned()).unwrap_or_default();
        let rest = rest.get(2..).unwrap_or_default().join("/");
        if !rest.is_empty() && subresource != "proxy" {
            return Err(Status::no_such_path());
        }
        Ok(Self {
            resource,
            namespace,
            name,
            subresource,
            rest,
        })
    }

    /// Where the objects of this resource are stored.
    pub(super) fn storage(&self) -> ResourceKey {
        (self.resource.storage_group.clone(), self.resource.plural.clone())
    }

    /// The key of the object `name` of this resource and namespace.
    pub(super) fn key(&self, name: &str) -> Key {
        Key {
            group: self.resource.storage_group.clone(),
            plural: self.resource.plural.clone(),
            namespace: self.namespace.clone().unwrap_or_default(),
            name: name.to_owned(),
        }
    }

    /// The name in the path.
    pub(super) fn name(&self) -> Result<&str, Status> {
        self.name.as_deref().ok_or_else(Status::method_not_allowed)
    }
}

/// A request on a resource.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// What it is about.
    pub(super) target: Target,
    /// Its parameters.
    pub(super) query: Query,
    /// The form of the answer.
    pub(super) accept: Accept,
    /// The field manager: `fieldManager`, or the first word of the user agent.
    pub(super) manager: String,
    /// The request is a server-side apply, which keeps its own account of who owns what.
    pub(super) applying: bool,
}
