//! A connection to one API server.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::watch;

use crate::convert::Malformed;
use crate::error::Error;
use crate::field::BadField;
use crate::health::{Health, Shared};

/// A connection to one API server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(crate) kube: kube::Client,
    /// What the watches use: another client, with connections of its own, each time the way to the server has changed.
    pub(crate) watching: watch::Sender<kube::Client>,
    config: kube::Config,
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
        let kube = Self::build(&config, &server)?;
        Ok(Self {
            watching: watch::Sender::new(kube.clone()),
            kube,
            config,
            server,
            health: Shared::default(),
        })
    }

    fn build(config: &kube::Config, server: &str) -> Result<kube::Client, Error> {
        kube::Client::try_from(config.clone()).map_err(|source| Error::Client {
            server: server.to_owned(),
            source: Box::new(source),
        })
    }

    /// Begins every watch anew, over new connections: for whoever knows that this machine's address has changed. What the
    /// server sends to an address that is gone is lost, and nothing tells the connection.
    pub fn reconnect(&self) -> Result<(), Error> {
        self.watching.send_replace(Self::build(&self.config, &self.server)?);
        Ok(())
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
