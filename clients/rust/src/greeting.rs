//! Why no answer comes from an address: what a failed connection says of itself, and what the other side says when it is greeted. What
//! is done about it is left to `client`.

use std::io;
use std::time::Duration;

use http::Uri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::error::Fault;

/// How HTTP/2 begins on a connection: a line, and a frame of settings without any.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// How long a connection to greet may take, beside the one that there is: its addresses are tried one after the other.
const AGAIN: Duration = Duration::from_secs(1);
/// The head of a frame. A server begins with one of settings.
const FRAME_BYTES: usize = 9;
const SETTINGS: u8 = 4;
/// What comes second of a server that wants TLS and says so: that it goes away.
const GO_AWAY: u8 = 7;
/// How TLS begins: a hello with five usual suites and nothing else, which a server of TLS answers by its own hello or by an alert.
/// Between both halves stand 32 bytes that may be anything.
const TLS_HELLO: (&[u8], &[u8]) = (
    &[0x16, 3, 1, 0, 53, 1, 0, 0, 49, 3, 3],
    &[0, 0, 10, 0x13, 0x01, 0xc0, 0x2f, 0xc0, 0x2b, 0x00, 0x9c, 0x00, 0x2f, 1, 0],
);
/// How these answers begin. Some servers of TLS send the alert to whatever they do not understand, others only end the connection.
const TLS: [[u8; 2]; 2] = [[0x15, 3], [0x16, 3]];

pub(crate) type Cause = dyn std::error::Error + 'static;

pub(crate) fn causes(error: &Cause) -> impl Iterator<Item = &Cause> {
    std::iter::successors(Some(error), |error| error.source())
}

/// The innermost cause. The outer ones only say "transport error".
pub(crate) fn innermost(error: &Cause) -> String {
    causes(error).last().unwrap_or(error).to_string()
}

/// What a failed connection says of itself.
pub(crate) fn fault_of(error: &Cause) -> Fault {
    let refused = |cause: &io::Error| cause.kind() == io::ErrorKind::ConnectionRefused;
    if causes(error).any(|cause| cause.downcast_ref().is_some_and(refused)) {
        return Fault::NotListening;
    }
    // Neither the kind nor the number of this error is in what the standard library gives.
    let problem = innermost(error);
    match problem.starts_with("failed to lookup address") && !problem.contains("Temporary failure") {
        true => Fault::UnknownHost,
        false => Fault::Passing,
    }
}

/// Greets whatever takes connections at an address, on connections of its own. Nothing: it speaks HTTP/2, or took no further
/// connection. Else what is wrong with it.
pub(crate) async fn greet(uri: &Uri, longest: Duration) -> Option<(String, Fault)> {
    let (mut begin, is_late) = said_to(uri, PREFACE, longest).await?;
    if begin.is_empty() && !is_late {
        let hello = [TLS_HELLO.0, &[7; 32], TLS_HELLO.1].concat();
        (begin, _) = said_to(uri, &hello, longest).await.unwrap_or_default();
    }
    answer(&begin, is_late.then_some(longest), uri)
}

/// The first bytes of what is answered to a text, and whether the wait for them was over before the connection was.
async fn said_to(uri: &Uri, text: &[u8], longest: Duration) -> Option<(Vec<u8>, bool)> {
    let (host, port) = (uri.host()?.trim_matches(['[', ']']), uri.port_u16()?);
    let Ok(Ok(mut connection)) = tokio::time::timeout(AGAIN, TcpStream::connect((host, port))).await else {
        return None;
    };
    let mut begin = Vec::new();
    let saying = async {
        connection.write_all(text).await?;
        let mut connection = connection.take(FRAME_BYTES as u64);
        connection.read_to_end(&mut begin).await?;
        if is_settings(&begin) && begin[..3] == [0; 3] {
            // Settings without any: what comes behind them tells. Every server answers ours.
            connection.set_limit(FRAME_BYTES as u64);
            connection.read_to_end(&mut begin).await?;
        }
        io::Result::Ok(())
    };
    let is_late = tokio::time::timeout(longest, saying).await.is_err();
    Some((begin, is_late))
}

/// Settings come first, on stream 0. The fourth byte alone may as well be of the length of a hello of TLS.
fn is_settings(begin: &[u8]) -> bool {
    begin.len() >= FRAME_BYTES && begin[3] == SETTINGS && begin[5..FRAME_BYTES] == [0; 4]
}

fn answer(begin: &[u8], waited: Option<Duration>, uri: &Uri) -> Option<(String, Fault)> {
    let wants_tls = || {
        let target = uri.authority().map(ToString::to_string).unwrap_or_default();
        Some((format!("it speaks TLS: write `https://{target}`"), Fault::WantsTls))
    };
    if is_settings(begin) {
        return (begin.get(FRAME_BYTES + 3) == Some(&GO_AWAY)).then(wants_tls).flatten();
    }
    let (problem, fault) = match (begin, waited) {
        ([], Some(waited)) => {
            (format!("what listens there has said nothing for {} s", waited.as_secs()), Fault::Silent)
        }
        // As a proxy does whose server is away.
        ([], None) => ("what listens there ends the connection without a word".to_owned(), Fault::Silent),
        (begin, _) if TLS.iter().any(|it| begin.starts_with(it)) => return wants_tls(),
        (begin, _) if begin.starts_with(b"HTTP/1") => {
            ("it speaks HTTP/1, not gRPC".to_owned(), Fault::OtherProtocol)
        }
        _ => ("it does not speak gRPC".to_owned(), Fault::OtherProtocol),
    };
    Some((problem, fault))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Uri;

    use super::{Fault, GO_AWAY, SETTINGS};

    fn answer(begin: &[u8], waited: Option<Duration>) -> Option<(String, Fault)> {
        super::answer(begin, waited, &Uri::from_static("http://host:7400"))
    }

    #[test]
    fn what_answers_a_greeting_is_known_by_its_first_bytes() {
        assert_eq!(answer(&[0, 0, 18, 4, 0, 0, 0, 0, 0], None), None);
        for (begin, fault) in [
            (&b"HTTP/1.1 400 Bad"[..9], Fault::OtherProtocol),
            (b"SSH-2.0-O", Fault::OtherProtocol),
            (&[0x15, 0x03, 0x01, 0, 2, 2, 70], Fault::WantsTls),
            (&[0x16, 0x03, 0x03, SETTINGS, 80, 2, 0, 4, 76], Fault::WantsTls),
            (&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0, 0, 0, 99, GO_AWAY, 0, 0, 0, 0, 0], Fault::WantsTls),
            (b"", Fault::Silent),
        ] {
            assert_eq!(answer(begin, None).unwrap().1, fault, "{begin:?}");
        }
        let acknowledged = [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0, 0, 0, 0, SETTINGS, 1, 0, 0, 0, 0];
        assert_eq!(answer(&acknowledged, None), None);
        let (problem, fault) = answer(b"", Some(Duration::from_secs(5))).unwrap();
        assert!(fault == Fault::Silent && problem.contains("5 s"), "{problem}");
    }
}
