//! Watching versions: a stream that is opened again where it broke.

use tonic::Streaming;

use crate::calls::artifacts;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::v1;

/// Versions as they become visible, each once and in their order. See [`Client::watch_versions`].
#[derive(Debug)]
pub struct Watch<'c> {
    client: &'c Client,
    request: v1::WatchVersionsRequest,
    stream: Option<Streaming<v1::WatchVersionsResponse>>,
}

impl Client {
    /// Watches the versions of a run, an artifact, a project or a team. The watch begins with the first call of [`Watch::next`].
    pub fn watch_versions(&self, request: v1::WatchVersionsRequest) -> Watch<'_> {
        Watch { client: self, request, stream: None }
    }

    async fn open_watch(
        &self,
        request: v1::WatchVersionsRequest,
    ) -> Result<Streaming<v1::WatchVersionsResponse>> {
        match artifacts(self.channel(0)).watch_versions(self.request(request)).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(self.error("WatchVersions", &status)),
        }
    }
}

impl Watch<'_> {
    /// The next message: a version, or where the watch stands, which comes first, and every 20 s in which nothing else came. A stream
    /// that breaks is opened again behind the last message, so nothing is skipped and nothing comes twice.
    ///
    /// # Errors
    ///
    /// What the server refuses, or that it is away for longer than [`Retry::budget`](crate::Retry::budget). The watch may be asked
    /// again: it goes on where it was.
    pub async fn next(&mut self) -> Result<v1::WatchVersionsResponse> {
        let client = self.client;
        let mut backoff = client.backoff();
        loop {
            match self.try_next().await {
                Ok(seen) => {
                    self.request.cursor.clone_from(&seen.cursor);
                    return Ok(seen);
                }
                Err(error) => {
                    self.stream = None;
                    backoff.pause(error).await?;
                }
            }
        }
    }

    async fn try_next(&mut self) -> Result<v1::WatchVersionsResponse> {
        let client = self.client;
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let opened = client.open_watch(self.request.clone());
                let opened = tokio::time::timeout(client.stall_time(), opened).await;
                self.stream.insert(opened.map_err(|_| client.silent(client.stall_time()))??)
            }
        };
        // Longer than the server is silent.
        let next = tokio::time::timeout(client.stall_time(), stream.message()).await;
        match next.map_err(|_| client.silent(client.stall_time()))? {
            Ok(Some(seen)) => Ok(seen),
            Ok(None) => Err(ended()),
            Err(status) => Err(client.error("WatchVersions", &status)),
        }
    }
}

/// A server that ends a watch without a word is taken for one that stops.
fn ended() -> Error {
    Error::from_status("WatchVersions", &tonic::Status::unavailable("the watch ended"))
}
