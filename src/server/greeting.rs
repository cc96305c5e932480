//! The first bytes of a connection: before anything is said to a caller, it has said that it speaks HTTP/2. One that speaks
//! HTTP/1 is told in a line what this is.

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// What every HTTP/2 connection begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A connection that says nothing at first gives its place to another.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a caller of HTTP/1 reads.
const LINE: &str = "this is a Keepbest server: it speaks gRPC, over HTTP/2 without TLS\n";
/// What such a caller still sends is taken, or it may not see the line: so many bytes of it, for so long.
const LINGER_BYTES: u64 = 64 << 10;
const LINGER: Duration = Duration::from_secs(1);

/// Reads the preface. An error: the caller has another one, or none in time.
pub(super) async fn greet(mut stream: TcpStream) -> io::Result<TcpStream> {
    let preface = tokio::time::timeout(PREFACE_TIMEOUT, read_preface(&mut stream));
    match preface.await.map_err(|_| io::ErrorKind::TimedOut)?? {
        Preface::Http2 => return Ok(stream),
        Preface::Http1 => refuse(&mut stream).await?,
        // To TLS nothing can be said that its library shows.
        Preface::Other => {}
    }
    Err(io::ErrorKind::InvalidData.into())
}

enum Preface {
    Http2,
    Http1,
    Other,
}

async fn read_preface(stream: &mut TcpStream) -> io::Result<Preface> {
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
            return Ok(if is_text { Preface::Http1 } else { Preface::Other });
        }
    }
    Ok(Preface::Http2)
}

async fn refuse(stream: &mut TcpStream) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{LINE}",
        LINE.len()
    );
    let told = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    tokio::time::timeout(LINGER, told).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(())
}
