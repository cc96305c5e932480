//! HTTP/2 by hand: peers that announce and do not send, or ask and do not take.

use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use h2::PingPong;
use h2::RecvStream;
use h2::SendStream;
use h2::client::Builder;
use h2::client::ResponseFuture;
use h2::client::SendRequest;
use http::Request;
use http::Response;
use tokio::net::TcpStream;

/// A connection to a server.
pub(crate) struct Wire {
    requests: SendRequest<Bytes>,
    pings: PingPong,
}

/// A call whose request may go on.
pub(crate) struct Call {
    pub(crate) request: SendStream<Bytes>,
    pub(crate) response: ResponseFuture,
}

impl Wire {
    /// Connects with so many bytes of window for each answer. The window of the whole connection is never in the way.
    pub(crate) async fn connect(address: &str, window: u32) -> Wire {
        let stream = TcpStream::connect(address.trim_start_matches("http://")).await.unwrap();
        let mut builder = Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(1 << 30);
        let (requests, mut connection) = builder.handshake(stream).await.unwrap();
        let pings = connection.ping_pong().unwrap();
        tokio::spawn(connection);
        Wire { requests, pings }
    }

    /// Opens a call of a method and leaves its request open.
    pub(crate) async fn open(&mut self, path: &str) -> Call {
        let request = Request::post(format!("http://keepbest{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        self.requests = self.requests.clone().ready().await.unwrap();
        let (response, request) = self.requests.send_request(request, false).unwrap();
        Call { request, response }
    }

    /// Sends a request with a body and waits for the answer's head.
    pub(crate) async fn send(&mut self, request: Request<()>, body: Bytes) -> Response<RecvStream> {
        self.requests = self.requests.clone().ready().await.unwrap();
        let (response, mut stream) = self.requests.send_request(request, false).unwrap();
        stream.send_data(body, true).unwrap();
        response.await.unwrap()
    }

    /// Makes a call with one message and leaves its answer where it is.
    pub(crate) async fn ask(&mut self, path: &str, message: &[u8]) -> ResponseFuture {
        let mut call = self.open(path).await;
        call.request.send_data(framed(message), true).unwrap();
        call.response
    }

    /// Returns when the server has closed the connection.
    pub(crate) async fn closed(&mut self) {
        while self.pings.ping(h2::Ping::opaque()).await.is_ok() {}
    }

    /// Returns when the server has read what was sent before.
    pub(crate) async fn settle(&mut self) {
        self.pings.ping(h2::Ping::opaque()).await.unwrap();
    }
}

/// A message with its length before it.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    announced(message.len(), message)
}

/// The beginning of a message of that length.
pub(crate) fn announced(length: usize, begin: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap());
    bytes.put_slice(begin);
    bytes.freeze()
}

/// The code and the text of an answer, in its headers or behind its messages, which are taken.
pub(crate) async fn status_of(response: Response<RecvStream>) -> Option<String> {
    let text = |headers: &http::HeaderMap| Some(headers.get("grpc-status")?.to_str().unwrap().to_owned());
    if let Some(code) = text(response.headers()) {
        return Some(code);
    }
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        body.flow_control().release_capacity(data.len()).ok()?;
    }
    text(&body.trailers().await.ok()??)
}
