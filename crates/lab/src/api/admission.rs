//! What is decided about an object at the moment it is written and needs to see other objects: allocated
//! addresses and ports, and defaults that controllers rely on.

mod families;
mod namespaces;
mod nodes;
mod pods;
mod pool;
mod ports;
mod services;
#[cfg(test)]
mod tests;

use serde_json::Value;

use super::kinds::Resource;
use super::status::Status;
use super::store::View;
use crate::families::Families;
use services::Services;

pub(super) use services::ranges as service_ranges;

/// Which kind of write is being admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change of an existing object; through the main resource, not a subresource.
    Update,
    /// A change of `status` alone.
    UpdateStatus,
    /// The object is about to be removed or marked for deletion.
    Delete,
}

/// The admission stage. Called with the store's write lock held, so what it reads in `view` cannot change before
/// the object is stored.
#[derive(Debug, Default)]
pub struct Admission {
    services: Services,
}

impl Admission {
    /// For a cluster with these families.
    pub fn new(families: Families) -> Self {
        Self {
            services: Services::new(families),
        }
    }

    /// Completes `new` or refuses the write. On `Delete`, `new` is a copy of the object that goes.
    pub fn on_write(
        &self,
        view: &View<'_>,
        operation: Operation,
        resource: &Resource,
        old: Option<&Value>,
        new: &mut Value,
    ) -> Result<(), Status> {
        if resource.custom.is_some() || !resource.group.is_empty() {
            return Ok(());
        }
        match (resource.kind.as_str(), operation) {
            ("Service", Operation::Create | Operation::Update) => self.services.complete(view, resource, old, new),
            ("Pod", Operation::Create) => pods::complete(view, resource, new),
            ("Node", Operation::Create) => {
                nodes::complete(new);
                Ok(())
            }
            ("Namespace", Operation::Delete) => namespaces::check_delete(resource, new),
            _ => Ok(()),
        }
    }
}
