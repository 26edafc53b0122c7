//! Deletes: at once, after a grace period, or when the finalizers are done.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::ApiServer;
use super::admission::Operation;
use super::call::Call;
use super::kinds::Resource;
use super::query::Query;
use super::status::Status;
use super::store::{Key, Object, Txn};
use super::write::{is_definition, may_go};
use super::{meta, views};

use std::sync::Arc;

/// `DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    grace: Option<i64>,
    uid: Option<String>,
    version: Option<String>,
    propagation: Option<String>,
    /// Change nothing.
    pub(super) dry_run: bool,
}

impl Options {
    /// The body wins over the query.
    pub(super) fn new(body: &Value, query: &Query) -> Result<Self, Status> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let grace = match query.get("gracePeriodSeconds").map(str::parse) {
            Some(Err(_)) => return Err(Status::bad_request("gracePeriodSeconds: not a number")),
            Some(Ok(seconds)) => Some(seconds),
            None => None,
        };
        let orphan = match body["orphanDependents"].as_bool() {
            Some(true) => Some("Orphan".to_owned()),
            Some(false) => Some("Background".to_owned()),
            None => None,
        };
        let asked = query.get("propagationPolicy").map(str::to_owned);
        let options = Self {
            grace: body["gracePeriodSeconds"].as_i64().or(grace),
            uid: text(&body["preconditions"]["uid"]),
            version: text(&body["preconditions"]["resourceVersion"]),
            propagation: text(&body["propagationPolicy"]).or(orphan).or(asked),
            dry_run: query.dry_run() || body["dryRun"].as_array().is_some_and(|d| d.iter().any(|d| d == "All")),
        };
        match options.propagation.as_deref() {
            None | Some("Orphan" | "Background" | "Foreground") => Ok(options),
            Some(other) => Err(Status::bad_request(format!(
                "DeleteOptions is invalid: propagationPolicy: Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
            ))),
        }
    }
}

/// What became of an object.
#[derive(Debug)]
pub(super) enum Deleted {
    /// It is gone; its last state.
    Gone(Arc<Object>),
    /// It is marked, and goes later.
    Marked(Arc<Object>),
}

impl ApiServer {
    /// Deletes one object.
    pub(super) fn delete(&self, call: &Call, options: &Options) -> Result<Deleted, Status> {
        let name = call.target.name()?;
        let key = call.target.key(name);
        self.commit(&call.target.resource, options.dry_run, |txn| {
            self.delete_in(txn, &call.target.resource, key, options)
        })
    }

    /// Deletes one object in a transaction.
    pub(super) fn delete_in(
        &self,
        txn: &mut Txn<'_>,
        resource: &Resource,
        key: Key,
        options: &Options,
    ) -> Result<Deleted, Status> {
        let name = key.name.clone();
        let old = txn.get(&key).ok_or_else(|| Status::not_found(resource, &name))?.clone();
        check_preconditions(resource, &name, &old.value, options)?;
        let mut new = views::from_stored(resource, &old.value).into_owned();
        self.admission
            .on_write(&txn.view(), Operation::Delete, resource, Some(&old.value), &mut new)?;
        set_propagation(&mut new, options);
        let grace = grace_period(resource, &new, options);
        mark(resource, &mut new, grace);
        let gone = may_go(resource, &new);
        let value = views::to_stored(resource, new);
        if gone && is_definition(resource) {
            let (group, plural) = (&value["spec"]["group"], &value["spec"]["names"]["plural"]);
            let (group, plural) = (group.as_str().unwrap_or_default(), plural.as_str().unwrap_or_default());
            let objects: Vec<_> = txn.index().list(group, plural, None).cloned().collect();
            for object in objects {
                txn.remove(Key::of(group, plural, &object.value));
            }
        }
        if gone {
            return Ok(Deleted::Gone(txn.remove_as(key, value)));
        }
        Ok(Deleted::Marked(txn.put(key, value)))
    }
}

fn check_preconditions(resource: &Resource, name: &str, object: &Value, options: &Options) -> Result<(), Status> {
    let check = |what: &str, wanted: &Option<String>, actual: &str| match wanted {
        Some(wanted) if wanted != actual => {
            let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {actual}");
            Err(Status::conflict(resource, name, &why))
        }
        _ => Ok(()),
    };
    check("UID", &options.uid, meta::text(object, "uid"))?;
    check(
        "ResourceVersion",
        &options.version,
        meta::text(object, "resourceVersion"),
    )
}

/// The finalizers by which the garbage collector is asked to act first.
fn set_propagation(object: &mut Value, options: &Options) {
    let wanted = match options.propagation.as_deref() {
        Some("Orphan") => Some("orphan"),
        Some("Foreground") => Some("foregroundDeletion"),
        Some(_) => None,
        // Nothing asked: what an earlier delete asked for stays.
        None => return,
    };
    let others = meta::finalizers(object).filter(|f| !matches!(*f, "orphan" | "foregroundDeletion"));
    let finalizers: Vec<String> = others.chain(wanted).map(str::to_owned).collect();
    let metadata = meta::of(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
}

/// Seconds until the object goes. Only a Pod that runs on a node has time to end.
fn grace_period(resource: &Resource, object: &Value, options: &Options) -> i64 {
    if resource.kind != "Pod" || resource.custom.is_some() {
        return 0;
    }
    let bound = object["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    if !bound || matches!(object["status"]["phase"].as_str(), Some("Failed" | "Succeeded")) {
        return 0;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    options.grace.unwrap_or(own).clamp(0, i64::from(i32::MAX))
}

fn mark(resource: &Resource, object: &mut Value, grace: i64) {
    let before = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
    let metadata = meta::of(object);
    if metadata.contains_key("deletionTimestamp") && before.is_none_or(|before| before <= grace) {
        return;
    }
    let at = Timestamp::now()
        .checked_add(SignedDuration::from_secs(grace))
        .unwrap_or_else(|_| Timestamp::now());
    metadata.insert("deletionTimestamp".to_owned(), meta::time(at).into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
    if resource.kind == "Namespace" {
        object["status"] = json!({"phase": "Terminating"});
    }
}
