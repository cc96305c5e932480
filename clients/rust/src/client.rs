//! The connections to one server, and how a call on them is made and tried again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::error::{Error, Result};
use crate::retry::Retry;

/// Frames of 16 KiB, the default of HTTP/2, halve the throughput at twice the CPU.
const MAX_FRAME_BYTES: u32 = 1 << 20;
/// A stream may be this far ahead of its reader; 64 KiB would wait for the reader after each frame.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Four streams at full speed.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The largest unary answer: a page of 10,000 events with a few metrics each.
pub(crate) const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// The largest answer that lists files: 100,000 files with paths of 1 KiB and two digests each.
pub(crate) const MAX_LISTING_BYTES: usize = 128 << 20;
/// Streams of one connection share one task on each side; more connections use more cores.
const CONNECTIONS: usize = 4;

/// A client of one server. Cloning it is cheap, and clones share the connections.
#[derive(Debug, Clone)]
pub struct Client {
    channels: Arc<[Channel]>,
    settings: Arc<Builder>,
}

/// The settings of a [`Client`].
#[derive(Debug, Clone)]
pub struct Builder {
    address: String,
    retry: Retry,
    call_timeout: Duration,
    connect_timeout: Duration,
}

impl Client {
    /// A client with the usual settings; it connects with the first call. `address` is `http://HOST:PORT` or `HOST:PORT`.
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the address is malformed.
    pub fn connect_lazy(address: impl Into<String>) -> Result<Client> {
        Client::builder(address).connect_lazy()
    }

    /// Settings to change before connecting.
    pub fn builder(address: impl Into<String>) -> Builder {
        Builder {
            address: address.into(),
            retry: Retry::default(),
            call_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(5),
        }
    }

    /// The address as it was given.
    pub fn address(&self) -> &str {
        &self.settings.address
    }

    /// How calls are tried again.
    pub fn retry(&self) -> &Retry {
        &self.settings.retry
    }

    /// A connection; equal numbers get the same one.
    pub(crate) fn channel(&self, number: usize) -> Channel {
        self.channels[number % self.channels.len()].clone()
    }

    /// Makes a unary call, and again as [`Retry`] says.
    pub(crate) async fn unary<Q, A, F>(
        &self,
        rpc: &'static str,
        request: Q,
        call: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut backoff = self.settings.retry.start();
        loop {
            let mut attempt = Request::new(request.clone());
            attempt.set_timeout(self.settings.call_timeout);
            match call(self.channel(0), attempt).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => backoff.pause(self.error(rpc, &status)).await?,
            }
        }
    }

    /// An answer as an error: what the transport made says where it tried.
    pub(crate) fn error(&self, rpc: &'static str, status: &Status) -> Error {
        match Error::from_status(rpc, status) {
            Error::Refused(refusal) if refusal.transport => {
                Error::Unreachable { address: self.settings.address.clone(), problem: refusal.message }
            }
            error => error,
        }
    }
}

impl Builder {
    /// How calls are tried again.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Builder {
        self.retry = retry;
        self
    }

    /// How long one try of a unary call may take; a minute unless set. Uploads and downloads have no such limit.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Builder {
        self.call_timeout = timeout;
        self
    }

    /// How long connecting may take; five seconds unless set.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Builder {
        self.connect_timeout = timeout;
        self
    }

    /// A client that connects with the first call. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the address is malformed.
    pub fn connect_lazy(self) -> Result<Client> {
        let endpoint = self.endpoint()?;
        let channels = (0..CONNECTIONS).map(|_| endpoint.connect_lazy()).collect();
        Ok(Client { channels, settings: Arc::new(self) })
    }

    /// A client that is connected, so that a server which is not there is found at once.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the address is malformed, [`Error::Unreachable`] when nothing answers there.
    pub async fn connect(self) -> Result<Client> {
        let endpoint = self.endpoint()?;
        let connected = endpoint.connect().await.map_err(|error| Error::Unreachable {
            address: self.address.clone(),
            problem: innermost(&error),
        })?;
        let lazy = (1..CONNECTIONS).map(|_| endpoint.connect_lazy());
        Ok(Client { channels: std::iter::once(connected).chain(lazy).collect(), settings: Arc::new(self) })
    }

    fn endpoint(&self) -> Result<Endpoint> {
        let invalid =
            || Error::Invalid(format!("address `{}` is not of the form http://HOST:PORT", self.address));
        let text = match self.address.split_once("://") {
            None => format!("http://{}", self.address),
            Some(("http", _)) => self.address.clone(),
            Some((scheme, _)) => {
                return Err(Error::Invalid(format!(
                    "address `{}` begins with `{scheme}`, but this client speaks only `http`",
                    self.address
                )));
            }
        };
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        if uri.port().is_none() {
            return Err(invalid());
        }
        Ok(Endpoint::from(uri)
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(30)))
            // A peer that died without a word is noticed half a minute later, not after the kernel's hours.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .max_frame_size(MAX_FRAME_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::Client;
    use crate::error::Error;
    use crate::retry::Retry;

    #[tokio::test]
    async fn an_address_may_leave_the_scheme_out() {
        for address in ["127.0.0.1:7400", "http://localhost:7400", "http://[::1]:7400/"] {
            assert!(Client::connect_lazy(address).is_ok(), "{address}");
        }
        for address in ["", "localhost", "https://localhost:7400", "http://", "a b:1", "host:port"] {
            assert!(matches!(Client::connect_lazy(address), Err(Error::Invalid(_))), "{address}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named() {
        // Port 1 is reserved and nothing listens there.
        let error = Client::builder("127.0.0.1:1").connect().await.unwrap_err();
        assert!(error.to_string().starts_with("the server at `127.0.0.1:1` cannot be reached ("), "{error}");
        let client = Client::builder("127.0.0.1:1").retry(Retry::never()).connect_lazy().unwrap();
        let error = client.get_run("teams/a/projects/b/runs/c").await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    }
}
