//! Namespaces that a cluster cannot be without.

use serde_json::Value;

use crate::api::kinds::Resource;
use crate::api::status::Status;

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Refuses the deletion of a namespace that must stay.
pub(super) fn check_delete(resource: &Resource, namespace: &Value) -> Result<(), Status> {
    let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
    if IMMORTAL.contains(&name) {
        return Err(Status::forbidden(resource, name, "this namespace may not be deleted"));
    }
    Ok(())
}
