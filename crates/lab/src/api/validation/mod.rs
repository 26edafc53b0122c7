//! Checks of objects with the API server's own kind of message.

mod balancer;
mod cluster;
mod config;
mod container;
mod decode;
mod definition;
mod endpoints;
mod field;
mod ingress;
mod meta;
mod names;
mod pod;
mod policy;
pub mod quantity;
mod service;
mod volume;
mod workload;

use serde_json::Value;

use super::crd;
use super::kinds::Resource;
use super::openapi::schemas;
use super::status::FieldError;
use field::Field;

/// Checks that the JSON types in `object` fit the kind, and removes the fields that the kind does not have.
///
/// Returns the removed fields as the API server words them (`unknown field "spec.foo"`), for `fieldValidation`
/// to reject or warn about. The error is the text of a 400 (`json: cannot unmarshal string into Go struct ...`).
pub fn decode(resource: &Resource, object: &mut Value) -> Result<Vec<String>, String> {
    if resource.custom.is_none() {
        return decode::against(&schemas::name_of(resource), object);
    }
    let mut unknown = match object.get_mut("metadata") {
        Some(metadata) => decode::metadata(metadata)?,
        None => Vec::new(),
    };
    if let Some(schema) = resource.schema() {
        unknown.extend(crd::prune(schema, object));
    }
    Ok(unknown)
}

/// Every rule that `new` breaks; on update also those about immutable fields.
pub fn validate(resource: &Resource, old: Option<&Value>, new: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let new = Field::root(new);
    let old = old.map(Field::root);
    meta::validate(&mut errors, resource, &new);
    if let Some(old) = &old {
        meta::validate_update(&mut errors, &new, old);
    }
    if resource.custom.is_some() {
        if let Some(schema) = resource.schema() {
            errors.extend(crd::validate(schema, new.value));
        }
    } else {
        kind(&mut errors, &resource.kind, &new, old.as_ref());
    }
    errors
}

fn kind(errors: &mut field::Errors, kind: &str, new: &Field<'_>, old: Option<&Field<'_>>) {
    let validate = match kind {
        "Pod" => pod::validate,
        "Service" => service::validate,
        "Endpoints" => endpoints::validate_endpoints,
        "EndpointSlice" => endpoints::validate_slice,
        "Deployment" => workload::validate_deployment,
        "ReplicaSet" => workload::validate_replica_set,
        "StatefulSet" => workload::validate_stateful_set,
        "DaemonSet" => workload::validate_daemon_set,
        "Job" => workload::validate_job,
        "NetworkPolicy" => policy::validate,
        "Ingress" => ingress::validate,
        "IngressClass" => ingress::validate_class,
        "ServiceCIDR" => cluster::validate_service_cidr,
        "ConfigMap" => config::validate_config_map,
        "Secret" => config::validate_secret,
        "Node" => cluster::validate_node,
        "Lease" => cluster::validate_lease,
        "Event" => cluster::validate_event,
        "CustomResourceDefinition" => definition::validate,
        _ => return,
    };
    validate(errors, new, old);
}

#[cfg(test)]
mod tests;
