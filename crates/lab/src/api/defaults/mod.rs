//! The values that the API server fills in where a user left a field out, per kind.

mod misc;
mod pod;
mod service;
mod workload;

use serde_json::Value;

use super::crd;
use super::kinds::Resource;

/// Fills in the defaults of an object: its kind's, or those of its definition's schema. Fields of the wrong type stay as they are.
pub fn apply(resource: &Resource, object: &mut Value) {
    if resource.custom.is_some() {
        if let Some(schema) = resource.schema() {
            crd::fill(schema, object);
        }
        return;
    }
    match resource.kind.as_str() {
        "Pod" => pod::pod(object),
        "Service" => service::service(object),
        "Endpoints" => service::endpoints(object),
        "EndpointSlice" => service::endpoint_slice(object),
        "Deployment" => workload::deployment(object),
        "ReplicaSet" => workload::replica_set(object),
        "StatefulSet" => workload::stateful_set(object),
        "DaemonSet" => workload::daemon_set(object),
        "Job" => workload::job(object),
        "Secret" => misc::secret(object),
        "Namespace" => misc::namespace(object),
        "Node" => misc::node(object),
        "NetworkPolicy" => misc::network_policy(object),
        "Ingress" => misc::ingress(object),
        "CustomResourceDefinition" => misc::custom_resource_definition(object),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
