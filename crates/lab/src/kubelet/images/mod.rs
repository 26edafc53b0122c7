//! The images that exist on this machine: the built-in one, whose root is the machine's own file system, and those
//! loaded from archives.

mod load;
mod name;
mod unpack;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use load::{LoadError, load};
use name::Name;

/// Why an image cannot be used. The message becomes the pod's event.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a name.
    #[error(
        "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
    )]
    InvalidName {
        /// What the pod says.
        image: String,
    },
    /// Not loaded, and this lab pulls nothing.
    #[error(
        "Failed to pull image \"{image}\": not found on this machine, and a lab pulls from no registry; \
             available images: {available}; load one with: weft lab load FILE.tar"
    )]
    Unknown {
        /// What the pod says.
        image: String,
        /// What it could say.
        available: String,
    },
    /// Not loaded, and the pod says never to pull.
    #[error(
        "Container image \"{image}\" is not present with pull policy of Never; load it with: weft lab load FILE.tar"
    )]
    NeverPull {
        /// What the pod says.
        image: String,
    },
}

impl Error {
    /// The word for the container's status.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::InvalidName { .. } => "InvalidImageName",
            Self::Unknown { .. } => "ErrImagePull",
            Self::NeverPull { .. } => "ErrImageNeverPull",
        }
    }
}

/// An image, ready to be mounted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// All its full names.
    pub(crate) names: Vec<String>,
    /// Digest of its configuration, `sha256:...`.
    pub(crate) id: String,
    /// Folders of its layers below the image directory, the lowest first. Empty: the machine's own root.
    pub(crate) layers: Vec<PathBuf>,
    /// Program and its first arguments.
    pub(crate) entrypoint: Vec<String>,
    /// Further arguments.
    pub(crate) cmd: Vec<String>,
    /// `NAME=value`.
    pub(crate) env: Vec<String>,
    /// Where the program starts.
    pub(crate) working_dir: String,
    /// `user`, `user:group`, by name or number.
    pub(crate) user: String,
    /// What asks it to end, such as `SIGQUIT`.
    pub(crate) stop_signal: String,
    /// How many bytes its archive had.
    pub(crate) size: u64,
}

impl Image {
    /// Whether this is the image whose root is the machine's own file system.
    pub(crate) fn is_builtin(&self) -> bool {
        self.layers.is_empty()
    }
}

/// What the index file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    images: Vec<Image>,
}

/// The images of one lab; its nodes share them.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    dir: PathBuf,
}

/// Names of the built-in image; any tag will do.
const BUILTIN: [&str; 2] = ["weft.dev/lab", "docker.io/weft/lab"];

impl Images {
    /// Opens the image directory; it need not exist.
    pub(crate) fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder all layers are below.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The image of a name that a pod uses.
    pub(crate) fn find(&self, image: &str, pull_policy: Option<&str>) -> Result<Image, Error> {
        let name = Name::parse(image).ok_or_else(|| Error::InvalidName {
            image: image.to_owned(),
        })?;
        if BUILTIN.contains(&&*name.repository) {
            return Ok(builtin(&name));
        }
        let full = name.to_string();
        let index = self.index();
        let found = index.images.iter().find(|image| {
            image.names.contains(&full) || name.version.strip_prefix('@').is_some_and(|digest| digest == image.id)
        });
        if let Some(found) = found {
            return Ok(found.clone());
        }
        if pull_policy == Some("Never") {
            return Err(Error::NeverPull {
                image: image.to_owned(),
            });
        }
        Err(Error::Unknown {
            image: image.to_owned(),
            available: self.names().join(", "),
        })
    }

    /// The names of all images, the built-in one first.
    pub(crate) fn names(&self) -> Vec<String> {
        let loaded = self.index().images.into_iter().flat_map(|image| image.names);
        std::iter::once(BUILTIN[0].to_owned()).chain(loaded).collect()
    }

    /// All images, for the node's status.
    pub(crate) fn all(&self) -> Vec<Image> {
        let mut all = self.index().images;
        all.extend(Name::parse(BUILTIN[0]).map(|name| builtin(&name)));
        all
    }

    fn index(&self) -> Index {
        // An absent or foreign file means no loaded images: `load` writes it whole, and says so when it cannot.
        std::fs::read(self.dir.join("index.json"))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }
}

/// This machine's architecture by the name Go gives it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn builtin(name: &Name) -> Image {
    Image {
        names: vec![name.to_string()],
        id: format!("{}@built-in", BUILTIN[0]),
        cmd: ["weft", "lab", "serve"].map(str::to_owned).into(),
        working_dir: "/".to_owned(),
        ..Image::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookup() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path());
        for name in ["weft.dev/lab", "weft.dev/lab:v9", "weft/lab"] {
            assert!(images.find(name, Some("Always")).unwrap().is_builtin(), "{name}");
        }
        let loaded = Image {
            names: vec!["docker.io/library/web:1".into()],
            id: "sha256:aa".into(),
            layers: vec!["l/0".into()],
            ..Image::default()
        };
        let index = serde_json::to_vec(&Index {
            images: vec![loaded.clone()],
        })
        .unwrap();
        std::fs::write(dir.path().join("index.json"), index).unwrap();
        assert_eq!(images.find("web:1", None).unwrap(), loaded);
        assert_eq!(images.find("web@sha256:aa", None).unwrap(), loaded);
        let error = images.find("nginx", None).unwrap_err();
        assert_eq!(error.reason(), "ErrImagePull");
        let message = error.to_string();
        assert!(message.starts_with("Failed to pull image \"nginx\": "), "{message}");
        assert!(
            message.contains("available images: weft.dev/lab, docker.io/library/web:1; load one with"),
            "{message}"
        );
        assert_eq!(
            images.find("nginx", Some("Never")).unwrap_err().reason(),
            "ErrImageNeverPull"
        );
        assert_eq!(images.find("A B", None).unwrap_err().reason(), "InvalidImageName");
    }
}
