//! Creates and updates: one pipeline for every kind, run while other writers wait.

use std::sync::Arc;

use serde_json::Value;

use super::ApiServer;
use super::admission::Operation;
use super::call::{Call, Target};
use super::kinds::Resource;
use super::patch::managers;
use super::status::{FieldError, Status};
use super::store::{Key, Object, Txn};
use super::strategy::{self, Part};
use super::{crd, defaults, definition, meta, validation, views};

/// How often a generated name is tried again when it is taken.
const NAME_ATTEMPTS: usize = 8;

/// The outcome of a write.
#[derive(Debug)]
pub(super) struct Written {
    /// The object, in its stored form.
    pub(super) object: Arc<Object>,
    /// For `Warning` headers.
    pub(super) warnings: Vec<String>,
    /// The object did not exist before.
    pub(super) created: bool,
}

impl ApiServer {
    /// Creates the object of a POST.
    pub(super) fn create(&self, call: &Call, body: Value) -> Result<Written, Status> {
        self.commit(&call.target.resource, call.query.dry_run(), |txn| {
            self.create_in(txn, call, body)
        })
    }

    /// Creates an object in a transaction.
    pub(super) fn create_in(&self, txn: &mut Txn<'_>, call: &Call, mut body: Value) -> Result<Written, Status> {
        let resource = &*call.target.resource;
        check_kind(resource, &mut body)?;
        check_namespace(&call.target, &mut body)?;
        let mut warnings = decode(call, &mut body)?;
        if !meta::text(&body, "resourceVersion").is_empty() {
            return Err(Status::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let key = self.name(txn, &call.target, &mut body)?;
        check_live_namespace(txn, &call.target, &key)?;
        if txn.get(&key).is_some() {
            return Err(Status::already_exists(resource, &key.name));
        }
        if !call.applying {
            meta::of(&mut body).remove("managedFields");
        }
        strategy::prepare_create(resource, &mut body);
        self.complete(txn, Operation::Create, resource, None, &mut body)?;
        if is_definition(resource) {
            definition::set_status(&self.registry(), &mut body);
            warnings.extend(crd::warnings(&body));
        }
        let object = txn.put(key, views::to_stored(resource, body));
        let object = if call.query.dry_run() {
            without_version(&object)
        } else {
            object
        };
        Ok(Written {
            object,
            warnings,
            created: true,
        })
    }

    /// Decides the name: the given one, or a free one from `generateName`.
    fn name(&self, txn: &Txn<'_>, target: &Target, body: &mut Value) -> Result<Key, Status> {
        let resource = &*target.resource;
        let given = meta::text(body, "name").to_owned();
        if !given.is_empty() {
            if given.contains(['/', '%']) || matches!(given.as_str(), "." | "..") {
                let error = FieldError::invalid("metadata.name", &given.clone().into(), "may not contain '/' or '%'");
                return Err(Status::invalid(resource, &given, &[error]));
            }
            return Ok(target.key(&given));
        }
        let prefix = meta::text(body, "generateName").to_owned();
        if prefix.is_empty() {
            let error = FieldError::required("metadata.name", "name or generateName is required");
            return Err(Status::invalid(resource, "", &[error]));
        }
        let mut keys = std::iter::repeat_with(|| target.key(&meta::generate_name(&prefix))).take(NAME_ATTEMPTS);
        let key = keys
            .find(|key| txn.get(key).is_none())
            .ok_or_else(|| Status::already_exists(resource, &prefix))?;
        meta::of(body).insert("name".to_owned(), key.name.clone().into());
        Ok(key)
    }

    /// Defaults, admission and validation.
    fn complete(
        &self,
        txn: &Txn<'_>,
        operation: Operation,
        resource: &Resource,
        old: Option<&Value>,
        new: &mut Value,
    ) -> Result<(), Status> {
        defaults::apply(resource, new);
        self.admission.on_write(&txn.view(), operation, resource, old, new)?;
        match validation::validate(resource, old, new) {
            errors if errors.is_empty() => Ok(()),
            errors => Err(Status::invalid(resource, meta::text(new, "name"), &errors)),
        }
    }

    /// Changes an existing object: `make` turns what the client of this resource sees into what it wants.
    pub(super) fn modify(
        &self,
        call: &Call,
        part: Part,
        make: impl FnOnce(&Value) -> Result<Value, Status>,
    ) -> Result<Written, Status> {
        self.commit(&call.target.resource, call.query.dry_run(), |txn| {
            self.modify_in(txn, call, part, make)
        })
    }

    /// Changes an existing object in a transaction.
    pub(super) fn modify_in(
        &self,
        txn: &mut Txn<'_>,
        call: &Call,
        part: Part,
        make: impl FnOnce(&Value) -> Result<Value, Status>,
    ) -> Result<Written, Status> {
        let resource = &*call.target.resource;
        let name = call.target.name()?;
        let key = call.target.key(name);
        let stored = txn.get(&key).ok_or_else(|| Status::not_found(resource, name))?;
        let old = views::from_stored(resource, &stored.value);
        let mut new = make(&old)?;
        check_kind(resource, &mut new)?;
        check_namespace(&call.target, &mut new)?;
        check_name(name, &mut new)?;
        check_preconditions(resource, name, &old, &new)?;
        let mut warnings = decode(call, &mut new)?;
        strategy::prepare_update(resource, part, &old, &mut new);
        check_finalizers(resource, &old, &new)?;
        match part {
            // The server's own change to a part of the spec that users may not change.
            Part::Binding => {}
            Part::Status => self.complete(txn, Operation::UpdateStatus, resource, Some(&old), &mut new)?,
            Part::Main | Part::Finalize => self.complete(txn, Operation::Update, resource, Some(&old), &mut new)?,
        }
        if is_definition(resource) && part == Part::Main {
            definition::set_status(&self.registry(), &mut new);
            warnings.extend(crd::warnings(&new));
            restore(txn, &old, &new);
        }
        if !call.applying {
            managers::track(resource, &call.manager, part, &old, &mut new);
        }
        let gone = meta::is_deleting(&new) && may_go(resource, &new);
        let value = views::to_stored(resource, new);
        let object = if gone {
            txn.remove_as(key, value)
        } else {
            txn.put(key, value)
        };
        Ok(Written {
            object,
            warnings,
            created: false,
        })
    }
}

/// What a dry run shows: an object that has no place in history.
fn without_version(object: &Object) -> Arc<Object> {
    let mut value = object.value.clone();
    meta::of(&mut value).remove("resourceVersion");
    let json = value.to_string().into();
    Arc::new(Object {
        value,
        json,
        version: object.version,
    })
}

/// The resource is that of the CustomResourceDefinitions themselves.
pub(super) fn is_definition(resource: &Resource) -> bool {
    resource.kind == "CustomResourceDefinition" && resource.custom.is_none()
}

/// Stores the objects of a definition again if their storage version has changed.
fn restore(txn: &mut Txn<'_>, old: &Value, new: &Value) {
    let (before, after) = (definition::storage_version(old), definition::storage_version(new));
    let (Some(group), Some(version)) = (new["spec"]["group"].as_str(), after) else {
        return;
    };
    if before == after {
        return;
    }
    let plural = new["spec"]["names"]["plural"].as_str().unwrap_or_default();
    let objects: Vec<_> = txn.index().list(group, plural, None).cloned().collect();
    for object in objects {
        let mut value = object.value.clone();
        value["apiVersion"] = format!("{group}/{version}").into();
        txn.put(Key::of(group, plural, &value), value);
    }
}

/// Nothing holds back an object that is being deleted.
pub(super) fn may_go(resource: &Resource, object: &Value) -> bool {
    let grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let spec_finalizers = resource.kind == "Namespace"
        && object["spec"]["finalizers"]
            .as_array()
            .is_some_and(|finalizers| !finalizers.is_empty());
    grace == 0 && !spec_finalizers && meta::finalizers(object).next().is_none()
}

/// The body's `apiVersion` and `kind` are those of the path; absent ones are filled in.
fn check_kind(resource: &Resource, body: &mut Value) -> Result<(), Status> {
    let Some(fields) = body.as_object_mut() else {
        return Err(Status::bad_request(format!(
            "the body is not an object of kind {}",
            resource.kind
        )));
    };
    let api_version = resource.api_version();
    for (field, expected, label) in [
        ("apiVersion", &api_version, "API version"),
        ("kind", &resource.kind, "kind"),
    ] {
        match fields.get(field).and_then(Value::as_str) {
            None | Some("") => {
                fields.insert(field.to_owned(), expected.clone().into());
            }
            Some(actual) if actual == expected => {}
            Some(actual) => {
                let message =
                    format!("the {label} in the data ({actual}) does not match the expected {label} ({expected})");
                return Err(Status::bad_request(message));
            }
        }
    }
    match fields.get("metadata") {
        None | Some(Value::Null | Value::Object(_)) => {
            meta::of(body);
            Ok(())
        }
        Some(_) => Err(Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: json: cannot unmarshal into Go struct field {kind}.metadata of type v1.ObjectMeta",
            kind = resource.kind,
            version = resource.version,
        ))),
    }
}

fn check_namespace(target: &Target, body: &mut Value) -> Result<(), Status> {
    let given = meta::text(body, "namespace").to_owned();
    let path = target.namespace.as_deref().unwrap_or_default();
    if !target.resource.namespaced {
        meta::of(body).remove("namespace");
    } else if given.is_empty() || given == path {
        meta::of(body).insert("namespace".to_owned(), path.into());
    } else {
        return Err(Status::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request (object {given:?}, request {path:?})"
        )));
    }
    Ok(())
}

fn check_name(name: &str, body: &mut Value) -> Result<(), Status> {
    match meta::text(body, "name") {
        "" => {
            meta::of(body).insert("name".to_owned(), name.into());
            Ok(())
        }
        given if given == name => Ok(()),
        given => Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
    }
}

/// The version and uid that the client made its change from, if it says so, are the present ones.
fn check_preconditions(resource: &Resource, name: &str, old: &Value, new: &Value) -> Result<(), Status> {
    let uid = meta::text(new, "uid");
    if !uid.is_empty() && uid != meta::text(old, "uid") {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::text(old, "uid")
        );
        return Err(Status::conflict(resource, name, &why));
    }
    let version = meta::text(new, "resourceVersion");
    if version.is_empty() && strategy::needs_version(resource) {
        let error = FieldError::invalid("metadata.resourceVersion", &0.into(), "must be specified for an update");
        return Err(Status::invalid(resource, name, &[error]));
    }
    if !version.is_empty() && version != "0" && version != meta::text(old, "resourceVersion") {
        return Err(Status::modified(resource, name));
    }
    Ok(())
}

fn check_finalizers(resource: &Resource, old: &Value, new: &Value) -> Result<(), Status> {
    if !meta::is_deleting(old) {
        return Ok(());
    }
    let added: Vec<&str> = meta::finalizers(new)
        .filter(|new| !meta::finalizers(old).any(|old| old == *new))
        .collect();
    if added.is_empty() {
        return Ok(());
    }
    let detail =
        format!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}");
    let error = FieldError::forbidden("metadata.finalizers", &detail);
    Err(Status::invalid(resource, meta::text(old, "name"), &[error]))
}

/// The namespace of a new object exists and is not going.
fn check_live_namespace(txn: &Txn<'_>, target: &Target, key: &Key) -> Result<(), Status> {
    let Some(namespace) = target.namespace.as_deref().filter(|_| target.resource.namespaced) else {
        return Ok(());
    };
    let Some(object) = txn.view().get("", "namespaces", "", namespace) else {
        return Err(Status::no_namespace(namespace));
    };
    if meta::is_deleting(object) {
        return Err(Status::namespace_terminating(&target.resource, &key.name, namespace));
    }
    Ok(())
}

/// Types and unknown fields, as strictly as `fieldValidation` asks; the warnings.
fn decode(call: &Call, body: &mut Value) -> Result<Vec<String>, Status> {
    let resource = &*call.target.resource;
    let cannot = |why: &str| {
        let kind = &resource.kind;
        let version = &resource.version;
        Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
        ))
    };
    let unknown = validation::decode(resource, body).map_err(|why| cannot(&why))?;
    match call.query.get("fieldValidation") {
        _ if unknown.is_empty() => Ok(Vec::new()),
        Some("Strict") => Err(cannot(&format!("strict decoding error: {}", unknown.join(", ")))),
        Some("Ignore") => Ok(Vec::new()),
        _ => Ok(unknown),
    }
}
