//! Encryption, client certificates and trusted proxies: which settings belong together. The files are left to the server.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::{Config, ConfigError};

/// How connections are encrypted. The files may be replaced while the server runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The server's certificate and those between it and its authority, as PEM. `None`: nothing is encrypted.
    pub certificate: Option<PathBuf>,
    /// Its private key, as PEM without a password.
    pub key: Option<PathBuf>,
    /// The authorities whose certificates callers may show, as PEM. `None`: callers are not asked for one.
    pub client_ca: Option<PathBuf>,
    /// Whether a caller without a certificate is turned away. False: services have one and people have not.
    pub require_client_certificate: bool,
}

impl Tls {
    /// Certificate and key, if connections are encrypted.
    pub fn pair(&self) -> Option<(&Path, &Path)> {
        self.certificate.as_deref().zip(self.key.as_deref())
    }
}

/// What stands between callers and the server, and may say for whom it calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxy {
    /// Addresses whose `x-forwarded-for` is believed. None: whoever reaches a server may write that header.
    pub trusted: Vec<IpNet>,
}

impl fmt::Display for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks: Vec<_> = self.trusted.iter().map(ToString::to_string).collect();
        formatter.write_str(&networks.join(", "))
    }
}

/// A network, or the one of a single address.
pub(super) fn network(text: &str) -> Option<IpNet> {
    text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok().map(|it| it.trunc())
}

impl Config {
    /// What is half set would leave connections without what it was meant to give them.
    pub(super) fn check_tls(&self) -> Result<(), ConfigError> {
        let Tls { certificate, key, client_ca, require_client_certificate } = &self.tls;
        let wrong = |key: &str, problem: &str, remedy: &str| {
            Err(ConfigError::NotServed {
                key: key.to_owned(),
                problem: problem.to_owned(),
                remedy: remedy.to_owned(),
            })
        };
        match (certificate, key) {
            (Some(_), None) => wrong(
                "tls.certificate",
                "is set without its key",
                "set `tls.key` to the file of its private key, or remove both",
            ),
            (None, Some(_)) => wrong(
                "tls.key",
                "is set without its certificate",
                "set `tls.certificate` to the file of the certificate, or remove both",
            ),
            (None, None) if client_ca.is_some() => wrong(
                "tls.client_ca",
                "is set, but nothing is encrypted: callers can show a certificate only over TLS",
                "set `tls.certificate` and `tls.key` too, or remove it",
            ),
            _ if *require_client_certificate && client_ca.is_none() => wrong(
                "tls.require_client_certificate",
                "is `true`, but nothing says whose certificates are good",
                "set `tls.client_ca` to the file of your authority, or remove it",
            ),
            _ => Ok(()),
        }
    }
}
