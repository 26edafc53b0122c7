//! A small Kubernetes API server over untyped JSON objects: generic over kinds, with no logic of the network in it.
//!
//! A write passes these stages, all within the store's critical section:
//! decode (`validation::decode`) -> `defaults::apply` -> `Admission::on_write` -> `validation::validate` -> store.
//!
//! `serve` listens, `route` finds out what is asked, `read`, `watch`, `write`, `delete`, `patch` and `subresource` do
//! it, `respond` writes it down in the form that the client accepts. What there is to serve is in `kinds` (built in)
//! and `registry` (with the custom resources of this moment).

mod accept;
pub mod admission;
#[cfg(test)]
mod anything;
mod auth;
mod body;
mod bootstrap;
mod call;
pub mod crd;
pub mod defaults;
mod definition;
mod delete;
mod discovery;
pub mod fields;
pub mod kinds;
mod meta;
pub mod openapi;
mod patch;
pub mod pki;
mod protobuf;
mod query;
mod read;
pub mod registry;
mod respond;
mod reviews;
mod route;
mod selector;
pub mod serve;
pub mod status;
pub mod store;
mod strategy;
mod subresource;
pub mod tables;
#[cfg(test)]
mod tests;
mod upkeep;
pub mod validation;
mod views;
mod watch;
mod write;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use admission::Admission;
use auth::Authenticator;
use kinds::Resource;
use registry::Registry;
use status::Status;
use store::{DiskError, Store, Txn};

use crate::client::Handler;
use crate::families::Families;
pub use call::User;

/// What an API server is told.
#[derive(Clone)]
pub struct Config {
    /// The database file, made if absent.
    pub database: PathBuf,
    /// The lab's run directory, under which the kubelets' sockets are.
    pub lab_dir: PathBuf,
    /// Where the API is reached from inside the lab: the endpoint of the `kubernetes` Service.
    pub advertise: SocketAddr,
    /// The families that Services may have.
    pub families: Families,
    /// The key that service account tokens are signed with.
    pub token_key: Vec<u8>,
}

/// The API server.
pub struct ApiServer {
    config: Config,
    store: Store,
    registry: RwLock<Arc<Registry>>,
    admission: Admission,
    tokens: Authenticator,
}

/// Why the API server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// An object that every cluster has could not be made.
    #[error("cannot create the cluster's first objects: {0}")]
    Bootstrap(#[from] status::Status),
}

impl ApiServer {
    /// Opens the store, and makes the objects that every cluster has.
    pub fn open(config: Config) -> Result<Arc<Self>, OpenError> {
        let store = Store::open(&config.database)?;
        let registry = RwLock::new(Arc::new(Registry::new([])));
        let tokens = Authenticator::new(&config.token_key);
        let server = Arc::new(Self {
            tokens,
            admission: Admission::new(config.families),
            config,
            store,
            registry,
        });
        server.reload_registry();
        server.bootstrap()?;
        Ok(server)
    }

    /// The kinds that are served now.
    pub fn registry(&self) -> Arc<Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the stored CustomResourceDefinitions again.
    fn reload_registry(&self) {
        let definitions: Vec<_> = {
            let snapshot = self.store.read();
            snapshot
                .index()
                .list("apiextensions.k8s.io", "customresourcedefinitions", None)
                .cloned()
                .collect()
        };
        let registry = Registry::new(definitions.iter().map(|definition| &definition.value));
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(registry);
    }

    /// Writes to the store; a changed definition changes what is served.
    fn commit<T>(
        &self,
        resource: &Resource,
        dry_run: bool,
        work: impl FnOnce(&mut Txn<'_>) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let result = self.store.write(dry_run, work)?;
        if write::is_definition(resource) && !dry_run {
            self.reload_registry();
        }
        Ok(result)
    }

    /// The server as a function, for in-process clients and listeners. Requests count as the admin's unless they
    /// carry another [`User`] in their extensions.
    pub fn handler(self: &Arc<Self>) -> Handler {
        let server = self.clone();
        Arc::new(move |request| {
            let server = server.clone();
            Box::pin(async move { server.handle(request).await })
        })
    }
}
