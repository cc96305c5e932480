//! TLS of a client: whom it trusts and what it shows, and what an error of TLS means to whoever set that up.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{AlertDescription, CertificateError, InconsistentKeys, InvalidMessage};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::error::{Error, Fault, Result};
use crate::greeting::{Cause, causes, innermost};

/// Files for addresses that begin with `https`. They are read when the client is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of the authorities whose servers are trusted, as PEM. None: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// The certificate to show to a server that asks for one, as PEM, with those between it and its authority.
    pub client_cert: Option<PathBuf>,
    /// Its private key, as PEM without a password.
    pub client_key: Option<PathBuf>,
}

/// How rustls begins to tell an alert, in a text that is all that is left of its error.
const ALERT: &str = "received fatal alert: ";
/// What a server of ours says on a port with TLS to whoever speaks none.
const WANTS_TLS: &str = "HTTP/2 with TLS";

impl Tls {
    /// Lets an endpoint speak TLS.
    pub(crate) fn apply(&self, endpoint: Endpoint, longest: Duration) -> Result<Endpoint> {
        let mut config = ClientTlsConfig::new().timeout(longest);
        config = match &self.ca {
            Some(path) => config.ca_certificate(Certificate::from_pem(certificates(path)?)),
            None => config.with_native_roots(),
        };
        match (&self.client_cert, &self.client_key) {
            (Some(certificate), Some(key)) => {
                config = config.identity(Identity::from_pem(certificates(certificate)?, read(key)?));
            }
            (None, None) => {}
            (Some(path), None) => {
                return Err(invalid(path, "is a client certificate without its key: name both"));
            }
            (None, Some(path)) => {
                return Err(invalid(path, "is a key without its client certificate: name both"));
            }
        }
        endpoint.tls_config(config).map_err(|error| self.unusable(&error))
    }

    /// What cannot be used of the files, which could be read.
    fn unusable(&self, error: &Cause) -> Error {
        let problem = innermost(error);
        if problem.contains("native certs") {
            return Error::Invalid(
                "this system trusts no authority: name the file of the server's".to_owned(),
            );
        }
        let Some((certificate, key)) = self.client_cert.as_deref().zip(self.client_key.as_deref()) else {
            return Error::Invalid(format!("TLS cannot be used: {problem}"));
        };
        match tls_error(error) {
            Some(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                invalid(key, &format!("is not the key of the certificate `{}`", certificate.display()))
            }
            _ if problem.contains("private key") => {
                invalid(key, "has no private key as PEM without a password (`-----BEGIN PRIVATE KEY-----`)")
            }
            _ => invalid(certificate, &format!("and its key `{}` cannot be used: {problem}", key.display())),
        }
    }

    /// What an error means, if TLS is what failed, or is what the server misses. `uri`: of the address.
    pub(crate) fn explain(&self, error: &Cause, uri: &Uri) -> Option<(String, Fault)> {
        let target = uri.authority().map(ToString::to_string).unwrap_or_default();
        let said = innermost(error);
        if said.contains(WANTS_TLS) {
            return Some((format!("it speaks TLS: write `https://{target}`"), Fault::WantsTls));
        }
        if said.contains("HTTP/2 was not negotiated") {
            return Some(("it speaks TLS, but not gRPC".to_owned(), Fault::OtherProtocol));
        }
        match tls_error(error) {
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                Some((format!("it does not speak TLS: write `http://{target}`"), Fault::NoTls))
            }
            Some(rustls::Error::InvalidCertificate(wrong)) => Some(self.distrusted(wrong)),
            Some(rustls::Error::AlertReceived(alert)) => self.alerted(*alert),
            Some(_) => None,
            // h2 keeps only the text.
            None => self.alerted_by(said.split_once(ALERT)?.1),
        }
    }

    fn distrusted(&self, wrong: &CertificateError) -> (String, Fault) {
        let text = match wrong {
            // A signature that is wrong is that of another authority which has the same name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                let problem = match &self.ca {
                    None => "its certificate is of an authority that this system does not trust".to_owned(),
                    Some(ca) => format!("its certificate is of no authority in `{}`", ca.display()),
                };
                return (problem, Fault::UnknownAuthority);
            }
            CertificateError::ExpiredContext { time, not_after } => format!(
                "its certificate has expired {} ago: a new one is needed there, or the clock here is wrong",
                span(time.as_secs().saturating_sub(not_after.as_secs()))
            ),
            CertificateError::NotValidYetContext { time, not_before } => format!(
                "its certificate is good in {} only: the clock here is wrong, or the one where it was made",
                span(not_before.as_secs().saturating_sub(time.as_secs()))
            ),
            CertificateError::NotValidForNameContext { expected, presented } => {
                let names: Vec<_> = presented.iter().map(|name| format!("`{}`", bare(name))).collect();
                let names = if names.is_empty() { "no host".to_owned() } else { names.join(", ") };
                let host = expected.to_str();
                format!(
                    "its certificate is of {names}, and not of `{host}`: write a name that it has, or have one made with \
                     this name among its alternative names (SAN)"
                )
            }
            CertificateError::Other(error) if error.to_string().contains("CaUsedAsEndEntity") => {
                "its certificate is one of an authority (`CA:TRUE`): a server needs one with `CA:FALSE`"
                    .to_owned()
            }
            other => format!("its certificate is not good ({other})"),
        };
        (text, Fault::Certificate)
    }

    fn alerted(&self, alert: AlertDescription) -> Option<(String, Fault)> {
        self.alerted_by(&format!("{alert:?}"))
    }

    /// What a server has against this side.
    fn alerted_by(&self, alert: &str) -> Option<(String, Fault)> {
        let shown = self.client_cert.as_deref().map(Path::display);
        let problem = match (alert, shown) {
            ("CertificateRequired", _) | ("HandshakeFailure", None) => {
                "it lets in only callers that show a certificate".to_owned()
            }
            ("UnknownCA" | "DecryptError", Some(shown)) => {
                format!("it does not trust the authority of the certificate `{shown}`")
            }
            ("CertificateExpired", Some(shown)) => format!("the certificate `{shown}` has expired"),
            (
                "BadCertificate"
                | "UnsupportedCertificate"
                | "CertificateRevoked"
                | "CertificateUnknown"
                | "AccessDenied"
                | "HandshakeFailure",
                Some(shown),
            ) => format!("it does not take the certificate `{shown}` ({alert})"),
            ("NoApplicationProtocol", _) => {
                return Some(("it speaks TLS, but not gRPC".to_owned(), Fault::OtherProtocol));
            }
            _ => return None,
        };
        Some((problem, Fault::ClientCertificate))
    }
}

/// What of the causes is an error of TLS. It is within errors of IO, which do not tell it as their cause.
fn tls_error(error: &Cause) -> Option<&rustls::Error> {
    causes(error).find_map(|cause| {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.and_then(|it| it.downcast_ref()).or_else(|| cause.downcast_ref())
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::io("read", path, source))
}

/// A file that has certificates.
fn certificates(path: &Path) -> Result<Vec<u8>> {
    let bytes = read(path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(bytes),
        Ok(_) => {
            Err(invalid(path, "has no certificate as PEM, which begins with `-----BEGIN CERTIFICATE-----`"))
        }
        Err(_) => Err(invalid(path, "has a certificate that is cut or no PEM")),
    }
}

fn invalid(path: &Path, problem: &str) -> Error {
    Error::Invalid(format!("`{}` {problem}", path.display()))
}

/// A name as rustls tells it: `DnsName("a.example")`, `IpAddress(127.0.0.1)`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner).trim_end_matches(')');
    inner.trim_matches('"')
}

/// So many seconds, as a person says it.
fn span(seconds: u64) -> String {
    match seconds {
        0..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::{bare, span};

    #[test]
    fn names_and_times_are_told_in_plain_words() {
        assert_eq!(bare("DnsName(\"a.example\")"), "a.example");
        assert_eq!(bare("IpAddress(127.0.0.1)"), "127.0.0.1");
        assert_eq!([90, 7_300, 200_000].map(span), ["1 min", "2 h", "2 days"]);
    }
}
