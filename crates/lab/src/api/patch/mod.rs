//! Patches: JSON merge patch, JSON patch, strategic merge patch, and server-side apply.

mod apply;
mod fieldset;
pub(super) mod managers;
mod shape;
mod strategic;
mod walk;

use json_patch::PatchOperation;
use serde_json::Value;

use super::call::Call;
use super::kinds::Resource;
use super::status::{FieldError, Status};
use super::strategy::Part;
use super::write::Written;
use super::{ApiServer, body, meta};

const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// What no parser reads back must not be stored; other bodies are bounded by having been parsed.
const DEEPEST: usize = 100;

/// A patch of the plain kinds.
pub(super) enum Patch {
    Merge(Value),
    Json(json_patch::Patch),
    Strategic(Value),
}

impl Patch {
    /// Parses a patch; custom resources have no strategic one.
    pub(super) fn parse(bytes: &[u8], media_type: &str, custom: bool) -> Result<Self, Status> {
        match media_type {
            MERGE => Ok(Self::Merge(object(bytes)?)),
            STRATEGIC if !custom => Ok(Self::Strategic(object(bytes)?)),
            JSON => serde_json::from_slice(bytes)
                .map(Self::Json)
                .map_err(|error| Status::bad_request(format!("error decoding patch: {error}"))),
            _ if custom => Err(Status::unsupported_media_type(&[JSON, MERGE, APPLY].join(", "))),
            _ => Err(Status::unsupported_media_type(
                &[JSON, MERGE, STRATEGIC, APPLY].join(", "),
            )),
        }
    }

    /// The patched object.
    pub(super) fn apply(&self, resource: &Resource, old: &Value) -> Result<Value, Status> {
        match self {
            Self::Merge(patch) => {
                let mut new = old.clone();
                json_patch::merge(&mut new, patch);
                Ok(new)
            }
            Self::Json(patch) => json(resource, old, patch),
            Self::Strategic(patch) => {
                strategic::apply(old, patch).map_err(|error| Status::bad_request(error.to_string()))
            }
        }
    }
}

impl ApiServer {
    /// Changes an object by a patch.
    pub(super) fn patch(&self, call: &Call, part: Part, bytes: &[u8], media_type: &str) -> Result<Written, Status> {
        let resource = &call.target.resource;
        if media_type == APPLY {
            return self.apply(call, part, bytes);
        }
        let patch = Patch::parse(bytes, media_type, resource.custom.is_some())?;
        self.modify(call, part, |old| patch.apply(resource, old))
    }
}

/// Applies a JSON patch. Copies are counted, because a short patch can double an object many times.
fn json(resource: &Resource, old: &Value, patch: &json_patch::Patch) -> Result<Value, Status> {
    let mut new = old.clone();
    let mut copied = 0;
    for operation in &patch.0 {
        if let PatchOperation::Copy(copy) = operation {
            copied += copy.from.resolve(&new).map_or(0, |value| value.to_string().len());
            if copied > body::LIMIT {
                return Err(Status::too_large(body::LIMIT));
            }
        }
        json_patch::patch(&mut new, std::slice::from_ref(operation)).map_err(|error| {
            let message = format!("Invalid value: {error}");
            let error = FieldError {
                reason: "FieldValueInvalid",
                field: "patch".to_owned(),
                message,
            };
            Status::invalid(resource, meta::text(old, "name"), &[error])
        })?;
    }
    if exceeds(&new, DEEPEST) {
        return Err(Status::bad_request(format!(
            "the patched object nests deeper than {DEEPEST} levels"
        )));
    }
    Ok(new)
}

/// The value nests deeper than `levels`.
fn exceeds(value: &Value, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else {
        return true;
    };
    match value {
        Value::Object(fields) => fields.values().any(|value| exceeds(value, below)),
        Value::Array(items) => items.iter().any(|value| exceeds(value, below)),
        _ => false,
    }
}

fn object(bytes: &[u8]) -> Result<Value, Status> {
    let patch = body::yaml(bytes)?;
    if patch.is_object() {
        Ok(patch)
    } else {
        Err(Status::bad_request("the patch is not an object"))
    }
}
