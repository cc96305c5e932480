//! The connections to one server, and how a call is made on them and retried.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use keepbest_rules::token;
use tokio::time::Instant;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::error::{Error, Fault, Result};
use crate::greeting::{Cause, fault_of, greet, innermost};
use crate::patience::{Patience, Work};
use crate::retry::{Backoff, Retry};
use crate::tls::Tls;

/// Frames of 16 KiB, the default of HTTP/2, halve the throughput at twice the CPU.
const MAX_FRAME_BYTES: u32 = 1 << 20;
/// How far a sender may be ahead of the reader of a stream. With 64 KiB it would wait for the reader after each frame.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Enough for four streams at full speed.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Streams of one connection share one task on each side; more connections use more cores.
const CONNECTIONS: usize = 4;
/// The server gives up work on rows after 20 s and says so; this client waits for that answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);
/// How much later than this client the server may give up a call. By then this client has cancelled it.
const SERVER_TIMEOUT_MORE: Duration = Duration::from_secs(1);
/// A ping goes out after the first of these, and a peer that does not answer it within the second is given up: one that died or
/// hangs is noticed in 20 s, not in the hours that the kernel takes. A shorter pause of the server breaks nothing.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client that gives up soon goes on connecting: a proxy finds a server that restarted in this time.
const SOON: Duration = Duration::from_secs(3);

/// A client of one server. Cloning it is cheap, and clones share the connections.
#[derive(Debug, Clone)]
pub struct Client {
    channels: Arc<[Channel]>,
    settings: Arc<Builder>,
    patience: Arc<Patience>,
}

/// The settings of a [`Client`].
#[derive(Debug, Clone)]
pub struct Builder {
    address: String,
    tls: Tls,
    retry: Retry,
    call_timeout: Duration,
    connect_timeout: Duration,
    gives_up_soon: bool,
    /// What stands in `authorization`; nothing that prints it shows it.
    authorization: Option<AsciiMetadataValue>,
}

impl Client {
    /// A client with the default settings, which connects when the first call is made. `address` is `http://HOST:PORT` or
    /// `HOST:PORT`, or `https://HOST:PORT` of a server with TLS. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the address is malformed.
    pub fn connect_lazy(address: impl Into<String>) -> Result<Client> {
        Client::builder(address).connect_lazy()
    }

    /// The default settings, to be changed before connecting.
    pub fn builder(address: impl Into<String>) -> Builder {
        Builder {
            address: address.into(),
            tls: Tls::default(),
            retry: Retry::default(),
            call_timeout: CALL_TIMEOUT,
            connect_timeout: Duration::from_secs(5),
            gives_up_soon: false,
            authorization: None,
        }
    }

    /// The address as it was given.
    pub fn address(&self) -> &str {
        &self.settings.address
    }

    /// How failed calls are retried.
    pub fn retry(&self) -> &Retry {
        &self.settings.retry
    }

    /// One of the connections; the same number always gives the same one.
    pub(crate) fn channel(&self, number: usize) -> Channel {
        self.channels[number % self.channels.len()].clone()
    }

    /// A request, or a stream of them, with what shows who calls.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(value) = &self.settings.authorization {
            request.metadata_mut().insert("authorization", value.clone());
        }
        request
    }

    /// Counts the failures of a new call.
    pub(crate) fn backoff(&self) -> Backoff<'_> {
        self.settings.retry.start(&self.patience)
    }

    /// Makes a unary call and retries it as [`Retry`] says.
    pub(crate) async fn unary<Q, A, F>(
        &self,
        rpc: &'static str,
        work: Work,
        request: Q,
        call: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let rows = self.settings.call_timeout;
        let mut backoff = self.backoff();
        loop {
            let time = self.patience.time(work, rows, backoff.failures());
            let mut request = self.request(request.clone());
            request.set_timeout(time + SERVER_TIMEOUT_MORE);
            let begun = Instant::now();
            let call = call(self.channel(self.patience.connection()), request);
            let error = match tokio::time::timeout(time, call).await {
                Ok(Ok(response)) => {
                    self.patience.answered();
                    self.patience.ended();
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => self.error(rpc, &status),
                Err(_) => self.silent(time),
            };
            match error {
                Error::Unreachable { .. } => self.patience.silent(begun.elapsed(), rows),
                _ => self.patience.answered(),
            }
            backoff.pause_since(begun, error).await?;
        }
    }

    /// How long a stream may stand still: as long as the server may take to store what it has received.
    pub(crate) fn stall_time(&self) -> Duration {
        Work::Objects.time(self.settings.call_timeout)
    }

    /// The error about a server that has not answered for `time`.
    pub(crate) fn silent(&self, time: Duration) -> Error {
        let problem = format!("no answer came within {:.1} s", time.as_secs_f64());
        self.settings.unreachable(problem, Fault::Passing)
    }

    /// Makes an error of a status. One that the transport made names the server's address.
    pub(crate) fn error(&self, rpc: &'static str, status: &Status) -> Error {
        match Error::from_status(rpc, status) {
            Error::Refused(refusal) if refusal.transport => {
                let told = self.settings.explain(status);
                let (problem, fault) = told.unwrap_or_else(|| (refusal.message, fault_of(status)));
                self.settings.unreachable(problem, fault)
            }
            error => error,
        }
    }
}

impl Builder {
    /// Whom to trust at an `https` address, and what to show there; unless set, those whom the system trusts, and nothing.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Builder {
        self.tls = tls;
        self
    }

    /// How failed calls are retried.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Builder {
        self.retry = retry;
        self
    }

    /// How long one try of an ordinary call may take; 25 s unless set. A call that makes the server write to its object store
    /// may take four times as long, and one that waits for other processes 25 s longer. After a try without any answer the
    /// next ones get less, at first an eighth. Uploads and downloads may take any time, but a stream on which nothing moves for
    /// four times this long is broken off and begun again.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Builder {
        self.call_timeout = timeout;
        self
    }

    /// How long one try to connect may take; five seconds unless set.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Builder {
        self.connect_timeout = timeout;
        self
    }

    /// The API token that shows who calls, for a server that asks; its text is `kb_` and 62 characters more.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the text is no token; it is not repeated in the error.
    pub fn token(mut self, text: &str) -> Result<Builder> {
        let text = text.trim();
        token::id_of(text).map_err(|why| Error::Invalid(format!("the token cannot be read: {why}")))?;
        let value = AsciiMetadataValue::try_from(format!("Bearer {text}"));
        let mut value = value.map_err(|_| Error::Invalid("the token is no text of ASCII".to_owned()))?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Ok(self)
    }

    /// Whether [`Builder::connect`] gives up soon, as a person at a terminal would want: at once if nothing listens at the address, its
    /// name leads nowhere or what listens there speaks something else, and after some seconds if nothing is said. Off unless set,
    /// because a server that restarts refuses connections too for a moment. Calls are retried all the same.
    #[must_use]
    pub fn gives_up_soon(mut self, soon: bool) -> Builder {
        self.gives_up_soon = soon;
        self
    }

    /// A client that connects when the first call is made. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the address is malformed or a file of [`Tls`] cannot be used, [`Error::Io`] when one cannot be
    /// read.
    pub fn connect_lazy(self) -> Result<Client> {
        let endpoint = self.endpoint()?;
        let channels = (0..CONNECTIONS).map(|_| endpoint.connect_lazy()).collect();
        Ok(Client { channels, settings: Arc::new(self), patience: Arc::default() })
    }

    /// A client that is connected, so that a missing server is noticed before the first call. A connection that fails is
    /// retried as [`Retry`] says, like a call.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the address is malformed or a file of [`Tls`] cannot be used, [`Error::Io`] when one cannot be
    /// read, [`Error::Unreachable`] when nothing answers there.
    pub async fn connect(self) -> Result<Client> {
        let endpoint = self.endpoint()?;
        let (mut retry, patience) = (self.retry.clone(), Patience::default());
        if self.gives_up_soon {
            retry.budget = retry.budget.min(SOON);
        }
        let mut backoff = retry.start(&patience);
        let connected = loop {
            let begun = Instant::now();
            let (problem, fault) = match self.connect_once(&endpoint).await {
                Ok(connected) => break connected,
                Err(failed) => failed,
            };
            let error = self.unreachable(problem, fault);
            // What stays so is not retried in any case.
            if self.gives_up_soon && !fault.may_pass() {
                return Err(error);
            }
            backoff.pause_since(begun, error).await?;
        };
        let lazy = (1..CONNECTIONS).map(|_| endpoint.connect_lazy());
        let channels = std::iter::once(connected).chain(lazy).collect();
        Ok(Client { channels, settings: Arc::new(self), patience: Arc::default() })
    }

    async fn connect_once(&self, endpoint: &Endpoint) -> Result<Channel, (String, Fault)> {
        let longest = self.connect_timeout;
        let connected = match tokio::time::timeout(longest, endpoint.connect()).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => {
                return Err(self.explain(&error).unwrap_or_else(|| (innermost(&error), fault_of(&error))));
            }
            Err(_) => {
                return Err((format!("no connection within {:.1} s", longest.as_secs_f64()), Fault::Passing));
            }
        };
        // That a connection was taken says nothing about by whom, but that a handshake of TLS agreed upon HTTP/2 does.
        let is_known = endpoint.uri().scheme_str() == Some("https");
        match self.gives_up_soon && !is_known {
            true => greet(endpoint.uri(), longest).await.map_or(Ok(connected), Err),
            false => Ok(connected),
        }
    }

    fn unreachable(&self, problem: String, fault: Fault) -> Error {
        Error::Unreachable { address: self.address.clone(), problem, fault }
    }

    /// What an error of the transport means, if it is about TLS.
    fn explain(&self, error: &Cause) -> Option<(String, Fault)> {
        self.tls.explain(error, &self.uri().ok()?)
    }

    fn uri(&self) -> Result<Uri> {
        let invalid = || {
            Error::Invalid(format!(
                "address `{}` is not of the form http://HOST:PORT or https://HOST:PORT",
                self.address
            ))
        };
        let text = match self.address.split_once("://") {
            None => format!("http://{}", self.address),
            Some(("http" | "https", _)) => self.address.clone(),
            Some((scheme, _)) => {
                return Err(Error::Invalid(format!(
                    "address `{}` begins with `{scheme}`, but this client speaks only `http` and `https`",
                    self.address
                )));
            }
        };
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        if uri.port().is_none() { Err(invalid()) } else { Ok(uri) }
    }

    fn endpoint(&self) -> Result<Endpoint> {
        let uri = self.uri()?;
        let is_encrypted = uri.scheme_str() == Some("https");
        let endpoint = Endpoint::from(uri)
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(30)))
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .max_frame_size(MAX_FRAME_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        if is_encrypted { self.tls.apply(endpoint, self.connect_timeout) } else { Ok(endpoint) }
    }
}

#[cfg(test)]
mod tests {
    use super::Client;
    use crate::error::Error;
    use crate::retry::Retry;

    #[tokio::test]
    async fn an_address_may_leave_the_scheme_out() {
        for address in
            ["127.0.0.1:7400", "http://localhost:7400", "http://[::1]:7400/", "https://localhost:7400"]
        {
            assert!(Client::connect_lazy(address).is_ok(), "{address}");
        }
        for address in
            ["", "localhost", "https://localhost", "ftp://localhost:7400", "http://", "a b:1", "host:port"]
        {
            assert!(matches!(Client::connect_lazy(address), Err(Error::Invalid(_))), "{address}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named() {
        // Port 1 is reserved and nothing listens there.
        let error = Client::builder("127.0.0.1:1").retry(Retry::never()).connect().await.unwrap_err();
        assert!(error.to_string().starts_with("the server at `127.0.0.1:1` cannot be reached ("), "{error}");
        let client = Client::builder("127.0.0.1:1").retry(Retry::never()).connect_lazy().unwrap();
        let error = client.get_run("teams/a/projects/b/runs/c").await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    }
}
