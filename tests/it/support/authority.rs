//! Authorities that make certificates for tests, and connections that show and trust them.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use keepbest::config::Tls as Settings;
use keepbest_client::Tls;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CertifiedIssuer;
use rcgen::DnType;
use rcgen::IsCa;
use rcgen::KeyPair;
use rcgen::SanType;
use rcgen::date_time_ymd;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::SupportedProtocolVersion;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// An authority with a folder of its own for what it makes.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The files of a certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) der: CertificateDer<'static>,
}

/// What a server of this machine is called.
pub(crate) const LOCAL: [&str; 2] = ["localhost", "127.0.0.1"];

impl Authority {
    pub(crate) fn new() -> Authority {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        Authority::named(&format!("Authority {} of tests", MADE.fetch_add(1, Ordering::SeqCst)))
    }

    pub(crate) fn named(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Authority { folder: tempfile::tempdir().unwrap(), issuer };
        fs::write(authority.file(), authority.issuer.pem()).unwrap();
        authority
    }

    /// Its own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A pair for these names, in files that are called so.
    pub(crate) fn issue(&self, file: &str, names: &[&str]) -> Pair {
        self.make(file, params(names))
    }

    /// One that has expired.
    pub(crate) fn issue_expired(&self, file: &str, names: &[&str]) -> Pair {
        let mut params = params(names);
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        self.make(file, params)
    }

    fn make(&self, file: &str, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |end: &str| self.folder.path().join(format!("{file}{end}"));
        let pair = Pair { certificate: path(".pem"), key: path(".key"), der: certificate.der().clone() };
        fs::write(&pair.certificate, certificate.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    /// For a client that trusts this authority alone.
    pub(crate) fn trusted(&self) -> Tls {
        Tls { ca: Some(self.file()), ..Tls::default() }
    }

    /// The same for one that shows a certificate.
    pub(crate) fn trusted_with(&self, shown: &Pair) -> Tls {
        let (client_cert, client_key) = (Some(shown.certificate.clone()), Some(shown.key.clone()));
        Tls { client_cert, client_key, ..self.trusted() }
    }

    /// A connection to a server of this machine, with a handshake of any version, that offers HTTP/2 or nothing.
    pub(crate) async fn connect(
        &self,
        address: &str,
        version: &'static SupportedProtocolVersion,
        protocols: &[&[u8]],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        let stream = TcpStream::connect(bare(address)).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// The certificate that a new connection to the server gets.
    pub(crate) async fn shown_by(&self, address: &str) -> CertificateDer<'static> {
        let stream = self.connect(address, &TLS13, &[b"h2"]).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }
}

impl Pair {
    /// For a server.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            certificate: Some(self.certificate.clone()),
            key: Some(self.key.clone()),
            ..Settings::default()
        }
    }

    /// The same as the environment of a process.
    pub(crate) fn environment(&self) -> [(&'static str, &str); 2] {
        [("KEEPBEST_TLS_CERTIFICATE", text(&self.certificate)), ("KEEPBEST_TLS_KEY", text(&self.key))]
    }

    /// Puts another pair into the place of this one.
    pub(crate) fn replace_by(&self, other: &Pair) {
        fs::copy(&other.key, &self.key).unwrap();
        fs::copy(&other.certificate, &self.certificate).unwrap();
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names
        .iter()
        .map(|name| match name.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) if name.contains("://") => SanType::URI((*name).try_into().unwrap()),
            Err(_) => SanType::DnsName((*name).try_into().unwrap()),
        })
        .collect();
    params
}

/// A path as a variable holds it.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `127.0.0.1:PORT` of an address.
pub(crate) fn bare(address: &str) -> &str {
    address.split_once("://").map_or(address, |(_, bare)| bare)
}

/// The `https` address of a server that listens at an `http` one.
pub(crate) fn https(address: &str) -> String {
    format!("https://{}", bare(address))
}
