//! A connection to one API server.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::convert::Malformed;
use crate::error::Error;
use crate::field::BadField;
use crate::health::{Health, Shared};

/// A connection to one API server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(crate) kube: kube::Client,
    pub(crate) server: String,
    pub(crate) health: Shared,
}

impl Client {
    pub(crate) async fn connect(kubeconfig: Option<&Path>) -> Result<Self, Error> {
        // Fails only where another provider has been installed already, which is then the one in use.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = match kubeconfig {
            Some(path) => Self::from_file(path).await?,
            None => kube::Config::incluster().map_err(|source| Error::NotInCluster {
                source: Box::new(source),
            })?,
        };
        config.connect_timeout = Some(Duration::from_secs(5));
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let kube = kube::Client::try_from(config).map_err(|source| Error::Client {
            server: server.clone(),
            source: Box::new(source),
        })?;
        Ok(Self {
            kube,
            server,
            health: Shared::default(),
        })
    }

    async fn from_file(path: &Path) -> Result<kube::Config, Error> {
        let failed = |source| Error::Kubeconfig {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let file = Kubeconfig::read_from(path).map_err(failed)?;
        kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .map_err(failed)
    }

    /// Address of the API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// How the watches of this connection are doing.
    pub fn health(&self) -> Health {
        self.health.snapshot()
    }

    /// True where the API server answers, whatever it says.
    pub(crate) async fn answers(&self) -> bool {
        let asked = tokio::time::timeout(Duration::from_secs(2), self.kube.apiserver_version()).await;
        matches!(asked, Ok(Ok(_) | Err(kube::Error::Api(_))))
    }

    pub(crate) fn failed(&self, what: impl Into<String>, source: kube::Error) -> Error {
        Error::Request {
            what: what.into(),
            server: self.server.clone(),
            source: Box::new(source),
        }
    }

    pub(crate) fn silent(&self, what: impl Into<String>, limit: Duration) -> Error {
        Error::Silent {
            what: what.into(),
            server: self.server.clone(),
            seconds: limit.as_secs(),
        }
    }

    pub(crate) fn malformed(&self, object: &str, bad: BadField) -> Error {
        Error::Malformed {
            server: self.server.clone(),
            malformed: Malformed::new(object, bad),
        }
    }
}
