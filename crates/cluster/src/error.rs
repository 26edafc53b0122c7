//! What can go wrong between us and the API server.

use std::path::PathBuf;

use crate::convert::Malformed;

/// A failure to reach or to use the API server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {}: {source}; check that the file exists and names a cluster and a user", path.display())]
    Kubeconfig {
        /// Where it was looked for.
        path: PathBuf,
        /// Why not.
        source: Box<kube::config::KubeconfigError>,
    },
    /// No kubeconfig was given and this is not a pod with a service account.
    #[error("not running inside a cluster ({source}); pass --kubeconfig, or mount the pod's service account token")]
    NotInCluster {
        /// Why not.
        source: Box<kube::config::InClusterError>,
    },
    /// The credentials or certificates of the configuration cannot be used.
    #[error(
        "cannot build a client for {server}: {}; check the certificates and the credentials",
        describe(source)
    )]
    Client {
        /// The API server's address.
        server: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// A request failed.
    #[error("cannot {what} at {server}: {}", describe(source))]
    Request {
        /// What was asked for.
        what: String,
        /// The API server's address.
        server: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// No answer came in time.
    #[error("cannot {what}: {server} has not answered within {seconds} s")]
    Silent {
        /// What was asked for.
        what: String,
        /// The API server's address.
        server: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The API server answered with an object that cannot be used.
    #[error("the API server at {server} sent what cannot be used: {malformed}; correct the object")]
    Malformed {
        /// The API server's address.
        server: String,
        /// What is wrong with which object.
        malformed: Malformed,
    },
    /// The custom resource has not been defined in this cluster.
    #[error("the API server at {server} does not know the kinds of weft.dev; apply Weft's CustomResourceDefinitions")]
    NoDefinition {
        /// The API server's address.
        server: String,
    },
}

impl Error {
    /// True where the API server could not be reached at all, as opposed to having said no.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Error::Request { source, .. } => !matches!(source.as_ref(), kube::Error::Api(_)),
            Error::Silent { .. } => true,
            _ => false,
        }
    }

    /// True where the API server refused the credentials.
    pub fn is_refused(&self) -> bool {
        match self {
            Error::Request { source, .. } => {
                matches!(source.as_ref(), kube::Error::Api(status) if matches!(status.code, 401 | 403))
            }
            _ => false,
        }
    }
}

/// What the API server said, or the innermost reason why it could not be asked.
pub(crate) fn describe(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("{} ({})", status.message, status.code);
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
