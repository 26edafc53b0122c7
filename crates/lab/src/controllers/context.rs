//! What every controller works with: mirrors to read from, and writes that return once the mirror shows them, so that
//! nobody decides twice on the same old state.

use std::sync::Arc;

use serde_json::Value;

use super::Config;
use super::cache::{Cache, Caches};
use super::object::{name, namespace, uid, version};
use super::queue::Queue;
use crate::client::{Client, Error, Patch, Res};
use crate::events::Recorder;

/// Shared by all controllers; cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) caches: Caches,
    pub(crate) config: Arc<Config>,
}

impl Context {
    pub(crate) fn new(client: Client, config: Config) -> Self {
        Self {
            caches: Caches::new(client.clone()),
            config: Arc::new(config),
            client,
        }
    }

    pub(crate) fn cache(&self, res: &Res) -> Arc<Cache> {
        self.caches.of(res)
    }

    /// A recorder of events for one controller.
    pub(crate) fn recorder(&self, component: &str) -> Recorder {
        Recorder::new(self.client.clone(), component, None)
    }

    pub(crate) async fn create(&self, res: &Res, object: &Value) -> Result<Value, Error> {
        let created = self.client.create(res, namespace(object), object).await?;
        self.seen(res, &created).await;
        Ok(created)
    }

    pub(crate) async fn update(&self, res: &Res, object: &Value) -> Result<Value, Error> {
        let updated = self.client.update(res, object, None).await?;
        self.seen(res, &updated).await;
        Ok(updated)
    }

    /// Writes `status` of an object, if it differs from what the object has.
    pub(crate) async fn update_status(&self, res: &Res, object: &Value, status: Value) -> Result<(), Error> {
        if object["status"] == status {
            return Ok(());
        }
        let mut object = object.clone();
        object["status"] = status;
        let updated = self.client.update(res, &object, Some("status")).await?;
        self.seen(res, &updated).await;
        Ok(())
    }

    /// Changes part of `object`.
    pub(crate) async fn patch(&self, res: &Res, object: &Value, patch: Value) -> Result<Value, Error> {
        self.patch_part(res, object, None, patch).await
    }

    /// Changes part of a subresource of `object`.
    pub(crate) async fn patch_part(
        &self,
        res: &Res,
        object: &Value,
        subresource: Option<&str>,
        patch: Value,
    ) -> Result<Value, Error> {
        let (namespace, name) = (namespace(object), name(object));
        let patched = self
            .client
            .patch(res, namespace, name, subresource, &Patch::Merge(patch))
            .await?;
        self.seen(res, &patched).await;
        Ok(patched)
    }

    /// Deletes this very object; that it has gone already is fine.
    pub(crate) async fn delete(&self, res: &Res, object: &Value, grace: Option<u64>) -> Result<(), Error> {
        let (namespace, name) = (namespace(object), name(object));
        match self.client.delete(res, namespace, name, grace, Some(uid(object))).await {
            // A conflict says that the name belongs to another object by now.
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            result => result?,
        }
        if let Some(cache) = self.caches.existing(res) {
            cache.going(object).await;
        }
        Ok(())
    }

    async fn seen(&self, res: &Res, written: &Value) {
        if let Some(cache) = self.caches.existing(res) {
            cache.reached(version(written)).await;
        }
    }

    /// Adds the key of every changed object of a resource to `queue`.
    pub(crate) fn enqueue(&self, res: &Res, queue: &Arc<Queue>) {
        let queue = queue.clone();
        self.cache(res).subscribe(move |change| {
            if let Some(object) = change.object() {
                queue.add(super::object::Key::of(object));
            }
        });
    }

    /// Adds the controller (of kind `kind`) of every changed object of a resource to `queue`.
    pub(crate) fn enqueue_controller(&self, res: &Res, kind: &'static str, queue: &Arc<Queue>) {
        let queue = queue.clone();
        self.cache(res).subscribe(move |change| {
            for object in change.sides() {
                let owner = super::object::controller_of(object).filter(|owner| owner["kind"] == kind);
                if let Some(owner) = owner.and_then(|owner| owner["name"].as_str()) {
                    queue.add(super::object::Key::new(namespace(object), owner));
                }
            }
        });
    }

    /// Waits until everything asked for so far is mirrored.
    pub(crate) async fn synced(&self, resources: &[&Res]) {
        for res in resources {
            self.cache(res).synced().await;
        }
    }
}
