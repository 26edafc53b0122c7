//! Loads images from archives as `docker save`, `podman save`, `skopeo` and `ctr images export` write them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::name::Name;
use super::unpack::unpack;
use super::{Image, Index};
use crate::kubelet::config::write_atomically;

/// Why an archive cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Not an archive of images.
    #[error("{path} is not an image archive: {message}; make one with: docker save IMAGE -o FILE.tar")]
    Format {
        /// The archive.
        path: PathBuf,
        /// What is missing or wrong.
        message: String,
    },
    /// Its content is not what it says it is.
    #[error("{path}: {blob} does not match its digest {digest}; the archive is damaged")]
    Digest {
        /// The archive.
        path: PathBuf,
        /// The part.
        blob: String,
        /// What it should be.
        digest: String,
    },
}

/// One entry of a docker archive's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
struct Manifests {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    config: Option<Settings>,
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// What an image says about its program.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Settings {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
}

/// Loads all images of an archive into the image directory; their names come back.
pub fn load(image_dir: &Path, archive: &Path) -> Result<Vec<String>, LoadError> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| LoadError::Io { action, path, source }
    };
    std::fs::create_dir_all(image_dir.join("l")).map_err(io("create", image_dir))?;
    let lock_path = image_dir.join("lock");
    let lock = File::create(&lock_path).map_err(io("create", &lock_path))?;
    let _lock =
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| io("lock", &lock_path)(error.into()))?;

    let mut archive = Archive::open(archive, image_dir)?;
    let found = archive.images()?;
    if found.is_empty() {
        return Err(archive.wrong("it holds no image for this machine"));
    }
    let path = image_dir.join("index.json");
    let known = std::fs::read(&path).ok();
    let mut index: Index = known
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let mut names = Vec::new();
    for (config, layers, called) in found {
        let image = archive.take_in(image_dir, &config, &layers, called)?;
        names.extend(image.names.clone());
        for known in &mut index.images {
            known.names.retain(|name| !image.names.contains(name));
        }
        // The same image under further names stays one image.
        let mut image = image;
        for known in index.images.iter().filter(|known| known.id == image.id) {
            image.names.extend(known.names.clone());
        }
        index
            .images
            .retain(|known| !known.names.is_empty() && known.id != image.id);
        index.images.push(image);
    }
    let text = serde_json::to_vec_pretty(&index).map_err(|error| archive.wrong(error))?;
    write_atomically(&path, &text).map_err(io("write", &path))?;
    Ok(names)
}

/// An archive whose entries can be read in any order.
struct Archive {
    path: PathBuf,
    file: File,
    /// Offset and length by name.
    entries: HashMap<String, (u64, u64)>,
}

/// Configuration, layers and names of one image, as entries of the archive.
type Found = (String, Vec<String>, Vec<String>);

impl Archive {
    fn open(path: &Path, scratch: &Path) -> Result<Self, LoadError> {
        let io = |action| {
            let path = path.to_owned();
            move |source| LoadError::Io { action, path, source }
        };
        let mut file = File::open(path).map_err(io("open"))?;
        let mut magic = [0; 2];
        let read = file.read(&mut magic).map_err(io("read"))?;
        file.rewind().map_err(io("read"))?;
        if read == 2 && magic == [0x1f, 0x8b] {
            // Compressed as a whole: parts of it are needed in any order.
            let mut plain = tempfile_in(scratch).map_err(io("unpack"))?;
            std::io::copy(&mut GzDecoder::new(file), &mut plain).map_err(io("unpack"))?;
            plain.rewind().map_err(io("unpack"))?;
            file = plain;
        }
        let mut archive = Self {
            path: path.to_owned(),
            file,
            entries: HashMap::new(),
        };
        // What the parser says quotes the file, which may be anything.
        archive
            .read_names()
            .map_err(|_| archive.wrong("it cannot be read as a tar file"))?;
        Ok(archive)
    }

    fn read_names(&mut self) -> std::io::Result<()> {
        let mut links = Vec::new();
        let mut tar = tar::Archive::new(&self.file);
        for entry in tar.entries_with_seek()? {
            let entry = entry?;
            let name = clean(&entry.path()?);
            match entry.link_name()? {
                // Old archives link layers that several images share.
                Some(target) => {
                    let base = Path::new(&name).parent().map(Path::to_owned).unwrap_or_default();
                    links.push((name, clean(&base.join(target))));
                }
                None => drop(self.entries.insert(name, (entry.raw_file_position(), entry.size()))),
            }
        }
        for (name, target) in links {
            if let Some(place) = self.entries.get(&target).copied() {
                self.entries.insert(name, place);
            }
        }
        Ok(())
    }

    fn wrong(&self, message: impl ToString) -> LoadError {
        LoadError::Format {
            path: self.path.clone(),
            message: message.to_string(),
        }
    }

    fn reader(&mut self, name: &str) -> Result<impl Read + '_, LoadError> {
        let Some((offset, length)) = self.entries.get(&clean(Path::new(name))).copied() else {
            return Err(self.wrong(format!("it has no {name}")));
        };
        self.file
            .seek(SeekFrom::Start(offset))
            .map_err(|error| self.wrong(error))?;
        Ok((&self.file).take(length))
    }

    /// A small part as text, checked against its digest where its name is one.
    fn read(&mut self, name: &str) -> Result<Vec<u8>, LoadError> {
        /// Manifests and configurations are a few kilobytes.
        const LARGEST: u64 = 16 << 20;
        let mut text = Vec::new();
        let read = self.reader(name)?.take(LARGEST).read_to_end(&mut text);
        read.map_err(|error| self.wrong(error))?;
        self.verify(name, &hex(&Sha256::digest(&text)))?;
        Ok(text)
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<T, LoadError> {
        let text = self.read(name)?;
        serde_json::from_slice(&text).map_err(|error| self.wrong(format!("{name}: {error}")))
    }

    fn verify(&self, name: &str, digest: &str) -> Result<(), LoadError> {
        let last = name.rsplit('/').next().unwrap_or(name);
        let said = last.strip_suffix(".json").unwrap_or(last);
        let is_digest = said.len() == 64 && said.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_digest && said != digest {
            return Err(LoadError::Digest {
                path: self.path.clone(),
                blob: name.to_owned(),
                digest: said.to_owned(),
            });
        }
        Ok(())
    }

    /// All images for this machine.
    fn images(&mut self) -> Result<Vec<Found>, LoadError> {
        if self.entries.contains_key("manifest.json") {
            let saved: Vec<Saved> = self.json("manifest.json")?;
            return Ok(saved
                .into_iter()
                .map(|s| (s.config, s.layers, s.repo_tags.unwrap_or_default()))
                .collect());
        }
        if !self.entries.contains_key("index.json") {
            return Err(self.wrong("it has neither manifest.json nor index.json"));
        }
        let index: Manifests = self.json("index.json")?;
        let mut found = Vec::new();
        for descriptor in index.manifests {
            let names = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
            let called = names.iter().find_map(|key| descriptor.annotations.get(*key).cloned());
            let Some(manifest) = self.manifest(&descriptor, 0)? else {
                continue;
            };
            let layers = manifest.layers.iter().map(|layer| blob(&layer.digest)).collect();
            found.push((blob(&manifest.config.digest), layers, called.into_iter().collect()));
        }
        Ok(found)
    }

    /// The manifest that a descriptor means on this machine.
    fn manifest(&mut self, descriptor: &Descriptor, depth: u8) -> Result<Option<Manifest>, LoadError> {
        let fits = |platform: &Platform| platform.os == "linux" && platform.architecture == super::architecture();
        if descriptor.platform.as_ref().is_some_and(|platform| !fits(platform)) || depth > 3 {
            return Ok(None);
        }
        let name = blob(&descriptor.digest);
        if !descriptor.media_type.contains("index") && !descriptor.media_type.contains("manifest.list") {
            return self.json(&name).map(Some);
        }
        let inner: Manifests = self.json(&name)?;
        for descriptor in &inner.manifests {
            if self.entries.contains_key(&blob(&descriptor.digest))
                && let Some(manifest) = self.manifest(descriptor, depth + 1)?
            {
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }

    fn take_in(
        &mut self,
        dir: &Path,
        config_name: &str,
        layers: &[String],
        called: Vec<String>,
    ) -> Result<Image, LoadError> {
        let text = self.read(config_name)?;
        let id = format!("sha256:{}", hex(&Sha256::digest(&text)));
        let config: Config =
            serde_json::from_slice(&text).map_err(|error| self.wrong(format!("{config_name}: {error}")))?;
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != layers.len() || layers.is_empty() {
            return Err(self.wrong(format!(
                "{config_name} names {} layers, there are {}",
                diff_ids.len(),
                layers.len()
            )));
        }
        let mut folders = Vec::new();
        let mut size = 0;
        for (layer, diff_id) in layers.iter().zip(&diff_ids) {
            let digest = diff_id.strip_prefix("sha256:").unwrap_or_default();
            if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(self.wrong(format!("{config_name}: {diff_id} is not a digest")));
            }
            size += self
                .entries
                .get(&clean(Path::new(layer)))
                .map_or(0, |(_, length)| *length);
            // Short, since all layers of an image have to fit into the options of one mount.
            let folder = PathBuf::from("l").join(&digest[..24]);
            if !dir.join(&folder).exists() {
                self.unpack_layer(dir, layer, digest, &dir.join(&folder))?;
            }
            folders.push(folder);
        }
        let settings = config.config.unwrap_or_default();
        let names: Vec<String> = called
            .iter()
            .filter_map(|name| Name::parse(name))
            .map(|name| name.to_string())
            .collect();
        Ok(Image {
            names: if names.is_empty() { vec![id.clone()] } else { names },
            id,
            layers: folders,
            entrypoint: settings.entrypoint.unwrap_or_default(),
            cmd: settings.cmd.unwrap_or_default(),
            env: settings.env.unwrap_or_default(),
            working_dir: settings.working_dir.unwrap_or_default(),
            user: settings.user.unwrap_or_default(),
            stop_signal: settings.stop_signal.unwrap_or_default(),
            size,
        })
    }

    fn unpack_layer(&mut self, dir: &Path, layer: &str, digest: &str, to: &Path) -> Result<(), LoadError> {
        let draft = dir.join(format!("new-{:08x}", rand::random::<u32>()));
        let guard = Draft(&draft);
        let archive = self.path.clone();
        let mut raw = std::io::BufReader::new(self.reader(layer)?);
        let magic = std::io::BufRead::fill_buf(&mut raw).map(|start| start.get(..4).map(<[u8]>::to_vec));
        let plain: Box<dyn Read + '_> = match magic.ok().flatten().as_deref() {
            Some([0x1f, 0x8b, ..]) => Box::new(GzDecoder::new(raw)),
            Some([0x28, 0xb5, 0x2f, 0xfd]) => {
                let message = format!("{layer} is compressed with zstd, which is not supported; save it with gzip");
                return Err(LoadError::Format { path: archive, message });
            }
            _ => Box::new(raw),
        };
        let mut hashed = Hashed {
            inner: plain,
            hash: Sha256::new(),
        };
        let unpacked = unpack(&mut hashed, &draft).and_then(|()| std::io::copy(&mut hashed, &mut std::io::sink()));
        unpacked.map_err(|error| LoadError::Format {
            path: archive.clone(),
            message: format!("{layer}: {error}"),
        })?;
        if hex(&hashed.hash.finalize()) != digest {
            return Err(LoadError::Digest {
                path: archive,
                blob: layer.to_owned(),
                digest: digest.to_owned(),
            });
        }
        std::fs::rename(&draft, to).map_err(|source| LoadError::Io {
            action: "make",
            path: to.to_owned(),
            source,
        })?;
        drop(guard);
        Ok(())
    }
}

/// A half unpacked layer, gone when dropped.
struct Draft<'a>(&'a Path);

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        std::fs::remove_dir_all(self.0).ok();
    }
}

/// Hashes what is read through it.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// A name of an entry without `./` and with `..` resolved.
fn clean(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file without a name, gone when closed.
fn tempfile_in(dir: &Path) -> std::io::Result<File> {
    let path = dir.join(format!("plain-{:08x}", rand::random::<u32>()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
