//! A Pod's way onto a node and off it: binding and eviction.

use http::Response;
use serde_json::{Value, json};

use super::super::call::Call;
use super::super::delete::Options;
use super::super::status::{FieldError, Status};
use super::super::strategy::Part;
use super::super::{ApiServer, fields, meta};
use super::done;
use crate::client::Body;

impl ApiServer {
    /// Puts a Pod on the node that the Binding names.
    pub(super) fn bind(&self, call: &Call, binding: &Value) -> Result<Response<Body>, Status> {
        let name = call.target.name()?;
        let resource = &call.target.resource;
        let Some(node) = binding["target"]["name"].as_str().filter(|node| !node.is_empty()) else {
            let error = FieldError::required("target.name", "");
            return Err(Status::invalid(resource, name, &[error]));
        };
        self.modify(call, Part::Binding, |old| {
            let uid = meta::text(binding, "uid");
            if !uid.is_empty() && uid != meta::text(old, "uid") {
                let why = "Precondition failed: the pod has been replaced by another of the same name";
                return Err(Status::conflict(resource, name, why));
            }
            if meta::is_deleting(old) {
                let why = format!("pod {name} is being deleted, cannot be assigned to a host");
                return Err(Status::conflict(resource, name, &why));
            }
            match old["spec"]["nodeName"].as_str() {
                Some(present) if !present.is_empty() => {
                    let why = format!("pod {name} is already assigned to node {present:?}");
                    return Err(Status::conflict(resource, name, &why));
                }
                _ => {}
            }
            let mut new = old.clone();
            if let Some(spec) = new.get_mut("spec") {
                fields::set(spec, "nodeName", node);
            }
            let annotations = binding["metadata"]["annotations"].as_object().into_iter().flatten();
            for (key, value) in annotations {
                fields::set(meta::entry(meta::of(&mut new), "annotations"), key, value.clone());
            }
            let mut conditions = fields::list(old, "status.conditions").to_vec();
            conditions.retain(|condition| condition["type"] != "PodScheduled");
            conditions.push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": meta::now()}));
            if let Some(status) = new.get_mut("status") {
                fields::set(status, "conditions", conditions);
            }
            Ok(new)
        })?;
        Ok(done())
    }

    /// Deletes a Pod on behalf of who drains its node. There are no disruption budgets here to ask.
    pub(super) fn evict(&self, call: &Call, eviction: &Value) -> Result<Response<Body>, Status> {
        let mut options = Options::new(&eviction["deleteOptions"], &call.query)?;
        options.dry_run |= call.query.dry_run();
        self.delete(call, &options)?;
        Ok(done())
    }
}
