//! The files of TLS: reading them, and saying which one is wrong in what. Nothing of a key is ever printed.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;

use anyhow::Context;
use anyhow::anyhow;
use anyhow::bail;
use rustls::Error;
use rustls::InconsistentKeys;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use sha2::Digest;
use sha2::Sha256;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::clock::Clock;
use crate::config;
use crate::server::tls::server_config;

/// Tells what files hold from what they held before, without keeping a key.
pub(super) type Print = [u8; 32];

/// How long a certificate is good.
#[derive(Clone, Debug)]
pub struct Term {
    pub certificate: PathBuf,
    until_seconds: i64,
}

impl Term {
    /// The last moment, as RFC 3339.
    pub fn until(&self) -> String {
        let since_1970 = Duration::from_secs(u64::try_from(self.until_seconds).unwrap_or_default());
        humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since_1970).to_string()
    }

    /// The same in seconds since 1970.
    pub(super) fn until_seconds(&self) -> i64 {
        self.until_seconds
    }

    /// Whether it has gone by.
    pub fn is_over(&self) -> bool {
        self.until_seconds.saturating_mul(1_000_000) < Clock::System.now_us()
    }
}

/// What was read.
pub(super) struct Files {
    certificate: (PathBuf, Vec<u8>),
    key: (PathBuf, Vec<u8>),
    client_ca: Option<(PathBuf, Vec<u8>)>,
}

/// For `check-config`: whether a server could start with these files, and how long its certificate is good. None: nothing is
/// encrypted.
pub fn check(settings: &config::Tls) -> anyhow::Result<Option<Term>> {
    let Some(files) = Files::read(settings)? else { return Ok(None) };
    let (_, term) = files.into_config(settings)?;
    if term.is_over() {
        let path = term.certificate.display();
        bail!(
            "the certificate `{path}` of `tls.certificate` has expired at {}: put a new one there",
            term.until()
        );
    }
    Ok(Some(term))
}

impl Files {
    /// None where nothing is encrypted.
    pub(super) fn read(settings: &config::Tls) -> anyhow::Result<Option<Files>> {
        let Some((certificate, key)) = settings.pair() else { return Ok(None) };
        let client_ca = settings.client_ca.as_deref().map(|path| bytes("tls.client_ca", path)).transpose()?;
        Ok(Some(Files {
            certificate: bytes("tls.certificate", certificate)?,
            key: bytes("tls.key", key)?,
            client_ca,
        }))
    }

    pub(super) fn print(&self) -> Print {
        let mut digest = Sha256::new();
        for (_, bytes) in
            [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten()
        {
            digest.update(Sha256::digest(bytes));
        }
        digest.finalize().into()
    }

    /// The settings of TLS that the files make, and how long they are good.
    pub(super) fn into_config(self, settings: &config::Tls) -> anyhow::Result<(ServerConfig, Term)> {
        let chain = certificates("tls.certificate", &self.certificate)?;
        let (path, key_path) = (self.certificate.0, self.key.0.display().to_string());
        let until_seconds = until(&chain[0]).with_context(|| wrong("tls.certificate", &path))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key.1).map_err(|_| no_key(&key_path, &self.key.1))?;
        let clients = self.client_ca.as_ref().map(roots).transpose()?;
        let config = server_config(chain, key, clients, settings.require_client_certificate);
        let config = config.map_err(|error| match error.downcast_ref() {
            Some(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => anyhow!(
                "the key `{key_path}` of `tls.key` does not belong to the certificate `{}` of `tls.certificate`: put the \
                 key with which that was made there",
                path.display()
            ),
            _ => error.context(format!(
                "the certificate `{}` of `tls.certificate` and the key `{key_path}` of `tls.key` cannot be used",
                path.display()
            )),
        })?;
        Ok((config, Term { certificate: path, until_seconds }))
    }
}

fn bytes(key: &str, path: &Path) -> anyhow::Result<(PathBuf, Vec<u8>)> {
    let bytes =
        fs::read(path).with_context(|| format!("the file `{}` of `{key}` cannot be read", path.display()))?;
    Ok((path.to_owned(), bytes))
}

fn wrong(key: &str, path: &Path) -> String {
    format!("the file `{}` of `{key}` cannot be used", path.display())
}

/// All of a file, of which there is one at least.
fn certificates(key: &str, file: &(PathBuf, Vec<u8>)) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let (path, bytes) = file;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let read = read.with_context(|| wrong(key, path))?;
    if read.is_empty() {
        bail!(
            "the file `{}` of `{key}` has no certificate: put one there as PEM, which begins with `-----BEGIN CERTIFICATE-----`",
            path.display()
        );
    }
    Ok(read)
}

/// Until when a certificate is good, in seconds since 1970.
fn until(certificate: &CertificateDer<'_>) -> anyhow::Result<i64> {
    let (_, read) = X509Certificate::from_der(certificate).context("it has a certificate that is none")?;
    Ok(read.validity().not_after.timestamp())
}

fn no_key(path: &str, bytes: &[u8]) -> anyhow::Error {
    let is_locked = String::from_utf8_lossy(bytes).contains("ENCRYPTED");
    if is_locked {
        return anyhow!(
            "the key `{path}` of `tls.key` has a password, which nobody could type when the server starts: write it without \
             one (`openssl pkey -in KEY -out KEY.new`), readable for the server alone"
        );
    }
    anyhow!(
        "the file `{path}` of `tls.key` has no private key: put one there as PEM, `-----BEGIN PRIVATE KEY-----`"
    )
}

/// The authorities of callers.
fn roots(file: &(PathBuf, Vec<u8>)) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls.client_ca", file)? {
        roots.add(certificate).with_context(|| wrong("tls.client_ca", &file.0))?;
    }
    Ok(roots)
}
