//! ControllerRevisions: the templates that a DaemonSet or StatefulSet has had, which `kubectl rollout history` and
//! `undo` go by.

use serde_json::{Value, json};

use super::cache::Object;
use super::context::Context;
use super::error::Error;
use super::object::{int, label, name, namespace, owner_reference, uid};
use super::{hash, index, kinds};

/// The label by which a pod says which revision it is of.
pub(crate) const HASH: &str = "controller-revision-hash";

/// The revisions of one owner.
#[derive(Debug)]
pub(crate) struct Revisions {
    /// That of the present template.
    pub(crate) newest: Object,
    /// The others, oldest first.
    pub(crate) older: Vec<Object>,
}

impl Revisions {
    /// The value of [`HASH`] in pods of the present template.
    pub(crate) fn hash(&self) -> &str {
        label(&self.newest, HASH).unwrap_or_default()
    }

    /// The template of a revision by its name, or the present one.
    pub(crate) fn template(&self, named: &str) -> Value {
        let older = self.older.iter().find(|revision| name(revision) == named);
        older.unwrap_or(&self.newest)["data"]["spec"]["template"].clone()
    }

    /// The value of [`HASH`] in pods of a revision by its name, or of the present one.
    pub(crate) fn hash_of(&self, named: &str) -> &str {
        let older = self.older.iter().find(|revision| name(revision) == named);
        label(older.unwrap_or(&self.newest), HASH).unwrap_or_default()
    }
}

/// Finds or makes the revision of the owner's present template, and forgets those that are too old and not `used`.
pub(crate) async fn sync(ctx: &Context, owner: &Value, used: &[&str]) -> Result<Revisions, Error> {
    let mut all = ctx
        .cache(&kinds::CONTROLLER_REVISIONS)
        .indexed(&index::by_controller(uid(owner)));
    all.sort_by_key(|revision| int(revision, "/revision").unwrap_or(0));
    let highest = all.last().and_then(|last| int(last, "/revision")).unwrap_or(0);
    let data = data(owner);
    let found = all
        .iter()
        .position(|revision| hash::same_template(&revision["data"], &data, HASH));
    let newest = match found {
        Some(at) if at + 1 == all.len() => all.remove(at),
        Some(at) => {
            let patch = json!({"revision": highest + 1});
            Object::new(ctx.patch(&kinds::CONTROLLER_REVISIONS, &all.remove(at), patch).await?)
        }
        None => create(ctx, owner, data, highest + 1).await?,
    };
    let keep = usize::try_from(int(owner, "/spec/revisionHistoryLimit").unwrap_or(10)).unwrap_or(10);
    let mut surplus = all.len().saturating_sub(keep);
    let mut older = Vec::new();
    for revision in all {
        let in_use = used
            .iter()
            .any(|used| label(&revision, HASH) == Some(used) || name(&revision) == *used);
        if surplus > 0 && !in_use {
            surplus -= 1;
            ctx.delete(&kinds::CONTROLLER_REVISIONS, &revision, None).await?;
        } else {
            older.push(revision);
        }
    }
    Ok(Revisions { newest, older })
}

/// A patch that brings the template back.
fn data(owner: &Value) -> Value {
    let mut template = owner["spec"]["template"].clone();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The owner's annotations, such as the cause of a change, without the one that is about the owner itself.
fn annotations(owner: &Value) -> Value {
    let mut annotations = owner["metadata"]["annotations"].clone();
    match annotations.as_object_mut() {
        Some(all) => {
            all.remove("kubectl.kubernetes.io/last-applied-configuration");
            annotations
        }
        None => json!({}),
    }
}

async fn create(ctx: &Context, owner: &Value, data: Value, number: i64) -> Result<Object, Error> {
    // A name that is taken by another template leads to another hash.
    for collisions in 0.. {
        let hash = hash::of(&data, collisions);
        let mut labels = owner["spec"]["template"]["metadata"]["labels"].clone();
        labels[HASH] = hash.as_str().into();
        let revision = json!({
            "apiVersion": "apps/v1", "kind": "ControllerRevision",
            "metadata": {
                "name": format!("{}-{hash}", name(owner)),
                "namespace": namespace(owner),
                "labels": labels,
                "annotations": annotations(owner),
                "ownerReferences": [owner_reference(owner)],
            },
            "data": data,
            "revision": number,
        });
        match ctx.create(&kinds::CONTROLLER_REVISIONS, &revision).await {
            Err(error) if error.is_conflict() => {
                let there = ctx
                    .client
                    .get(&kinds::CONTROLLER_REVISIONS, namespace(owner), name(&revision))
                    .await?;
                if there["data"] == revision["data"] && super::object::controlled_by(&there, owner) {
                    return Ok(Object::new(there));
                }
            }
            result => return Ok(Object::new(result?)),
        }
    }
    Err(Error::NotYet("no free name for a revision".to_owned()))
}
