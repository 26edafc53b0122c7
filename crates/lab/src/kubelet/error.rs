//! Why a pod or a container could not be started, in the words that its events and status will carry.

use std::path::PathBuf;

use crate::client;

/// A step that failed. `reason` says which of Kubernetes' words goes with it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, mount or other operation of the system failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The API server refused or could not be reached.
    #[error(transparent)]
    Api(#[from] client::Error),
    /// The network plugin refused, or there is none.
    #[error("{0}")]
    Network(#[from] super::cni::Error),
    /// The pod's own specification cannot be carried out.
    #[error("{0}")]
    Config(String),
    /// A volume cannot be provided.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
    Volume {
        /// Its name in the pod.
        volume: String,
        /// Why.
        message: String,
    },
    /// The image is not on this machine.
    #[error(transparent)]
    Image(#[from] super::images::Error),
    /// The OCI runtime refused.
    #[error("{0}")]
    Runtime(String),
}

impl Error {
    /// Wraps an error of the system with what was tried, on what.
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// The same for errors of `nix`.
    pub(super) fn nix(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(nix::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source: source.into(),
        }
    }
}
