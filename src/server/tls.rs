//! TLS: the certificate that connections get, and what is asked of callers. The files are read again while the server runs: a
//! connection keeps what it began with, the next one gets what is there now.

mod files;
mod shown;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS12;
use rustls::version::TLS13;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::maintenance::causes;
use crate::metrics::Gauge;
use crate::server::tls::files::Files;

pub use self::files::Term;
pub use self::files::check;
pub(super) use self::shown::shown;

/// HTTP/2, as the handshake calls it.
pub(super) const ALPN: &[u8] = b"h2";
/// HTTP/1.
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The files are looked at so often. They are a few KiB, and who replaces them has hours before the old certificate ends.
const LOOK: Duration = Duration::from_secs(10);

/// What the next connection gets; cheap to clone.
#[derive(Clone)]
pub(super) struct Tls(watch::Receiver<Arc<ServerConfig>>);

impl Tls {
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0.borrow()))
    }
}

/// Whether an error was made by TLS, and not by the connection below.
pub(super) fn is_of_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|it| it.is::<rustls::Error>())
}

/// Looks after the files.
pub(super) struct Keeper {
    settings: config::Tls,
    /// Somebody wants the files to be read now. Only with TLS: without it SIGHUP ends the server, as a terminal that closes
    /// should.
    hangup: Signal,
    next: watch::Sender<Arc<ServerConfig>>,
    /// What connections get now.
    read: files::Print,
    /// Why what lies there now is not used, so that it is told once.
    refused: Option<String>,
    /// Until when the certificate is good, in seconds since 1970.
    until: Arc<Gauge>,
}

/// Reads the files for the first time; none where nothing is encrypted.
pub(super) fn open(settings: &config::Tls) -> anyhow::Result<Option<(Tls, Keeper)>> {
    let Some(files) = Files::read(settings)? else { return Ok(None) };
    let read = files.print();
    let (config, term) = files.into_config(settings)?;
    let (next, now) = watch::channel(Arc::new(config));
    let hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    tell(&term);
    let until = Arc::<Gauge>::default();
    until.set(term.until_seconds());
    let keeper = Keeper { settings: settings.clone(), hangup, next, read, refused: None, until };
    Ok(Some((Tls(now), keeper)))
}

impl Keeper {
    /// Until when the certificate is good, in seconds since 1970.
    pub(super) fn until(&self) -> Arc<Gauge> {
        Arc::clone(&self.until)
    }

    /// Reads the files again, now and then and when somebody says so, until `stop`.
    pub(super) async fn watch(mut self, stop: CancellationToken) {
        loop {
            let is_told = tokio::select! {
                () = tokio::time::sleep(LOOK) => false,
                _ = self.hangup.recv() => true,
                () = stop.cancelled() => return,
            };
            tokio::select! {
                () = self.look(is_told) => {}
                // A disk that hangs must not hold up the stop.
                () = stop.cancelled() => return,
            }
        }
    }

    async fn look(&mut self, is_told: bool) {
        let (settings, read) = (self.settings.clone(), self.read);
        // Files of a network's disk may take their time.
        let looked = tokio::task::spawn_blocking(move || look(&settings, (!is_told).then_some(read))).await;
        match looked.map_err(anyhow::Error::from).flatten() {
            Ok(None) => self.refused = None,
            Ok(Some((config, term, read))) => {
                self.next.send_replace(Arc::new(config));
                (self.read, self.refused) = (read, None);
                self.until.set(term.until_seconds());
                tell(&term);
            }
            Err(error) => {
                let error = causes(error.as_ref());
                if is_told || self.refused.as_ref() != Some(&error) {
                    tracing::error!(error, "Kept the certificate that was read before");
                }
                self.refused = Some(error);
            }
        }
    }
}

/// What the files say now; none: the same as before.
fn look(
    settings: &config::Tls,
    before: Option<files::Print>,
) -> anyhow::Result<Option<(ServerConfig, Term, files::Print)>> {
    let Some(files) = Files::read(settings)?.filter(|it| before != Some(it.print())) else { return Ok(None) };
    let read = files.print();
    let (config, term) = files.into_config(settings)?;
    Ok(Some((config, term, read)))
}

fn tell(term: &Term) {
    let (certificate, until) = (term.certificate.display(), term.until());
    if term.is_over() {
        tracing::error!(%certificate, until, "The certificate has expired: callers will refuse it");
    } else {
        tracing::info!(%certificate, until, "Read the certificate");
    }
}

/// The settings of TLS for connections: what they are given and asked for.
fn server_config(
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    key: rustls::pki_types::PrivateKeyDer<'static>,
    clients: Option<rustls::RootCertStore>,
    is_required: bool,
) -> anyhow::Result<ServerConfig> {
    // The provider of the whole program, as of the drivers of database and store.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(&[&TLS13, &TLS12]).context("choose the versions of TLS")?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if is_required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().context("verify certificates of callers")?)
        }
    };
    let mut config = builder.with_single_cert(chain, key)?;
    // A caller that offers both, as a browser does, gets HTTP/2.
    config.alpn_protocols = vec![ALPN.to_vec(), ALPN_HTTP1.to_vec()];
    // Connections are few and long. One that was resumed would not show its certificate again, which may be over by then.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
