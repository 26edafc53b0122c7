//! Archives of both formats, made here.

use std::io::Write as _;

use super::*;
use crate::kubelet::images::Images;
use serde_json::json;

fn tar(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &content[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", digest(layer))).collect();
    json!({"config": {"Entrypoint": ["/app"], "Cmd": null, "Env": ["A=b"], "User": "web", "StopSignal": "SIGQUIT"},
        "rootfs": {"type": "layers", "diff_ids": ids}})
    .to_string()
    .into_bytes()
}

fn loaded(archive: &[u8]) -> (tempfile::TempDir, Result<Vec<String>, LoadError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    std::fs::write(&path, archive).unwrap();
    let names = load(&dir.path().join("images"), &path);
    (dir, names)
}

#[test]
fn docker_archive() {
    let (first, second) = (tar(&[("a", b"1".to_vec())]), tar(&[("b", b"2".to_vec())]));
    let config = config(&[&first, &second]);
    let config_name = format!("{}.json", digest(&config));
    let manifest = json!([{"Config": config_name, "RepoTags": ["web:1", "x.y/web:2"], "Layers": ["l1/layer.tar", "l2/layer.tar"]}]);
    let files = [
        (&*config_name, config.clone()),
        ("l1/layer.tar", first),
        ("l2/layer.tar", second),
        ("manifest.json", manifest.to_string().into_bytes()),
    ];
    for archive in [tar(&files), gzip(&tar(&files))] {
        let (dir, names) = loaded(&archive);
        assert_eq!(names.unwrap(), ["docker.io/library/web:1", "x.y/web:2"]);
        let images = Images::new(dir.path().join("images"));
        let image = images.find("web:1", None).unwrap();
        assert_eq!(
            (image.entrypoint, image.user, image.stop_signal),
            (vec!["/app".into()], "web".into(), "SIGQUIT".into())
        );
        assert_eq!(
            std::fs::read_to_string(images.dir().join(&image.layers[1]).join("b")).unwrap(),
            "2"
        );
    }
}

#[test]
fn oci_layout_with_platforms() {
    let layer = tar(&[("a", b"1".to_vec())]);
    let packed = gzip(&layer);
    let config = config(&[&layer]);
    let sha = |bytes: &[u8]| format!("sha256:{}", digest(bytes));
    let manifest = json!({"config": {"digest": sha(&config)}, "layers": [{"digest": sha(&packed)}]})
        .to_string()
        .into_bytes();
    let other = json!({"digest": sha(b"absent"), "platform": {"os": "linux", "architecture": "s390x"}});
    let own =
        json!({"digest": sha(&manifest), "platform": {"os": "linux", "architecture": super::super::architecture()}});
    let inner = json!({"manifests": [other, own]}).to_string().into_bytes();
    let index = json!({"manifests": [{"mediaType": "application/vnd.oci.image.index.v1+json", "digest": sha(&inner),
        "annotations": {"io.containerd.image.name": "docker.io/library/tool:3"}}]});
    let blobs: Vec<(String, Vec<u8>)> = [&inner, &manifest, &config, &packed]
        .into_iter()
        .map(|bytes| (format!("blobs/sha256/{}", digest(bytes)), bytes.clone()))
        .collect();
    let mut files: Vec<(&str, Vec<u8>)> = blobs.iter().map(|(name, bytes)| (&**name, bytes.clone())).collect();
    files.push(("index.json", index.to_string().into_bytes()));
    let (dir, names) = loaded(&tar(&files));
    assert_eq!(names.unwrap(), ["docker.io/library/tool:3"]);
    assert!(
        dir.path()
            .join("images")
            .join("l")
            .join(&digest(&layer)[..24])
            .join("a")
            .exists()
    );

    // One changed byte anywhere is noticed.
    let damaged = files
        .iter_mut()
        .find(|(name, _)| name.ends_with(&digest(&packed)))
        .unwrap();
    damaged.1 = gzip(&tar(&[("a", b"2".to_vec())]));
    let (dir, names) = loaded(&tar(&files));
    assert!(matches!(names, Err(LoadError::Digest { .. })), "{names:?}");
    assert_eq!(std::fs::read_dir(dir.path().join("images/l")).unwrap().count(), 0);
}

#[test]
fn what_is_no_archive_is_named() {
    for (bytes, fault) in [
        (
            vec![b'x'; 1024],
            "is not an image archive: it cannot be read as a tar file",
        ),
        (tar(&[("x", vec![])]), "neither manifest.json nor index.json"),
        (tar(&[("manifest.json", b"[]".to_vec())]), "no image for this machine"),
        (
            tar(&[("index.json", b"{\"manifests\":[{\"digest\":\"sha256:00\"}]}".to_vec())]),
            "it has no blobs/sha256/00",
        ),
    ] {
        let message = loaded(&bytes).1.unwrap_err().to_string();
        assert!(message.contains(fault), "{message}");
    }
}
