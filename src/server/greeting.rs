//! The first bytes of a connection: before anything is said to a caller, it has said that it speaks HTTP, over TLS where that
//! is set. One that speaks something else is told in a line what this is, in a form that it can show.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::layers::Peer;
use crate::server::counts;
use crate::server::counts::Connections;
use crate::server::stream::Stream;
use crate::server::tls::ALPN;
use crate::server::tls::Tls;
use crate::server::tls::is_of_tls;
use crate::server::tls::shown;

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What every TLS connection begins with: a record of the handshake. No text and no HTTP does.
const TLS_RECORD: u8 = 0x16;
/// What a caller with TLS reads where there is none, as HTTP/1, which its library cannot take for TLS.
const LINE: &str = "this is a Keepbest server: it speaks gRPC, over HTTP/2 without TLS: write http://\n";
/// What a caller without TLS reads where TLS is set.
const TLS_LINE: &str = "this is a Keepbest server: it speaks gRPC, over HTTP/2 with TLS: write https://\n";
/// What a caller of HTTP/2 without TLS reads where TLS is set: settings, which come first, and that the connection goes away
/// because of "inadequate security", the code 12, with the line behind it.
const NO_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const GO_AWAY: u8 = 7;
const INADEQUATE_SECURITY: u32 = 12;
/// What a caller that was refused still sends is taken, or it may not see why: so many bytes of it, for so long.
const LINGER_BYTES: u64 = 64 << 10;
const LINGER: Duration = Duration::from_secs(1);

/// How connections of a server begin.
#[derive(Clone)]
pub(super) struct Greeting {
    pub(super) tls: Option<Tls>,
    /// Who is not done by then gives its place to another.
    pub(super) within: Duration,
    pub(super) counts: Arc<Connections>,
}

/// A connection that has begun.
pub(super) struct Begun {
    pub(super) stream: Stream,
    pub(super) protocol: Protocol,
    /// What was read of it already.
    pub(super) read: Bytes,
}

/// What a connection of ours speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    /// The same as what another connection may begin with.
    fn preface(self) -> Preface {
        match self {
            Protocol::Http1 => Preface::Http1,
            Protocol::Http2 => Preface::Http2,
        }
    }
}

/// Why a connection does not become one of ours.
enum Refused {
    /// It broke, or was refused by TLS, which has said so itself.
    Broken(io::Error, Option<TcpStream>),
    /// It speaks something else.
    Foreign(Preface, Stream),
}

impl Greeting {
    /// Has the handshake and reads the preface; what the connection shows is kept with its peer. An error: the caller has
    /// another protocol, was refused, or was not done in time.
    pub(super) async fn greet(self, stream: TcpStream, peer: Peer) -> io::Result<Begun> {
        let begun = match &self.tls {
            Some(tls) => tokio::time::timeout(self.within, begin_tls(tls, stream, &peer)).await,
            None => tokio::time::timeout(self.within, begin(Stream::Plain(stream))).await,
        };
        let refused = match begun {
            Ok(Ok(begun)) => return Ok(begun),
            Ok(Err(refused)) => refused,
            Err(_) => Refused::Broken(io::ErrorKind::TimedOut.into(), None),
        };
        let address = peer.address().map(tracing::field::display);
        match refused {
            Refused::Broken(error, stream) => {
                // What only looks whether the port is open, as balancers do, is no news.
                self.counts.refuse(match error.kind() {
                    _ if is_of_tls(&error) => counts::Refused::Tls,
                    io::ErrorKind::TimedOut => counts::Refused::Late,
                    _ => counts::Refused::Broken,
                });
                if is_of_tls(&error) {
                    tracing::info!(peer.address = address, error = %error, "A handshake of TLS failed");
                } else {
                    tracing::debug!(peer.address = address, error = %error, "A connection ended before it had begun");
                }
                if let Some(mut stream) = stream {
                    linger(&mut stream).await?;
                }
                Err(error)
            }
            Refused::Foreign(preface, mut stream) => {
                let speaks = preface.name();
                self.counts.refuse(counts::Refused::Protocol);
                tracing::info!(
                    peer.address = address,
                    speaks,
                    "Refused a connection that speaks something else"
                );
                let answer = preface.answer(self.tls.is_some());
                if !answer.is_empty() {
                    tokio::time::timeout(LINGER, stream.write_all(&answer))
                        .await
                        .map_err(io::Error::other)??;
                    linger(&mut stream).await?;
                }
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }
}

/// The begin of a connection that should be one of TLS.
async fn begin_tls(tls: &Tls, stream: TcpStream, peer: &Peer) -> Result<Begun, Refused> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) => return Err(Refused::Broken(io::ErrorKind::UnexpectedEof.into(), None)),
        Ok(_) if first[0] == TLS_RECORD => {}
        Ok(_) => {
            // Without TLS it may be anything but ours.
            let foreign = |it: Begun| Refused::Foreign(it.protocol.preface(), it.stream);
            return Err(begin(Stream::Plain(stream)).await.map_or_else(|refused| refused, foreign));
        }
        Err(error) => return Err(Refused::Broken(error, None)),
    }
    let accepting = tls.acceptor().accept(stream).into_fallible();
    let stream = accepting.await.map_err(|(error, stream)| Refused::Broken(error, Some(stream)))?;
    let (_, session) = stream.get_ref();
    let is_http2 = session.alpn_protocol() == Some(ALPN);
    peer.encrypt(session.peer_certificates().and_then(|chain| shown(chain.first()?)));
    let begun = begin(Stream::Tls(Box::new(stream))).await?;
    // HTTP/2 over TLS is agreed upon in the handshake, or it is a caller that does not know what it speaks.
    match begun.protocol {
        Protocol::Http2 if !is_http2 => Err(Refused::Foreign(Preface::Unnamed, begun.stream)),
        _ => Ok(begun),
    }
}

/// Reads the preface.
async fn begin(mut stream: Stream) -> Result<Begun, Refused> {
    match read_preface(&mut stream).await {
        Ok((Preface::Http2, read)) => Ok(Begun { stream, protocol: Protocol::Http2, read }),
        Ok((Preface::Http1, read)) => Ok(Begun { stream, protocol: Protocol::Http1, read }),
        Ok((preface, _)) => Err(Refused::Foreign(preface, stream)),
        Err(error) => Err(Refused::Broken(error, None)),
    }
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Preface {
    Http2,
    Http1,
    Tls,
    /// HTTP/2 over TLS that was not named in the handshake.
    Unnamed,
    Other,
}

impl Preface {
    fn name(self) -> &'static str {
        match self {
            Preface::Http2 => "HTTP/2 without TLS",
            Preface::Http1 => "HTTP/1",
            Preface::Tls => "TLS",
            Preface::Unnamed => "TLS without naming `h2` (ALPN)",
            Preface::Other => "something unknown",
        }
    }

    /// What the caller can show to its user.
    fn answer(self, has_tls: bool) -> Vec<u8> {
        match self {
            Preface::Http2 => goes_away(TLS_LINE),
            Preface::Unnamed => goes_away("name `h2` in the handshake of TLS (ALPN)"),
            // A library of TLS says of an answer that is none what everybody knows: "wrong version number".
            Preface::Http1 | Preface::Tls => {
                let line = if has_tls { TLS_LINE } else { LINE };
                let head =
                    "HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain; charset=utf-8\r\n";
                let length = line.len();
                format!("{head}content-length: {length}\r\nconnection: close\r\n\r\n{line}").into_bytes()
            }
            Preface::Other => Vec::new(),
        }
    }
}

fn goes_away(why: &str) -> Vec<u8> {
    let why = why.trim_end().as_bytes();
    // The last stream that was looked at, none, and the code stand before the text.
    let length = u8::try_from(8 + why.len()).expect("the lines are short");
    let code = INADEQUATE_SECURITY.to_be_bytes();
    [&NO_SETTINGS, &[0, 0, length, GO_AWAY, 0, 0, 0, 0, 0][..], &[0; 4], &code, why].concat()
}

/// What a connection begins with, and the bytes that were read to find that out.
async fn read_preface(stream: &mut Stream) -> io::Result<(Preface, Bytes)> {
    let mut begin = [0; PREFACE.len()];
    let mut have = 0;
    while have < begin.len() {
        have += match stream.read(&mut begin[have..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => read,
        };
        if !PREFACE.starts_with(&begin[..have]) {
            let is_text =
                begin[..have].iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
            let preface = match begin[0] {
                TLS_RECORD => Preface::Tls,
                _ if is_text => Preface::Http1,
                _ => Preface::Other,
            };
            return Ok((preface, Bytes::copy_from_slice(&begin[..have])));
        }
    }
    Ok((Preface::Http2, Bytes::from_static(PREFACE)))
}

/// Says that nothing more comes, and takes what the caller has already sent: else its system throws the answer away.
async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    let taken = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    tokio::time::timeout(LINGER, taken).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(())
}
