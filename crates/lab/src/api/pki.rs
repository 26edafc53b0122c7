//! The lab's certificates: one authority, the API server's identity, and the administrator's.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

/// What can go wrong with the lab's certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the `pki` folder cannot be read or written.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("cannot make the certificate of {subject}: {source}")]
    Make {
        /// Whose certificate.
        subject: &'static str,
        /// Why not.
        source: rcgen::Error,
    },
    /// A file of the `pki` folder is not what it should be.
    #[error("{}: not a certificate or key: {source}; take the lab down and up again", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rustls_pki_types::pem::Error,
    },
    /// Certificates and keys do not fit together.
    #[error("the lab's certificates do not fit together: {0}; take the lab down and up again")]
    Tls(String),
    /// A kubeconfig could not be put into words.
    #[error("cannot write the kubeconfig: {0}")]
    Kubeconfig(#[from] serde_yaml_ng::Error),
}

/// The addresses of the Service `default/kubernetes`, and the control plane's own on the first segment, whichever family
/// the cluster has.
const ADDRESSES: [IpAddr; 6] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::new(10, 89, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd89, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1)),
];
const NAMES: [&str; 5] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// Makes whatever is missing below `dir/pki`, and `dir/kubeconfig` for a server on that loopback port. Takes a few
/// milliseconds; what exists is kept.
pub fn ensure(dir: &Path, lab: &str, port: u16) -> Result<(), Error> {
    let pki = dir.join("pki");
    if !pki.join("admin.key").exists() {
        fs::create_dir_all(&pki).map_err(|source| Error::Io {
            what: "write",
            path: pki.clone(),
            source,
        })?;
        make(&pki)?;
    }
    write(
        &dir.join("kubeconfig"),
        &kubeconfig(dir, &format!("https://127.0.0.1:{port}"), lab)?,
    )
}

/// The administrator's kubeconfig for a server at this URL, as YAML.
pub fn kubeconfig(dir: &Path, url: &str, lab: &str) -> Result<String, Error> {
    let encoded = |file: &str| read(&dir.join("pki").join(file)).map(|pem| base64(&pem));
    let name = format!("weft-{lab}");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": url, "certificate-authority-data": encoded("ca.crt")?}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "users": [{"name": name, "user": {
            "client-certificate-data": encoded("admin.crt")?, "client-key-data": encoded("admin.key")?,
        }}],
    });
    Ok(serde_yaml_ng::to_string(&config)?)
}

/// The authority's certificate, for pods' `ca.crt`.
pub fn authority(dir: &Path) -> Result<String, Error> {
    let pem = read(&dir.join("pki/ca.crt"))?;
    Ok(String::from_utf8_lossy(&pem).into_owned())
}

/// The key that service account tokens are signed with (HMAC).
pub fn token_key(dir: &Path) -> Result<Vec<u8>, Error> {
    read(&dir.join("pki/token.key"))
}

/// How the API server speaks TLS: its own identity; clients may, but need not, show a certificate of the authority.
pub fn tls(dir: &Path) -> Result<ServerConfig, Error> {
    let pki = dir.join("pki");
    let certificate = |file: &str| {
        let path = pki.join(file);
        CertificateDer::from_pem_slice(&read(&path)?).map_err(|source| Error::Pem { path, source })
    };
    let path = pki.join("server.key");
    let key = PrivateKeyDer::from_pem_slice(&read(&path)?).map_err(|source| Error::Pem { path, source })?;
    let mut roots = RootCertStore::empty();
    roots
        .add(certificate("ca.crt")?)
        .map_err(|error| Error::Tls(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| Error::Tls(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Tls(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate("server.crt")?], key)
        .map_err(|error| Error::Tls(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn make(pki: &Path) -> Result<(), Error> {
    let failed = |subject| move |source| Error::Make { subject, source };
    let mut params = named("weft-lab-ca", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let key = KeyPair::generate().map_err(failed("the authority"))?;
    let authority = CertifiedIssuer::self_signed(params, key).map_err(failed("the authority"))?;
    write(&pki.join("ca.crt"), &authority.pem())?;

    let mut server = named("kube-apiserver", None);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.subject_alt_names = ADDRESSES.map(SanType::IpAddress).to_vec();
    for name in NAMES {
        let name = name.try_into().map_err(failed("the API server"))?;
        server.subject_alt_names.push(SanType::DnsName(name));
    }
    let mut admin = named("kubernetes-admin", Some("system:masters"));
    admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    for (file, subject, params) in [
        ("server", "the API server", server),
        ("admin", "the administrator", admin),
    ] {
        let key = KeyPair::generate().map_err(failed(subject))?;
        let certificate = params.signed_by(&key, &authority).map_err(failed(subject))?;
        write(&pki.join(format!("{file}.crt")), &certificate.pem())?;
        if file == "admin" {
            let secret: [u8; 32] = rand::random();
            write(&pki.join("token.key"), &base64(&secret))?;
        }
        write(&pki.join(format!("{file}.key")), &key.serialize_pem())?;
    }
    Ok(())
}

fn named(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Io {
        what: "read",
        path: path.to_owned(),
        source,
    })
}

/// Writes a file whole or not at all, readable by root alone.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let temporary = path.with_extension("new");
    let opened = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary);
    opened
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|source| Error::Io {
            what: "write",
            path: path.to_owned(),
            source,
        })
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_fit_together_and_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        ensure(dir.path(), "t", 1234).unwrap();
        tls(dir.path()).unwrap();
        let before = authority(dir.path()).unwrap();
        ensure(dir.path(), "t", 4321).unwrap();
        assert_eq!(before, authority(dir.path()).unwrap());
        let kubeconfig = fs::read_to_string(dir.path().join("kubeconfig")).unwrap();
        assert!(kubeconfig.contains("server: https://127.0.0.1:4321"), "{kubeconfig}");
    }

    #[test]
    fn a_damaged_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        ensure(dir.path(), "t", 1).unwrap();
        fs::write(dir.path().join("pki/server.key"), "junk").unwrap();
        assert!(tls(dir.path()).unwrap_err().to_string().contains("server.key"));
    }
}
