//! What every namespace has from its first moment: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::context::Context;
use super::error::Error;
use super::kinds;
use super::object::{Key, deleting, name, namespace};
use super::queue::{Queue, Reconcile, work};
use crate::client::Res;

const ROOT_CA: &str = "kube-root-ca.crt";

pub(crate) struct Furnishing {
    ctx: Context,
}

pub(crate) async fn run(ctx: Context) {
    let queue = Arc::new(Queue::default());
    ctx.enqueue(&kinds::NAMESPACES, &queue);
    for (res, only) in [(&kinds::SERVICE_ACCOUNTS, "default"), (&kinds::CONFIG_MAPS, ROOT_CA)] {
        let queue = queue.clone();
        ctx.cache(res).subscribe(move |change| {
            if let Some(object) = change.object().filter(|object| name(object) == only) {
                queue.add(Key::new("", namespace(object)));
            }
        });
    }
    ctx.synced(&[&kinds::NAMESPACES, &kinds::SERVICE_ACCOUNTS, &kinds::CONFIG_MAPS])
        .await;
    work(Arc::new(Furnishing { ctx }), queue, 4).await;
}

impl Reconcile for Furnishing {
    fn name(&self) -> &'static str {
        "serviceaccount"
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let there = self.ctx.cache(&kinds::NAMESPACES).get(key);
        if there.is_none_or(|namespace| deleting(&namespace)) {
            return Ok(None);
        }
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": key.name},
        });
        self.ensure(&kinds::SERVICE_ACCOUNTS, account, "metadata").await?;
        let bundle = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": ROOT_CA, "namespace": key.name,
                "annotations": {"kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver \
                    when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                    guaranteed across distributions of Kubernetes clusters."},
            },
            "data": {"ca.crt": self.ctx.config.ca_pem},
        });
        self.ensure(&kinds::CONFIG_MAPS, bundle, "data").await?;
        Ok(None)
    }
}

impl Furnishing {
    /// Makes the object, or puts its `data` right.
    async fn ensure(&self, res: &Res, wish: Value, field: &str) -> Result<(), Error> {
        match self.ctx.cache(res).get(&Key::of(&wish)) {
            None => drop(self.ctx.create(res, &wish).await?),
            Some(present) if field == "data" && present["data"] != wish["data"] => {
                let mut changed = Value::clone(&present);
                changed["data"] = wish["data"].clone();
                self.ctx.update(res, &changed).await?;
            }
            Some(_) => {}
        }
        Ok(())
    }
}
